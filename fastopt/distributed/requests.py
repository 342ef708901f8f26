"""Exchanges that have begun, and those that can begin again and again."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from typing import Any

from ..arrays.dtypes import Array
from .faults import this_process, world_of_mpi

#: MPI's persistent requests that are not freed.
PERSISTENT: list[Any] = []


class Request:
    """An exchange that has begun. Its arrays live and are MPI's until it is done.

    Parameters
    ----------
    handle
        MPI's request; None if there is nothing to wait for.
    number
        How many exchanges its Ranks had begun with it.
    arrays
        Those that MPI reads and writes.
    running
        The exchanges of the same ranks that are not done, of which it is one.
    """

    __slots__ = ("arrays", "handle", "number", "running")

    def __init__(self, handle: Any, number: int, arrays: tuple[Array, ...], running: set[Request]) -> None:
        self.handle = handle
        self.number = number
        self.arrays = arrays
        self.running = running
        if handle is not None:
            running.add(self)

    def is_done(self) -> bool:
        if self.handle is not None:
            if not self.handle.Test():
                return False
            self.handle, self.arrays = None, ()
            self.running.discard(self)
        return True


class PersistentRequest(Request):
    """An exchange of the same arrays that can begin again and again.

    Parameters
    ----------
    begin : callable
        Begins it, and returns MPI's request.
    send, recv : array
        The arrays.
    send_counts, recv_counts : sequence of int
        How many elements each other rank gets, and this one from each.
    """

    __slots__ = ("begin", "recv", "recv_counts", "send", "send_counts")

    def __init__(
        self,
        begin: Callable[[], Any],
        running: set[Request],
        send: Array,
        send_counts: Sequence[int],
        recv: Array,
        recv_counts: Sequence[int],
    ) -> None:
        super().__init__(None, 0, (), running)
        self.begin, self.send, self.recv = begin, send, recv
        self.send_counts, self.recv_counts = send_counts, recv_counts


def starter_of(handle: Any) -> Callable[[], Any]:
    """Return a function that begins an exchange by MPI's persistent request, and returns it."""
    PERSISTENT.append(handle)

    def begin() -> Any:
        handle.Start()
        return handle

    return begin


def free(handles: Sequence[Any]) -> list[Any]:
    """Free persistent requests; return those of exchanges that go on, which are not."""
    running = []
    for handle in handles:
        if handle.Test():
            PERSISTENT.remove(handle)
            handle.Free()
        else:
            running.append(handle)
    return running


@atexit.register
def free_all() -> None:
    """Free all of them at the end of the program, where MPI would complain of each."""
    if world_of_mpi() is not None and not this_process.has_ended:  # in the child of a fork it has
        free(list(PERSISTENT))
