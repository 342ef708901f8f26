"""Devices, streams, and which work waits for which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from numba import cuda

from .layout import SIMULATED


@contextmanager
def on_device(number: int) -> Iterator[None]:
    """Make a device the current one."""
    with cuda.gpus[number]:
        yield


def synchronize() -> None:
    """Wait for all work of the current device."""
    cuda.synchronize()


@cache
def stream_of(handle: int) -> Any:
    """Return the stream of a handle (0: the default), always the same object, by which Numba finds its launches."""
    if SIMULATED:
        return cuda.default_stream()
    # Numba's default_stream() has no handle that its arrays can report.
    return cuda.legacy_default_stream() if handle == 0 else cuda.external_stream(handle)


class Mark:
    """A moment of a stream."""

    def __init__(self) -> None:
        self.event = cuda.event() if SIMULATED else cuda.event(timing=False)

    def record(self, stream: Any) -> None:
        self.event.record(stream)

    def wait(self) -> None:
        """Wait on the host until the stream has come there."""
        self.event.synchronize()

    def wait_in(self, stream: Any) -> None:
        """Let all later work of a stream wait for it."""
        if not SIMULATED:  # all work is done in the order of the calls
            self.event.wait(stream)


def wait_for(first: int, then: int) -> None:
    """Let all later work of the stream ``then`` wait for the present work of ``first``."""
    mark = Mark()
    mark.record(stream_of(first))
    mark.wait_in(stream_of(then))


class StreamOrder:
    """The stream of each step of a table, and the order of its work with that of other streams."""

    def __init__(self) -> None:
        #: The stream that the last step ran in.
        self.last: int | None = None
        #: The end of the last work, whose stream may be gone by now.
        self.end = Mark()

    def enter(self, asked: int | None, producers: Iterable[int]) -> Any:
        """Return the stream to work in: as asked, else the gradients' own. It waits for all that must come before.

        ``producers``: the streams that the gradients come from.
        """
        found = sorted({legacy(stream) for stream in producers})
        handle = legacy(asked) if asked is not None else found[0] if found else 0
        stream = stream_of(handle)
        for producer in found:
            if producer != handle:
                wait_for(producer, handle)
        if self.last == 0 != handle:
            wait_for(0, handle)
        elif self.last not in (None, handle):
            self.end.wait_in(stream)
        self.last = handle
        return stream

    def leave(self, stream: Any) -> None:
        if self.last != 0:
            self.end.record(stream)


def legacy(stream: int) -> int:
    """Return a stream's handle, with 0 for the legacy default stream, which the interface calls 1."""
    return 0 if stream == 1 else stream


def stream_handle(stream: Any) -> int:
    """Return the handle of a stream of torch, CuPy, Numba or cuda.core, or the number itself.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):  # Numba, cuda.core
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TypeError(f"stream={stream!r}: expected a CUDA stream of torch, CuPy, Numba or cuda.core, or its handle")
