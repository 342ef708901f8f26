"""The threads and the buffers of the NumPy backend. NumPy releases Python's lock while it computes."""

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
    """Each thread's scratch memory, kept from block to block since the first use of new memory is slow.

    Arrays are valid until :meth:`reset`.
    """

    def __init__(self) -> None:
        self.buffers: list[Array] = []
        self.used = 0

    def reset(self) -> None:
        self.used = 0

    def array(self, size: int, dtype: Any) -> Array:
        """Return an array that begins at a cache line; its contents are arbitrary."""
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
    from concurrent.futures import ThreadPoolExecutor  # here: small programs need no pool, and the import is slow

    return ThreadPoolExecutor(threads, "fastopt")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=pool.cache_clear)


def map_threaded(function: Callable[..., T], items: Sequence[Sequence[Any]], threads: int) -> list[T]:
    """Apply the function to each item's arguments on up to ``threads`` threads; return the results in order."""
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
        # Python starts no threads once its main thread has ended, though others may still train.
        with suppress(RuntimeError):
            others.extend(pool(threads - 1).submit(work) for _ in range(threads - 1))
        work()
    finally:
        # Waits for all of them, so that none goes on after this function has raised.
        errors = [other.exception() for other in others]
    for error in filter(None, errors):
        raise error
    return results
