"""The table of a step with row-sparse gradients (:class:`fastopt.RowSparse`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.row_sparse import SparseRows
from ..backends.table import ArrayExtras, HyperRow, Source, Table
from .slots import ArrayMemory

Buffers: TypeAlias = dict[tuple[int, int], Array]

#: The options that exclude row-sparse gradients, with the reason or the remedy.
NOT_BY_ROWS: Mapping[str, str] = {
    "ema_decay": "every row's average changes in every step",
    "polyak": "every row's average changes in every step",
    "accumulate_steps": "give the rows of all calls in one, their indices and their values concatenated",
    "state_dtype": "in 8 bits several rows share a scale",
    "max_weight_norm": "each unit has weights in every row; give a max_weight_norm_axis without axis 0",
}


def take_rows(array: Array, indices: npt.NDArray[Any], buffers: Buffers, key: tuple[int, int]) -> Array:
    """Return a copy of these rows, in a buffer: to get new memory takes the system longer than the copying."""
    buffer = buffers.get(key)
    if buffer is None or len(buffer) < len(indices) or buffer.dtype != array.dtype:
        buffer = buffers[key] = np.empty((len(indices), *array.shape[1:]), array.dtype)
    return np.take(array, indices, axis=0, out=buffer[: len(indices)], mode="clip")  # with "raise" NumPy makes a copy


def rows_of_bounds(bounds: Array | None, rows: SparseRows, buffers: Buffers, key: tuple[int, int]) -> Array | None:
    """Return the bounds of the elements of these rows, if there are any."""
    return None if bounds is None else take_rows(bounds, rows.indices, buffers, key)


class RowSparseTable:
    """A table, and a second one with copies of the rows that row-sparse gradients touch.

    Parameters
    ----------
    table : Table
        With all arrays; those with a row-sparse gradient have none there.
    sparse : dict
        The row-sparse gradients, by number of array.
    memory : list of ArrayMemory
        The memory of each row-sparse array.
    scalars : list of tuple
        The rule's scalars for each row-sparse array.
    buffers : dict
        The memory for the copies.
    """

    def __init__(
        self,
        table: Table,
        sparse: Mapping[int, SparseRows],
        memory: Sequence[ArrayMemory],
        scalars: Sequence[tuple[float, ...]],
        buffers: Buffers,
    ) -> None:
        self.table, self.array_clip, self.row_numbers = table, table.array_clip, table.row_numbers
        self.nonfinite = table.nonfinite
        self.places, self.sparse, self.scalars = list(sparse), list(sparse.values()), scalars
        targets = [[] if each.extras.copy is None else [each.extras.copy] for each in memory]
        self.arrays = [[each.computed, *each.slots, *target] for each, target in zip(memory, targets, strict=True)]
        self.copies = [
            [take_rows(array, rows.indices, buffers, (i, k)) for k, array in enumerate(arrays)]
            for i, rows, arrays in zip(self.places, self.sparse, self.arrays, strict=True)
        ]
        #: The touched rows of each row-sparse array's parameter.
        self.params = {i: copies[0] for i, copies in zip(self.places, self.copies, strict=True)}
        counts = [len(each.slots) for each in memory]
        self.touched = type(table)(
            list(self.params.values()),
            [copies[1 : 1 + count] for copies, count in zip(self.copies, counts, strict=True)],
            [
                ArrayExtras(
                    copy=copies[-1] if target else None,
                    lower=rows_of_bounds(each.extras.lower, rows, buffers, (i, -1)),
                    upper=rows_of_bounds(each.extras.upper, rows, buffers, (i, -2)),
                    scales=[None] * count,
                )
                for i, each, rows, copies, target, count in zip(
                    self.places, memory, self.sparse, self.copies, targets, counts, strict=True
                )
            ],
        )
        self.touched.row_numbers[:] = np.arange(len(sparse))
        self.touched.indices[:] = self.places
        self.touched.set_grads([rows.values for rows in self.sparse])

    @property
    def is_clipped(self) -> bool:
        return self.table.is_clipped

    @is_clipped.setter
    def is_clipped(self, is_clipped: bool) -> None:
        self.table.is_clipped = is_clipped

    def step(self, rows: Sequence[HyperRow]) -> None:
        self.table.step(rows)
        self.touched.step(self.touched_rows(rows))
        for sparse, arrays, copies in zip(self.sparse, self.arrays, self.copies, strict=True):
            for array, copy in zip(arrays, copies, strict=True):
                array[sparse.indices] = copy

    def sum_products(
        self, rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        sums = self.table.sum_products(rows, left, right, count_nonfinite)
        sums[self.places] = self.touched.sum_products(self.touched_rows(rows), left, right, count_nonfinite)
        if count_nonfinite:
            self.nonfinite = self.table.nonfinite.copy()
            self.nonfinite[self.places] = self.touched.nonfinite
        return sums

    def touched_rows(self, rows: Sequence[HyperRow]) -> list[HyperRow]:
        """Return the rows of hyperparameters of the touched rows."""
        self.touched.array_clip[:] = self.array_clip[self.places]
        numbers = self.row_numbers[self.places]
        return [rows[k]._replace(scalars=scalars) for k, scalars in zip(numbers, self.scalars, strict=True)]
