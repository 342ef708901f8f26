"""First-order optimizers as methods of minimize: when they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastopt


def test_first_order_tolerances() -> None:
    x = np.ones(3)
    result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), x, "sgd", lr=0.1, max_iterations=1000, ftol=0)
    assert result.status == "gtol"
    assert result.grad_norm == np.abs(2 * x).max() <= 1e-5
    result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), np.ones(3), "sgd", lr=0.1, max_iterations=1000, gtol=0)
    assert result.status == "ftol"


@pytest.mark.parametrize(
    ("options", "iterations"),
    [({"lr": lambda step: 0.0 if step <= 3 else 0.25}, 25), ({"lr": 0.25, "skip_above": 1.0}, 40)],
    ids=["lr 0 at first", "skipped"],
)
def test_a_loss_that_stays_where_no_step_was_made_is_no_convergence(options: Any, iterations: int) -> None:
    x = np.ones(3)
    result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), x, "sgd", max_iterations=40, **options)
    assert result.success == ("skip_above" not in options), result.message
    assert 3 < result.iterations <= iterations


def test_first_order_that_diverges() -> None:
    with np.errstate(all="ignore"):
        result = fastopt.minimize(
            lambda x: (float(np.sum(x**4)), 4 * x**3), np.full(3, 10.0), "sgd", lr=1.0, max_iterations=20
        )
    assert (result.status, result.success) == ("max_iterations", False)
    assert "lower lr" in result.message
