"""Max-norm regularisation: a constant limits the norm of every unit's incoming weights."""

from __future__ import annotations

from typing import Any


def axes_of(name: str, ndim: int, axis: Any) -> tuple[int, ...]:
    """Return the axes, ascending, of a unit's incoming weights in an array of this many dimensions.

    Raises
    ------
    ValueError
        If the array has no such axis.
    """
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    if not all(-ndim <= each < ndim for each in axes):
        raise ValueError(
            f"max_weight_norm_axis={axis!r}: {name!r} has {ndim} dimensions; give its group an axis that it has"
        )
    return tuple(sorted({int(each) % ndim for each in axes}))
