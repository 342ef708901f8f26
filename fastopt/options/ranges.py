"""The values that an option may have, and the one validator of options ("name=value: expected ...")."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..arrays.memory import shown

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


#: The types of values that are plain Python already.
PYTHON = frozenset({int, float, bool, str, type(None)})

#: The values that an option may have; None stands for True and False.
Allowed: TypeAlias = Range | tuple[Range, ...] | Choice | None

NON_NEGATIVE = Range(0.0)
POSITIVE = Range(0.0, excludes_low=True)
NON_POSITIVE = Range(high=0.0, includes_high=True)
ANY_NUMBER = Range()
OPTIONAL = Range(0.0, optional=True)
#: A norm is measured against infinity too: nothing is above it.
OPTIONAL_OR_INFINITE = Range(0.0, optional=True, includes_high=True)
BELOW_ONE = Range(0.0, 1.0)
ABOVE_ZERO_BELOW_ONE = Range(0.0, 1.0, excludes_low=True)
FRACTION = Range(0.0, 1.0, includes_high=True)
SCHEDULED = Range(0.0, schedulable=True)
SCHEDULED_BELOW_ONE = Range(0.0, 1.0, schedulable=True)
INDEX = Range(0, whole=True)
COUNT = Range(1, whole=True)
#: The counts of steps that can be loaded or set: no run goes on from there to the end of int64.
STEPS = Range(0, 2**62, whole=True, includes_high=True)

#: The values of each option, unless an optimizer's ``ranges`` has it. An option in neither is True or False.
RANGES: Mapping[str, Allowed] = {
    "lr": SCHEDULED,
    "initial_lr": NON_NEGATIVE,
    "weight_decay": SCHEDULED,
    "clip_value": OPTIONAL,
    "clip_norm": OPTIONAL_OR_INFINITE,
    "clip_global_norm": OPTIONAL_OR_INFINITE,
    "skip_above": OPTIONAL_OR_INFINITE,
    "l1": NON_NEGATIVE,
    "prox_l1": NON_NEGATIVE,
    "max_weight_norm": OPTIONAL,
    "ema_decay": Range(0.0, 1.0, optional=True, schedulable=True),
    "ema_start": Choice("before", "after", "zero"),
    "polyak_start": COUNT,
    "accumulate_steps": Range(1, 2**31, whole=True),
    "seed": INDEX,
    "nonfinite": Choice("propagate", "skip", "raise"),
    "nonfinite_limit": Range(1, optional=True, whole=True),
    "state_dtype": Choice(None, "bfloat16", "uint8"),
    "eps": NON_NEGATIVE,
    "eps_root": NON_NEGATIVE,
    "momentum": SCHEDULED,
    "betas": (SCHEDULED_BELOW_ONE, SCHEDULED_BELOW_ONE),
}


def check(where: str, value: Any, allowed: Allowed) -> Any:
    """Return a value as options hold it (see :func:`as_option`); raise unless it is allowed.

    Raises
    ------
    TypeError
        If it is of the wrong kind.
    ValueError
        If it is out of its range, NaN, or not one of the choices.
    """
    if type(value) is float and type(allowed) is Range and not allowed.whole and allowed.holds(value):
        return value  # as most are
    if allowed is None:
        if isinstance(value, (tuple, list)) or not isinstance(plain(value), bool):
            raise TypeError(f"{where}={shown(value)}: expected True or False")
    elif isinstance(allowed, Choice):
        chosen = plain(value)
        if not any(chosen is known or (isinstance(chosen, str) and chosen == known) for known in allowed.values):
            raise ValueError(f"{where}={shown(value)}: expected {allowed}")
    elif isinstance(allowed, Range):
        check_number(where, value, allowed)
    elif isinstance(value, (tuple, list)) and len(value) == len(allowed):
        for k, (item, range_) in enumerate(zip(value, allowed, strict=True)):
            check_number(f"{where}[{k}]", item, range_)
    else:
        raise TypeError(f"{where}={shown(value)}: expected a tuple of {len(allowed)} numbers")
    return as_option(value)


def check_number(where: str, value: Any, allowed: Range) -> None:
    if isinstance(value, type):
        example = "; make one: fastopt.schedules.cosine(0.1, total=1000)" if allowed.schedulable else ""
        raise TypeError(f"{where}={value.__name__}: expected {allowed}, got a class{example}")
    if (value is None and allowed.optional) or (callable(value) and allowed.schedulable):
        return
    try:
        number = plain(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raised = type(error).__name__
        raise TypeError(f"{where}={shown(value)}: expected {allowed}; float() of this raises {raised}") from error
    if isinstance(number, bool) or not isinstance(number, int if allowed.whole else (int, float)):
        shape = getattr(value, "shape", ())
        advice = f"; give one number (a 0-d array too), not an array of shape {tuple(shape)}" if shape != () else ""
        raise TypeError(f"{where}={shown(value)}: expected {allowed}{advice}")
    if not allowed.holds(number):
        raise ValueError(f"{where}={shown(value)}: expected {allowed}")


def as_number(where: str, value: Any, allowed: Range) -> Any:
    """Return a number of any type as Python's int (if the range is ``whole``) or float; raise unless it is allowed."""
    if value is None and allowed.optional:
        return None
    check_number(where, value, allowed)
    return plain(value) if allowed.whole else float(plain(value))


def as_option(value: Any) -> Any:
    """Return a value as options hold it.

    NumPy's scalars stay as they are, since they can't change and each has a counterpart in Python; not its longdouble.
    Other numbers become Python's, as in :func:`plain`.
    """
    if type(value) in PYTHON:
        return value
    if isinstance(value, (tuple, list)):
        items = [as_option(item) for item in value]
        if all(map(operator.is_, items, value)):
            return value
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, (np.bool_, np.integer, np.floating)) and not isinstance(value, np.longdouble):
        return value
    return plain(value)


def in_double(value: Any, allowed: Allowed) -> Any:
    """Return a plain value as steps compute with it: ints are floats, unless the range is one of whole numbers."""
    if isinstance(allowed, Range):
        return float(value) if type(value) is int and not allowed.whole else value
    if allowed is None or isinstance(allowed, Choice):
        return value
    return tuple(in_double(item, range_) for item, range_ in zip(value, allowed, strict=True))


def plain(value: Any) -> Any:
    """Return a value as plain Python, which keeps arithmetic in double precision; lists become tuples.

    A scalar or a 0-d array of any library (NumPy, JAX, torch), and any other number with ``__float__``, becomes an int,
    a float or a bool.
    """
    if type(value) in PYTHON:
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    if callable(value) or not hasattr(value, "__float__") or is_no_real_number(value):
        return value
    number = value.item() if hasattr(value, "item") else value
    is_plain = isinstance(number, (int, float)) and not isinstance(number, np.generic)
    return float(number) if hasattr(number, "__float__") and not is_plain else number


def is_no_real_number(value: Any) -> bool:
    """Return whether ``float()`` of this would be an error, or lose a part: arrays, complex numbers and times."""
    return getattr(value, "shape", ()) != () or getattr(getattr(value, "dtype", None), "kind", "") in ("c", "m", "M")
