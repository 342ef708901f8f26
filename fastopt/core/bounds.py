"""The bounds of each array: numbers of its group, and those that the optimizer was given for single arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import halves
from ..arithmetic.inwards import rounded_down, rounded_up
from ..arrays.dtypes import FLOAT64, is_float, is_half
from ..arrays.memory import described, is_on_device, shown
from ..backends.backend import ArrayOps
from ..options.bounds import ENDS, Pair, checked_side, is_number
from ..options.ranges import plain


class OwnBounds(NamedTuple):
    """The bounds that an optimizer was given for one array, rounded inwards. Each pair is a lower and an upper one."""

    #: Those of each element, in the compute dtype; None: all elements have the number.
    arrays: tuple[Any, Any]
    #: Those of all elements; infinite: none.
    numbers: tuple[float, float]
    #: The greatest lower and the least upper bound of an element.
    extremes: tuple[float, float]


class NumberBounds(NamedTuple):
    """The numbers that bound each array, rounded inwards."""

    #: The bounds of the groups that these were made of.
    pairs: Sequence[Pair]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    #: Arrays of one row agree in these.
    keys: list[npt.NDArray[Any]]

    def of(self, i: int) -> tuple[float, float]:
        """Return the lower and the upper bound of array number ``i``."""
        return self.lower.item(i), self.upper.item(i)


NO_BOUNDS = NumberBounds((), np.zeros(0), np.zeros(0), [])


def own_bounds(name: str, param: Any, given: tuple[Any, Any], ops: ArrayOps) -> OwnBounds | None:
    """Return the bounds that were given for an array: each a number, None, or an array of its shape.

    Raises
    ------
    TypeError, ValueError
        If one is anything else, or no number of the array's dtype lies between; names the array and the first place.
    """
    if all(side is None for side in given):
        return None
    dtype, compute_dtype = str(param.dtype), ops.compute_dtype(param.dtype)
    sides = [values_of(f"bounds[{k}]: {name!r}", side, param, ENDS[k], ops) for k, side in enumerate(given)]
    lower, upper = rounded_up(sides[0], dtype), rounded_down(sides[1], dtype)
    is_wrong = np.asarray((lower > upper) | (lower == math.inf) | (upper == -math.inf))
    if is_wrong.any():
        place = place_of(is_wrong)
        low, high = (np.broadcast_to(side, is_wrong.shape)[place] for side in sides)
        raise ValueError(
            f"bounds: {name!r} has {low} and {high}{at(place)}; expected a lower and an upper bound with a number of "
            f"{dtype} between"
        )
    arrays: list[Any] = [None, None]
    numbers = list(ENDS)
    for k, side in enumerate((lower, upper)):
        if side.ndim == 0:
            numbers[k] = float(side)
        else:
            arrays[k] = ops.slot_like(param, 0.0, compute_dtype)
            ops.write(arrays[k], side)
    extremes = float(np.max(lower, initial=-math.inf)), float(np.min(upper, initial=math.inf))
    return OwnBounds((arrays[0], arrays[1]), (numbers[0], numbers[1]), extremes)


def values_of(where: str, side: Any, param: Any, end: float, ops: ArrayOps) -> npt.NDArray[Any]:
    """Return the bounds of one side in double precision: an array of the parameter's shape or without axes."""
    if side is None or is_number(side):
        number = checked_side(where, side, end)
        return np.array(end if number is None else plain(number), FLOAT64)
    on_host = ops.on_host(side) if is_on_device(side) else side
    if not isinstance(on_host, np.ndarray) or not (is_float(on_host.dtype) or on_host.dtype.kind in "iu"):
        found = f"an array of {on_host.dtype}" if isinstance(on_host, np.ndarray) else f"a value {described(side)}"
        raise TypeError(f"{where} has {found}; expected a number, None, or an array of numbers of shape {param.shape}")
    if on_host.shape != tuple(param.shape):
        raise ValueError(
            f"{where} has an array of shape {on_host.shape}; expected a number, or an array of shape {param.shape}, "
            "that of the parameter"
        )
    values: npt.NDArray[Any] = (halves.to_float32(on_host) if is_half(on_host.dtype) else on_host).astype(FLOAT64)
    is_nan = np.isnan(values)
    if is_nan.any():
        raise ValueError(f"{where} has NaN{at(place_of(is_nan))}; expected numbers, or {end} for no bound")
    return values


def number_bounds(
    names: Sequence[str],
    arrays: Sequence[Any],
    own: Sequence[OwnBounds | None],
    group_of: npt.NDArray[np.int64],
    pairs: Sequence[Pair],
) -> NumberBounds:
    """Return the numbers that bound each array: those of its group and its own, which hold together.

    Raises
    ------
    ValueError
        If no number of an array's dtype lies between.
    """
    both = np.full((len(names), 2), ENDS)
    if not any(pairs) and not any(own):
        return NumberBounds(pairs, both[:, 0], both[:, 1], [])
    for i, (name, array, its, k) in enumerate(zip(names, arrays, own, group_of.tolist(), strict=True)):
        both[i] = number_pair(name, str(array.dtype), pairs[k], its)
    lower, upper = np.ascontiguousarray(both.T) + 0.0  # -0.0 equals 0.0, and must not have other bits
    return NumberBounds(pairs, lower, upper, [lower, upper])


def number_pair(name: str, dtype: str, pair: Pair, own: OwnBounds | None = None) -> tuple[float, float]:
    """Return the numbers that bound an array, from those of its group and its own."""
    lower, upper = rounded_pair(dtype, pair)
    if lower > upper or lower == math.inf or upper == -math.inf:
        raise ValueError(f"bounds={shown(pair)}: {name!r} is of {dtype}; expected a number of {dtype} between")
    if own is None:
        return lower, upper
    greatest_lower, least_upper = own.extremes
    if lower > least_upper or upper < greatest_lower:
        raise ValueError(
            f"bounds={shown(pair)}: {name!r} was given bounds of its own when the optimizer was built, with lower ones "
            f"up to {greatest_lower} and upper ones down to {least_upper}; expected numbers that leave room for both"
        )
    return max(lower, own.numbers[0]), min(upper, own.numbers[1])


@lru_cache
def rounded_pair(dtype: str, pair: Pair) -> tuple[float, float]:
    """Return the bounds of a group as numbers of this dtype, rounded inwards."""
    lower, upper = (
        np.array(end if side is None else plain(side), FLOAT64)
        for side, end in zip(pair or (None, None), ENDS, strict=True)
    )
    return float(rounded_up(lower, dtype)), float(rounded_down(upper, dtype))


def place_of(wrong: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first element that is wrong."""
    return tuple(map(int, np.unravel_index(int(np.argmax(wrong)), wrong.shape)))


def at(place: tuple[int, ...]) -> str:
    return f" at {place}" if place else ""
