"""Gradient clipping: torch's two functions, and the global norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .arithmetic import halves
from .arithmetic.norms import clip_factor, total_norm
from .arrays.dtypes import FLOAT32, FLOAT64, Array, is_float
from .arrays.memory import described, in_memory_order
from .arrays.others import as_numpy
from .arrays.row_sparse import RowSparse, each_once, rows_of
from .arrays.structure import branch_of
from .backends import norms
from .options.ranges import Range, check

__all__ = ["clip_grad_norm_", "clip_grad_value_", "global_norm"]


def __dir__() -> list[str]:
    return __all__


#: As in torch, a limit may be infinite (nothing is clipped), and so may ``norm_type`` (the largest element).
NON_NEGATIVE_OR_INFINITE = Range(0.0, includes_high=True)
POSITIVE_OR_INFINITE = Range(0.0, excludes_low=True, includes_high=True)


def global_norm(grads: Any, norm_type: float = 2.0) -> float:
    """Return the norm of all gradients together, as if they were one long vector.

    ``(sum of abs(g)**norm_type)**(1 / norm_type)``, or the largest ``abs(g)`` for ``norm_type=inf``. The sum is in
    double precision, so that float32 gradients never overflow it; the 2-norm has the same bits on every machine.

    Parameters
    ----------
    grads : array or structure of arrays
        Arrays of any float dtype and shape; None is ignored. A :class:`fastopt.RowSparse` counts as the dense gradient
        that it stands for.
    norm_type : float, default 2.0
        Above 0; ``math.inf`` for the largest.

    Returns
    -------
    float
        0.0 for no gradients.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not a float array, or ``norm_type`` is not above 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> fastopt.clip.global_norm({"W": np.array([3.0]), "b": np.array([4.0])})
    5.0
    """
    return norm_of([contiguous(grad) for grad in float_arrays(grads, takes_rows=True)], norm_type)


def clip_grad_norm_(grads: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> float:
    """Scale gradients in place so that their global norm is at most ``max_norm``.

    ``g *= min(1, max_norm / (norm + 1e-6))``, as in ``torch.nn.utils.clip_grad_norm_``. The optimizers'
    ``clip_global_norm`` does the same without writing the gradients.

    Parameters
    ----------
    grads : array or structure of arrays
        Writeable, of any float dtype; None is ignored.
    max_norm : float
        At least 0. With infinity nothing is clipped; but as in torch, an infinite norm makes all gradients NaN then,
        which the option ``clip_global_norm=inf`` does not.
    norm_type : float, default 2.0
        As in :func:`fastopt.clip.global_norm`.
    error_if_nonfinite : bool, default False
        Raise for an infinite or NaN norm, instead of scaling by it.

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    TypeError, ValueError
        As in :func:`fastopt.clip.global_norm`; also for a read-only array, a negative ``max_norm``, or with
        ``error_if_nonfinite`` a norm that is not finite. Nothing is changed then.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> g = np.array([3.0, 4.0])
    >>> fastopt.clip_grad_norm_(g, max_norm=1.0)
    5.0
    >>> g.round(4)
    array([0.6, 0.8])
    """
    max_norm = check("max_norm", max_norm, NON_NEGATIVE_OR_INFINITE)
    arrays = float_arrays(grads, are_written=True)
    norm = norm_of([contiguous(grad) for grad in arrays], norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"clip_grad_norm_: the global norm is {norm}, and error_if_nonfinite=True; nothing was scaled")
    factor = clip_factor(norm, float(max_norm))
    with np.errstate(all="ignore"):
        for grad in arrays:
            scale(grad, factor)
    return norm


def clip_grad_value_(grads: Any, clip_value: float) -> None:
    """Clamp gradients in place to ``[-clip_value, clip_value]``; NaN stays. As in ``torch.nn.utils.clip_grad_value_``.

    Parameters
    ----------
    grads : array or structure of arrays
        Writeable, of any float dtype; None is ignored.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not a writeable float array, or ``clip_value`` is negative. Nothing is changed then.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> g = np.array([-3.0, 0.5])
    >>> fastopt.clip_grad_value_(g, 1.0)
    >>> g
    array([-1. ,  0.5])
    """
    clip_value = check("clip_value", clip_value, NON_NEGATIVE_OR_INFINITE)
    with np.errstate(all="ignore"):
        for grad in float_arrays(grads, are_written=True):
            limit = np.asarray(clip_value, FLOAT64).astype(grad.dtype)
            np.minimum(np.maximum(grad, -limit, out=grad), limit, out=grad)


def scale(grad: Array, factor: npt.NDArray[np.float64]) -> None:
    """Multiply a gradient in place, as the fused pass does: a small factor would become 0 in half precision."""
    if grad.dtype.itemsize < FLOAT32.itemsize:
        halves.round_into(grad, halves.to_float32(grad) * factor.astype(FLOAT32))
    else:
        np.multiply(grad, factor.astype(grad.dtype), out=grad)


def norm_of(arrays: list[Array], norm_type: float) -> float:
    norm_type = check("norm_type", norm_type, POSITIVE_OR_INFINITE)
    if not arrays:
        return 0.0
    with np.errstate(all="ignore"):
        if norm_type == 2:
            native = [array if array.dtype in (FLOAT32, FLOAT64) else array.astype(FLOAT64) for array in arrays]
            return total_norm(norms.sum_squares(native))
        if norm_type == math.inf:
            return float(np.max([float(np.max(np.abs(array), initial=0)) for array in arrays]))
        powers = [np.sum(np.abs(array.astype(FLOAT64)) ** norm_type) for array in arrays]
        return float(np.sum(powers) ** (1 / norm_type))


def float_arrays(grads: Any, are_written: bool = False, takes_rows: bool = False) -> list[Array]:
    """Return the arrays of a structure that are not None, checked; of row-sparse ones the rows, each once."""
    branch = branch_of(grads)
    arrays = [grad for grad in branch.arrays() if grad is not None]
    are_ours = set(map(type, arrays)) <= {np.ndarray}
    if are_ours and not are_written and {array.dtype for array in arrays} <= {FLOAT32, FLOAT64}:
        return arrays
    named = [(name, grad) for name, grad in zip(branch.names(), branch.arrays(), strict=True) if grad is not None]
    if not are_ours:
        named = [(name, as_given(name, grad, takes_rows)) for name, grad in named]
    for name, grad in named:
        check_float_array(name, grad, are_written)
    return [grad for _, grad in named]


def as_given(name: str, grad: Any, takes_rows: bool) -> Any:
    """Return the gradient of another library as a NumPy array, and the rows of a row-sparse one, each once."""
    if takes_rows and isinstance(grad, RowSparse):
        indices, values = rows_of(name, grad)
        with np.errstate(all="ignore"):
            return each_once(indices, contiguous(values), norms.add_rows).values
    return as_numpy(f"grads: {name!r}", grad)


def check_float_array(name: str, grad: Any, are_written: bool) -> None:
    if not isinstance(grad, np.ndarray) or not is_float(grad.dtype):
        found = f"an array of {grad.dtype}" if isinstance(grad, np.ndarray) else described(grad)
        raise TypeError(f"grads: {name!r} is {found}; expected a NumPy array of a float dtype, or None")
    if isinstance(grad, np.ma.MaskedArray):
        raise TypeError(f"grads: {name!r} is a masked array; give grad.filled(0), or None to pass it over")
    if are_written and not grad.flags.writeable:
        raise ValueError(f"grads: {name!r} is read-only, and is to be changed in place; give a copy")


def contiguous(array: Array) -> Array:
    """Return an array's elements contiguous, aligned and in native byte order, in any order; a view if possible."""
    if (array.flags.c_contiguous or array.flags.f_contiguous) and array.flags.aligned and array.dtype.isnative:
        return in_memory_order(array)
    return array.astype(array.dtype.newbyteorder("="), order="C")
