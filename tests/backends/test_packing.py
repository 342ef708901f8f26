"""Vectors of many arrays, and sums of several vectors: the backends have the same bits, those of NumPy's arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastopt.arithmetic.halves import bfloat16
from fastopt.backends.choosing import host_backend, native_missing
from fastopt.backends.packing import FROM_ROW, FROM_SUMS, FROM_ZERO, Rows

BACKENDS = ["numpy"] if native_missing() else ["numpy", "native"]
DTYPES = ["float32", "float64", "float16", "bfloat16"]
SIZES = [3, 0, 17, 4097, 5]
STARTS = np.cumsum([0, *SIZES])

every_backend = pytest.mark.parametrize("name", BACKENDS)


def dtype_of(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
        return bfloat16()
    return np.dtype(name)


def some_values(size: int, dtype: np.dtype[Any], seed: int = 0) -> Any:
    """Return numbers of many magnitudes, with zeros of both signs and infinities."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=size) * 10.0 ** rng.integers(-9, 6, size)
    values[::7], values[3::11], values[5::13] = -0.0, np.inf, -np.inf
    with np.errstate(all="ignore"):
        return values.astype(np.float32).astype(dtype)


@every_backend
@pytest.mark.parametrize("into", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
@pytest.mark.parametrize("ends", [(0, 4122), (2, 4110)])
def test_vector_has_the_arrays_in_order(name: str, of: str, into: str, ends: tuple[int, int]) -> None:
    arrays = [some_values(size, dtype_of(of), seed) for seed, size in enumerate(SIZES)]
    vector = np.full(4122, 7, dtype_of(into))
    host_backend(name).packing(STARTS).of([*arrays[:2], None, *arrays[3:]]).pack(ends[0], vector[slice(*ends)])
    arrays[2][:] = 0
    together = np.concatenate(arrays)
    wanted = np.full(4122, 7, dtype_of(into))
    with np.errstate(all="ignore"):
        narrow = together.astype(np.float32) if of == "float64" and into in ("float16", "bfloat16") else together
        wanted[slice(*ends)] = narrow[slice(*ends)].astype(dtype_of(into))
    assert vector.tobytes() == wanted.tobytes()


@every_backend
@pytest.mark.parametrize("of", DTYPES)
def test_arrays_have_the_part_of_the_vector(name: str, of: str) -> None:
    vector = some_values(4122, dtype_of(of))
    arrays = [np.full(size, 7, dtype_of(of)) for size in SIZES]
    host_backend(name).packing(STARTS).of(arrays).unpack(2, vector[2:4110])
    wanted = np.full(4122, 7, dtype_of(of))
    wanted[2:4110] = vector[2:4110]
    assert np.concatenate(arrays).tobytes() == wanted.tobytes()


@every_backend
def test_each_vector_has_its_own_arrays(name: str) -> None:
    packing, vector = host_backend(name).packing(STARTS), np.empty(4122, np.float32)
    others, doubles = (
        [some_values(size, np.dtype(dtype), seed) for size in SIZES]
        for seed, dtype in enumerate(["float32", "float64"])
    )
    with_gap, last_is_double = [None, *others[1:]], [*others[:4], doubles[4]]
    each = [others, list(others), doubles, others, with_gap, last_is_double, others]
    for arrays, packed in list(zip(each, map(packing.of, each), strict=True)):
        packed.pack(0, vector)
        wanted = [np.zeros(size) if array is None else array for size, array in zip(SIZES, arrays, strict=True)]
        assert vector.tobytes() == np.concatenate([array.astype(np.float32) for array in wanted]).tobytes()


def test_halves_are_rounded_to_nearest_ties_to_even() -> None:
    # 11 bits of a float16's mantissa: 2048 and 2050 are neighbours, and 2049 lies between them.
    values = np.float32([2049, 2051, 2049.001, 65519.99, 65520, 2.0**-25, 1.0001 * 2.0**-25, -0.0])
    rounded = np.float16([2048, 2052, 2050, 65504, np.inf, 0, 2.0**-24, -0.0])
    for name in BACKENDS:
        half = np.empty(8, np.float16)
        host_backend(name).packing(np.array([0, 8])).of([values]).pack(0, half)
        assert half.tobytes() == rounded.tobytes()


def sums_of(rows: list[Any], scale: float, beginning: int, sums: Any) -> Any:
    """Return the sums of rows in NumPy's arithmetic."""
    with np.errstate(all="ignore"):
        scaled = [row.astype(sums.dtype) * sums.dtype.type(scale) for row in rows]
        if beginning == FROM_ROW:
            return sum(scaled[1:], scaled[0])
        return sum(scaled, sums if beginning == FROM_SUMS else np.zeros_like(sums))


def assert_same(found: Any, wanted: Any) -> None:
    """Compare bits, but for those of NaN."""
    is_nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    assert found[~is_nan].tobytes() == wanted[~is_nan].tobytes()


every_beginning = pytest.mark.parametrize("beginning", [FROM_SUMS, FROM_ZERO, FROM_ROW])


@every_backend
@pytest.mark.parametrize("into", ["float32", "float64"])
@pytest.mark.parametrize("of", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1 / 3, -0.7])
@every_beginning
def test_rows_are_added_in_order(name: str, of: str, into: str, scale: float, beginning: int) -> None:
    size = 70_001
    rows = [some_values(size, dtype_of(of), seed) for seed in range(3)]
    sums = some_values(size, dtype_of(into), 3)
    wanted = sums_of(rows, scale, beginning, sums)
    packed = host_backend(name).packing(np.array([0, size])).of([None])
    packed.accumulate(0, Rows(rows, dtype_of(of), scale, beginning), sums)
    assert_same(sums, wanted)


@every_backend
@pytest.mark.parametrize("into", ["float32", "float64"])
@pytest.mark.parametrize("row", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
@every_beginning
def test_a_row_is_added_where_its_arrays_are(name: str, of: str, row: str, into: str, beginning: int) -> None:
    sizes = [5, 4096, 0, 3, 7, 12_000, 2]
    arrays: list[Any] = [some_values(size, dtype_of(of), seed) for seed, size in enumerate(sizes)]
    arrays[4] = None
    packed = host_backend(name).packing(np.cumsum([0, *sizes])).of(arrays)
    begin, size = 3, 16_100
    own = np.empty(size, dtype_of(row))
    packed.pack(begin, own)
    first, last = (some_values(size, dtype_of(row), seed) for seed in (8, 9))
    sums = some_values(size, dtype_of(into), 3)
    wanted = sums_of([first, own, last], 1 / 3, beginning, sums)
    packed.accumulate(begin, Rows([first, None, last], dtype_of(row), 1 / 3, beginning), sums)
    assert_same(sums, wanted)
