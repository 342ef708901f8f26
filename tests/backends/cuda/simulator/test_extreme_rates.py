"""Rates that would be infinite, and floors that would be 0, in the simulator: the bits of the host's backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import raw
from cuda_arrays import SimulatedArray

import fastopt


@pytest.mark.parametrize(
    ("optimizer", "options", "weight"),
    [
        (fastopt.LAMB, {"eps": 1.0}, 1e150),
        (fastopt.LARS, {"trust_coefficient": 1.0}, 1e150),
        (fastopt.Adafactor, {"eps": (1e-300, 0.0)}, 3.0),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e-44), (np.float64, 1e-161)])
def test_extreme_rates(
    optimizer: type[fastopt.Optimizer], options: dict[str, Any], weight: float, dtype: Any, size: float
) -> None:
    weight = min(weight, 1e30) if dtype is np.float32 else weight
    param, plain = np.full((3, 2), weight, dtype), np.full((3, 2), weight, dtype)
    grad = np.array([[0.0, 0.0], [0.0, size], [0.0, -size]], dtype)
    opt = optimizer(SimulatedArray(param), lr=0.1, **options)
    reference = optimizer(plain, lr=0.1, backend="numpy", **options)
    for _ in range(2):
        opt.step(SimulatedArray(grad))
        reference.step(grad)
    assert np.isfinite(param).all()
    assert raw(param) == raw(plain)
