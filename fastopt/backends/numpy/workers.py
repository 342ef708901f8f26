"""The threads and the buffers of the NumPy backend. NumPy lets other threads run while it computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...arrays.dtypes import Array
from ...arrays.memory import CACHE_LINE, address

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")


class Buffers(threading.local):
    """Memory of each thread for what a block needs besides the arrays: kept, as new memory is slow at its first use.

    Arrays are valid until :meth:`reset`.
    """

    def __init__(self) -> None:
        self.buffers: list[Array] = []
        self.used = 0

    def reset(self) -> None:
        self.used = 0

    def array(self, size: int, dtype: Any) -> Array:
        """Return an array of any contents, which begins at a cache line."""
        length = size * np.dtype(dtype).itemsize
        if self.used == len(self.buffers):
            self.buffers.append(aligned(length))
        elif self.buffers[self.used].size < length:
            self.buffers[self.used] = aligned(length)
        self.used += 1
        return self.buffers[self.used - 1][:length].view(dtype)


def aligned(length: int) -> Array:
    memory = np.empty(length + CACHE_LINE, np.uint8)
    begin = -address(memory) % CACHE_LINE
    return memory[begin : begin + length]


buffers = Buffers()


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # here: small programs need none, and it imports much

    return ThreadPoolExecutor(threads, "fastopt")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=pool.cache_clear)


def results_of(function: Callable[..., T], items: Sequence[Sequence[Any]], threads: int) -> list[T]:
    """Return what the function makes of each item's arguments, on so many threads."""
    results: list[Any] = [None] * len(items)
    waiting = deque(enumerate(items))

    def work() -> None:
        with np.errstate(all="ignore"):
            while waiting:
                try:
                    k, arguments = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                buffers.reset()
                results[k] = function(*arguments)

    others: list[Future[None]] = []
    try:
        # Python starts no threads any more once its main thread has ended, while others may still train.
        with suppress(RuntimeError):
            others.extend(pool(threads - 1).submit(work) for _ in range(threads - 1))
        work()
    finally:
        errors = [other.exception() for other in others]  # of all: none goes on after this function has raised
    for error in filter(None, errors):
        raise error
    return results
