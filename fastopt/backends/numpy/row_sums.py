"""The sums of rows of a row-sparse gradient, added in their order; csrc/row_sums.c is the twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array

#: How many rows of one sum are copied at once.
PIECE = 1024


def add_rows(values: Array, order: npt.NDArray[Any], firsts: npt.NDArray[Any]) -> Array:
    """Return sums of the rows ``values[order]``: ``firsts`` are the places in ``order`` at which a sum begins.

    Rounds add one more row to each sum that has one. The longest sums, which would need more rounds than there are such
    sums, are added one by one instead.
    """
    lengths = np.diff(firsts, append=order.size)
    sums: Array = values[order[firsts]]
    longest_first = np.argsort(-lengths, kind="stable")
    # longer[k]: how many sums have more than k + 1 rows
    longer = np.append(np.cumsum(np.bincount(lengths)[:1:-1])[::-1], 0)
    rounds = int(np.argmin(np.arange(longer.size) + longer))
    for k in range(rounds):
        members = longest_first[: longer[k]]
        sums[members] += values[order[firsts[members] + k + 1]]
    for i in longest_first[: longer[rounds]].tolist():
        sums[i] = sum_of(values, order[firsts[i] : firsts[i] + lengths[i]])
    return sums


def sum_of(values: Array, places: npt.NDArray[Any]) -> Array:
    """Return the sum of these rows, added in this order."""
    total: Array = values[places[0]]
    for begin in range(1, places.size, PIECE):
        rows = values[places[begin : begin + PIECE]]
        rows[0] += total
        # NumPy adds in index order along any axis but the last. It would begin with 0, which is not neutral for -0.0.
        total = np.cumsum(rows, axis=0)[-1] if total.size == 1 else np.add.reduce(rows, axis=0, initial=None)
    return total
