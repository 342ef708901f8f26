"""A row of hyperparameters as the flags and scalars of the stages (arithmetic/pipeline.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..arithmetic import tiny
from ..arithmetic.pipeline import StageFlags, StageScalars
from .table import CLEAR, FINISH, FLUSH_AVERAGE, FLUSH_SLOTS, UPDATE, HyperRow

#: Returns the scalars that are fields of a row: all but those of flushing.
field_values = attrgetter(*StageScalars._fields[:-2])


def stage_values(hyper: HyperRow, dtype: Any) -> tuple[float, ...]:
    """Return the stages' scalars of a row, in double precision; ``dtype`` is the compute dtype."""
    if not hyper.flush:
        return *field_values(hyper), 0.0, 0.0
    smallest = tiny.smallest_normal(dtype)
    return (
        *field_values(hyper),
        smallest if hyper.flush & FLUSH_SLOTS else 0.0,
        smallest if hyper.flush & FLUSH_AVERAGE else 0.0,
    )


def stage_flags(
    hyper: HyperRow, real: Callable[[float], Any], clip_norm: bool, clip_global_norm: bool, has_average: bool
) -> StageFlags:
    """Return the stages of a pass with this row; ``real`` is the compute dtype."""
    return StageFlags(
        hyper.grad_scale != 1,
        hyper.mean != 0,
        hyper.clip_value != math.inf,
        clip_norm,
        clip_global_norm,
        hyper.l2 != 0,
        hyper.l1 != 0,
        hyper.decay != 1,
        # With a number that rounds to 0, the kernels and NumPy would choose other signs of zero.
        bool(real(hyper.cautious) != 0),
        bool(real(hyper.threshold) != 0),
        hyper.lower != -math.inf,
        hyper.upper != math.inf,
        False,
        False,
        has_average and hyper.average_weight != 1,
        bool(hyper.flush & FLUSH_SLOTS),
        has_average and bool(hyper.flush & FLUSH_AVERAGE),
        hyper.zero_grads,
        bool(hyper.stages & UPDATE),
        bool(hyper.stages & CLEAR),
        bool(hyper.stages & FINISH),
    )
