"""Steps that are skipped: by their norm, and how many in a row by elements that are not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, Case, built, taken_by
from option_runs import all_bytes, every_backend, shape_of
from planned_runs import needs_plans

import fastopt

pytestmark = pytest.mark.usefixtures("restored")

#: One of each optimizer.
EACH = {case.optimizer: case for case in reversed([*CASES, *MATRIX_CASES])}.values()

ONES, BAD = np.ones(3), np.array([1, math.nan, math.inf])


@every_backend
@pytest.mark.parametrize("case", EACH, ids=lambda case: case.optimizer.__name__)
def test_a_step_above_changes_nothing(case: Case, backend: str) -> None:
    rng = np.random.default_rng(1)
    start = [rng.normal(size=shape_of(case, size)) for size in (8, 20)]
    options = taken_by(case, {"skip_above": 100.0, "zero_grads": True, "ema_decay": 0.9, "grad_scale": 2.0})
    opt = built(case, start, {**options, "clip_value": None, "clip_norm": None}, backend=backend)
    grads = [rng.normal(size=param.shape) for param in start]
    opt.step(list(map(np.copy, grads)))
    before = all_bytes(opt)
    for count, value in enumerate((1e3, 1e300), 1):  # the square of the second is infinite
        huge = [np.full_like(grads[0], value), None]
        info = opt.step(huge)
        norm = value / 2 * math.sqrt(grads[0].size) if value < 1e300 else math.inf
        assert info == (False, pytest.approx(norm, rel=1e-12), info.lr, 1)
        assert info.skipped == "skip_above"
        assert info.norms == {"0": info.grad_norm}
        assert not huge[0].any()
        assert all_bytes(opt) == before
        assert (opt.step_count, opt.skipped_steps) == (1, count)
    assert opt.step(list(map(np.copy, grads))).applied


@needs_plans
def test_other_steps_are_planned() -> None:
    params = {"W": np.zeros(3), "b": np.zeros(1)}
    opt = fastopt.SGD(params, lr=1.0, momentum=0.5, skip_above=3.0, backend="native")
    for _ in range(6):
        assert opt.step({"W": ONES, "b": np.ones(1)}).grad_norm == 2
    before, planned = params["W"].copy(), opt.planned_steps
    assert planned >= 4
    assert opt.step({"W": 4 * ONES, "b": np.ones(1)}).skipped == "skip_above"
    assert np.array_equal(params["W"], before)
    for _ in range(3):
        opt.step({"W": ONES, "b": np.ones(1)})
    assert (opt.planned_steps, opt.step_count, opt.skipped_steps) == (planned + 3, 9, 1)


@every_backend
def test_the_norm_that_is_compared(backend: str) -> None:
    """It is that of ``grad_norm``: after ``clip_norm``, before ``clip_global_norm``. NaN is above nothing."""
    theta = np.zeros(3)
    opt = fastopt.SGD(theta, lr=1.0, clip_norm=2.0, clip_global_norm=0.1, skip_above=2.0, backend=backend)
    assert opt.step(100 * ONES).applied
    opt.skip_above = 1.9
    assert opt.step(100 * ONES).skipped == "skip_above"
    opt.skip_above = None
    assert opt.step(100 * ONES).applied
    assert theta == pytest.approx(np.full(3, -0.2 / math.sqrt(3)), rel=1e-5)
    opt.skip_above, opt.clip_global_norm = 0.0, None
    assert opt.step(0 * ONES).applied
    info = opt.step(BAD)
    assert (info.applied, info.skipped, math.isnan(theta[1])) == (True, None, True)
    with pytest.raises(ValueError, match=r"^skip_above=-1: expected a number of at least 0, or None$"):
        fastopt.SGD(theta, skip_above=-1)
    for wrong in (math.nan, "1", [1.0], True):
        opt.skip_above = wrong
        with pytest.raises((TypeError, ValueError), match=r"^skip_above="):
            opt.step(ONES)


@every_backend
def test_a_mean_above_is_dropped(backend: str) -> None:
    """Else the call that was too large would stay in the sum, and every later mean would be above too."""
    theta, reference = np.zeros(3), np.zeros(3)
    options: dict[str, Any] = {"lr": 1.0, "momentum": 0.9, "accumulate_steps": 3, "backend": backend}
    opt, other = fastopt.SGD(theta, skip_above=10.0, **options), fastopt.SGD(reference, **options)
    assert opt.step(1e3 * ONES).skipped is None  # the norm of one call is not looked at
    assert opt.step(ONES).grad_norm is None
    info = opt.step(ONES)
    assert (info.applied, info.skipped) == (False, "skip_above")
    assert info.grad_norm == pytest.approx(1002 / 3 * math.sqrt(3))
    assert (opt.accumulated_calls, int(opt.state["0"]["accumulated_calls"]), opt.skipped_steps) == (0, 0, 1)
    assert not opt.state["0"]["accumulated"].any()
    for k in range(6):
        assert opt.step(k * ONES).applied == other.step(k * ONES).applied
    assert np.array_equal(theta, reference)


@every_backend
def test_skips_and_a_loss_scale(backend: str) -> None:
    """A norm above says nothing about the scale: only an overflow halves it, and only applied steps let it grow."""
    scale = fastopt.DynamicLossScale(8.0, growth_interval=2)
    opt = fastopt.SGD(np.zeros(3), grad_scale=scale, nonfinite="skip", skip_above=10.0, backend=backend)
    told = []
    for grad in (ONES, 100 * ONES, ONES, 100 * BAD, ONES):
        told.append((opt.step(grad * scale.scale).skipped, scale.scale, scale.growth_tracker))
    assert told == [(None, 8, 1), ("skip_above", 8, 1), (None, 16, 0), ("nonfinite", 8, 0), (None, 8, 1)]


@every_backend
def test_the_limit_of_skips_in_a_row(backend: str) -> None:
    params = {"W": np.zeros(3), "b": np.zeros(3), "c": np.zeros(3)}
    opt = fastopt.SGD(
        params, lr=1.0, nonfinite="skip", nonfinite_limit=2, skip_above=9.0, zero_grads=True, backend=backend
    )

    def step(*values: Any) -> str | None:
        return opt.step({name: np.array(value) for name, value in zip("Wbc", values, strict=True)}).skipped

    for _ in range(2):
        for _ in range(4):
            assert step(ONES, ONES, ONES) is None  # the last of them are planned
        before = all_bytes(opt)
        assert step(ONES, BAD, ONES) == "nonfinite"
        assert step(9 * ONES, ONES, ONES) == "skip_above"  # neither counts nor ends the row
        assert step(BAD, ONES, ONES) == "nonfinite"
        grads = {"W": ONES.copy(), "b": BAD.copy(), "c": BAD.copy()}
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"^grads: \['b', 'c'\] have elements .* 2 steps in a row .*limit=2\); noth"
            ):
                opt.step(grads)
        assert grads["W"].all()
        assert all_bytes(opt) == before
        assert step(9 * ONES, ONES, ONES) == "skip_above"
    assert opt.skipped_steps == 8
    assert step(ONES, ONES, ONES) is None


def test_a_call_that_accumulates_ends_the_row() -> None:
    opt = fastopt.SGD(np.zeros(3), nonfinite="skip", nonfinite_limit=1, accumulate_steps=3)
    for _ in range(4):
        assert opt.step(BAD).skipped == "nonfinite"
        assert opt.step(ONES).skipped is None
    assert opt.step_count == 1
    assert opt.step(BAD).skipped == "nonfinite"
    with pytest.raises(ValueError, match="nonfinite_limit=1"):
        opt.step(BAD)


def test_a_loss_scale_within_the_limit() -> None:
    scale = fastopt.DynamicLossScale(2.0**10)
    opt = fastopt.SGD(np.zeros(1, np.float32), nonfinite="skip", nonfinite_limit=3, grad_scale=scale)
    losses = [np.inf, np.inf, np.inf, 1.0]
    infos = [opt.step(np.array([loss])) for loss in losses]
    assert [info.skipped for info in infos] == [*["nonfinite"] * 3, None]
    for _ in range(3):
        opt.step(np.array([math.inf]))
    before = scale.scale
    with pytest.raises(ValueError, match="nonfinite_limit=3"):
        opt.step(np.array([math.inf]))
    assert scale.scale == before


@every_backend
def test_a_resumed_run_counts_on(backend: str) -> None:
    options: dict[str, Any] = {"nonfinite": "skip", "nonfinite_limit": 2, "backend": backend}
    opt = fastopt.SGD(np.zeros(3), skip_above=5.0, **options)
    for grad in (ONES, 100 * ONES, BAD, BAD):
        opt.step(grad)
    saved = opt.state_dict()
    assert saved["options"]["skip_above"] == 5
    assert (saved["options"]["skipped_in_a_row"], saved["options"]["skipped_steps"]) == (2, 3)
    other = fastopt.SGD(np.zeros(3), **options)
    assert other.load_state_dict(saved).options == {"skip_above": (None, 5.0), "step_count": (0, 1)}
    assert (other.skip_above, other.skipped_steps) == (5, 3)
    with pytest.raises(ValueError, match="nonfinite_limit=2"):
        other.step(BAD)
    assert other.step(ONES).applied
    other.load_state_dict(saved, state=False)
    assert (other.skipped_steps, other.step(BAD).skipped) == (3, "nonfinite")
    for wrong in (-1, True, 1.5, "1", None):
        broken = {**saved, "options": {**saved["options"], "skipped_steps": wrong}}
        with pytest.raises(ValueError, match=r"options: skipped_steps="):
            other.load_state_dict(broken)


def test_states_that_know_nothing_of_skips() -> None:
    """Those of earlier versions, and of runs that skip nothing: both versions read them."""
    opt = fastopt.SGD(np.zeros(3), skip_above=5.0, nonfinite="skip")
    opt.step(BAD)
    saved = fastopt.SGD(np.zeros(3), lr=0.5).state_dict()
    assert set(saved["options"]) == {"clip_global_norm", "grad_scale", "seed", "accumulated_calls"}
    assert opt.load_state_dict(saved).options == {"lr": (0.001, 0.5), "skip_above": (5.0, None)}
    assert (opt.skip_above, opt.skipped_steps) == (None, 0)
    del saved["options"]["seed"]
    with pytest.raises(ValueError, match="options: expected"):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("nonfinite", ["propagate", "raise"])
def test_a_limit_of_what_is_not_skipped(nonfinite: Any) -> None:
    with pytest.raises(ValueError, match=r'nonfinite_limit=3: .*expected nonfinite="skip" too, got'):
        fastopt.SGD(np.zeros(3), nonfinite=nonfinite, nonfinite_limit=3)
    for wrong in (0, -1, 1.5, True, "1", math.inf):
        with pytest.raises(
            (TypeError, ValueError), match=r"^nonfinite_limit=.*: expected a whole number of at least 1, or N"
        ):
            fastopt.SGD(np.zeros(3), nonfinite="skip", nonfinite_limit=wrong)
