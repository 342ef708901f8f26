"""The stages around every rule, each stated once: on the gradient before it, and on the parameter after it.

``csrc/pipeline_template.h`` has the same arithmetic in the same order, under the same names. Like the rules, these work
on arrays or scalars, and on the values that stand for them while a CUDA kernel is compiled. Limits and weights are of
the compute dtype.
"""

from __future__ import annotations

from typing import Any

from .operations import maximum, minimum, where


def clip_value(g: Any, limit: Any) -> Any:
    """Clip each element; NaN stays."""
    # Not minimum and maximum, which for a limit of 0 choose another sign of zero than the kernels.
    g = where(g > limit, limit, g)
    return where(g < -limit, -limit, g)


def add_l2(g: Any, p: Any, l2: Any) -> Any:
    return g + l2 * p


def add_l1(g: Any, p: Any, l1: Any, zero: Any) -> Any:
    return g + where(p > zero, l1, where(p < zero, -l1, zero))


def soft_threshold(p: Any, threshold: Any) -> Any:
    """Move the parameter towards 0 by ``threshold``, and stop there."""
    return p - minimum(maximum(p, -threshold), threshold)


def mean(accumulated: Any, g: Any, weight: Any) -> Any:
    return (accumulated + g) * weight


def blend_average(average: Any, p: Any, weight: Any) -> Any:
    return average + weight * (p - average)
