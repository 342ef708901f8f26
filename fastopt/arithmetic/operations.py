"""The types and operations that rules may use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Real: TypeAlias = npt.NDArray[Any]
Rule: TypeAlias = Callable[..., tuple[Real, ...]]

sqrt = np.sqrt
maximum = np.maximum
minimum = np.minimum
absolute = np.absolute
sign = np.sign
where = np.where


@lru_cache
def slots(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's slots.

    >>> from fastopt.rules import adam, slots
    >>> slots(adam)
    ('m', 'v')
    """
    return tuple(inspect.signature(rule).parameters)[3:]


@lru_cache
def scalars_type(rule: Rule) -> Any:
    """Return the named tuple of a rule's scalars, as its first parameter is annotated."""
    return next(iter(inspect.signature(rule, eval_str=True).parameters.values())).annotation
