"""Row-sparse gradients: those of a table, such as an embedding, of which a batch used few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array, compute_dtype, is_float
from ..arrays.memory import described
from ..backends.table import ArrayExtras, HyperRow, Source, Table

#: The options around the rule that are not done with row-sparse gradients, and why or what to do.
NOT_BY_ROWS: Mapping[str, str] = {
    "ema_decay": "every row's average changes in every step",
    "polyak": "every row's average changes in every step",
    "accumulate_steps": "give the rows of all calls in one, their indices and their values concatenated",
    "state_dtype": "in 8 bits several rows share a scale",
    "max_norm": "each unit has weights in every row; give a max_norm_axis without axis 0",
}


@dataclass(frozen=True, eq=False)
class RowSparse:
    """The gradient of an array of which only some rows (entries of its first axis) have a gradient.

    A step with it reads and writes these rows and their slots, and no other: the others see no decay of weights or
    momentum either. Its time is proportional to the number of these rows. It may stand wherever a gradient may in
    :meth:`SGD.step`, :meth:`Adagrad.step`, :meth:`Adam.step` and those of their subclasses, with the options around the
    rule but these: averages (each changes every row's in every step), ``accumulate_steps`` (concatenate the indices and
    the values of several calls instead), 8-bit slots (several rows share a scale), ``max_norm`` over axis 0 (each unit
    has weights in every row). ``zero_grads`` clears ``values``.

    Parameters
    ----------
    indices : integer array of shape (n,)
        The rows, in any order, each from 0 to below the number of rows; the values of a row that is named more than
        once are added, from the first to the last.
    values : float array of shape (n, ...)
        Their gradients; ``...`` is the shape of a row.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = np.ones((1000, 2))
    >>> opt = fastopt.SGD(table, lr=0.5)
    >>> info = opt.step(fastopt.RowSparse(np.array([7, 2, 7]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])))
    >>> table[[2, 3, 7]]
    array([[1. , 0.5],
           [1. , 1. ],
           [0.5, 0.5]])
    """

    indices: npt.NDArray[Any]
    values: Array


class Rows(NamedTuple):
    """A row-sparse gradient that was checked: rows that differ, and values in the dtype that is computed in."""

    indices: npt.NDArray[Any]
    values: Array


def check_row_sparse(name: str, grad: RowSparse, param: Array) -> Rows:
    """Return the gradient's rows, each once.

    Raises
    ------
    TypeError
        If the indices are no integer array or the values no float array.
    ValueError
        If a shape or an index is wrong, or the parameter is not in C order.
    """
    indices, values = grad.indices, grad.values
    if param.ndim == 0 or not param.flags.c_contiguous:
        raise ValueError(
            f"grads: {name!r} is row-sparse; expected a parameter in C order with at least one axis, got one of shape "
            f"{param.shape} and strides {param.strides}; give a dense gradient"
        )
    for what, array, is_kind in (("indices", indices, is_integer), ("values", values, is_float)):
        if not isinstance(array, np.ndarray) or not is_kind(array.dtype):
            found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else described(array)
            kind = "integers" if what == "indices" else "floats"
            raise TypeError(f"grads: the {what} of {name!r} are {found}; expected a NumPy array of {kind}")
    if indices.ndim != 1 or values.shape != (indices.size, *param.shape[1:]):
        raise ValueError(
            f"grads: {name!r} has indices of shape {indices.shape} and values of shape {values.shape}; expected (n,) "
            f"and (n, ...) with ... = {param.shape[1:]}, the shape of a row"
        )
    wrong = (indices < 0) | (indices >= len(param))
    if wrong.any():
        raise ValueError(
            f"grads: {name!r} has the index {indices[wrong][0]}; expected indices from 0 to below {len(param)}, the "
            "number of rows"
        )
    with np.errstate(all="ignore"):
        return each_once(indices, values.astype(compute_dtype(param.dtype), order="C", copy=False))


def is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu"


def each_once(indices: npt.NDArray[Any], values: Array) -> Rows:
    """Return the rows with the values of equal indices added, in the order in which they stand."""
    order = np.argsort(indices, kind="stable")
    is_first = np.ones(indices.size, bool)
    np.not_equal(indices[order[1:]], indices[order[:-1]], out=is_first[1:])
    if is_first.all():
        return Rows(indices, values)
    firsts = np.flatnonzero(is_first)
    row = np.cumsum(is_first) - 1
    rank = np.arange(indices.size) - firsts[row]
    sums = values[order[firsts]]
    # All second ones, all third ones, ...: in each round every row is met at most once.
    by_rank = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank))
    for begin, end in pairwise(ends):
        members = by_rank[begin:end]
        sums[row[members]] += values[order[members]]
    return Rows(indices[order[firsts]], sums)


def take_rows(
    array: Array, indices: npt.NDArray[Any], workspace: dict[tuple[int, int], Array], key: tuple[int, int]
) -> Array:
    """Return a copy of these rows, in memory that is kept: new memory takes the system longer than the copying."""
    kept = workspace.get(key)
    if kept is None or len(kept) < len(indices) or kept.dtype != array.dtype:
        kept = workspace[key] = np.empty((len(indices), *array.shape[1:]), array.dtype)
    return np.take(array, indices, axis=0, out=kept[: len(indices)], mode="clip")  # with "raise" NumPy makes a copy


class RowSparseTable:
    """A table, with the rows that are touched of the arrays that have a row-sparse gradient in a table of copies."""

    def __init__(
        self,
        table: Table,
        rows: dict[int, Rows],
        params: Sequence[Array],
        slots: Sequence[Sequence[Array]],
        targets: Sequence[Array | None],
        scalars: Sequence[tuple[float, ...]],
        workspace: dict[tuple[int, int], Array],
    ) -> None:
        """For each array of ``rows``: its parameter, its slots, where it is copied to, its rule's scalars."""
        self.table, self.array_clip, self.row_numbers = table, table.array_clip, table.row_numbers
        self.numbers = table.numbers
        self.places, self.sparse, self.scalars = list(rows), list(rows.values()), scalars
        self.arrays = [
            [param, *its, *([] if target is None else [target])]
            for param, its, target in zip(params, slots, targets, strict=True)
        ]
        self.copies = [
            [take_rows(array, own.indices, workspace, (i, k)) for k, array in enumerate(its)]
            for i, own, its in zip(self.places, self.sparse, self.arrays, strict=True)
        ]
        #: The rows that are touched of the parameter of each array.
        self.params = {i: copies[0] for i, copies in zip(self.places, self.copies, strict=True)}
        self.touched = type(table)(
            list(self.params.values()),
            [copies[1 : 1 + len(its)] for copies, its in zip(self.copies, slots, strict=True)],
            [
                ArrayExtras(copy=None if target is None else copies[-1], scales=[None] * len(its))
                for copies, target, its in zip(self.copies, targets, slots, strict=True)
            ],
        )
        self.nonfinite = table.nonfinite
        self.touched.row_numbers[:] = np.arange(len(rows))
        self.touched.numbers[:] = self.places
        self.touched.set_grads([each.values for each in self.sparse])

    @property
    def is_clipped(self) -> bool:
        return self.table.is_clipped

    @is_clipped.setter
    def is_clipped(self, is_clipped: bool) -> None:
        self.table.is_clipped = is_clipped

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.table.set_grads(grads)

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        return self.table.move_grads(grads, are_written)

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return self.table.grad_addresses()

    def is_current(self) -> bool:
        return self.table.is_current()

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.table.step(hyper_rows)
        self.touched.step(self.sparse_hyper_rows(hyper_rows))
        for each, arrays, copies in zip(self.sparse, self.arrays, self.copies, strict=True):
            for array, copy in zip(arrays, copies, strict=True):
                array[each.indices] = copy

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        raise NotImplementedError("accumulate_steps with row-sparse gradients, which Optimizer refuses")

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        sums = self.table.sum_products(hyper_rows, left, right, count_nonfinite)
        sums[self.places] = self.touched.sum_products(self.sparse_hyper_rows(hyper_rows), left, right, count_nonfinite)
        if count_nonfinite:
            self.nonfinite = self.table.nonfinite.copy()
            self.nonfinite[self.places] = self.touched.nonfinite
        return sums

    def sparse_hyper_rows(self, hyper_rows: Sequence[HyperRow]) -> list[HyperRow]:
        self.touched.array_clip[:] = self.array_clip[self.places]
        return [
            hyper_rows[self.row_numbers[i]]._replace(scalars=scalars)
            for i, scalars in zip(self.places, self.scalars, strict=True)
        ]
