"""Norms: from sums of squares to the factors that clip."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def clip_factor(norm: Any, max_norm: Any) -> npt.NDArray[np.float64]:
    """Return ``min(1, max_norm / (norm + 1e-6))``, NaN for a norm that is NaN; elementwise, in double precision."""
    return np.minimum(1.0, max_norm / (norm + 1e-6))  # type: ignore[no-any-return]


def measuring_factor(norm: Any, max_norm: Any) -> npt.NDArray[np.float64]:
    """Return :func:`clip_factor`, but 1 for a ``max_norm`` of infinity, which only measures, whatever the norm."""
    return np.where(max_norm == math.inf, 1.0, clip_factor(norm, max_norm))


def total_norm(sums: npt.NDArray[np.float64]) -> float:
    """Return the 2-norm of all arrays, given the sum of squares of each; these are added in index order."""
    return math.sqrt(np.add.accumulate(sums)[-1]) if sums.size else 0.0
