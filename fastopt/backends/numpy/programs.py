"""The passes over a block, the rule and the stages around it, as lists of NumPy calls (calls.py).

The formulas are those of fastopt/arithmetic/rules.py and pipeline.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...arithmetic import operations, pipeline
from ...arithmetic.operations import Rule
from ...arithmetic.pipeline import Factors, StageFlags, StageScalars
from ...arithmetic.symbols import Value
from ..stages import stage_flags, stage_values
from ..table import HyperRow
from .calls import Program

#: The places of a program's inputs: the stages' scalars, two more numbers, and the block's arrays. Its slots and the
#: rule's scalars follow.
GLOBAL_CLIP, ZERO, PARAM, GRAD, ACCUMULATED, ARRAY_CLIP, AVERAGE, LOWER, UPPER, SLOTS = range(
    len(StageScalars._fields), len(StageScalars._fields) + 10
)

#: Those that are one number.
NUMBERS = range(PARAM)


class Row:
    """A row of hyperparameters. Its numbers, in the compute dtype, stay in the same memory from step to step."""

    def __init__(self, hyper: HyperRow, dtype: np.dtype[Any]) -> None:
        self.hyper, self.dtype = hyper, dtype
        self.flags, self.ones = self._flags(), ones_of(hyper)
        self.numbers = np.array(numbers_of(hyper, dtype), dtype)
        views = [self.numbers[k : k + 1].reshape(()) for k in range(self.numbers.size)]
        #: The first inputs of every program, and the rule's scalars.
        self.inputs, self.scalars = views[:PARAM], views[PARAM:]

    def take(self, hyper: HyperRow) -> bool:
        """Take the numbers of another step of the same rule; return whether it has other calls."""
        last, self.hyper = self.hyper, hyper
        self.numbers[:] = numbers_of(hyper, self.dtype)
        before, self.ones = (self.flags, self.ones), ones_of(hyper)
        if hyper[:6] != last[:6] or hyper[7:] != last[7:]:
            self.flags = self._flags()
        return (self.flags, self.ones) != before

    def _flags(self) -> StageFlags:
        return stage_flags(self.hyper, self.dtype.type, False, self.hyper.global_clip != 1, True)


def numbers_of(hyper: HyperRow, dtype: np.dtype[Any]) -> tuple[float, ...]:
    return *stage_values(hyper, dtype), hyper.global_clip, 0.0, *hyper.scalars


def ones_of(hyper: HyperRow) -> tuple[int, ...]:
    """Return which of the rule's scalars are 1, so that products with them are left out."""
    return tuple([k for k, number in enumerate(hyper.scalars) if number == 1])


@lru_cache
def step_program(
    rule: Rule, scalars: type, flags: StageFlags, clips_arrays: bool, has_average: bool, ones: tuple[int, ...]
) -> Program:
    """Return the calls that update a block."""
    flags = flags._replace(clip_norm=clips_arrays)
    names = operations.slots(rule) if flags.update else ()
    behind_slots = SLOTS + len(names)

    def step(*values: Value) -> Sequence[Value]:
        p, slots = values[PARAM], list(values[SLOTS:behind_slots])
        scalars_of_stages, zero = stage_scalars(values), values[ZERO]
        if flags.update:
            g = regularized_grad(flags, values, scaled_grad(flags, values))
            h = scalars(*values[behind_slots:])
            p, *slots = pipeline.updated(rule, flags, scalars_of_stages, h, p, g, slots, zero)
        if flags.finish:
            p = pipeline.bounded(flags, scalars_of_stages, p, values[LOWER], values[UPPER])
        if flags.finish and has_average:
            return p, *slots, pipeline.finished_average(flags, scalars_of_stages, values[AVERAGE], p, zero)
        return p, *slots

    targets = [PARAM, *range(SLOTS, behind_slots)] + [AVERAGE] * (flags.finish and has_average)
    inputs = behind_slots + len(scalars._fields) * flags.update  # type: ignore[attr-defined]
    numbers = [*NUMBERS, *range(behind_slots, inputs)]
    return Program(step, inputs, targets, numbers, [behind_slots + k for k in ones if flags.update])


@lru_cache
def grad_program(flags: StageFlags, clips_arrays: bool, regularizes: bool) -> Program:
    """Return the calls that scale a gradient, and those that clip it too, or clip and regularize it: two results."""
    flags = flags._replace(clip_norm=clips_arrays)

    def prepared(*values: Value) -> Sequence[Value]:
        scaled = scaled_grad(flags, values)
        if regularizes:
            return scaled, regularized_grad(flags, values, scaled)
        return scaled, pipeline.clipped_grad(flags, stage_scalars(values), clip_factors(values), scaled)

    return Program(prepared, AVERAGE, [None, None], NUMBERS)


@lru_cache
def accumulate_program(flags: StageFlags) -> Program:
    """Return the calls that add a scaled gradient to those before it."""

    def accumulated(*values: Value) -> Sequence[Value]:
        return [values[ACCUMULATED] + scaled_grad(flags._replace(mean=False), values)]

    return Program(accumulated, ARRAY_CLIP, [ACCUMULATED], NUMBERS)


def stage_scalars(values: Sequence[Value]) -> StageScalars:
    return StageScalars(*values[:GLOBAL_CLIP])


def clip_factors(values: Sequence[Value]) -> Factors:
    return Factors(values[ARRAY_CLIP], values[GLOBAL_CLIP])


def scaled_grad(flags: StageFlags, values: Sequence[Value]) -> Any:
    return pipeline.scaled_grad(flags, stage_scalars(values), values[GRAD], values[ACCUMULATED])


def regularized_grad(flags: StageFlags, values: Sequence[Value], scaled: Any) -> Any:
    scalars, factors = stage_scalars(values), clip_factors(values)
    return pipeline.regularized_grad(flags, scalars, factors, scaled, values[PARAM], values[ZERO])
