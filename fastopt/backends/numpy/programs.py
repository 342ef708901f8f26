"""What is done to a block, the rule and what is around it, as lists of NumPy calls (calls.py).

All that would change no bit is left out. The formulas are those of fastopt/arithmetic/rules.py and pipeline.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...arithmetic import pipeline, rules
from ...arithmetic.rules import Rule
from ...arrays.dtypes import Array
from ..table import CLEAR, FINISH, UPDATE, HyperRow
from .calls import Program, Value


class Stages(NamedTuple):
    """The numbers of what is done around a rule, and the zero that it takes."""

    grad_scale: Any
    mean: Any
    clip_value: Any
    global_clip: Any
    l2: Any
    l1: Any
    decay: Any
    threshold: Any
    average_weight: Any
    zero: Any


class Options(NamedTuple):
    """What is done; all that would change no bit is left out."""

    updates: bool
    scales: bool
    accumulates: bool
    clips_values: bool
    clips_all: bool
    adds_l2: bool
    adds_l1: bool
    decays: bool
    thresholds: bool
    clears: bool
    finishes: bool
    averages: bool


class Row(NamedTuple):
    """A row of hyperparameters, with its numbers in the dtype that is computed in."""

    hyper: HyperRow
    options: Options
    stages: list[Array]
    scalars: list[Array]


#: The places of a block's arrays behind the stages' numbers; its slots follow, then the rule's scalars.
PARAM, GRAD, ACCUMULATED, ARRAY_CLIP, AVERAGE, SLOTS = range(len(Stages._fields), len(Stages._fields) + 6)


def row_of(hyper: HyperRow, dtype: np.dtype[Any]) -> Row:
    options = Options(
        bool(hyper.stages & UPDATE),
        hyper.grad_scale != 1,
        hyper.mean != 0,
        hyper.clip_value != np.inf,
        hyper.global_clip != 1,
        hyper.l2 != 0,
        hyper.l1 != 0,
        hyper.decay != 1,
        dtype.type(hyper.threshold) != 0,  # with a threshold of 0 the kernels and minimum choose other signs of zero
        bool(hyper.stages & CLEAR),
        bool(hyper.stages & FINISH),
        hyper.average_weight != 1,
    )
    stages = Stages(
        hyper.grad_scale,
        hyper.mean,
        hyper.clip_value,
        hyper.global_clip,
        hyper.l2,
        hyper.l1,
        hyper.decay,
        hyper.threshold,
        hyper.average_weight,
        0.0,
    )
    return Row(hyper, options, [np.array(x, dtype) for x in stages], [np.array(x, dtype) for x in hyper.scalars])


def scaled_grad(options: Options, s: Stages, g: Any, accumulated: Any) -> Any:
    if options.scales:
        g = g * s.grad_scale
    return pipeline.mean(accumulated, g, s.mean) if options.accumulates else g


def clipped_grad(options: Options, s: Stages, g: Any, array_clip: Any) -> Any:
    if options.clips_values:
        g = pipeline.clip_value(g, s.clip_value)
    if array_clip is not None:
        g = g * array_clip
    return g * s.global_clip if options.clips_all else g


def regularized_grad(options: Options, s: Stages, g: Any, p: Any) -> Any:
    if options.adds_l2:
        g = pipeline.add_l2(g, p, s.l2)
    return pipeline.add_l1(g, p, s.l1, s.zero) if options.adds_l1 else g


def updated(rule: Rule, options: Options, s: Stages, h: Any, p: Any, g: Any, slots: Sequence[Any]) -> Sequence[Any]:
    g = regularized_grad(options, s, g, p)
    if options.decays:
        p = p * s.decay
    p, *slots = rule(h, p, g, *slots)
    return pipeline.soft_threshold(p, s.threshold) if options.thresholds else p, *slots


@lru_cache
def step_program(rule: Rule, scalars: type, options: Options, clips_arrays: bool, has_average: bool) -> Program:
    """Return the calls that update a block."""
    names = rules.slots(rule) if options.updates else ()
    behind_slots = SLOTS + len(names)

    def step(*values: Value) -> Sequence[Value]:
        s = Stages(*values[:PARAM])
        p, g, accumulated, array_clip, average = values[PARAM:SLOTS]
        results: Sequence[Value] = [p]
        if options.updates:
            g = clipped_grad(options, s, scaled_grad(options, s, g, accumulated), array_clip if clips_arrays else None)
            h = scalars(*values[behind_slots:])
            results = updated(rule, options, s, h, p, g, values[SLOTS:behind_slots])
        if options.finishes and has_average:
            p = results[0]
            results = [*results, pipeline.blend_average(average, p, s.average_weight) if options.averages else p]
        return results

    targets = [PARAM, *range(SLOTS, behind_slots)] + [AVERAGE] * (options.finishes and has_average)
    return Program(step, behind_slots + len(scalars._fields) * options.updates, targets)  # type: ignore[attr-defined]


@lru_cache
def grad_program(options: Options, clips_arrays: bool, decays: bool) -> Program:
    """Return the calls that make of a gradient what it is scaled alone, and what it is clipped (and decayed)."""

    def prepared(*values: Value) -> Sequence[Value]:
        s = Stages(*values[:PARAM])
        p, g, accumulated, array_clip = values[PARAM:AVERAGE]
        scaled = scaled_grad(options, s, g, accumulated)
        clipped = clipped_grad(options, s, scaled, array_clip if clips_arrays else None)
        return scaled, regularized_grad(options, s, clipped, p) if decays else clipped

    return Program(prepared, AVERAGE, [None, None])


@lru_cache
def accumulate_program(options: Options) -> Program:
    def accumulated(*values: Value) -> Sequence[Value]:
        s, g, before = Stages(*values[:PARAM]), values[GRAD], values[ACCUMULATED]
        return [before + scaled_grad(options._replace(accumulates=False), s, g, before)]

    return Program(accumulated, ARRAY_CLIP, [ACCUMULATED])
