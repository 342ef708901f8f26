"""Functions to minimize, on structures of arrays. Each returns the loss and new gradients."""

from __future__ import annotations

from typing import Any

import numpy as np


def rosenbrock(x: Any) -> tuple[float, Any]:
    """The chained function of Rosenbrock, of one array of any dtype, computed in double precision."""
    values = x.astype(float).reshape(-1)
    left, right = values[:-1], values[1:]
    distance = right - left * left
    grad = np.zeros_like(values)
    grad[:-1] = -400 * left * distance - 2 * (1 - left)
    grad[1:] += 200 * distance
    return float((100 * distance**2 + (1 - left) ** 2).sum()), grad.reshape(x.shape)


def rosenbrock_start(size: int = 10, dtype: Any = float) -> Any:
    return np.resize([-1.2, 1.0], size).astype(dtype)


def bowl(params: Any) -> tuple[float, Any]:
    """The sum of ``k (x - k)^2 / 2`` over all elements, k = 1, 2, 3 by turns in each array; of any structure."""
    if isinstance(params, dict):
        found = {name: bowl(each) for name, each in params.items()}
        return sum(loss for loss, _ in found.values()), {name: grad for name, (_, grad) in found.items()}
    if isinstance(params, (list, tuple)):
        parts = [bowl(each) for each in params]
        return sum(loss for loss, _ in parts), [grad for _, grad in parts]
    k = np.resize([1.0, 2.0, 3.0], params.shape)
    distance = params.astype(float) - k
    return float((k * distance**2).sum() / 2), k * distance


def leaves(params: Any) -> list[Any]:
    if isinstance(params, dict):
        params = list(params.values())
    return [leaf for each in params for leaf in leaves(each)] if isinstance(params, (list, tuple)) else [params]
