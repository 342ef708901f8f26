"""The functions of :mod:`intrinsics` for Numba's simulator: element functions get NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves
from ...arithmetic.dither import MASK, SCALE_BLOCK
from ...arithmetic.pipeline import Factors
from .layout import ADDRESSES, ELEMENT_FUNCTIONS, ITEM_SIZES, LENGTH, NUMBER, NUMPY_DTYPES, Place, Work

C_TYPES: dict[type, Any] = {np.float32: ctypes.c_float, int: ctypes.c_int64}


def words(address: int, count: int) -> tuple[int, ...]:
    return tuple((ctypes.c_int64 * count).from_address(int(address)))


def real(like: Any, address: int) -> Any:
    if isinstance(like, np.float32):
        return np.float32(ctypes.c_float.from_address(int(address)).value)
    return float(ctypes.c_double.from_address(int(address)).value)


def put(address: int, value: Any) -> None:
    C_TYPES.get(type(value), ctypes.c_double).from_address(int(address)).value = value


def number_like(like: Any, value: float) -> Any:
    with np.errstate(all="ignore"):
        return np.float32(value) if isinstance(like, np.float32) else float(value)


def times(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return a * b


def offset_of(index: int, axes: int, count: int) -> int:
    offset = 0
    for k in range(count - 1):
        length, step = words(axes + 16 * k, 2)
        index, place = divmod(index, length)
        offset += place * step
    return offset + index * words(axes + 16 * (count - 1), 2)[1]


def elements(address: int, index: int, count: int, dtype: str) -> npt.NDArray[Any]:
    size = ITEM_SIZES[dtype]
    buffer: Any = (ctypes.c_char * (count * size)).from_address(int(address) + int(index) * size)
    return np.frombuffer(buffer, NUMPY_DTYPES[dtype])


def converted(values: npt.NDArray[Any], dtype: str, to: str) -> npt.NDArray[Any]:
    if dtype == "uint8":
        return values
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(NUMPY_DTYPES[to])


def called(
    key: str, count: int, work: Work, row: Any, index: int, factors: Any, scalars: Any, h: Any, largest: Any = None
) -> tuple[list[Any], Sequence[Any]]:
    """Return the memory of ``count`` elements, and the results of an element function on them."""
    function, dtypes = ELEMENT_FUNCTIONS[key]
    arrays = [
        elements(at, index // SCALE_BLOCK, 1, dtype) if is_scale else elements(at, index, count, dtype)
        for at, (dtype, is_scale) in zip(row[ADDRESSES:], dtypes.memory(), strict=True)
    ]
    values = [converted(a, dtype, dtypes.compute_dtype) for a, dtype in zip(arrays, dtypes.present(), strict=True)]
    key_bits, number, first = (np.array([each], np.uint64) for each in (work.dither_key & MASK, row[NUMBER], index))
    offsets = np.arange(count, dtype=np.uint32)
    place = Place(key_bits, number, first + offsets)
    if largest is not None:
        place = Place(key_bits, number, first, offsets, largest)
    with np.errstate(all="ignore"):
        return arrays, function(Factors(*factors), scalars, h, place, *values)


def apply(
    key: str, count: int, work: Work, row: Any, index: int, factors: Any, scalars: Any, h: Any, largest: Any = None
) -> None:
    arrays, results = called(key, count, work, row, index, factors, scalars, h, largest)
    for array, dtype, result in zip(arrays, ELEMENT_FUNCTIONS[key].dtypes.present(), results, strict=True):
        if result is not None:
            is_nearest = dtype == "bfloat16" and getattr(result, "dtype", None) == np.float32
            with np.errstate(all="ignore"):
                array[...] = halves.nearest(result) if is_nearest else result


def apply_block(key: str, count: int, work: Work, row: Any, index: int, factors: Any, scalars: Any, h: Any) -> None:
    size = min(SCALE_BLOCK, row[LENGTH] - index)
    apply(key, size, work, row, index, factors, scalars, h, lambda values: values.max())


def product(key: str, work: Work, row: Any, index: int, factors: Any, scalars: Any) -> tuple[float, int]:
    _, (left, right, *others) = called(key, 1, work, row, index, factors, scalars, ())
    with np.errstate(all="ignore"):
        result = float(np.float64(left[0]) * np.float64(right[0]))
    return result, sum(0 if np.isfinite(other[0]) else 1 for other in others)
