"""What is done around every rule, once: to the gradient before it, and with the parameter after it.

``csrc/pipeline_template.h`` has the same arithmetic in the same order. As the rules, these work on arrays or scalars, and on
what stands for them when a CUDA kernel is compiled; limits and weights are of the dtype that is computed in.
"""

from __future__ import annotations

from typing import Any

from .rules import maximum, minimum, where


def limited(g: Any, limit: Any) -> Any:
    """Clip each element; NaN stays."""
    # Not minimum and maximum, which for a limit of 0 choose another sign of zero than the kernels.
    g = where(g > limit, limit, g)
    return where(g < -limit, -limit, g)


def with_l2(g: Any, p: Any, l2: Any) -> Any:
    return g + l2 * p


def with_l1(g: Any, p: Any, l1: Any, zero: Any) -> Any:
    return g + where(p > zero, l1, where(p < zero, -l1, zero))


def shrunk(p: Any, threshold: Any) -> Any:
    """Return the parameter ``threshold`` nearer to 0, and no further."""
    return p - minimum(maximum(p, -threshold), threshold)


def mean(accumulated: Any, g: Any, weight: Any) -> Any:
    return (accumulated + g) * weight


def averaged(average: Any, p: Any, weight: Any) -> Any:
    return average + weight * (p - average)
