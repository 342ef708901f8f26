"""bfloat16 as the kernels read and write it, by integer arithmetic on the bits; csrc/convert.h has the same in C.

float16 is NumPy's own: its conversions round to the nearest, ties to even, as csrc/convert.h does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import FLOAT32, Array, compute_dtype, is_bfloat16

Bits32 = npt.NDArray[np.uint32]


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype of bfloat16, which the package ml_dtypes defines.

    Raises
    ------
    ModuleNotFoundError
        If ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        text = "bfloat16 arrays need the package ml_dtypes; pip install ml-dtypes"
        raise ModuleNotFoundError(text, name=error.name) from error
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def to_float32(array: Array) -> Array:
    """Return a float16 or bfloat16 array in float32, exactly."""
    if is_bfloat16(array.dtype):
        wide = np.empty_like(array, FLOAT32, subok=False)  # an array for 0 dimensions too
        np.left_shift(array.view(np.uint16), np.uint32(16), out=wide.view(np.uint32), dtype=np.uint32)
        return wide
    with np.errstate(all="ignore"):
        return array.astype(FLOAT32)


def to_compute_dtype(array: Array) -> Array:
    """Return a copy of a parameter in its compute dtype."""
    return array.copy(order="K") if array.dtype == compute_dtype(array.dtype) else to_float32(array)


def round_into(stored: Array, x: Array) -> None:
    """Write a float32 array into one of float16 or bfloat16, rounded to nearest, ties to even."""
    if not is_bfloat16(stored.dtype):
        with np.errstate(all="ignore"):
            stored[...] = x
        return
    stored.view(np.uint16)[...] = nearest(x.astype(FLOAT32, copy=False))


def dither_into(stored: Array, x: Array, random: Bits32) -> None:
    """Write a float32 array into one of bfloat16, rounded up with the probability that keeps the mean.

    ``random`` holds 16 random bits for each element.
    """
    stored.view(np.uint16)[...] = dithered(x, random)


# The functions below also work on the symbols that stand for arrays while a CUDA kernel is compiled.


def nearest(x: Array) -> Array:
    """Return the bits of the bfloat16 nearest to each float32 number, ties to even."""
    bits = x.view(np.uint32)
    return keep_nan(bits, bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1)))


def dithered(x: Array, random: Bits32) -> Array:
    """Return the bfloat16 bits of float32 numbers, rounded up with the probability that keeps the mean."""
    bits = x.view(np.uint32)
    return keep_nan(bits, bits + random)


def keep_nan(bits: Bits32, rounded: Bits32) -> Array:
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return (np.where(is_nan, bits | np.uint32(0x400000), rounded) >> 16).astype(np.uint16)
