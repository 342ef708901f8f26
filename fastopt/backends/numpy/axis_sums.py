"""Sums of squares over axes of an array: the elements in C order, added in the order of lanes.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from ..table import CHUNK
from .lanes import fold_lanes, fold_rows, rows_of_lanes
from .workers import borrowed_buffers

#: Adds the squares of an array (outer, size, inner) over its second axis to sums of shape (outer, inner).
Adder: TypeAlias = Callable[[Array, npt.NDArray[np.float64]], None]

#: Elements of a block, few enough to stay in the L2 cache in double precision.
SUM_BLOCK = 1 << 17

#: A block has at least this many adjacent sums, since memory is read in whole cache lines.
MIN_SUMS_PER_BLOCK = 128


def sum_squares(array: Array, axes: tuple[int, ...], add: Adder) -> npt.NDArray[np.float64]:
    """Return the sums of squares over these axes (ascending), which keep the length 1, added in double precision."""
    if len(axes) == 1 and not array.flags.c_contiguous and array.flags.f_contiguous:
        sums: npt.NDArray[np.float64] = sum_squares(array.T, (array.ndim - 1 - axes[0],), add).T
        return sums
    shape = [1 if axis in axes else length for axis, length in enumerate(array.shape)]
    runs = as_runs(array, axes)
    sums = np.zeros((runs.shape[0], runs.shape[2]))
    with np.errstate(all="ignore"):
        add(runs, sums)
    return sums.reshape(shape)


def as_runs(array: Array, axes: tuple[int, ...]) -> Array:
    """Return an array as (outer, size, inner), to be added over ``size``; a view if possible, else a copy."""
    first = axes[0] if axes else array.ndim
    end = first + len(axes)
    if axes != tuple(range(first, end)):
        others = [axis for axis in range(array.ndim) if axis not in axes]
        return as_runs(array.transpose(*others, *axes), tuple(range(len(others), array.ndim)))
    lengths = array.shape[:first], array.shape[first:end], array.shape[end:]
    return array.reshape([math.prod(each) for each in lengths])


def add_runs(runs: Array, sums: npt.NDArray[np.float64]) -> None:
    """Add the squares of each run, chunk by chunk."""
    outer, size, inner = runs.shape
    whole = size // CHUNK
    if outer == 1 and whole > 1:  # all chunks at once, then in index order
        chunks = sums_of(runs[0, : whole * CHUNK].reshape(whole, CHUNK, inner))
        sums += np.cumsum(chunks, axis=0)[-1]
        runs = runs[:, whole * CHUNK :]
    for begin in range(0, runs.shape[1], CHUNK):
        sums += sums_of(runs[:, begin : begin + CHUNK])


def sums_of(chunks: Array) -> npt.NDArray[np.float64]:
    """Return the sums of squares of chunks (count, size, inner), block by block."""
    count, size, inner = chunks.shape
    sums = np.empty((count, inner))
    width = max(MIN_SUMS_PER_BLOCK, SUM_BLOCK // size)
    height = max(1, SUM_BLOCK // (size * min(width, inner or 1)))
    with borrowed_buffers() as buffers:
        for i in range(0, count, height):
            for k in range(0, inner, width):
                buffers.reset()
                rows = rows_of_lanes(chunks[i : i + height, :, k : k + width], buffers)
                np.multiply(rows, rows, out=rows)
                sums[i : i + height, k : k + width] = fold_lanes(fold_rows(rows))
    return sums
