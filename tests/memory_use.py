"""How much memory this process uses, and whether some work makes it use more and more."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class MallocInfo(ctypes.Structure):
    """What mallinfo2 of the GNU C library returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def find_mallinfo() -> Any:
    """Return the GNU C library's mallinfo2; None where there is none."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    if function is not None:
        function.restype = MallocInfo
    return function


mallinfo = find_mallinfo()


class Growth(NamedTuple):
    """What some work leaves behind."""

    #: Pieces of Python's memory.
    blocks: int
    #: Bytes of the C library's memory.
    allocated: int
    #: Objects that only the cyclic collector freed.
    cyclic: int


def allocated() -> int:
    """Return how many bytes of the C library's memory are in use; 0 where that can't be found."""
    if mallinfo is None:
        return 0
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


def resident() -> int:
    """Return how many bytes of memory this process takes (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@contextmanager
def no_collector() -> Iterator[None]:
    """Leave the cyclic collector off; it is called by hand then, and looks at new objects alone."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def growth(step: Callable[[int], Any], steps: range, makes_cycles: bool = False) -> Growth:
    """Return what these steps leave behind. ``makes_cycles``: they may leave objects to the collector."""
    gc.collect()  # it empties Python's lists of free objects too
    before = sys.getallocatedblocks(), allocated()
    for k in steps:
        step(k)
    cyclic = gc.collect()
    return Growth(sys.getallocatedblocks() - before[0], allocated() - before[1], cyclic=0 if makes_cycles else cyclic)


def lasting_growth(step: Callable[[int], Any], steps: int, makes_cycles: bool = False, runs: int = 60) -> Growth:
    """Return what so many steps leave behind: the first run of steps in which memory is flat, or the last run.

    Caches fill in the first runs. A leak of one object in two steps, or of 16 bytes in each, makes every run grow.
    """
    with no_collector():
        for number in range(runs):
            found = growth(step, range(number * steps, (number + 1) * steps), makes_cycles)
            if number > 0 and is_flat(found, steps):
                break
    return found


def is_flat(found: Growth, steps: int) -> bool:
    """Return whether so many steps left nothing behind that each of them would leave behind."""
    return max(found.blocks, found.cyclic) <= steps // 2 and found.allocated <= 16 * steps
