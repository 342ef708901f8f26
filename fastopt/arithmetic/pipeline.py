"""The stages around every rule, each stated once: on the gradient before it, and on the parameter after it.

``csrc/pipeline_template.h`` has the same arithmetic in the same order, under the same names. Like the rules, these work
on arrays or scalars, and on the values that stand for them while a pass is traced: into NumPy calls, or into a CUDA
kernel. Limits and weights are of the compute dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .operations import Rule, absolute, maximum, minimum, where


class StageFlags(NamedTuple):
    """The stages of a pass; one that would change no bit is left out."""

    scale: bool = False
    mean: bool = False
    clip_value: bool = False
    clip_norm: bool = False
    clip_global_norm: bool = False
    l2: bool = False
    l1: bool = False
    decay: bool = False
    cautious: bool = False
    threshold: bool = False
    lower: bool = False
    upper: bool = False
    lower_of_elements: bool = False
    upper_of_elements: bool = False
    blend: bool = False
    flush_slots: bool = False
    flush_average: bool = False
    zero_grads: bool = False
    update: bool = True
    clear: bool = True
    finish: bool = True

    @property
    def bounds(self) -> bool:
        """Whether the new parameter has bounds."""
        return self.lower or self.upper or self.lower_of_elements or self.upper_of_elements

    def of_grad(self) -> StageFlags:
        """Return the stages that a gradient goes through before the rule."""
        return StageFlags(*self[: StageFlags._fields.index("decay")])


class StageScalars(NamedTuple):
    """The numbers of the stages, by their names in a row of hyperparameters."""

    grad_scale: Any
    mean: Any
    clip_value: Any
    l2: Any
    l1: Any
    decay: Any
    cautious: Any
    threshold: Any
    lower: Any
    upper: Any
    average_weight: Any
    #: The numbers below which slots, and averages, become 0.
    smallest_slot: Any
    smallest_average: Any


class Factors(NamedTuple):
    """The numbers of one array that are known when all gradients have been read."""

    clip: Any
    global_clip: Any
    rate: Any = None


def scaled_grad(flags: StageFlags, scalars: StageScalars, g: Any, accumulated: Any) -> Any:
    if flags.scale:
        g = g * scalars.grad_scale
    return mean(accumulated, g, scalars.mean) if flags.mean else g


def clipped_grad(flags: StageFlags, scalars: StageScalars, factors: Factors, g: Any) -> Any:
    """Clip a scaled gradient: its elements, then the norms."""
    if flags.clip_value:
        g = clip_value(g, scalars.clip_value)
    if flags.clip_norm:
        g = g * factors.clip
    return g * factors.global_clip if flags.clip_global_norm else g


def regularized_grad(
    flags: StageFlags, scalars: StageScalars, factors: Factors, g: Any, p: Any, zero: Any = None
) -> Any:
    """Clip a scaled gradient, and add the penalties of the parameter; ``zero`` None: computed from ``l1``."""
    g = clipped_grad(flags, scalars, factors, g)
    if flags.l2:
        g = add_l2(g, p, scalars.l2)
    if flags.l1:
        g = add_l1(g, p, scalars.l1, scalars.l1 - scalars.l1 if zero is None else zero)
    return g


def updated(
    rule: Rule, flags: StageFlags, scalars: StageScalars, h: Any, p: Any, g: Any, slots: Sequence[Any], zero: Any = 0
) -> Sequence[Any]:
    """Apply a rule to a regularized gradient; return the new parameter and slots."""
    before = p
    if flags.decay:
        p = p * scalars.decay
    p, *slots = rule(h, p, g, *slots)
    if flags.cautious:
        p = decay_cautiously(p, before, scalars.cautious, zero)
    if flags.flush_slots:
        slots = [flush(slot, scalars.smallest_slot, zero) for slot in slots]
    return soft_threshold(p, scalars.threshold) if flags.threshold else p, *slots


def bounded(flags: StageFlags, scalars: StageScalars, p: Any, lower: Any = None, upper: Any = None) -> Any:
    """Move a new parameter into its bounds: first those of its element, then those of all. NaN stays."""
    if flags.lower_of_elements:
        p = at_least(p, lower)
    if flags.upper_of_elements:
        p = at_most(p, upper)
    if flags.lower:
        p = at_least(p, scalars.lower)
    return at_most(p, scalars.upper) if flags.upper else p


def finished_average(flags: StageFlags, scalars: StageScalars, average: Any, p: Any, zero: Any = 0) -> Any:
    """Return the new average of a new parameter."""
    average = blend_average(average, p, scalars.average_weight) if flags.blend else p
    return flush(average, scalars.smallest_average, zero) if flags.flush_average else average


def clip_value(g: Any, limit: Any) -> Any:
    """Clip each element; NaN stays."""
    # Not minimum and maximum, which for a limit of 0 choose another sign of zero than the kernels.
    return at_least(at_most(g, limit), -limit)


def add_l2(g: Any, p: Any, l2: Any) -> Any:
    return g + l2 * p


def add_l1(g: Any, p: Any, l1: Any, zero: Any) -> Any:
    return g + where(p > zero, l1, where(p < zero, -l1, zero))


def decay_cautiously(p: Any, before: Any, weight: Any, zero: Any) -> Any:
    """Decay only where the rule moved the parameter towards 0, or not at all."""
    return p - weight * where((before - p) * before >= zero, before, zero)


def at_least(p: Any, lower: Any) -> Any:
    return where(p < lower, lower, p)


def at_most(p: Any, upper: Any) -> Any:
    return where(p > upper, upper, p)


def soft_threshold(p: Any, threshold: Any) -> Any:
    """Move the parameter towards 0 by ``threshold``, and stop there."""
    return p - minimum(maximum(p, -threshold), threshold)


def flush(x: Any, smallest: Any, zero: Any = 0) -> Any:
    """Set numbers below the smallest normal one to +0; NaN stays."""
    return where(absolute(x) < smallest, zero, x)


def mean(accumulated: Any, g: Any, weight: Any) -> Any:
    return (accumulated + g) * weight


def blend_average(average: Any, p: Any, weight: Any) -> Any:
    return average + weight * (p - average)
