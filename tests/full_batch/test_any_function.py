"""Functions of all kinds, limits and bounds by chance: what holds however a run ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt

#: Functions of each element, with their derivatives. Some have kinks, ends, plateaus, rounded losses or no minimum.
PIECES: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "square": lambda x: (x * x, 2 * x),
    "quartic": lambda x: (x**4 - x * x, 4 * x**3 - 2 * x),
    "exponential": lambda x: (np.exp(20 * x) - x, 20 * np.exp(20 * x) - 1),
    "logarithm": lambda x: (x - np.log(x + 1), 1 - 1 / (x + 1)),
    "root": lambda x: (np.sqrt(x + 2) * x, np.sqrt(x + 2) + x / (2 * np.sqrt(x + 2))),
    "kink": lambda x: (np.abs(x), np.sign(x)),
    "waves": lambda x: (np.sin(5 * x) + 0.1 * x * x, 5 * np.cos(5 * x) + 0.2 * x),
    "plateau": lambda x: (np.tanh(x), 1 / np.cosh(x) ** 2),
    "line": lambda x: (x, np.ones_like(x)),
    "wrong gradient": lambda x: (x * x, -2 * x),
    "rounded": lambda x: (np.round(x * x, 3), 2 * x),
    "constant": lambda x: (np.zeros_like(x), np.zeros_like(x)),
    "flat with a slope": lambda x: (np.zeros_like(x), np.ones_like(x)),
    "huge": lambda x: (1e300 * x * x, 2e300 * x),
    "tiny": lambda x: (1e-300 * x * x, 2e-300 * x),
}

STATUSES = {"gtol", "ftol", "max_iterations", "max_evaluations", "line_search", "nonfinite_start"}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "hess", "hvp", "sgd"])
def test_whatever_the_function(method: str, data: st.DataObject) -> None:
    known = sorted(PIECES.keys() - ({"huge"} if method == "sgd" else set()))  # SGD makes NaN of it
    pieces = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    starts = data.draw(st.lists(st.floats(-1.5, 3, width=32), min_size=len(pieces), max_size=len(pieces)))
    low, high = sorted(data.draw(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32))))
    bounds = data.draw(st.sampled_from([None, (low, None), (None, high), (low, high), (low, low)]))
    if method in ("bfgs", "hess", "hvp"):
        bounds = None
    is_float32_loss = data.draw(st.booleans())
    limits: dict[str, Any] = {"max_iterations": data.draw(st.integers(0, 60))}
    if data.draw(st.booleans()):
        limits["max_evaluations"] = data.draw(st.integers(1, 40))
    if data.draw(st.booleans()):
        limits |= {"gtol": 0, "ftol": 0}
    if method == "lbfgs":
        limits["history"] = data.draw(st.integers(1, 5))
    elif method == "sgd":
        limits["lr"] = data.draw(st.sampled_from([1e-3, 0.1]))
    params = [np.full(3, start, dtype) for start in starts]
    calls: list[float] = []

    def evaluate(params: list[Any]) -> tuple[float, list[Any]]:
        with np.errstate(all="ignore"):
            found = [PIECES[piece](array.astype(float)) for piece, array in zip(pieces, params, strict=True)]
            loss = float(sum(values.sum() for values, _ in found))
            return (float(np.float32(loss)) if is_float32_loss else loss), [grad for _, grad in found]

    def fun(given: list[Any]) -> Any:
        loss, grads = evaluate(given)
        if bounds is not None:
            assert all(bounds[0] is None or (array >= bounds[0]).all() for array in given)
            assert all(bounds[1] is None or (array <= bounds[1]).all() for array in given)
        calls.append(loss)
        return np.float32(loss) if is_float32_loss else loss, grads

    def second(given: list[Any]) -> list[Any]:
        """Return the diagonal of the Hessian by differences, which is wrong at kinks."""
        ends = [evaluate([array + sign * 1e-4 for array in given])[1] for sign in (-1, 1)]
        with np.errstate(all="ignore"):
            return [np.nan_to_num((right - left) / 2e-4) for left, right in zip(*ends, strict=True)]

    def hvp(given: list[Any], v: list[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return [np.nan_to_num(diagonal * part) for diagonal, part in zip(second(given), v, strict=True)]

    if method == "hess":
        limits["hess"] = lambda given: np.diag(np.concatenate(second(given)))
    elif method == "hvp":
        limits["hvp"] = hvp

    states: list[tuple[float, int, list[bytes]]] = []

    def callback(state: fastopt.MinimizeState) -> None:
        states.append((state.loss, state.iterations, [array.tobytes() for array in state.params]))

    name = "newton" if method in ("hess", "hvp") else method
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = fastopt.minimize(fun, params, name, bounds=bounds, callback=callback, **limits)

    loss, _ = evaluate(params)
    assert result.loss == loss or (np.isnan(result.loss) and np.isnan(loss))
    assert result.status in STATUSES
    assert result.success == (result.status in ("gtol", "ftol"))
    assert result.evaluations == len(calls) <= limits.get("max_evaluations", len(calls))
    assert result.iterations <= limits["max_iterations"]
    assert [iterations for _, iterations, _ in states] == list(range(1, result.iterations + 1))
    if states:
        assert states[-1][2] == [array.tobytes() for array in params]
    if method != "sgd" and result.status != "nonfinite_start":
        # Where rounding hides a decrease, a rise of 1e-6 is accepted; those of single precision are larger.
        assert np.isfinite(result.loss)
        losses = [calls[0], *(state[0] for state in states)]
        assert all(new <= old + 1.2e-6 * abs(old) for old, new in pairwise(losses))
    if method not in ("bfgs", "hess", "hvp"):  # they add the elements in different orders
        for piece, array in zip(pieces, params, strict=True):
            assert np.array_equal(array, np.full_like(array, array[0]), equal_nan=True), piece
