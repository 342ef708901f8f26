"""Max-norm regularisation: the norm of every unit's incoming weights is held to a constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array
from ..backends.numpy.axis_sums import Adder, sum_squares


def axes_of(name: str, ndim: int, axis: Any) -> tuple[int, ...]:
    """Return the axes, ascending, of a unit's incoming weights in an array of so many dimensions.

    Raises
    ------
    ValueError
        If the array has no such axis.
    """
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    if not all(-ndim <= each < ndim for each in axes):
        raise ValueError(f"max_norm_axis={axis!r}: {name!r} has {ndim} dimensions; give its group an axis that it has")
    return tuple(sorted({int(each) % ndim for each in axes}))


class Held(NamedTuple):
    """An array, or the touched rows of one, the norms of whose units are held in a step."""

    number: int
    weights: Any
    limit: float
    axes: tuple[int, ...]


def hold(p: Array, limit: float, axes: tuple[int, ...], add: Adder) -> None:
    """Multiply in place each unit's weights whose norm is above ``limit`` by ``limit / norm``.

    Norms that are NaN leave their weights as they are.
    """
    with np.errstate(all="ignore"):
        norms = np.sqrt(sum_squares(p, axes, add))
        if (norms > limit).any():
            p *= np.where(norms > limit, limit / norms, 1.0).astype(p.dtype)
