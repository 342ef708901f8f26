"""BFGS with a dense matrix: the textbook's directions, the same bits everywhere, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from full_batch.problems import CLASSIC

import fastopt
from fastopt.backends import threads
from fastopt.backends.native import library
from fastopt.full_batch.bfgs import BFGS, MOST_ELEMENTS


def quadratic(size: int, seed: int = 0) -> tuple[Any, Any]:
    """Return a positive definite matrix and a function of params {"a": (size - 1,), "b": ()} that it makes."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size))
    matrix = root @ root.T / size + np.eye(size)

    def fun(params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        x = np.append(params["a"], params["b"]) - 1
        return float(x @ matrix @ x) / 2, {"a": (matrix @ x)[:-1], "b": np.array((matrix @ x)[-1])}

    return matrix, fun


def flat(params: dict[str, Any]) -> Any:
    return np.append(params["a"], params["b"])


def test_directions_are_those_of_the_textbook() -> None:
    """H <- (I - rho s y') H (I - rho y s') + rho s s', computed as it stands there."""
    size = 70
    params = {"a": np.zeros(size - 1), "b": np.array(0.0)}
    _, fun = quadratic(size)
    opt = BFGS(params, gtol=0, ftol=0)
    identity = np.eye(size)
    inverse = None
    opt.begin(lambda: fun(params))
    for _ in range(12):
        x, g = flat(params), flat(fun(params)[1])
        state = opt.step(lambda: fun(params))
        s, y = flat(params) - x, flat(fun(params)[1]) - g
        if inverse is not None:
            np.testing.assert_allclose(s / state.step_size, -inverse @ g, rtol=1e-8, atol=1e-10)
        else:
            np.testing.assert_allclose(s / state.step_size, -g, rtol=1e-12)
            inverse = s @ y / (y @ y) * identity
        left = identity - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)


@pytest.mark.skipif(library.missing is not None, reason="needs the native backend")
@pytest.mark.usefixtures("restored")
def test_runs_have_the_same_bits_everywhere() -> None:
    runs = [("numpy", None, 1)] + [("native", isa, count) for isa in library.isas_found() for count in (1, 3)]
    results = set()
    for backend, isa, count in runs:
        if isa is not None:
            library.use_isa(isa)
        threads.set_num_threads(count)
        params = {"W": np.full((20, 7), 3.0), "b": np.full(11, -2.0, np.float32)}
        result = fastopt.minimize(chain, params, "bfgs", ftol=0, max_iterations=40, backend=backend)
        results.add((params["W"].tobytes(), params["b"].tobytes(), result))
    assert len(results) == 1


def chain(params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """A chained Rosenbrock function. No BLAS: the same bits everywhere."""
    x = np.concatenate([params["W"].ravel(), params["b"].astype(float)])
    valley, side = x[1:] - x[:-1] * x[:-1], 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[:-1] = -4 * valley * x[:-1] - 2 * side
    gradient[1:] += 2 * valley
    loss = float((valley * valley + side * side).sum())
    return loss, {"W": gradient[:140].reshape(20, 7), "b": gradient[140:]}


def test_structures_orders_and_dtypes() -> None:
    """Arrays in Fortran order, of no dimensions, and of float32; the order of elements changes no result."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal((3, 4))

    def fun(params: Any) -> Any:
        w, (b, c) = params["w"], params["rest"]
        grads = {"w": w - target, "rest": [np.float32(2 * (b - 3)), 4 * (c - 1) ** 3 * np.ones(2, np.float32)]}
        return ((w - target) ** 2).sum() / 2 + float((b - 3) ** 2 + ((c - 1) ** 4).sum()), grads

    params = {"w": np.asfortranarray(np.zeros((3, 4))), "rest": [np.array(0.0, np.float32), np.zeros(2, np.float32)]}
    arrays = [params["w"], *params["rest"]]
    result = fastopt.minimize(fun, params, "bfgs", gtol=1e-4)
    assert result.success
    assert all(new is old for new, old in zip([params["w"], *params["rest"]], arrays, strict=True))
    assert params["rest"][0].dtype == np.float32
    np.testing.assert_allclose(params["w"], target, atol=1e-3)
    np.testing.assert_allclose(params["rest"][0], 3, atol=1e-3)


def test_points_where_the_function_is_not_finite() -> None:
    def barrier(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return float((x - np.log(x)).sum()), 1 - 1 / x

    x = np.array([1e-3, 5.0, 40.0])
    result = fastopt.minimize(barrier, x, "bfgs")
    assert result.success
    np.testing.assert_allclose(x, 1, atol=1e-4)


def test_wrong_curvature_is_left_out() -> None:
    """Along the first step the gradient of this function does not change: its pair has no curvature."""
    x = np.array([1.0, 1.0])

    def linear_then_quadratic(x: Any) -> Any:
        near = np.where(x > 0, x, np.where(x > -5, x, (x + 5) ** 2 / 2 + x))
        return float(near.sum()), np.where(x > -5, 1.0, (x + 5) + 1)

    result = fastopt.minimize(linear_then_quadratic, x, "bfgs")
    assert result.success
    np.testing.assert_allclose(x, -6, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-100, 1e100, 1e150, 1e300])
def test_squares_that_overflow_or_vanish(scale: float) -> None:
    x = np.full(5, 3.0)

    def fun(x: Any) -> Any:
        return scale * float(x @ x), scale * 2 * x

    result = fastopt.minimize(fun, x, "bfgs", gtol=0, ftol=0, max_iterations=50)
    assert result.loss == fun(x)[0] <= scale * 45


def test_kept_history_goes_on_and_reset_forgets() -> None:
    params = {"W": np.full((20, 7), 3.0), "b": np.full(11, -2.0)}
    opt = BFGS(params)
    for _ in range(5):
        opt.step(lambda: chain(params))
    params["W"] += 0.01
    opt.reset(keep_history=True)
    opt.step(lambda: chain(params))
    assert opt.matrix is not None
    opt.reset()
    assert opt.matrix is None
    before = params["W"].copy(), chain(params)[1]["W"]
    state = opt.step(lambda: chain(params))
    np.testing.assert_allclose(params["W"] - before[0], -state.step_size * before[1], atol=1e-12)


def test_frozen_arrays_stay() -> None:
    params = {"W": np.full((20, 7), 3.0), "b": np.full(11, -2.0)}
    opt = BFGS(params, gtol=1e-3)
    opt.step(lambda: chain(params))
    opt.freeze("b")
    kept = params["b"].copy()
    while opt.step(lambda: (chain(params)[0], {"W": chain(params)[1]["W"]})).status is None:
        pass
    assert (params["b"] == kept).all()
    assert abs(chain(params)[1]["W"]).max() <= 1e-3


def test_evaluations_may_end_in_a_search() -> None:
    """The loss is that of the parameters, for every limit."""
    for most in range(1, 30):
        x = CLASSIC["rosenbrock"].start.copy()
        result = fastopt.minimize(CLASSIC["rosenbrock"].function, x, "bfgs", max_evaluations=most)
        assert result.evaluations <= most
        assert result.loss == CLASSIC["rosenbrock"].function(x)[0]


def test_too_many_elements_are_refused() -> None:
    x = np.zeros(MOST_ELEMENTS + 1)
    with pytest.raises(ValueError, match=r"params: 20,001 elements in all; .*1.6 GB.*at most 20,000.*lbfgs"):
        fastopt.minimize(lambda x: (0.0, x), x, "bfgs")
