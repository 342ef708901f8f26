"""The order of sums in double precision, which decides their bits; csrc/fastopt.h has the same.

Elements are cut into chunks. A chunk has LANES running sums, each of every LANES-th element, which are folded in
halves. Chunks are added in index order.
"""

from __future__ import annotations

import math

import numpy as np

from ...arrays.dtypes import FLOAT64, Array
from ..table import LANES
from .workers import Buffers


def rows_of_lanes(chunks: Array, buffers: Buffers) -> Array:
    """Return chunks (count, size, ...) in double precision, padded with zeros; row k has the k-th LANES of each."""
    rows = buffers.array(size_of_rows(chunks.shape), FLOAT64)
    for part, values in zip(parts_of_rows(rows, *chunks.shape), values_of_rows(chunks), strict=True):
        part[...] = values
    return rows.reshape(shape_of_rows(chunks.shape))


def shape_of_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the rows of chunks of this shape."""
    count, size, *inner = shape
    return -(-size // LANES), count, LANES, *inner


def size_of_rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape_of_rows(shape))


def parts_of_rows(memory: Array, *shape: int) -> list[Array]:
    """Return the parts of the rows of chunks of this shape, which are written one after the other."""
    rows = memory.reshape(shape_of_rows(shape))
    whole, rest = divmod(shape[1], LANES)
    return [rows[:whole].swapaxes(0, 1), *([rows[whole, :, :rest], rows[whole, :, rest:]] if rest else [])]


def values_of_rows(chunks: Array) -> list[Array]:
    """Return what goes into the parts of the rows."""
    count, size, *inner = chunks.shape
    whole, rest = divmod(size, LANES)
    values = [chunks[:, : whole * LANES].reshape(count, whole, LANES, *inner)]
    return [*values, chunks[:, whole * LANES :], np.zeros(())] if rest else values


def fold_rows(rows: Array) -> Array:
    """Return the running sums: the sum of the rows."""
    # NumPy adds in index order along any axis but the last.
    sums: Array = np.add.reduce(rows.reshape(len(rows), -1), axis=0)
    return sums.reshape(rows.shape[1:])


def fold_lanes(lanes: Array) -> Array:
    """Return the sum of each chunk: its lanes (axis 1), folded in halves."""
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
