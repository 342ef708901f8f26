"""Vectors of many arrays, and sums of several vectors: the backends have the same bits, those of NumPy's arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastopt.arithmetic.halves import bfloat16
from fastopt.backends.choosing import host_backend, native_missing
from fastopt.backends.packing import FROM_ROW, FROM_SUMS, FROM_ZERO

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
    host_backend(name).packing(STARTS).pack([*arrays[:2], None, *arrays[3:]], vector, *ends)
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
    host_backend(name).packing(STARTS).unpack(vector, arrays, 2, 4110)
    wanted = np.full(4122, 7, dtype_of(of))
    wanted[2:4110] = vector[2:4110]
    assert np.concatenate(arrays).tobytes() == wanted.tobytes()


@every_backend
def test_calls_with_other_arrays_pack_those(name: str) -> None:
    packing, vector = host_backend(name).packing(STARTS), np.empty(4122, np.float32)
    kept, others, doubles = (
        [some_values(size, np.dtype(dtype), seed) for size in SIZES]
        for seed, dtype in enumerate(["float32", "float32", "float64"])
    )
    with_gap = [None, *others[1:]]
    last_is_double = [*others[:4], doubles[4]]
    packing.keep(kept)
    for arrays in (kept, others, kept, list(kept), doubles, others, with_gap, kept, last_is_double, others):
        packing.pack(arrays, vector, 0, 4122)
        wanted = [np.zeros(size) if array is None else array for size, array in zip(SIZES, arrays, strict=True)]
        assert vector.tobytes() == np.concatenate([array.astype(np.float32) for array in wanted]).tobytes()


def test_halves_are_rounded_to_nearest_ties_to_even() -> None:
    # 11 bits of a float16's mantissa: 2048 and 2050 are neighbours, and 2049 lies between them.
    values = np.float32([2049, 2051, 2049.001, 65519.99, 65520, 2.0**-25, 1.0001 * 2.0**-25, -0.0])
    rounded = np.float16([2048, 2052, 2050, 65504, np.inf, 0, 2.0**-24, -0.0])
    for name in BACKENDS:
        half = np.empty(8, np.float16)
        host_backend(name).packing(np.array([0, 8])).pack([values], half, 0, 8)
        assert half.tobytes() == rounded.tobytes()


@every_backend
@pytest.mark.parametrize("into", ["float32", "float64"])
@pytest.mark.parametrize("of", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1 / 3, -0.7])
@pytest.mark.parametrize("beginning", [FROM_SUMS, FROM_ZERO, FROM_ROW])
def test_rows_are_added_in_order(name: str, of: str, into: str, scale: float, beginning: int) -> None:
    size = 70_001
    rows = [some_values(size, dtype_of(of), seed) for seed in range(3)]
    sums = some_values(size, dtype_of(into), 3)
    with np.errstate(all="ignore"):
        scaled = [row.astype(into) * np.dtype(into).type(scale) for row in rows]
        if beginning == FROM_ROW:
            wanted = scaled[0] + scaled[1] + scaled[2]
        else:
            start = sums if beginning == FROM_SUMS else np.zeros(size, into)
            wanted = start + scaled[0] + scaled[1] + scaled[2]
    host_backend(name).accumulate_rows(rows, scale, beginning, sums)
    is_nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(sums), is_nan)
    assert sums[~is_nan].tobytes() == wanted[~is_nan].tobytes()
