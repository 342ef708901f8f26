"""A dynamic loss scale serves one optimizer, and grows by an interval that may change."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import fastopt

#: Some optimizers: the collector takes half a second where a test refuses.
SOME = list({case.optimizer: case for case in reversed(CASES)}.values())[::8]


def build(scale: Any, case: Case = CASES[0]) -> fastopt.Optimizer:
    return case.build(np.ones(3), grad_scale=scale, nonfinite="skip")


@pytest.mark.parametrize("case", SOME, ids=str)
def test_a_second_optimizer_is_refused_before_anything_changes(case: Case) -> None:
    scale = fastopt.DynamicLossScale(8.0, growth_interval=1)
    first, second = build(scale), build(scale, case)
    first.step(np.ones(3))
    assert scale.scale == 16
    with pytest.raises(ValueError, match=r"^grad_scale=DynamicLossScale: expected one that no other.*scale.update"):
        second.step(np.ones(3))
    assert second.params.tolist() == [1, 1, 1]
    assert (scale.scale, second.step_count) == (16, 0)
    second.grad_scale = fastopt.DynamicLossScale()
    assert second.step(np.ones(3)).applied
    assert first.step(np.ones(3)).applied


def test_a_scale_that_is_assigned_or_loaded_into() -> None:
    scale = fastopt.DynamicLossScale(8.0)
    first, second = build(scale), build(fastopt.DynamicLossScale())
    first.step(np.ones(3))
    second.grad_scale = scale
    second.load_state_dict(second.state_dict())
    with pytest.raises(ValueError, match="grad_scale=DynamicLossScale"):
        second.step(np.ones(3))
    first.grad_scale = 1.0
    assert second.step(np.ones(3)).applied


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_the_scale_of_an_optimizer_that_is_gone(is_in_a_cycle: bool) -> None:
    scale = fastopt.DynamicLossScale(8.0)
    opt = build(scale)
    opt.step(np.ones(3))
    if is_in_a_cycle:
        opt.parts.parameters.ring = opt  # type: ignore[attr-defined]
    gone = weakref.ref(opt)
    gc.disable()
    try:
        opt = build(scale)  # in a notebook the name has the old one until the new one is built
        assert (gone() is None) != is_in_a_cycle
        assert opt.step(np.ones(3)).applied
    finally:
        gc.enable()
    scale_is_gone = weakref.ref(scale)
    del opt, scale
    assert scale_is_gone() is None


def test_one_loss_of_two_optimizers() -> None:
    """Both steps divide by the scale that the loss was multiplied by."""
    scale, ours = fastopt.DynamicLossScale(2.0**10, growth_interval=1), [np.ones(3), np.ones(3)]
    opts = [CASES[0].build(param, nonfinite="skip") for param in ours]
    plain = np.ones(3)
    opt = CASES[0].build(plain)
    for step in range(5):
        grads = [np.full(3, 0.5) * scale.scale for _ in opts]
        infos = [opt.step(grad, grad_scale=scale.scale) for opt, grad in zip(opts, grads, strict=True)]
        scale.update(all(info.applied for info in infos))
        opt.step(np.full(3, 0.5))
        assert scale.scale == 2.0 ** (11 + step)
    assert [param.tolist() for param in ours] == [plain.tolist()] * 2


def test_a_growth_interval_lowered_below_the_count() -> None:
    scale = fastopt.DynamicLossScale(8.0, growth_interval=1000)
    opt = build(scale)
    for _ in range(5):
        opt.step(np.ones(3))
    scale.growth_interval = 3
    opt.step(np.ones(3))
    assert (scale.scale, scale.growth_tracker) == (16, 0)
    loaded = fastopt.DynamicLossScale()
    loaded.load_state_dict({**scale.state_dict(), "growth_tracker": 99})
    loaded.update(True)
    assert (loaded.scale, loaded.growth_tracker) == (32, 0)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, None])
def test_a_scale_written_out_of_range(wrong: Any) -> None:
    scale = fastopt.DynamicLossScale(8.0)
    opt = build(scale)
    scale.scale = wrong
    with pytest.raises((TypeError, ValueError), match="grad_scale="):
        opt.step(np.ones(3))
    assert opt.params.tolist() == [1, 1, 1]
