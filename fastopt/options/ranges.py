"""The values that an option may have."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

#: A number, or a function of the step (from 0) that returns one, such as those of :mod:`fastopt.schedules`.
Schedulable: TypeAlias = float | Callable[[int], float]
Group: TypeAlias = dict[str, Any]


#: The least number above 0: as ``low`` it excludes 0, as ``high`` it is the first that is excluded.
LEAST = 5e-324


class Range(NamedTuple):
    """The numbers from ``low`` to ``high``, ``high`` itself excluded; None too where ``optional``."""

    low: float
    high: float = math.inf
    optional: bool = False
    schedulable: bool = False
    whole: bool = False

    def __str__(self) -> str:
        if self.whole:
            kinds = f"a whole number of at least {self.low:g}"
        elif self.high == LEAST:
            kinds = "a finite number of at most 0"
        elif self.high < math.inf:
            from_ = "above 0" if self.low == LEAST else f"from {self.low:g}"
            kinds = f"a number {from_} to below {self.high:g}"
        elif self.low > -math.inf:
            kinds = f"a finite number of at least {self.low:g}"
        else:
            kinds = "a finite number"
        return kinds + (", a schedule" if self.schedulable else "") + (", or None" if self.optional else "")


class Choice:
    """One of these values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"


Allowed: TypeAlias = Range | tuple[Range, ...] | Choice

NON_NEGATIVE = Range(0.0)
OPTIONAL = Range(0.0, optional=True)
BELOW_ONE = Range(0.0, 1.0)
ABOVE_ZERO_BELOW_ONE = Range(LEAST, 1.0)
NON_POSITIVE = Range(-math.inf, LEAST)
ANY_NUMBER = Range(-math.inf)
SCHEDULED = Range(0.0, schedulable=True)
SCHEDULED_BELOW_ONE = Range(0.0, 1.0, schedulable=True)

#: What each number may be; an optimizer's own ``ranges`` come before this. An option of neither is True or False.
RANGES: Mapping[str, Allowed] = {
    "lr": SCHEDULED,
    "weight_decay": SCHEDULED,
    "clip_value": OPTIONAL,
    "clip_norm": OPTIONAL,
    "clip_global_norm": OPTIONAL,
    "l1": NON_NEGATIVE,
    "prox_l1": NON_NEGATIVE,
    "max_norm": OPTIONAL,
    "ema_decay": Range(0.0, 1.0, optional=True),
    "polyak_start": Range(1, whole=True),
    "accumulate_steps": Range(1, whole=True),
    "seed": Range(0, whole=True),
    "accumulated_calls": Range(0, whole=True),
    "nonfinite": Choice("propagate", "skip", "raise"),
    "state_dtype": Choice(None, "bfloat16", "uint8"),
    "eps": NON_NEGATIVE,
    "eps_root": NON_NEGATIVE,
    "momentum": SCHEDULED,
    "betas": (SCHEDULED_BELOW_ONE, SCHEDULED_BELOW_ONE),
}


def check(where: str, value: Any, allowed: Allowed | None) -> None:
    """Raise unless an option may have this value; ``allowed`` None: an option that is True or False.

    Raises
    ------
    TypeError
        If it is of the wrong kind.
    ValueError
        If a number is out of its range, or no number at all (NaN).
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
    if not (allowed.low <= plain(value) < allowed.high and abs(plain(value)) <= sys.float_info.max):
        raise ValueError(f"{where}={value!r}: expected {allowed}")


def plain(value: Any) -> Any:
    """Return a value that arithmetic leaves in double precision, and that no one else can change."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
