"""The functions that kernels call: on a device, or in Numba's simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import cuda

from .layout import NUMBER, SIMULATED, Work

if SIMULATED:
    from .simulator import apply, apply_block, number_like, offset_of, product, put, real, times, words
else:
    from .intrinsics import apply, apply_block, number_like, offset_of, product, put, real, times, words

__all__ = [
    "apply",
    "apply_block",
    "block_in",
    "device_function",
    "entry_at",
    "factors_of",
    "is_set",
    "number_like",
    "offset_of",
    "product",
    "put",
    "real",
    "row_at",
    "row_in",
    "set_both",
    "times",
    "words",
]

F = TypeVar("F", bound=Callable[..., Any])


def device_function(function: F) -> F:
    """Return a function that kernels may call: its statements become part of each of them.

    One that uses ``cuda`` must stand in the file of its kernels: the simulator replaces the name there alone.
    """
    if SIMULATED:
        return function
    inlined: F = cuda.jit(device=True, inline="always")(function)
    return inlined


@device_function
def entry_at(entries: int, position: int) -> int:
    """Return the work of one block of threads, from a list: row << 32 | block."""
    return words(entries + 8 * position, 1)[0]


@device_function
def block_in(entry: int) -> int:
    return entry & 0xFFFFFFFF


@device_function
def row_in(entry: int) -> int:
    return entry >> 32


@device_function
def is_set(guard: int) -> bool:
    """Return whether there is a guard, and its number is not 0."""
    return guard != 0 and words(guard, 1)[0] != 0


@device_function
def row_at(table: int, place: int, row_words: int) -> Any:
    """Return a row of a table."""
    return words(table + place * (8 * row_words), row_words)


@device_function
def factors_of(work: Work, like: Any, row: Any, item_size: int) -> tuple[Any, Any, Any]:
    """Return the factors of the array of a row, of the dtype of ``like``."""
    offset = row[NUMBER] * item_size
    return real(like, work.clips + offset), real(like, work.global_clip), real(like, work.rates + offset)


@device_function
def set_both(at64: int, at32: int, index: int, value: float) -> None:
    """Write a number into an array of each compute dtype."""
    put(at64 + 8 * index, value)
    put(at32 + 4 * index, np.float32(value))
