"""The problems are those of the literature: gradients by complex steps, values at starts and minima as published."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from full_batch import problems
from full_batch.problems import CLASSIC, LARGE, LEAST_SQUARES, Problem

#: At the standard starts, as published.
START_LOSSES = {
    "rosenbrock": 24.2,
    "freudenstein_roth": 400.5,
    "powell_badly_scaled": 1.135262,
    "brown_badly_scaled": 9.99998e11,
    "beale": 14.203125,
    "jennrich_sampson": 4171.306,
    "helical_valley": 2500.0,
    "bard": 41.68170,
    "gaussian": 3.888107e-6,
    "meyer": 1.693608e9,
    "gulf": 12.11070,
    "box_3d": 1031.154,
    "wood": 19192.0,
    "kowalik_osborne": 5.313172e-3,
    "brown_dennis": 7926693.0,
    "osborne_1": 0.8790263,
    "biggs_exp6": 0.7790701,
    "osborne_2": 2.093420,
    "watson_6": 30.0,
    "penalty_1_4": 885.0626,
    "penalty_2_4": 2.340008,
    "variably_dimensioned": 2198551.0,
    "trigonometric": 7.075759e-3,
    "brown_almost_linear": 273.2480,
    "chebyquad": 3.861770e-2,
    "powell_singular": 215.0,
}
#: Minima, as published.
MINIMA = {
    "freudenstein_roth": 48.9842,
    "jennrich_sampson": 124.362,
    "bard": 8.21487e-3,
    "gaussian": 1.12793e-8,
    "meyer": 87.9458,
    "kowalik_osborne": 3.07505e-4,
    "brown_dennis": 85822.2,
    "osborne_1": 5.46489e-5,
    "biggs_exp6": 5.65565e-3,
    "osborne_2": 4.01377e-2,
    "watson_6": 2.28767e-3,
    "penalty_1_4": 2.24997e-5,
    "penalty_1_10": 7.08765e-5,
    "penalty_2_4": 9.37629e-6,
    "penalty_2_10": 2.93660e-4,
    "linear": 10.0,
    "linear_rank_1": 20 * 19 / (2 * 41),
    "linear_rank_1_zero": (20 * 20 + 3 * 20 - 6) / (2 * 37),
    "chebyquad": 3.51687e-3,
}
SMALL: dict[str, Problem] = (
    CLASSIC
    | {name: LARGE[name]._replace(start=LARGE[name].start[:12]) for name in LARGE if name.endswith("_1000")}
    | {"bounded_chain": problems.bounded_chain(12), "obstacle": problems.obstacle(np.inf, 12)}
    | {"nonnegative_least_squares": problems.nonnegative_least_squares(12, 8)}
)


def complex_step(problem: Problem, x: Any) -> Any:
    """Return the gradient from the loss, of which the imaginary part is the derivative in an imaginary direction."""
    gradient = np.empty_like(x)
    for i in range(len(x)):
        moved = x.astype(np.complex128)
        moved[i] += 1e-30j
        gradient[i] = problem.function(moved)[0].imag / 1e-30
    return gradient


def test_there_are_38_problems() -> None:
    assert len(CLASSIC) == 38
    assert len(problems.boxed_classic()) == 114


@pytest.mark.parametrize("name", SMALL)
def test_gradient_is_that_of_complex_steps(name: str) -> None:
    problem = SMALL[name]
    rng = np.random.default_rng(0)
    for scale in (0.0, 0.01, 0.1):
        x = problem.start + scale * rng.normal(size=len(problem.start)) * (1 + abs(problem.start))
        loss, gradient = problem.function(x)
        expected = complex_step(problem, x)
        assert np.isfinite(loss)
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("name", START_LOSSES)
def test_loss_at_the_start_is_as_published(name: str) -> None:
    assert CLASSIC[name].function(CLASSIC[name].start)[0] == pytest.approx(START_LOSSES[name], rel=2e-6)


@pytest.mark.parametrize("name", MINIMA)
def test_minimum_is_as_published(name: str) -> None:
    solution = json.loads((problems.FOLDER / "solutions.json").read_text(encoding="utf-8"))[name]
    assert CLASSIC[name].function(np.array(solution))[0] == pytest.approx(MINIMA[name], rel=1e-5)


@pytest.mark.parametrize("name", [*CLASSIC, *LARGE])
def test_float32_stays_float32(name: str) -> None:
    problem = CLASSIC[name] if name in CLASSIC else LARGE[name]
    loss, gradient = problem.function(problem.start)
    loss32, gradient32 = problem.function(problem.start.astype(np.float32))
    assert gradient32.dtype == np.float32
    assert type(loss32) is np.float32
    assert loss32 == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(gradient32, gradient, rtol=1e-3, atol=1e-4 * abs(gradient).max())


def test_boxes_cut_half_of_the_ways_to_the_solution() -> None:
    solutions = json.loads((problems.FOLDER / "solutions.json").read_text(encoding="utf-8"))
    for name, problem in problems.boxed_classic().items():
        solution = np.array(solutions[name.rsplit("_", 1)[0]])
        assert np.all((problem.low <= problem.start) & (problem.start <= problem.high))
        cut = (solution < problem.low) | (solution > problem.high)
        moves = solution != problem.start
        assert cut.sum() <= (len(cut) + 1) // 2
        assert cut.any() or not moves.all(), name


def test_digits_and_their_gradients() -> None:
    pytest.importorskip("sklearn", reason="takes scikit-learn's digits")
    x, target = problems.digits()
    rows = slice(0, 200)
    rng = np.random.default_rng(0)
    for problem in (
        problems.logistic(x[rows], target[rows], 1e-3),
        problems.sparse_logistic(x[rows], target[rows], 1e-3),
        problems.perceptron(x[rows], target[rows], 8),
    ):
        point = problem.start + 0.1 * rng.uniform(size=len(problem.start))
        direction = rng.normal(size=len(point))
        slope = problem.function(point)[1] @ direction
        h = 1e-5
        ends = [problem.function(point + sign * h * direction)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_all_least_squares_are_listed() -> None:
    assert set(LEAST_SQUARES) < set(CLASSIC)
    assert set(LEAST_SQUARES) >= problems.INEXACT
