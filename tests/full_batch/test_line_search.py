"""The line search: SciPy's dcsrch step by step, and what is added to it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from full_batch.scalar_functions import (
    FUNCTIONS,
    HOLES,
    PATH,
    Function,
    Options,
    polynomial,
    random_options,
    scipy_trace,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fastopt.full_batch.line_search import FLOAT32_ROUNDING, Best, LineSearch


def plain_search(start: tuple[float, float], options: Options, trials: int = 20) -> LineSearch:
    """Return a search without the approximate conditions, as SciPy has it."""
    first, decrease, curvature, width, max_step = options
    return LineSearch(
        *start,
        first,
        decrease=decrease,
        curvature=curvature,
        width=width,
        max_step=max_step,
        max_trials=trials,
        rounding=None,
    )


def run(search: LineSearch, function: Function) -> list[float]:
    """Run a search to its end, and return its steps."""
    steps = []
    while search.status is None:
        steps.append(search.step_size)
        search.report(*function(search.step_size))
    return steps


def without_repeat(steps: list[float]) -> list[float]:
    """Return the steps without a last one that was evaluated before: dcsrch ends with its best point anyway."""
    return steps[:-1] if steps[-1] in steps[:-1] else steps


RECORDS: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))


def test_steps_are_those_of_recorded_dcsrch() -> None:
    for record in RECORDS:
        points = dict(zip([0.0, *record["steps"]], map(tuple, record["points"]), strict=True))
        search = plain_search(points[0.0], Options(*record["options"]))
        steps = run(search, lambda t, points=points: points[t])  # type: ignore[misc]
        assert without_repeat(steps) == without_repeat(record["steps"]), record["name"]


def test_live_dcsrch() -> None:
    pytest.importorskip("scipy", reason="compares with the live scipy.optimize")
    for seed in range(300):
        function, options = polynomial(seed), random_options(seed)
        ours, theirs = run(plain_search(function(0.0), options), function), scipy_trace(function, options)
        # SciPy squares by the C library's pow, which need not round correctly.
        np.testing.assert_allclose(without_repeat(ours), without_repeat(theirs), rtol=1e-9, err_msg=str(seed))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_accepted_step_satisfies_the_wolfe_conditions(name: str) -> None:
    function, decrease, curvature = FUNCTIONS[name]
    loss, slope = function(0.0)
    for first in (1e-3, 1e-1, 1e1, 1e3):
        search = plain_search((loss, slope), Options(first, decrease, curvature, 1e-14))
        run(search, function)
        reached, slope_there = function(search.step_size)
        assert search.status == "accepted"
        assert reached <= loss + decrease * search.step_size * slope
        assert abs(slope_there) <= curvature * abs(slope)


@pytest.mark.parametrize("first", [1e-3, 0.5, 1.5, 30.0, 1e6])
@pytest.mark.parametrize("name", HOLES)
def test_a_trial_that_is_not_finite_shortens_the_step(name: str, first: float) -> None:
    function = HOLES[name]
    loss, slope = function(0.0)
    search = LineSearch(loss, slope, first)
    steps = run(search, function)
    assert search.status == "accepted"
    assert function(search.step_size)[0] < loss
    holes = [k for k, step in enumerate(steps) if not math.isfinite(function(step)[0])]
    for k in holes:
        best = max((step for step in steps[:k] if function(step)[0] < loss), default=0.0)
        cap = best + 0.1 * (steps[k] - best)
        assert steps[k + 1] == pytest.approx(cap, rel=1e-15)
        assert max(steps[k + 1 :]) <= steps[k + 1]


@pytest.mark.parametrize(
    "bad", [(math.nan, -1.0), (math.inf, -1.0), (-math.inf, -1.0), (0.5, math.nan), (0.5, math.inf)]
)
def test_each_kind_of_number_that_is_not_finite(bad: tuple[float, float]) -> None:
    search = LineSearch(1.0, -1.0, 1.0)
    search.report(*bad)
    assert (search.status, search.step_size, search.best) == (None, 0.1, None)
    search.report(0.95, -0.5)
    assert (search.status, search.step_size) == ("accepted", 0.1)


def test_nothing_finite_fails() -> None:
    search = LineSearch(1.0, -1.0, 1.0)
    steps = run(search, lambda t: (math.nan, math.nan))
    assert (search.status, search.best, len(steps)) == ("failed", None, 20)


@pytest.mark.parametrize(("loss", "slope", "first"), [(1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, math.nan, 1.0)])
def test_no_descent_fails_without_a_trial(loss: float, slope: float, first: float) -> None:
    assert LineSearch(loss, slope, first).status == "failed"


def test_uphill_everywhere_fails() -> None:
    # The slope at 0 is wrong, as that of a wrong gradient.
    search = LineSearch(1.0, -1.0, 1.0)
    steps = run(search, lambda t: (1.0 + t, 1.0))
    assert search.status == "failed"
    assert len(steps) <= 20


def test_the_best_trial_is_taken_when_trials_run_out() -> None:
    losses = iter([0.99995, 1.2, 1.1, 0.99995])
    search = LineSearch(1.0, -1.0, 1.0, max_trials=3)
    steps = run(search, lambda t: (next(losses), 5.0))
    assert search.status == "accepted"
    assert search.best == Best(1.0, 0.99995)
    assert steps[3] == steps[0] == search.step_size
    assert len(set(steps[:3])) == 3


def test_the_best_trial_is_not_evaluated_again_if_it_was_the_last() -> None:
    search = LineSearch(1.0, -1.0, 1.0, max_trials=1)
    search.report(0.9999, 5.0)
    assert (search.status, search.step_size, search.trials) == ("accepted", 1.0, 1)


def test_a_best_trial_that_rises_when_evaluated_again_fails() -> None:
    search = LineSearch(1.0, -1.0, 1.0, max_trials=2)
    for loss in (0.9999, 1.2, 1.01):
        assert search.status is None
        search.report(loss, 5.0)
    assert search.status == "failed"


def test_stop_where_no_parameter_moves() -> None:
    search = LineSearch(1.0, -1.0, 1.0)
    search.stop()
    assert search.status == "failed"
    search = LineSearch(1.0, -1.0, 1.0)
    search.report(0.99999, 5.0)
    assert search.status is None
    search.stop()
    assert (search.status, search.step_size) == (None, 1.0)
    search.stop()
    assert search.status == "failed"


def test_approximate_conditions_accept_a_flat_end() -> None:
    # The loss is rounded: the trial is level, and the slope says that the minimum is near.
    for rounding, rise, status in (
        (1e-6, 0.0, "accepted"),
        (1e-6, 9e-7, "accepted"),
        (1e-6, 2e-6, None),
        (None, 0.0, None),
    ):
        search = LineSearch(1.0, -1e-9, 1.0, rounding=rounding)
        search.report(1.0 + rise, 0.0)
        assert search.status == status
    for slope, status in ((0.8e-9, "accepted"), (0.81e-9, None), (-0.9e-9, "accepted"), (-0.91e-9, None)):
        search = LineSearch(1.0, -1e-9, 1.0)
        search.report(1.0, slope)
        assert search.status == status


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6])
def test_flat_end_of_a_float32_loss(scale: float) -> None:
    # phi(t) = 1 + d (t - 1)^2 with d far below float32's resolution, and noise of a unit in the last place.
    rng = np.random.default_rng(0)
    for _ in range(100):
        curvature = 1e-9 * rng.uniform(0.1, 1)

        def function(t: float, curvature: float = curvature) -> tuple[float, float]:
            noise = rng.integers(-5, 6) * 2.0**-23
            return float(np.float32(scale * (1 + curvature * (t - 1) ** 2 + noise))), 2 * scale * curvature * (t - 1)

        search = LineSearch(scale, -2 * scale * curvature, 1.0, rounding=FLOAT32_ROUNDING)
        assert len(run(search, function)) == 1
        assert search.status == "accepted"


def test_slopes_decide_where_the_loss_is_flat() -> None:
    # The loss is only noise; the minimum, at 3, is to be seen in the slopes alone.
    rng = np.random.default_rng(1)
    for first in (1e-2, 0.1, 10.0, 1e3):
        for _ in range(50):
            search = LineSearch(1.0, -3e-9, first, curvature=0.1)
            run(search, lambda t: (1.0 + 1e-7 * rng.uniform(-1, 1), 1e-9 * (t - 3)))
            assert search.status == "accepted"
            assert abs(search.step_size - 3) <= 2.5


def test_numbers_at_the_ends_of_the_range() -> None:
    for loss, slope in ((1e308, -1e308), (1e-308, -1e-308), (5e-324, -5e-324), (0.0, -5e-324), (-1e308, -1.0)):
        for factor in (1.0, -1.0, 0.5, 1.7):
            search = LineSearch(loss, slope, 1.0)
            steps = run(search, lambda t, loss=loss, slope=slope, factor=factor: (loss * factor, slope * factor))  # type: ignore[misc]
            assert len(steps) <= 21
            assert all(0 < step < math.inf for step in steps)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=25, max_size=25), st.floats(1e-10, 1e9))
def test_any_numbers(points: list[tuple[float, float]], first: float) -> None:
    search = LineSearch(1.0, -1.0, first)
    given = iter(points)
    trials: list[tuple[float, float, float]] = []
    while search.status is None:
        assert 0 < search.step_size <= 1e10
        trials.append((search.step_size, *next(given)))
        search.report(*trials[-1][1:])
    assert 1 <= len(trials) <= 21
    new_trials = trials[:-1] if search.repeats_best else trials
    finite = [trial for trial in new_trials if all(map(math.isfinite, trial))]
    decreases = [(loss, step) for step, loss, _ in finite if loss < 1.0]
    assert (search.best is None) == (not decreases)
    if search.best is not None:
        assert search.best.loss == min(decreases)[0]
    if search.status == "accepted":
        assert trials[-1][0] == search.step_size
        assert trials[-1][1] <= 1.0 + 1e-6


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(-3, 3), st.floats(-6, 3))
def test_a_parabola_takes_few_trials(minimum: float, curvature: float, first: float) -> None:
    a = 10**curvature

    def function(t: float) -> tuple[float, float]:
        return a * (t - minimum) ** 2, 2 * a * (t - minimum)

    search = LineSearch(*function(0.0), 10**first)
    steps = run(search, function)
    assert search.status == "accepted"
    assert len(steps) <= 14
