"""Checks that a method makes once, at its start: bounds, numbers that are not finite, functions that move things."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence

import numpy as np

from ..arrays.dtypes import Array
from .box import Box, in_a_row, move_in

PACKAGE = __name__.split(".")[0]


def move_all_in(names: Sequence[str], arrays: Sequence[Array], boxes: Sequence[Box | None]) -> str:
    """Move what is outside its bounds to the nearest bound, and warn of it; return the warning's text."""
    counts = {
        name: move_in(array, box) for name, array, box in zip(names, arrays, boxes, strict=True) if box is not None
    }
    outside = ", ".join(f"{count} of {name!r}" for name, count in counts.items() if count)
    if not outside:
        return ""
    text = f"elements outside the bounds were moved to the nearest bound at the start: {outside}"
    warnings.warn(f"params: {text}", UserWarning, stacklevel=level_of_caller())
    return text


def level_of_caller() -> int:
    """Return the ``stacklevel`` with which the caller of this function warns of a line outside fastopt."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    return level


def check_unchanged(
    names: Sequence[str], arrays: Sequence[Array], before: Sequence[Array], caller: str, title: str
) -> None:
    """Raise if the function has changed parameters: at the start, where this costs little."""
    for name, array, values in zip(names, arrays, before, strict=True):
        bits = f"u{array.itemsize}"
        if not np.array_equal(in_a_row(array).view(bits), values.view(bits)):
            raise ValueError(
                f"params: {name!r} was changed by {caller}; return the gradient, and leave the change to {title}"
            )


def nonfinite(loss: float, names: Sequence[str], arrays: Sequence[Array], grads: Sequence[Array | None]) -> str:
    """Return what is not finite, "" if all is."""
    found = [] if math.isfinite(loss) else [f"the loss is {loss}"]
    for what, values in (("grads", grads), ("params", arrays)):
        for name, array in zip(names, values, strict=True):
            count = 0 if array is None else int(np.count_nonzero(~np.isfinite(array)))
            if count:
                found.append(f"{what}: {name!r} has {count} elements that are not finite")
    return "; ".join(found)
