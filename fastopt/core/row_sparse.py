"""Row-sparse gradients: gradients of a table, such as an embedding, when a batch uses few of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array, compute_dtype, is_float
from ..arrays.memory import described
from ..arrays.texts import brief
from ..backends.table import ArrayExtras, HyperRow, Source, Table
from .slots import ArrayMemory

Buffers: TypeAlias = dict[tuple[int, int], Array]
#: Adds rows, given the values, their order, and the places in it at which a sum begins.
RowAdder: TypeAlias = Callable[[Array, npt.NDArray[Any], npt.NDArray[Any]], Array]

#: The options that exclude row-sparse gradients, with the reason or the remedy.
NOT_BY_ROWS: Mapping[str, str] = {
    "ema_decay": "every row's average changes in every step",
    "polyak": "every row's average changes in every step",
    "accumulate_steps": "give the rows of all calls in one, their indices and their values concatenated",
    "state_dtype": "in 8 bits several rows share a scale",
    "max_weight_norm": "each unit has weights in every row; give a max_weight_norm_axis without axis 0",
}


@dataclass(frozen=True, eq=False, repr=False)
class RowSparse:
    """The gradient of an array of which only some rows (entries of its first axis) have a gradient.

    A step with it reads and writes these rows and their slots alone; weight decay and momentum leave the other rows
    alone too. The step takes time in proportion to the number of these rows. :meth:`SGD.step`, :meth:`Adagrad.step`,
    :meth:`Adam.step` and those of their subclasses accept it wherever they accept a gradient. Four options exclude it:
    averages (each step changes every row's average), ``accumulate_steps`` (concatenate the indices and the values of
    several calls instead), 8-bit slots (several rows share a scale), and ``max_weight_norm`` over axis 0 (each unit has
    weights in every row). ``zero_grads`` clears ``values``.

    Parameters
    ----------
    indices : integer array of shape (n,)
        The rows, in any order, each from 0 to below the number of rows. The values of a row that occurs more than once
        are added, from the first to the last.
    values : float array of shape (n, ...)
        The gradients of these rows; ``...`` is the shape of a row.

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

    def __repr__(self) -> str:
        return f"RowSparse(indices={brief(self.indices)}, values={brief(self.values)})"


class SparseRows(NamedTuple):
    """A checked row-sparse gradient: each row once, and values in the compute dtype."""

    indices: npt.NDArray[Any]
    values: Array


def check_row_sparse(name: str, grad: RowSparse, param: Array, add_rows: RowAdder) -> SparseRows:
    """Return the gradient's rows, each once.

    Raises
    ------
    TypeError
        If the indices are not an integer array or the values not a float array.
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
        return each_once(indices, np.require(values, compute_dtype(param.dtype), ["C", "A"]), add_rows)


def is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu"


def each_once(indices: npt.NDArray[Any], values: Array, add_rows: RowAdder) -> SparseRows:
    """Return each row once, with the values of equal indices added in their order."""
    order = np.argsort(indices, kind="stable")
    is_first = np.ones(indices.size, bool)
    np.not_equal(indices[order[1:]], indices[order[:-1]], out=is_first[1:])
    if is_first.all():
        return SparseRows(indices, values)
    firsts = np.flatnonzero(is_first)
    return SparseRows(indices[order[firsts]], add_rows(values, order, firsts))


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
