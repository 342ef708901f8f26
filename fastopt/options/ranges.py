"""The values that an option may have, and the one validator of options ("name=value: expected ...")."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np

#: A number, or a function of the step (from 0) that returns one, such as those of :mod:`fastopt.schedules`.
Schedulable: TypeAlias = float | Callable[[int], float]
Group: TypeAlias = dict[str, Any]


class Range(NamedTuple):
    """The numbers from ``low`` to below ``high``; also None if ``optional``, and functions if ``schedulable``.

    An infinite number is in the range only if ``high`` is infinite and included.
    """

    low: float = -math.inf
    high: float = math.inf
    optional: bool = False
    schedulable: bool = False
    whole: bool = False
    excludes_low: bool = False
    includes_high: bool = False

    def holds(self, number: float) -> bool:
        """Return whether a number is in the range."""
        if self.low < number < self.high:
            return abs(number) <= sys.float_info.max
        at_low = number == self.low > -math.inf and not self.excludes_low
        return at_low or (number == self.high and self.includes_high)

    def __str__(self) -> str:
        low, high = math.isfinite(self.low), math.isfinite(self.high)
        form = "d" if self.whole else "g"
        if low and high:
            to = (
                "and at most"
                if self.excludes_low and self.includes_high
                else "to"
                if self.includes_high
                else "to below"
            )
            bounds = f" {'above' if self.excludes_low else 'from'} {self.low:{form}} {to} {self.high:{form}}"
        elif low:
            bounds = f" {'above' if self.excludes_low else 'of at least'} {self.low:g}"
        elif high:
            bounds = f" {'of at most' if self.includes_high else 'below'} {self.high:g}"
        else:
            bounds = ""
        kind = "a number" if (low and high) or self.holds(math.inf) else "a finite number"
        if self.whole:
            kind = "a whole number"
        return kind + bounds + (", a schedule" if self.schedulable else "") + (", or None" if self.optional else "")


class Choice:
    """A choice of one of these values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


#: The values that an option may have; None stands for True and False.
Allowed: TypeAlias = Range | tuple[Range, ...] | Choice | None

NON_NEGATIVE = Range(0.0)
POSITIVE = Range(0.0, excludes_low=True)
NON_POSITIVE = Range(high=0.0, includes_high=True)
ANY_NUMBER = Range()
OPTIONAL = Range(0.0, optional=True)
BELOW_ONE = Range(0.0, 1.0)
ABOVE_ZERO_BELOW_ONE = Range(0.0, 1.0, excludes_low=True)
FRACTION = Range(0.0, 1.0, includes_high=True)
SCHEDULED = Range(0.0, schedulable=True)
SCHEDULED_BELOW_ONE = Range(0.0, 1.0, schedulable=True)
INDEX = Range(0, whole=True)
COUNT = Range(1, whole=True)
#: The counts of steps that can be loaded or set: a double holds each, and no run comes from there to the end of int64.
STEPS = Range(0, 2**53, whole=True)

#: The values of each option, unless an optimizer's ``ranges`` has it. An option in neither is True or False.
RANGES: Mapping[str, Allowed] = {
    "lr": SCHEDULED,
    "initial_lr": NON_NEGATIVE,
    "weight_decay": SCHEDULED,
    "clip_value": OPTIONAL,
    "clip_norm": OPTIONAL,
    "clip_global_norm": OPTIONAL,
    "l1": NON_NEGATIVE,
    "prox_l1": NON_NEGATIVE,
    "max_weight_norm": OPTIONAL,
    "ema_decay": Range(0.0, 1.0, optional=True),
    "polyak_start": COUNT,
    "accumulate_steps": Range(1, 2**31, whole=True),
    "seed": INDEX,
    "nonfinite": Choice("propagate", "skip", "raise"),
    "state_dtype": Choice(None, "bfloat16", "uint8"),
    "eps": NON_NEGATIVE,
    "eps_root": NON_NEGATIVE,
    "momentum": SCHEDULED,
    "betas": (SCHEDULED_BELOW_ONE, SCHEDULED_BELOW_ONE),
}


def check(where: str, value: Any, allowed: Allowed) -> None:
    """Raise unless a value is allowed.

    Raises
    ------
    TypeError
        If it is of the wrong kind.
    ValueError
        If it is out of its range, NaN, or not one of the choices.
    """
    if allowed is None:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{where}={value!r}: expected True or False")
    elif isinstance(allowed, Choice):
        if not any(value is known or value == known for known in allowed.values):
            raise ValueError(f"{where}={value!r}: expected {allowed}")
    elif isinstance(allowed, Range):
        check_number(where, value, allowed)
    elif isinstance(value, (tuple, list)) and len(value) == len(allowed):
        for k, (item, range_) in enumerate(zip(value, allowed, strict=True)):
            check_number(f"{where}[{k}]", item, range_)
    else:
        raise TypeError(f"{where}={value!r}: expected a tuple of {len(allowed)} numbers")


def check_number(where: str, value: Any, allowed: Range) -> None:
    if (value is None and allowed.optional) or (callable(value) and allowed.schedulable):
        return
    kinds = (int, np.integer) if allowed.whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{where}={value!r}: expected {allowed}")
    if not allowed.holds(plain(value)):
        raise ValueError(f"{where}={value!r}: expected {allowed}")


def as_number(where: str, value: Any, allowed: Range) -> Any:
    """Return a number of any type as Python's int (if the range is ``whole``) or float; raise unless it is allowed."""
    if value is None and allowed.optional:
        return None
    try:
        if isinstance(value, (bool, np.bool_)) or not (allowed.whole or isinstance(value, Real)):
            raise TypeError
        number = operator.index(value) if allowed.whole else float(value)
    except TypeError:
        raise TypeError(f"{where}={value!r}: expected {allowed}") from None
    if not allowed.holds(number):
        raise ValueError(f"{where}={value!r}: expected {allowed}")
    return number


def in_double(value: Any, allowed: Allowed) -> Any:
    """Return a plain value as steps compute with it: ints are floats, unless the range is one of whole numbers."""
    if isinstance(allowed, Range):
        return float(value) if type(value) is int and not allowed.whole else value
    if allowed is None or isinstance(allowed, Choice):
        return value
    return tuple(in_double(item, range_) for item, range_ in zip(value, allowed, strict=True))


def plain(value: Any) -> Any:
    """Return a value as plain Python, which keeps arithmetic in double precision; lists become tuples."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
