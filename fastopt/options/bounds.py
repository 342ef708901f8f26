"""The option ``bounds``: a pair of numbers of a group, and structures of arrays of the whole optimizer."""

from __future__ import annotations

import math
from typing import Any

from ..arrays.memory import is_on_device, shown
from ..arrays.structure import is_container
from .ranges import Range, as_option, check_number, plain

#: The bounds of a group, with None for no bound; None if it has neither.
Pair = tuple[Any, Any] | None

NUMBER = Range(optional=True)


def checked_pair(where: str, value: Any) -> Pair:
    """Return the bounds of a group as groups hold them: an infinite one is None.

    Raises
    ------
    TypeError
        If it is not None or a pair of numbers or None.
    ValueError
        If a number is NaN, or the lower bound is above the upper one.
    """
    if value is None:
        return None
    check_is_pair(where, value)
    sides = [checked_side(f"{where}[{k}]", side, end) for k, (side, end) in enumerate(zip(value, ENDS, strict=True))]
    lower, upper = sides
    if lower is not None and upper is not None and plain(lower) > plain(upper):
        raise ValueError(f"{where}={shown(value)}: expected a lower bound that is not above the upper one")
    return None if sides == [None, None] else (lower, upper)


#: The numbers that are no bound.
ENDS = (-math.inf, math.inf)


def check_is_pair(where: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(
            f"{where}={shown(value):.80}: expected a pair (lo, hi), each a number or None, or None for both"
            f"{hint_of_scipy(value)}"
        )


def hint_of_scipy(value: Any) -> str:
    """Return what to write instead of SciPy's bounds; "" if these are others."""
    if hasattr(value, "lb") and hasattr(value, "ub"):
        return "; write (bounds.lb, bounds.ub)"
    is_list = isinstance(value, (tuple, list)) and len(value) > 0
    if is_list and all(isinstance(item, (tuple, list)) and len(item) == 2 for item in value):
        return "; of SciPy's list of pairs make two: an array of all lower bounds, and one of all upper bounds"
    return ""


def checked_side(where: str, side: Any, end: float) -> Any:
    """Return the bound of one side; None for its infinity ``end``."""
    if not is_number(side):
        raise TypeError(
            f"{where}={shown(side):.80}: expected a number or None in a group; give arrays to the optimizer, in the "
            "structure of the parameters"
        )
    if side is None or plain(side) == end:
        return None
    check_number(where, side, NUMBER)
    return as_option(side)


def is_number(side: Any) -> bool:
    """Return whether one side of ``bounds`` is no structure of arrays."""
    shape = getattr(side, "shape", None)
    return shape == () if shape is not None else not (is_container(side) or is_on_device(side))


def split(bounds: Any) -> tuple[Any, tuple[Any, Any] | None]:
    """Return an optimizer's ``bounds`` as those of numbers, and those of structures; None: there are none."""
    if bounds is None:
        return None, None
    check_is_pair("bounds", bounds)
    lower, upper = bounds
    if is_number(lower) and is_number(upper):
        return bounds, None
    numbers, structures = ([side if is_number(side) is wanted else None for side in bounds] for wanted in (True, False))
    return tuple(numbers), (structures[0], structures[1])
