"""The order of sums in double precision, which decides their bits; csrc/fastopt.h has the same.

Elements are cut into chunks. A chunk has LANES running sums, each of every LANES-th element, which are folded in
halves. Chunks are added in index order.
"""

from __future__ import annotations

import math

import numpy as np

from ...arrays.dtypes import FLOAT64, Array
from ..table import LANES
from .workers import buffers


def rows_of_lanes(chunks: Array) -> Array:
    """Return chunks (count, size, ...) in double precision, padded with zeros; row k has the k-th LANES of each."""
    count, size, *inner = chunks.shape
    whole, rest = divmod(size, LANES)
    row_size = count * LANES * math.prod(inner)
    rows = buffers.array((whole + (rest > 0)) * row_size, FLOAT64).reshape(-1, count, LANES, *inner)
    rows[:whole].swapaxes(0, 1)[...] = chunks[:, : whole * LANES].reshape(count, whole, LANES, *inner)
    if rest:
        rows[whole, :, :rest] = chunks[:, whole * LANES :]
        rows[whole, :, rest:] = 0
    return rows


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
