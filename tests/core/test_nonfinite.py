"""Gradients that are not finite, and the loss scales that expect them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from cases import every_dtype
from option_runs import all_bytes, every_backend

import fastopt

pytestmark = pytest.mark.usefixtures("restored")


@every_backend
@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clip", [{}, {"clip_value": 1.0}, {"clip_norm": 1.0}, {"clip_global_norm": 1.0}])
@pytest.mark.parametrize("more", [{}, {"accumulate_steps": 2}, {"ema_decay": 0.9, "weight_decay": 0.1}])
def test_nonfinite(backend: str, dtype: Any, value: float, clip: dict[str, Any], more: dict[str, Any]) -> None:
    """One bad value anywhere: nothing changes, whether it is skipped or raised."""
    rng = np.random.default_rng(7)
    start = {"a": rng.normal(size=5).astype(dtype), "b": rng.normal(size=4100).astype(dtype)}
    lr = fastopt.schedules.linear(1.0, 0.1, 10)
    for nonfinite in ("skip", "raise"):
        params = copy.deepcopy(start)
        opt = fastopt.Adam(params, lr=lr, nonfinite=nonfinite, backend=backend, **clip, **more)
        good = {name: rng.normal(size=param.size).astype(dtype) for name, param in params.items()}
        # A sum of squares that overflows is not a gradient that is infinite.
        good["a"][0] = np.finfo(dtype).max / 4
        first = opt.step(good)
        before = all_bytes(opt)
        bad = copy.deepcopy(good)
        bad["b"][4097] = value
        if nonfinite == "skip":
            info = opt.step(bad)
            assert (info.applied, info.step, info.lr) == (False, opt.step_count, float(lr(opt.step_count)))
        else:
            with pytest.raises(ValueError, match="'b' has 1 elements"):
                opt.step(bad)
        assert all_bytes(opt) == before
        assert opt.step(good).applied != (first.applied and opt.pass_options.accumulate_steps > 1)


def test_largest_finite_values_are_no_overflow() -> None:
    for dtype in (np.float32, np.float64):
        theta = np.zeros(1000, dtype)
        opt = fastopt.SGD(theta, nonfinite="skip", clip_value=1.0)
        assert opt.step(np.full(1000, np.finfo(dtype).max)).applied


def test_accumulated_sums_are_checked() -> None:
    theta = np.zeros(1, np.float32)
    opt = fastopt.SGD(theta, lr=1.0, accumulate_steps=2, nonfinite="skip")
    assert not opt.step(np.float32([3e38])).applied
    assert not opt.step(np.float32([3e38])).applied  # their sum is infinite
    assert opt.accumulated_calls == 1
    assert opt.step(np.float32([2e37])).applied
    np.testing.assert_allclose(theta, -1.6e38, rtol=1e-6)


def test_dynamic_loss_scale_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    rng = np.random.default_rng(9)
    scale = fastopt.DynamicLossScale(2.0**120, growth_interval=3)
    theirs, tracker = torch.tensor([2.0**120]), torch.tensor([0], dtype=torch.int32)
    for _ in range(300):
        applied = bool(rng.random() < 0.9)
        scale.update(applied)
        torch._amp_update_scale_(theirs, tracker, torch.tensor([float(not applied)]), 2.0, 0.5, 3)
        assert (scale.scale, scale.growth_tracker) == (float(theirs), int(tracker))


def test_dynamic_loss_scale_in_steps() -> None:
    scale = fastopt.DynamicLossScale(growth_interval=2)
    theta = np.ones(3, np.float32)
    opt = fastopt.SGD(theta, lr=1.0, grad_scale=scale, nonfinite="skip", accumulate_steps=2)
    scales = []
    for value in (1.0, 1.0, np.inf, 1.0, 1.0):
        opt.step(np.full(3, value * scale.scale))
        scales.append(scale.scale)
    assert scales == [2.0**16, 2.0**16, 2.0**15, 2.0**15, 2.0**15]
    assert theta[0] == -1
    resumed = fastopt.DynamicLossScale()
    resumed.load_state_dict(scale.state_dict())
    assert vars(resumed) == vars(scale)
    with pytest.raises(ValueError, match="expected the keys"):
        resumed.load_state_dict({"scale": 1.0})
    with pytest.raises(ValueError, match="growth_factor"):
        resumed.load_state_dict({**scale.state_dict(), "growth_factor": 1.0})
    assert vars(resumed) == vars(scale)
    with pytest.raises(ValueError, match="nonfinite"):
        fastopt.SGD(theta, grad_scale=scale)
    with pytest.raises(ValueError, match="one of the two"):
        opt.step(np.ones(3), grad_scale=2.0)


def test_grad_scale_of_one_step() -> None:
    theta = np.zeros(2)
    opt = fastopt.SGD(theta, lr=1.0, grad_scale=2.0)
    opt.step(np.ones(2))
    opt.step(np.ones(2), grad_scale=4.0)
    assert theta.tolist() == [-0.75, -0.75]
    for wrong in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="grad_scale"):
            opt.step(np.ones(2), grad_scale=wrong)
