"""Tiny numbers: slots and averages that decay without an end are set to 0 before arithmetic on them gets slow.

A gradient that becomes exactly 0 leaves a moment at a few units of the smallest subnormal number, where rounding holds
it for ever, and processors take several times as long for subnormal numbers. In each step of an array whose number is
a multiple of :data:`FLUSH_STEPS`, numbers below the smallest normal one become +0. The number of the step is part of
the state, so that a run that is resumed has the bits of one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from . import rules
from .operations import scalars_type
from .rules import Rule

#: FO_FLUSH_STEPS of csrc/fastopt.h.
FLUSH_STEPS = 16

#: The rules whose slots are never flushed.
UNFLUSHED = frozenset(
    {
        # The sign of a slot counts, however small it is.
        rules.lion,
        rules.signum,
        rules.rprop,
        rules.delta_bar_delta,
        rules.delta_bar_delta_last_grad,
        rules.ftrl,
        # The slot is divided by its own norm.
        rules.adam_direction,
        # Beside eps * d a tiny second moment counts.
        rules.prodigy,
        rules.prodigy_descent,
        # The slot is a sequence of parameters, which decays no more than they do.
        rules.asgd,
        rules.schedule_free_sgd,
    }
)

#: With a smaller eps a second moment below the smallest normal number would count beside it.
LEAST_EPS = 1e-11


def is_due(step: int) -> bool:
    """Return whether an array's tiny numbers are flushed in its step of this number, from 1."""
    return step % FLUSH_STEPS == 0


@lru_cache
def is_flushed(rule: Rule) -> bool:
    """Return whether a rule's slots are flushed if eps allows it; those of a rule of one's own are not."""
    return rule.__module__ == rules.__name__ and rule not in UNFLUSHED


def is_built_in(hook: Callable[..., Any]) -> bool:
    """Return whether a method is fastopt's; the scalars from one of the user's own need not hold the option ``eps``."""
    return getattr(hook, "__module__", "").startswith(rules.__name__.partition(".")[0] + ".")


@lru_cache
def divides_by_slots(rule: Rule) -> bool:
    """Return whether a rule adds an eps to what it divides by."""
    return hasattr(scalars_type(rule), "eps")


def has_safe_eps(rule: Rule, options: Mapping[str, Any]) -> bool:
    """Return whether a rule's eps is so great that no tiny number counts beside it."""
    if not divides_by_slots(rule):
        return True
    least: float = max(options.get("eps", 0.0), math.sqrt(options.get("eps_root", 0.0)))
    return least >= LEAST_EPS


@lru_cache
def smallest_normal(dtype: Any) -> float:
    """Return the smallest normal number of a dtype."""
    return float(np.finfo(dtype).smallest_normal)
