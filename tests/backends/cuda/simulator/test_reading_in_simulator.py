"""What a step reads of the gradients in the simulator: norms, and whether it is skipped, fetched when they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_arrays import SimulatedArray, simulated

import fastopt
from fastopt.backends.cuda import memory
from fastopt.backends.cuda import numbers as device_numbers


def test_the_norm_is_fetched_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched, real_fetch = [], device_numbers.DeviceNorms.fetch
    monkeypatch.setattr(device_numbers.DeviceNorms, "fetch", lambda *args: fetched.append(args) or real_fetch(*args))
    opt = fastopt.SGD(SimulatedArray(np.zeros(2, np.float32)), clip_global_norm=1.0)
    norm = opt.step(SimulatedArray(np.float32([3, 4]))).grad_norm
    later = opt.step(SimulatedArray(np.float32([6, 8]))).grad_norm
    assert not fetched
    assert norm == 5.0
    assert (float(norm), f"{later:.1f}", repr(later), norm < later) == (5.0, "10.0", "10.0", True)
    assert len(fetched) == 2


def test_a_skipped_step_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real_values = [], memory.HostCopy.values
    monkeypatch.setattr(memory.HostCopy, "values", lambda copy: asked.append(copy) or real_values(copy))
    values = np.zeros(2, np.float32)
    opt = fastopt.SGD(SimulatedArray(values), lr=lambda step: 1.0 - step / 4, momentum=0.5, nonfinite="skip")
    infos: list[Any] = [opt.step(SimulatedArray(np.float32([1, bad]))) for bad in (np.inf, 1, np.nan)]
    assert len(asked) == 2  # each step asks for the one before it
    assert [info.lr for info in infos] == [1.0, 1.0, 0.75]
    assert [(info.applied, info.step) for info in infos] == [(False, 0), (True, 1), (False, 1)]
    assert repr(infos[2]) == "StepInfo(applied=False, grad_norm=None, lr=0.75, step=1)"
    opt.step(SimulatedArray(np.float32([1, np.nan])))
    assert (opt.step_count, int(opt.state["0"]["step"])) == (1, 1)
    assert values.tolist() == [-1, -1]
    assert len(asked) == 4


def test_norms_and_reasons_are_fetched_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real_values, real_fetch = [], memory.HostCopy.values, device_numbers.DeviceNorms.fetch
    monkeypatch.setattr(memory.HostCopy, "values", lambda copy: asked.append("reason") or real_values(copy))
    monkeypatch.setattr(device_numbers.DeviceNorms, "fetch", lambda *args: asked.append("norms") or real_fetch(*args))
    values = [np.zeros(2, np.float32), np.zeros(1, np.float32)]
    opt = fastopt.SGD(simulated(values), lr=1.0, nonfinite="skip", skip_above=20.0, zero_grads=True)
    infos: list[Any] = []
    for grads in ([[3, 4], [12]], [[30, 4], None], [[np.nan, 4], [12]], [[3, 4], [12]]):
        given = [None if grad is None else np.float32(grad) for grad in grads]
        infos.append(opt.step([None if grad is None else SimulatedArray(grad) for grad in given]))
        assert not any(grad.any() for grad in given if grad is not None)
    assert asked == ["reason"] * 3  # each step asks for the one before it
    assert [info.skipped for info in infos] == [None, "skip_above", "nonfinite", None]
    assert [(info.applied, info.step) for info in infos] == [(True, 1), (False, 1), (False, 1), (True, 2)]
    assert asked == ["reason"] * 4
    assert infos[0].norms == infos[3].norms == {"0": 5, "1": 12}
    assert infos[1].norms == {"0": pytest.approx(916**0.5)}
    assert infos[1].grad_norm == pytest.approx(916**0.5)
    assert asked == ["reason"] * 4 + ["norms"] * 3
    assert (opt.skipped_steps, opt.step_count) == (2, 2)
    assert [value.tolist() for value in values] == [[-6, -8], [-24]]


def test_a_mean_above_is_dropped() -> None:
    plain, values = np.zeros(2, np.float32), np.zeros(2, np.float32)
    options: dict[str, Any] = {"lr": 1.0, "accumulate_steps": 2, "skip_above": 9.0, "clip_norm": np.inf}
    opt, reference = fastopt.SGD(SimulatedArray(values), **options), fastopt.SGD(plain, **options)
    for g in (1e3, 1, 2, 3, 4, 5):
        grad = np.float32([g, 1])
        info, expected = opt.step(SimulatedArray(grad)), reference.step(grad)
        assert info == expected
        assert (info.skipped, info.norms, info.lrs) == (expected.skipped, expected.norms, expected.lrs)
        accumulated = memory.to_host(opt.state["0"]["accumulated"])
        assert accumulated.tobytes() == reference.state["0"]["accumulated"].tobytes()
    assert values.tobytes() == plain.tobytes()
    assert (opt.skipped_steps, opt.step_count) == (1, 2)


def test_the_limit_of_skips_in_a_row() -> None:
    values = np.zeros(2, np.float32)
    opt = fastopt.SGD(SimulatedArray(values), lr=1.0, nonfinite="skip", nonfinite_limit=2)
    good, bad = np.float32([1, 2]), np.float32([1, np.nan])
    for _ in range(2):
        assert [opt.step(SimulatedArray(grad)).skipped for grad in (good, bad, bad)] == [None, "nonfinite", "nonfinite"]
        with pytest.raises(ValueError, match=r"\['0'\] have elements .* 2 steps in a row"):
            opt.step(SimulatedArray(bad))
    assert opt.step(SimulatedArray(good)).applied is True
    assert values.tolist() == [-3, -6]
    assert opt.skipped_steps == 4


@pytest.mark.parametrize("bad", [1.0, np.inf, np.nan])
def test_an_infinite_limit_measures_alone(bad: float) -> None:
    values = np.zeros(2, np.float32)
    opt = fastopt.SGD(SimulatedArray(values), lr=1.0, clip_global_norm=np.inf, clip_norm=np.inf)
    info = opt.step(SimulatedArray(np.float32([1, bad])))
    assert str(info.norms) == str({"0": float(info.grad_norm)})
    np.testing.assert_array_equal(values, [-1, -bad])


def test_a_norm_above_beside_what_raises() -> None:
    values = np.zeros(2, np.float32)
    opt = fastopt.SGD(SimulatedArray(values), lr=1.0, nonfinite="raise", skip_above=9.0)
    with pytest.raises(ValueError, match="grads: '0' has 1 elements"):
        opt.step(SimulatedArray(np.float32([1, np.nan])))
    assert [opt.step(SimulatedArray(np.float32([g, 1]))).skipped for g in (1, 10, 2)] == [None, "skip_above", None]
    opt.skip_above = None
    assert opt.step(SimulatedArray(np.float32([10, 1]))).applied is True
    assert values.tolist() == [-13, -3]
    assert (opt.step_count, opt.skipped_steps) == (3, 1)


def test_raise_names_the_first_bad_array() -> None:
    values = [np.zeros(2, np.float32) for _ in range(2)]
    opt = fastopt.Adam(simulated(values), nonfinite="raise", zero_grads=True)
    grads = [np.ones(2, np.float32), np.float32([np.nan, np.inf])]
    with pytest.raises(ValueError, match="grads: '1' has 2 elements that are infinite or NaN"):
        opt.step(simulated(grads))
    assert opt.step_count == 0
    assert (np.concatenate(values) == 0).all()
    assert (grads[0] == 1).all()


def test_a_dynamic_loss_scale() -> None:
    plain, values = np.float32([1.0]), np.float32([1.0])
    scales = [fastopt.DynamicLossScale(1024.0, growth_interval=2) for _ in range(2)]
    opt = fastopt.SGD(SimulatedArray(values), grad_scale=scales[0], nonfinite="skip", zero_grads=True)
    reference = fastopt.SGD(plain, grad_scale=scales[1], nonfinite="skip", zero_grads=True)
    for g in (np.inf, 1, 512, 3, np.nan):
        grads = np.float32([g]), np.float32([g])
        assert opt.step(SimulatedArray(grads[0])) == reference.step(grads[1])
        assert grads[0] == 0
        assert vars(scales[0]) == vars(scales[1])
    assert values == plain


def test_an_old_norm_is_fetched_before_its_place_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_numbers, "MOST_STEPS", 2)
    opt = fastopt.SGD(SimulatedArray(np.zeros(1, np.float32)), clip_global_norm=1.0)
    norms = [opt.step(SimulatedArray(np.float32([k]))).grad_norm for k in range(1, 6)]
    assert norms == [1, 2, 3, 4, 5]
