"""The threads and the buffers of the NumPy backend. NumPy releases Python's lock while it computes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from ...arrays.dtypes import Array
from ...arrays.memory import aligned

T = TypeVar("T")


class Buffers:
    """Scratch memory, kept from block to block since the first use of new memory is slow.

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
        # Smaller memory stays in use where calls are bound to it: so a power of 2, less than twice as much in all.
        capacity = 1 << (length - 1).bit_length()
        if self.used == len(self.buffers):
            self.buffers.append(aligned(capacity))
        elif self.buffers[self.used].size < length:
            self.buffers[self.used] = aligned(capacity)
        self.used += 1
        return self.buffers[self.used - 1][:length].view(dtype)


#: The scratch memory that nobody uses at the moment.
spare: deque[Buffers] = deque()


@contextmanager
def borrowed_buffers() -> Iterator[Buffers]:
    """Lend scratch memory that no other thread uses, nor what a signal handler has interrupted."""
    buffers = take(spare) or Buffers()
    try:
        yield buffers
    finally:
        spare.append(buffers)


class Helpers:
    """The threads besides the callers' own. They sleep until there is work."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.RLock()  # a signal handler that steps an optimizer may come in between
        self.work: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def start(self, count: int) -> int:
        """Have this many threads, and return how many there are of them."""
        with self.lock, suppress(RuntimeError):  # Python starts none once its main thread has ended
            while self.count < count:
                threading.Thread(target=self.serve, name="fastopt", daemon=True).start()
                self.count += 1
        return min(count, self.count)

    def serve(self) -> None:
        while True:
            self.work.get()()


helpers = Helpers()


def forget_helpers() -> None:
    """Start anew in a child process, which has none of its parent's threads."""
    global helpers
    helpers = Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_helpers)


def map_threaded(function: Callable[[int, Any], T], items: Sequence[Any], threads: int) -> list[T]:
    """Call the function with the number of a thread, from 0, and each item; return the results in order."""
    results: list[Any] = [None] * len(items)
    #: A thread that wakes up after the last call finds none, and so keeps nothing alive that the function works on.
    waiting = deque((function, k, item) for k, item in enumerate(items))
    others = helpers.start(threads - 1)
    numbers = deque(range(1, others + 1))
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work(number: int) -> None:
        with np.errstate(all="ignore"):
            while (found := take(waiting)) is not None:
                call, k, item = found
                results[k] = call(number, item)

    def help_out() -> None:
        number = take(numbers)
        if number is None:  # the caller was done before this thread woke up
            return
        error = None
        try:
            work(number)
        except BaseException as raised:
            error = raised
        ended.put(error)

    try:
        for _ in range(others):
            helpers.work.put(help_out)
        work(0)
    finally:
        # Waits for those that have begun, so that none goes on after this function has raised.
        while take(numbers) is not None:
            others -= 1
        errors = [ended.get() for _ in range(others)]
        waiting.clear()
    for error in filter(None, errors):
        raise error
    return results


def take(queue: deque[T]) -> T | None:
    """Return the first of a queue that several threads take from; None if it is empty."""
    try:
        return queue.popleft()
    except IndexError:
        return None
