"""The history of L-BFGS: hand-computed numbers, sums by brute force, and the two-loop recursion on vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastopt.backends.choosing import host_backend
from fastopt.backends.history import Move, Reading
from fastopt.backends.table import ArrayExtras

every_backend = pytest.mark.parametrize("backend", ["native", "numpy"])
LENGTHS = [1, 15, 16, 17, 4095, 4096, 4097, 9000]


class Problem:
    """A history over a few arrays, with gradients that a function gives."""

    def __init__(
        self, params: list[Any], grad: Callable[[list[Any]], list[Any]], backend: str, size: int, **bounds: Any
    ) -> None:
        self.params, self.grad = params, grad
        backend_of = host_backend(backend)
        extras = [
            ArrayExtras(lower=low, upper=high) for low, high in bounds.get("arrays", [(None, None)] * len(params))
        ]
        self.table = backend_of.table(params, [()] * len(params), extras or None)
        self.history = backend_of.history(self.table, size, bounds.get("numbers"))

    def evaluate(self) -> None:
        self.table.set_grads(self.grad(self.params))

    def begin(self) -> Reading:
        self.evaluate()
        return self.history.begin()

    def read(self) -> Reading:
        self.evaluate()
        return self.history.read()

    def vectors(self) -> Any:
        return np.concatenate([param.astype(np.float64) for param in self.params])


def arrays_of(rng: np.random.Generator, lengths: list[int], dtypes: list[str]) -> list[Any]:
    return [rng.normal(size=n).astype(dtypes[k % len(dtypes)]) for k, n in enumerate(lengths)]


def quadratic(rng: np.random.Generator, lengths: list[int]) -> Callable[[list[Any]], list[Any]]:
    """Return the gradient of a quadratic, and write to memory that is used again."""
    scales = [np.exp(rng.normal(size=n)) for n in lengths]
    return lambda params: [scale * param for scale, param in zip(scales, params, strict=True)]


def two_loop(grad: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """Return the direction of L-BFGS; Algorithm 7.4 of Nocedal and Wright."""
    q, alphas = grad.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - y @ q / (s @ y)) * s
    return -q


@every_backend
@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize(("dtypes", "tolerance"), [(["float64"], 1e-9), (["float32", "float64"], 2e-3)])
def test_directions_and_readings_are_those_of_the_two_loop_recursion(
    backend: str, size: int, dtypes: list[str], tolerance: float
) -> None:
    rng = np.random.default_rng(3)
    grad = quadratic(rng, LENGTHS)
    problem = Problem(arrays_of(rng, LENGTHS, dtypes), grad, backend, size)
    history = problem.history
    eps = max(np.finfo(dtype).eps for dtype in dtypes)

    def gradient() -> Any:
        # As the table has it: rounded to the parameter's dtype.
        grads = grad(problem.params)
        return np.concatenate([g.astype(p.dtype).astype(float) for g, p in zip(grads, problem.params, strict=True)])

    g = gradient()
    reading = problem.begin()
    np.testing.assert_allclose(reading.grad_square, g @ g, rtol=1e-12)
    assert reading == Reading(0, 0, 0, 0, np.abs(g).max(), reading.grad_square, 0)
    pairs: list[tuple[Any, Any]] = []
    for k in range(12):
        x, step = problem.vectors(), 1.0 if k else 1 / math.sqrt(reading.grad_square)
        move = history.direct(step)
        d = two_loop(g, pairs)
        found = (problem.vectors() - x) / step
        np.testing.assert_allclose(
            found, d, rtol=0, atol=tolerance * np.abs(d).max() + 20 * eps * np.abs(x / step).max()
        )
        np.testing.assert_allclose(move.slope, g @ d, rtol=tolerance)
        np.testing.assert_allclose(move.d_square, d @ d, rtol=tolerance)
        pairs = pairs[-(size - 1) :] if size > 1 else []
        assert history.count == len(pairs)
        for factor in (0.25, 0.5):  # the second one is accepted
            step = factor * step
            history.try_step(step)
            reading = problem.read()
            new = gradient()
            s, y = problem.vectors() - x, new - g
            np.testing.assert_allclose(reading.slope, new @ s / step, rtol=1e-4 if len(dtypes) > 1 else 1e-7)
            np.testing.assert_allclose(reading.curvature, s @ y, rtol=1e-4 if len(dtypes) > 1 else 1e-7)
            np.testing.assert_allclose(reading.s_square, s @ s, rtol=1e-4 if len(dtypes) > 1 else 1e-7)
            np.testing.assert_allclose(reading.y_square, y @ y, rtol=1e-5)
            np.testing.assert_allclose(reading.grad_square, new @ new, rtol=1e-12)
            assert reading.grad_max == np.abs(new).max()
        assert history.accept()
        pairs.append((s, y))
        g = new
    assert history.count == len(pairs) == min(size, 12)


@every_backend
def test_pairs_are_kept_where_a_run_begins_anew(backend: str) -> None:
    rng = np.random.default_rng(4)
    problem = Problem(arrays_of(rng, LENGTHS, ["float64"]), quadratic(rng, LENGTHS), backend, 5)
    pairs = []
    problem.begin()
    for _ in range(4):
        x, g = problem.vectors(), np.concatenate(problem.grad(problem.params))
        problem.history.direct(0.25)
        problem.read()
        assert problem.history.accept()
        pairs.append((problem.vectors() - x, np.concatenate(problem.grad(problem.params)) - g))
    for param in problem.params:  # as after new data
        param[...] = rng.normal(size=param.size)
    x, g = problem.vectors(), np.concatenate(problem.grad(problem.params))
    assert problem.begin().grad_max == np.abs(g).max()
    problem.history.direct(1.0)
    d = two_loop(g, pairs)
    np.testing.assert_allclose(problem.vectors() - x, d, rtol=0, atol=1e-9 * np.abs(d).max())


@every_backend
def test_numbers_by_hand(backend: str) -> None:
    # f = (x0^2 + 4 x1^2) / 2 from (2, 1)
    x = np.array([2.0, 1.0])
    problem = Problem([x], lambda params: [params[0] * [1.0, 4.0]], backend, 3)
    history = problem.history
    assert problem.begin() == Reading(0, 0, 0, 0, 4.0, 20.0, 0)
    assert history.direct(0.25) == Move(-20.0, 20.0, 2, 0.25, math.inf)
    assert x.tolist() == [1.5, 0.0]
    # g = (1.5, 0), d = (-2, -4), s = (-0.5, -1), y = (-0.5, -4)
    assert problem.read() == Reading(-3.0, 4.25, 1.25, 16.25, 1.5, 2.25, 0)
    assert history.try_step(0.5) == 2
    assert x.tolist() == [1.0, -1.0]
    history.put_back()
    assert x.tolist() == [2.0, 1.0]
    history.try_step(0.25)
    problem.read()
    assert history.accept()
    history.put_back()
    assert x.tolist() == [1.5, 0.0]
    assert history.count == 1
    # alpha = s'g / s'y = -0.75 / 4.25; q = g - alpha y; r = gamma q; beta = y'r / s'y
    alpha, gamma = -0.75 / 4.25, 4.25 / 16.25
    r = gamma * (np.array([1.5, 0]) - alpha * np.array([-0.5, -4]))
    beta = r @ [-0.5, -4] / 4.25
    d = -(r + (alpha - beta) * np.array([-0.5, -1]))
    move = history.direct(1.0)
    np.testing.assert_allclose(x, [1.5 + d[0], d[1]], rtol=1e-14)
    np.testing.assert_allclose(move.slope, 1.5 * d[0], rtol=1e-14)
    history.put_back()
    history.forget()
    assert history.count == 0
    assert history.direct(1.0) == Move(-2.25, 2.25, 1, 1.0, math.inf)
    assert x.tolist() == [0.0, 0.0]


@every_backend
def test_a_pair_without_curvature_leaves_its_place_free(backend: str) -> None:
    x = np.array([1.0, 2.0])
    curvature = [1.0]
    problem = Problem([x], lambda params: [params[0] * curvature[0]], backend, 2)
    history = problem.history
    problem.begin()
    for k in range(4):
        history.direct(0.125)
        problem.read()
        assert history.accept()
        assert history.count == min(k + 1, 2)
    history.direct(0.125)
    assert history.count == 1  # the oldest one has given its place to the direction
    curvature[0] = 2.0
    assert problem.read().curvature < 0
    assert not history.accept()
    assert history.count == 1
    x_before = x.copy()
    history.direct(0.125)
    assert history.count == 1
    problem.read()
    assert history.accept()
    assert history.count == 2
    history.put_back()
    assert (x != x_before).all()


@every_backend
@pytest.mark.parametrize("has_arrays", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds(backend: str, has_arrays: bool, dtype: str) -> None:
    rng = np.random.default_rng(5)
    lengths = [5, 4099]
    low, high = -0.3, 0.4
    params = [np.clip(each, low, high).astype(dtype) for each in arrays_of(rng, lengths, [dtype])]
    lower, upper = params[0].dtype.type(low), params[0].dtype.type(high)
    for each in params:
        np.clip(each, lower, upper, out=each)
    target = [rng.normal(size=n) for n in lengths]
    bounds: dict[str, Any] = {"numbers": (np.full(2, float(lower)), np.full(2, float(upper)))}
    if has_arrays:
        bounds = {"arrays": [(np.full_like(each, lower), np.full_like(each, upper)) for each in params]}
    problem = Problem(params, lambda params: [p - t for p, t in zip(params, target, strict=True)], backend, 4, **bounds)
    t = np.concatenate(target)
    optimum = np.clip(t, lower, upper)

    def parts() -> tuple[Any, Any, Any]:
        x = problem.vectors()
        grads = problem.grad(problem.params)
        g = np.concatenate([each.astype(dtype).astype(float) for each in grads])
        active = ((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0))
        return x, g, np.where(active, 0, g)

    reading = problem.begin()
    eps = np.finfo(dtype).eps
    for _ in range(6):
        x, g, free = parts()
        np.testing.assert_allclose(
            reading.grad_max, np.abs(x - np.clip(x - g, lower, upper)).max(), rtol=8 * eps, atol=8 * eps
        )
        np.testing.assert_allclose(reading.grad_square, free @ free, rtol=1e-11)
        move = problem.history.direct(0.5)
        new_x, new_g, _ = parts()
        assert (new_x >= lower).all()
        assert (new_x <= upper).all()
        assert (new_x[free == 0] == x[free == 0]).all()
        assert move.moved == np.count_nonzero(new_x != x)
        assert move.slope <= 0
        reading = problem.read()
        s = new_x - x
        y = np.where(s == 0, 0, new_g - g)
        np.testing.assert_allclose(reading.s_square, s @ s, rtol=1e-4)
        np.testing.assert_allclose(reading.y_square, y @ y, rtol=1e-3)
        np.testing.assert_allclose(reading.curvature, s @ y, rtol=1e-3)
        assert problem.history.accept() == (move.moved > 0)
    if dtype == "float64":
        np.testing.assert_allclose(problem.vectors(), optimum, atol=0.02)


@every_backend
def test_elements_that_are_not_finite_are_counted_and_not_in_the_largest(backend: str) -> None:
    grads = [np.array([1.0, -3.0, math.nan, 2.0]), np.array([math.inf, -math.inf, 0.5])]
    params = [np.zeros(4), np.zeros(3, np.float32)]
    problem = Problem(params, lambda params: grads, backend, 3)
    reading = problem.begin()
    assert (reading.grad_max, reading.nonfinite) == (3.0, 3)
    assert math.isnan(reading.grad_square)
    grads[:] = [np.ones(4), np.full(3, 1e300)]  # infinite in float32
    assert problem.begin()[4:] == (1.0, math.inf, 3)


@every_backend
def test_a_reading_that_is_not_accepted_changes_nothing(backend: str) -> None:
    directions = []
    for has_trials in (False, True):
        rng = np.random.default_rng(2)
        problem = Problem(arrays_of(rng, LENGTHS, ["float64"]), quadratic(rng, LENGTHS), backend, 3)
        problem.begin()
        for _ in range(5):
            problem.history.direct(0.5)
            if has_trials:
                for step in (7.0, 0.1):
                    problem.history.try_step(step)
                    problem.read()
                problem.history.try_step(0.5)
            problem.read()
            problem.history.accept()
        directions.append(problem.vectors().tobytes())
    assert directions[0] == directions[1]


@every_backend
def test_operations_out_of_turn_are_refused(backend: str) -> None:
    problem = Problem([np.ones(3)], lambda params: [params[0] * 2], backend, 2)
    history = problem.history
    problem.begin()
    with pytest.raises(RuntimeError, match="expected direct before try_step"):
        history.try_step(1.0)
    with pytest.raises(RuntimeError, match="expected direct or try_step before read"):
        history.read()
    history.direct(0.25)
    with pytest.raises(RuntimeError, match="expected read before accept"):
        history.accept()
    problem.read()
    history.put_back()
    with pytest.raises(RuntimeError, match="expected read before accept"):
        history.accept()
    history.try_step(0.25)
    problem.read()
    history.forget()
    with pytest.raises(RuntimeError, match="expected read before accept"):
        history.accept()
    history.put_back()
    assert problem.params[0].tolist() == [1.0] * 3


@every_backend
def test_an_array_without_gradient_is_refused(backend: str) -> None:
    problem = Problem([np.ones(3), np.ones(2)], lambda params: [params[0], None], backend, 2)
    with pytest.raises(ValueError, match="expected a gradient of each of 2 arrays; 1 have one"):
        problem.begin()


@every_backend
def test_no_arrays_and_empty_arrays(backend: str) -> None:
    for params in ([], [np.ones(0)], [np.ones(0), np.ones(1), np.ones((0, 3))]):
        problem = Problem(params, lambda params: [param * 2 for param in params], backend, 2)
        assert problem.begin().grad_square == 4 * sum(param.size for param in params)
        assert problem.history.direct(0.25).moved == sum(param.size for param in params)
        problem.read()
        problem.history.accept()
        problem.history.put_back()
