"""An accumulation that is applied before it is complete: the step that ``accumulate_steps`` of so many calls makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CASES, MATRIX_CASES, Case, built, taken_by, warm_decay
from option_runs import all_bytes, every_backend, shape_of
from planned_runs import needs_plans

import fastopt
from fastopt import lr_scheduler

pytestmark = pytest.mark.usefixtures("restored")

#: One of each optimizer.
EACH = {case.optimizer: case for case in reversed([*CASES, *MATRIX_CASES])}.values()

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_value": 1.5, "clip_norm": 2.0, "clip_global_norm": 1.0, "maximize": True, "grad_scale": 4.0},
    "around": {"ema_decay": warm_decay, "ema_start": "zero", "prox_l1": 0.1, "l1": 0.01, "zero_grads": True},
    "checked": {"nonfinite": "skip", "skip_above": 1e6, "max_weight_norm": 2.0},
    "stored": {"state_dtype": "uint8", "seed": 5, "copy_to": BFLOAT16},
    "halves": {"params": np.dtype(np.float16), "polyak": True},
}


def flushed_like_complete(case: Case, dtype: Any, options: dict[str, Any], backend: str, most: int = 4100) -> None:
    """Compare runs of 5 and of 3 calls a step: each flushes after 3 or completes them, the other way round."""
    rng = np.random.default_rng(4)
    start = [rng.normal(size=shape_of(case, size)).astype(dtype) for size in (7, most, 2)]
    options = taken_by(case, options)
    runs = [built(case, start, {**options, "accumulate_steps": steps}, backend=backend) for steps in (5, 3)]
    for _ in range(4):
        for call in range(3):
            grads = [rng.normal(size=param.shape).astype(dtype) for param in start]
            given = [grads[0], None if call else grads[1], None]  # the second has one in the first call alone
            infos = [opt.step([None if grad is None else grad.copy() for grad in given]) for opt in runs]
        infos[0] = runs[0].flush()
        facts = [(info, info.lrs, info.norms, info.skipped) for info in infos]
        assert facts[0] == facts[1]
        assert infos[0].applied
        assert all_bytes(runs[0]) == all_bytes(runs[1])
    assert [opt.accumulated_calls for opt in runs] == [0, 0]
    assert not runs[0].state["0"]["accumulated"].any()


@every_backend
@pytest.mark.parametrize("case", EACH, ids=lambda case: case.optimizer.__name__)
def test_it_is_the_step_of_a_complete_accumulation(case: Case, backend: str) -> None:
    flushed_like_complete(case, np.float32, ROWS["clipped"], backend, 30)


@every_backend
@pytest.mark.parametrize("row", ROWS)
def test_with_all_options(row: str, backend: str) -> None:
    dtype = np.float64 if row == "checked" else np.float32
    for case in (CASES[2], Case(fastopt.AdamW, {"lr": 0.01})):
        flushed_like_complete(case, dtype, ROWS[row], backend)


@every_backend
def test_nothing_to_apply(backend: str) -> None:
    lr = fastopt.schedules.linear(1.0, 0.5, 5)
    for options in ({}, {"accumulate_steps": 3}):
        groups = [{"params": [np.ones(2)]}, {"params": [np.ones(1)], "lr": 0.1}]
        opt = fastopt.SGD(groups, lr=lr, momentum=0.9, clip_global_norm=1.0, backend=backend, **options)
        for count in range(3):
            before = all_bytes(opt)
            info = opt.flush()
            assert info == (False, None, lr(count), count)
            assert (info.lrs, info.norms, info.skipped) == ((lr(count), 0.1), None, None)
            assert all_bytes(opt) == before
            for _ in range(options.get("accumulate_steps", 1)):
                opt.step([[np.ones(2)], [np.ones(1)]])
        assert opt.skipped_steps == 0


@needs_plans
def test_planned_steps_go_on() -> None:
    """Steps before and after it are planned; a call after it begins a new mean."""
    theta, plain = np.zeros(3), np.zeros(3)
    opt = fastopt.SGD(theta, lr=1.0, momentum=0.5, accumulate_steps=3, backend="native")
    reference = fastopt.SGD(plain, lr=1.0, momentum=0.5)
    for calls in (3, 3, 3, 2, 3, 1, 1, 3):
        planned = opt.planned_steps
        for k in range(calls):
            opt.step(np.full(3, float(k)))
        if calls < 3:
            assert opt.flush().applied
        reference.step(np.full(3, (calls - 1) / 2))
        assert np.array_equal(theta, plain)
        assert opt.step_count == reference.step_count
    assert opt.planned_steps >= planned + 2


@every_backend
def test_a_frozen_array_is_left_out(backend: str) -> None:
    params = {"W": np.zeros(2), "b": np.zeros(1)}
    opt = fastopt.SGD(params, lr=1.0, accumulate_steps=3, backend=backend)
    opt.step({"W": np.ones(2), "b": np.ones(1)})
    opt.freeze("b")
    assert opt.flush().applied
    assert (params["W"].tolist(), params["b"].tolist()) == ([-1, -1], [0])
    assert not opt.state["b"]["accumulated"].any()
    assert int(opt.state["b"]["step"]) == 0


@every_backend
def test_what_skips_a_step_skips_it(backend: str) -> None:
    theta = np.zeros(2)
    scale = fastopt.DynamicLossScale(4.0, growth_interval=1)
    options: dict[str, Any] = {"nonfinite": "skip", "skip_above": 9.0, "accumulate_steps": 3, "grad_scale": scale}
    opt = fastopt.SGD(theta, lr=1.0, backend=backend, **options)
    opt.step(np.full(2, 400.0))
    info = opt.flush()
    assert (info.applied, info.skipped, opt.accumulated_calls, opt.skipped_steps) == (False, "skip_above", 0, 1)
    assert (theta.tolist(), scale.scale) == ([0, 0], 4)
    assert opt.step(np.array([np.nan, 1])).skipped == "nonfinite"
    assert (opt.flush().applied, scale.scale) == (False, 2)  # the bad call does not count
    opt.step(np.full(2, 4.0))
    assert (opt.flush().applied, scale.scale, theta.tolist()) == (True, 4, [-2, -2])


@every_backend
def test_a_resumed_accumulation_is_flushed(backend: str) -> None:
    theta = np.zeros(2)
    opt = fastopt.Adam(theta, accumulate_steps=4, backend=backend)
    for k in range(6):
        opt.step(np.full(2, float(k)))
    other = fastopt.Adam(theta.copy(), accumulate_steps=4, backend=backend)
    other.load_state_dict(opt.state_dict())
    assert other.flush() == opt.flush()
    assert all_bytes(other) == all_bytes(opt)


def test_drivers_and_schedules_go_on() -> None:
    opt = fastopt.SGD(np.zeros(2), lr=1.0, weight_decay=lambda step: 0.1 * step, accumulate_steps=2)
    driver = lr_scheduler.StepLR(opt, 1, gamma=0.5)
    rates = []
    for _ in range(3):
        opt.step(np.ones(2))
        rates.append(opt.flush().lr)
        driver.step()
    assert rates == [1.0, 0.5, 0.25]
    assert opt.step_count == 3


def test_where_no_step_can_be_made() -> None:
    opt = fastopt.ScheduleFreeSGD(np.zeros(2), accumulate_steps=2)
    opt.step(np.ones(2))
    opt.eval()
    with pytest.raises(RuntimeError, match="eval mode"):
        opt.flush()
    averaging = fastopt.SGD(np.zeros(2), accumulate_steps=2, polyak=True)
    averaging.step(np.ones(2))
    with averaging.averaged(), pytest.raises(ValueError, match=r"^flush: the parameters are the averaged ones"):
        averaging.flush()
    averaging.param_groups[0]["lr"] = -1.0
    before = all_bytes(averaging)
    with pytest.raises(ValueError, match="lr=-1"):
        averaging.flush()
    averaging.lr = 0.1
    with pytest.raises(ValueError, match="stream=1: only steps on a GPU"):
        averaging.flush(stream=1)
    assert all_bytes(averaging) == before
    assert averaging.flush().applied
