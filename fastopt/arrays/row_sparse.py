"""Row-sparse gradients: gradients of a table, such as an embedding, when a batch uses few of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .dtypes import Array, compute_dtype, is_float
from .memory import described
from .others import as_numpy
from .texts import brief

#: Adds rows, given the values, their order, and the places in it at which a sum begins.
RowAdder: TypeAlias = Callable[[Array, npt.NDArray[Any], npt.NDArray[Any]], Array]


@dataclass(frozen=True, eq=False, repr=False)
class RowSparse:
    r"""The gradient of an array of which only some rows (entries of its first axis) have a gradient.

    A step with it reads and writes these rows and their slots alone; weight decay and momentum leave the other rows
    alone too. The step takes time in proportion to the number of these rows. :class:`fastopt.SGD`,
    :class:`fastopt.Adagrad`, :class:`fastopt.Adam`, :class:`fastopt.FTRL` and their subclasses accept it wherever they
    accept a gradient. Four options exclude it: averages (each step changes every row's average), ``accumulate_steps``
    (concatenate the indices and the values of several calls instead), 8-bit slots (several rows share a scale), and
    ``max_weight_norm`` over axis 0 (each unit has weights in every row). ``zero_grads`` clears ``values``.

    Parameters
    ----------
    indices : integer array or list of any shape
        The rows, in any order, each from 0 to below the number of rows: the very ``x`` of ``table[x]``. The values of a
        row that occurs more than once are added, from the first to the last.
    values : float array of shape (\*indices.shape, ...)
        The gradients of these rows; ``...`` is the shape of a row: the gradient of ``table[x]`` as it is.

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

    The gradient of ``table[x]``, with the words of a batch of sentences:

    >>> x = np.array([[4, 5, 4], [5, 6, 6]])
    >>> info = opt.step(fastopt.RowSparse(x, np.ones((2, 3, 2))))
    >>> table[[4, 5, 6]]
    array([[0., 0.],
           [0., 0.],
           [0., 0.]])
    """

    indices: Any
    values: Any

    def __repr__(self) -> str:
        return f"RowSparse(indices={brief(self.indices)}, values={brief(self.values)})"


class SparseRows(NamedTuple):
    """A checked row-sparse gradient: each row once, and values in the compute dtype."""

    indices: npt.NDArray[Any]
    values: Array


def check_row_sparse(name: str, grad: RowSparse, param: Array, add_rows: RowAdder) -> SparseRows:
    """Return the rows of the gradient of a parameter, each once.

    Raises
    ------
    TypeError
        If the indices are not integers or the values not floats.
    ValueError
        If a shape or an index is wrong, or the parameter is not in C order.
    """
    if param.ndim == 0 or not param.flags.c_contiguous:
        raise ValueError(
            f"grads: {name!r} is row-sparse; expected a parameter in C order with at least one axis, got one of shape "
            f"{param.shape} and strides {param.strides}; give a dense gradient"
        )
    indices, values = rows_of(name, grad)
    if values.shape[1:] != param.shape[1:]:
        raise ValueError(
            f"grads: {name!r} has rows of shape {values.shape[1:]}; expected values of the shape of the indices and "
            f"then {param.shape[1:]}, the shape of a row"
        )
    wrong = (indices < 0) | (indices >= len(param))
    if wrong.any():
        raise ValueError(
            f"grads: {name!r} has the index {indices[wrong][0]}; expected indices from 0 to below {len(param)}, the "
            "number of rows; leave out what is padding, in the values too"
        )
    with np.errstate(all="ignore"):
        return each_once(indices, np.require(values, compute_dtype(param.dtype), ["C", "A"]), add_rows)


def rows_of(name: str, grad: RowSparse) -> tuple[npt.NDArray[Any], Array]:
    """Return the indices and values of a gradient as arrays of shape (n,) and (n, ...).

    Raises
    ------
    TypeError, ValueError
        If they are not integers and floats, or their shapes do not fit each other.
    """
    indices, values = (
        as_array(f"grads: the {what} of {name!r}", array)
        for what, array in (("indices", grad.indices), ("values", grad.values))
    )
    if indices.size == 0 and isinstance(grad.indices, (list, tuple)):
        indices = indices.astype(np.intp)  # NumPy takes no numbers for floats
    for what, array, is_kind in (("indices", indices, is_integer), ("values", values, is_float)):
        if not is_kind(array.dtype):
            kind = "integers" if what == "indices" else "floats"
            advice = "; of a mask, give np.flatnonzero(mask)" if array.dtype == bool and kind == "integers" else ""
            raise TypeError(
                f"grads: the {what} of {name!r} are an array of {array.dtype}; expected an array of {kind}{advice}"
            )
    if values.shape[: indices.ndim] != indices.shape:
        raise ValueError(
            f"grads: {name!r} has indices of shape {indices.shape} and values of shape {values.shape}; expected values "
            "of the shape of the indices and then that of a row, such as grad[indices] of a dense gradient"
        )
    return indices.reshape(-1), values.reshape(indices.size, *values.shape[indices.ndim :])


def as_array(where: str, value: Any) -> Array:
    """Return an array, also one of another library, or a list, as a NumPy array."""
    try:
        array = np.asarray(value) if isinstance(value, (list, tuple)) else as_numpy(where, value)
    except ValueError as error:
        raise ValueError(f"{where} are lists of different lengths; expected an array") from error
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{where} are {described(value)}; expected an array")
    return array


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
