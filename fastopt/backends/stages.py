"""A row of hyperparameters as the flags and scalars of the stages (arithmetic/pipeline.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..arithmetic.pipeline import StageFlags, StageScalars
from .table import CLEAR, FINISH, UPDATE, HyperRow

#: Returns the stages' scalars of a row, in double precision.
stage_values = attrgetter(*StageScalars._fields)


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
        bool(real(hyper.threshold) != 0),  # with a threshold of 0 the kernels and minimum choose other signs of zero
        has_average and hyper.average_weight != 1,
        hyper.zero_grads,
        bool(hyper.stages & UPDATE),
        bool(hyper.stages & CLEAR),
        bool(hyper.stages & FINISH),
    )
