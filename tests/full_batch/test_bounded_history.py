"""Directions within bounds: those of the dense matrix of L-BFGS over the free elements, and straight ways."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import needs_native

from fastopt.backends.choosing import host_backend
from fastopt.backends.history import NO_MOVE
from fastopt.backends.subspace import cholesky, subspace_coefficients

every_backend = pytest.mark.parametrize("backend", ["native", "numpy"])


def dense(pairs: list[tuple[Any, Any]], n: int) -> Any:
    """Return the matrix of BFGS that begins with a multiple of the identity."""
    s, y = pairs[-1]
    matrix = (y @ y) / (s @ y) * np.eye(n)
    for s, y in pairs:
        image = matrix @ s
        matrix = matrix - np.outer(image, image) / (s @ image) + np.outer(y, y) / (s @ y)
    return matrix


def random_pairs(rng: np.random.Generator, count: int, n: int) -> list[tuple[Any, Any]]:
    root = rng.normal(size=(n, n))
    hessian = root @ root.T + np.eye(n)
    steps = rng.normal(size=(count, n)) * np.exp(3 * rng.normal(size=(count, 1)))
    return [(s, hessian @ s + 0.01 * np.linalg.norm(s) * rng.normal(size=n)) for s in steps]


@pytest.mark.parametrize(("count", "n"), [(1, 1), (1, 5), (3, 4), (5, 30), (10, 12), (20, 50)])
def test_coefficients_are_those_of_the_dense_matrix(count: int, n: int) -> None:
    rng = np.random.default_rng(count)
    for share in (0.3, 0.7, 1.0):
        pairs = random_pairs(rng, count, n)
        grad, is_free = rng.normal(size=n), rng.uniform(size=n) <= share
        if not is_free.any():
            is_free[0] = True
        expected = np.zeros(n)
        expected[is_free] = -np.linalg.solve(dense(pairs, n)[np.ix_(is_free, is_free)], grad[is_free])
        steps, changes = (np.array(each) for each in zip(*pairs, strict=True))
        s, y = steps * is_free, changes * is_free
        found = subspace_coefficients(
            steps @ steps.T,
            steps @ changes.T,
            changes @ changes.T,
            np.array([s @ s.T, s @ y.T, y @ y.T]),
            np.array([s @ grad, y @ grad]),
        )
        assert found is not None
        of_grad, of_pairs = found
        direction = of_grad * grad * is_free + np.array(of_pairs)[:, 0] @ s + np.array(of_pairs)[:, 1] @ y
        np.testing.assert_allclose(direction, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@np.errstate(all="ignore")
def test_spoiled_products_have_no_direction() -> None:
    one, products = np.ones((1, 1)), np.ones((2, 1))
    assert subspace_coefficients(one, one, one, np.ones((3, 1, 1)), products) is not None
    assert subspace_coefficients(-one, one, one, np.ones((3, 1, 1)), products) is None
    assert subspace_coefficients(one, one, one, np.array([9 * one, 0 * one, one]), products) is None
    for spoiled in (math.nan, math.inf):
        assert subspace_coefficients(one, one, one * spoiled, np.ones((3, 1, 1)), products) is None


@pytest.mark.parametrize("matrix", [[[-1.0]], [[0.0]], [[math.nan]], [[math.inf]], [[1.0, 2.0], [2.0, 1.0]]])
def test_no_factors_of_an_indefinite_matrix(matrix: list[list[float]]) -> None:
    assert cholesky(np.array(matrix)) is None


class Run:
    """A history over one array within bounds, with a gradient that a function gives."""

    def __init__(self, backend: str, x: Any, grad: Any, low: float, high: float, size: int = 5) -> None:
        self.x, self.grad, self.low, self.high = x, grad, low, high
        self.of = host_backend(backend)
        self.table = self.of.table([x], [()], None)
        self.history = self.of.history(self.table, size, (np.array([low]), np.array([high])))

    def read(self) -> Any:
        self.table.set_grads([self.grad(self.x)])
        return self.history.read()

    def begin(self) -> Any:
        self.table.set_grads([self.grad(self.x)])
        return self.history.begin()

    def is_active(self) -> Any:
        g = self.grad(self.x)
        return ((self.x <= self.low) & (g > 0)) | ((self.x >= self.high) & (g < 0))


def quadratic(rng: np.random.Generator, n: int) -> Any:
    """Return the gradient of a quadratic, convex by far, whose minimum is outside of the unit box in part."""
    root = 0.1 * rng.normal(size=(n, n))
    hessian, target = root @ root.T + np.diag(np.exp(rng.normal(size=n))), 2 * rng.normal(size=n)
    return lambda x: hessian @ (x - target)


@every_backend
@pytest.mark.parametrize("size", [1, 3, 8])
def test_directions_are_those_of_the_dense_matrix(backend: str, size: int) -> None:
    rng = np.random.default_rng(size)
    n = 40
    run = Run(backend, rng.uniform(-1, 1, n), quadratic(rng, n), -1.0, 1.0, size)
    run.begin()
    pairs: list[tuple[Any, Any]] = []
    seen, is_active = set(), np.zeros(n, bool)
    for k in range(25):
        x, g, was_active = run.x.copy(), run.grad(run.x), is_active
        is_active = run.is_active()
        d = np.where(is_active, 0, -g)
        if pairs:
            free = ~is_active
            d[free] = -np.linalg.solve(dense(pairs, n)[np.ix_(free, free)], g[free])
            seen.add("same" if (is_active == was_active).all() else "other")
        step = 0.1 if k == 0 else 1.0
        move = run.history.direct(step)
        way = np.clip(x + step * d, -1, 1) - x
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(d > 0, (1 - x) / d, np.where(d < 0, (-1 - x) / d, math.inf)).min()
        if not g @ way < 0:
            seen.add("shorter")
            assert move.step_size == pytest.approx(reach, rel=1e-6)
            step, way = move.step_size, np.clip(x + move.step_size * d, -1, 1) - x
        assert move.step_size == step
        assert move.longest == pytest.approx(max(step, reach), rel=1e-6)
        seen.add("inside" if move.longest > step else "moved in")
        scale = np.abs(way).max()
        np.testing.assert_allclose(run.x - x, way, rtol=0, atol=1e-8 * scale)
        np.testing.assert_allclose(move.slope, g @ way / step, rtol=1e-6)
        assert (run.x[is_active] == x[is_active]).all()
        moved = run.x - x
        for factor in (0.5, 0.75) if k < 6 else (0.5, 1.0):
            run.history.try_step(factor * step)
            np.testing.assert_allclose(run.x - x, factor * moved, rtol=0, atol=1e-14)
            reading = run.read()
            np.testing.assert_allclose(reading.slope, run.grad(run.x) @ moved / step, rtol=1e-9, atol=1e-12)
        if run.history.accept():
            pairs = [*pairs, (run.x - x, run.grad(run.x) - g)]
        pairs = pairs[-size:]
        assert run.history.count == len(pairs)
    assert seen >= {"same", "other", "inside", "moved in"}, seen


@every_backend
def test_products_of_free_elements_are_known_while_the_same_are_free(backend: str) -> None:
    """A read finds them, with the bits of the pass that reads all pairs again."""
    rng = np.random.default_rng(6)
    run = Run(backend, rng.uniform(-1, 1, 40), quadratic(rng, 40), -1.0, 1.0, size=20)
    run.begin()
    pairs, is_active, kept = run.history.pairs, run.is_active(), 0
    for k in range(12):
        run.history.direct(0.1 if k == 0 else 1.0)
        run.read()
        assert run.history.accept()
        was_active, is_active = is_active, run.is_active()
        if (is_active != was_active).any():
            assert pairs.active[3] == 0
            continue
        kept += bool(is_active.any())
        assert pairs.active[3] == k + 1
        found = pairs.free.tobytes()
        pairs.active[3] = 0
        run.history.direct(1.0)
        assert pairs.free.tobytes() == found
        run.history.put_back()
    assert 2 < kept < 12


@needs_native
def test_spoiled_numbers_of_pairs_have_one_end() -> None:
    """Each number of the pairs is replaced by another: both backends find the same direction, or none."""
    ends: dict[str, list[str]] = {}
    for backend in ("native", "numpy"):
        rng = np.random.default_rng(3)
        run = Run(backend, rng.uniform(-1, 1, 40), quadratic(rng, 40), -1.0, 1.0, size=6)
        run.begin()
        for k in range(4):
            run.history.direct(0.1 if k == 0 else 1.0)
            run.read()
            assert run.history.accept()
        pairs = run.history.pairs
        run.history.direct(1.0)  # finds the products of the free elements
        assert pairs.active[0] > 0
        for numbers in (pairs.ss, pairs.sy, pairs.yy, *pairs.free, pairs.grad_products[0]):
            for at in np.ndindex(*np.minimum(numbers.shape, 4)):
                right = numbers[at]
                for wrong in (math.nan, math.inf, -5 * right, 1e-3 * right, 0.0, -0.0, 1e300):
                    run.history.put_back()
                    numbers[at] = wrong
                    with np.errstate(all="ignore"):
                        ends.setdefault(backend, []).append(repr(run.history.direct(1.0)) + run.x.tobytes().hex())
                    numbers[at] = right
    directions = [end for end in ends["numpy"] if not end.startswith(repr(NO_MOVE))]
    assert 0 < len(directions) < len(ends["numpy"])
    assert ends["native"] == ends["numpy"]


@every_backend
def test_all_elements_at_active_bounds_have_no_direction(backend: str) -> None:
    run = Run(backend, np.ones(3), lambda x: np.full(3, -1.0), -1.0, 1.0)
    reading = run.begin()
    assert (reading.grad_max, reading.grad_square) == (0.0, 0.0)
    move = run.history.direct(1.0)
    assert not move.slope < 0
    assert move.moved == 0


@every_backend
def test_an_element_at_a_bound_that_would_leave_stops_the_direction(backend: str) -> None:
    # The gradient leads the first element in, the pairs lead it out, and what the second gains is not enough.
    hessian = np.array([[1.0, 0.999], [0.999, 1.0]])
    run = Run(backend, np.array([0.5, 0.5]), lambda x: hessian @ x - [1.0, 0.5], 0.0, math.inf)
    run.begin()
    run.history.direct(0.01)
    run.read()
    assert run.history.accept()
    for _ in range(10):
        x, g = run.x.copy(), run.grad(run.x)
        move = run.history.direct(1.0)
        assert move.slope < 0 or move.moved == 0
        if move.slope < 0:
            assert g @ (run.x - x) < 0
        run.read()
        run.history.accept()


def test_no_move_is_no_descent() -> None:
    assert not NO_MOVE.slope < 0


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinite_bounds_do_not_change_the_way(backend: str, dtype: str) -> None:
    """Bounds that are never met: the same directions as without, but for rounding."""
    found = []
    for high in (math.inf, 1e30):
        rng = np.random.default_rng(4)
        n = 30
        grad = quadratic(rng, n)
        x = rng.normal(size=n).astype(dtype)
        of = host_backend(backend)
        table = of.table([x], [()], None)
        history = of.history(table, 4, (np.array([-math.inf]), np.array([high])))
        table.set_grads([grad(x).astype(dtype)])
        history.begin()
        for k in range(8):
            move = history.direct(0.1 if k == 0 else 0.5)
            assert (move.step_size, move.longest > 1e10) == (0.1 if k == 0 else 0.5, True)
            table.set_grads([grad(x).astype(dtype)])
            history.read()
            history.accept()
        found.append(x.astype(np.float64))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10 if dtype == "float64" else 1e-3)
