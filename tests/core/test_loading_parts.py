"""Loading parts of what was saved, which options a load changed, and arrays in another order."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, everything
from structures import copied, flat, like, model, same

import fastopt
from fastopt import lr_scheduler, schedules

ONE_OF_EACH = list({case.optimizer: case for case in reversed(CASES)}.values())
every_optimizer = pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)

#: Options of the whole optimizer that another run has.
OTHER: dict[str, Any] = {"clip_global_norm": 3.0, "grad_scale": 2.0, "seed": 7}


def trained(case: Case, params: Any, steps: int = 3, **more: Any) -> fastopt.Optimizer:
    opt = case.build(params, **more)
    for _ in range(steps):
        opt.step(like(params))
    return opt


def own_options(opt: fastopt.Optimizer) -> list[Any]:
    groups = [{name: value for name, value in group.items() if name != "params"} for group in opt.param_groups]
    return [groups, opt.clip_global_norm, opt.grad_scale, opt.seed, opt.frozen]


def written(folder: Path, opt: fastopt.Optimizer) -> fastopt.Checkpoint:
    fastopt.save(folder / "run.npz", opt)
    return fastopt.load(folder / "run.npz")


def load(opt: fastopt.Optimizer, checkpoint: fastopt.Checkpoint, by: str, **parts: bool) -> fastopt.LoadResult:
    if by == "restore":
        return checkpoint.restore(opt, **parts)
    assert checkpoint.optimizer is not None
    return opt.load_state_dict(checkpoint.optimizer, **parts)


both_ways = pytest.mark.parametrize("by", ["restore", "load_state_dict"])


@pytest.mark.by_turns("case")
@both_ways
@every_optimizer
def test_options_that_a_load_changed(case: Case, by: str, tmp_path: Path) -> None:
    opt = trained(case, model(), **{**OTHER, "lr": 0.25, "weight_decay": 0.125})
    other = case.build(model(), lr=0.5)
    before = own_options(other)
    result = load(other, written(tmp_path, opt), by)
    decay = before[0][0]["weight_decay"]
    assert result.options == {
        "lr": (0.5, 0.25),
        "weight_decay": (decay, 0.125),
        "clip_global_norm": (case.options.get("clip_global_norm"), 3.0),
        "grad_scale": (1.0, 2.0),
        "seed": (0, 7),
        "step_count": (0, 3),
    }
    assert load(other, written(tmp_path, other), by).options == {}


@pytest.mark.by_turns("case")
@both_ways
@every_optimizer
def test_without_the_options(case: Case, by: str, tmp_path: Path) -> None:
    """The state goes on, under the options of the code."""
    opt = trained(case, model(), **{**OTHER, "lr": 0.25, "weight_decay": 0.125})
    opt.freeze("out*")
    params = copied(opt.params)
    other = case.build(params, lr=0.5)
    other.freeze("norm1")
    before = own_options(other)
    result = load(other, written(tmp_path, opt), by, options=False)
    assert result.options == {"step_count": (0, 3)}
    assert result == ([], [])
    assert own_options(other) == before
    assert same(other.state_dict()["state"], opt.state_dict()["state"])
    other.unfreeze()
    third = case.build(copied(params), lr=0.5)
    load(third, written(tmp_path, other), by)
    grads = like(params)
    assert other.step(grads) == third.step(copied(grads))
    assert everything(flat(other.params), other) == everything(flat(third.params), third)


@every_optimizer
def test_the_parameters_alone(case: Case, tmp_path: Path) -> None:
    """As if an optimizer had been built for the saved parameters, whatever its class."""
    opt = trained(fastopt_adamw(), model(), lr=0.25, ema_decay=0.5)
    checkpoint = written(tmp_path, opt)
    other, fresh = case.build(model(), lr=0.5), case.build(copied(opt.params), lr=0.5)
    before = own_options(other)
    result = checkpoint.restore(other, state=False)
    assert result.options == {}
    assert result == ([], [])
    assert (own_options(other), other.step_count) == (before, 0)
    for _ in range(2):
        grads = like(opt.params)
        assert other.step(grads) == fresh.step(copied(grads))
    assert everything(flat(other.params), other) == everything(flat(fresh.params), fresh)


def fastopt_adamw() -> Case:
    return Case(fastopt.AdamW, {})


def test_the_parameters_alone_reach_masters_and_copies(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, fastopt.SGD([np.array([3.0, 4.0], np.float16)]))
    params = [np.array([1.0, 2.0], np.float16)]
    opt = fastopt.SGD(params, momentum=0.9)
    opt.step([np.ones(2)])
    slots = opt.state["0"]["b"].tolist()
    checkpoint.restore(opt, state=False)
    assert (opt.step_count, opt.state["0"]["b"].tolist()) == (1, slots)
    opt.freeze("0")
    opt.step([np.ones(2)])
    assert params[0].tolist() == [3, 4]
    opt.unfreeze()
    opt.param_groups[0]["lr"] = 0.0
    opt.step([np.ones(2)])
    assert params[0].tolist() == [3, 4]


def test_the_parameters_alone_must_fit(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, fastopt.SGD({"W": np.ones(2), "b": np.ones(1)}))
    param = np.zeros(2)
    with pytest.raises(ValueError, match=r"unexpected: params.b"):
        checkpoint.restore(fastopt.Adam({"W": param}), state=False)
    assert param.tolist() == [0, 0]
    assert checkpoint.restore(fastopt.Adam({"W": param}), strict=False, state=False) == ([], ["params.b"])
    assert param.tolist() == [1, 1]


@pytest.mark.by_turns("case")
@both_ways
@every_optimizer
def test_the_options_alone(case: Case, by: str, tmp_path: Path) -> None:
    opt = trained(case, model(), **{**OTHER, "lr": 0.25})
    opt.freeze("out*")
    other = trained(case, model(), 1, lr=0.5)
    state, params = copy.deepcopy(other.state_dict()["state"]), copied(other.params)
    result = load(other, written(tmp_path, opt), by, state=False, options=True)
    assert own_options(other) == own_options(opt)
    assert result.options["frozen"] == ([], ["out.0", "out.1.b"])
    assert result.options["lr"] == (0.5, 0.25)
    assert "step_count" not in result.options
    if by == "restore":
        for entries, param in zip(state.values(), flat(opt.params), strict=True):
            entries.update(dict.fromkeys(case.optimizer.copied, param))  # they follow the parameters
    assert same(other.state_dict()["state"], state)
    assert other.step_count == 1
    assert same(other.params, opt.params if by == "restore" else params)


def test_nothing_to_load() -> None:
    opt = fastopt.SGD([np.ones(1)])
    with pytest.raises(ValueError, match="state=False, options=False leave nothing to load"):
        opt.load_state_dict(opt.state_dict(), state=False, options=False)
    assert opt.load_state_dict(opt.state_dict(), state=False) == ([], [])


# --- what an option is called -----------------------------------------------------------------------------------------


def groups(**options: tuple[Any, ...]) -> fastopt.Optimizer:
    """Return an optimizer of two groups, with a value of each option for each."""
    own = [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)]
    return fastopt.AdamW([{"params": [np.ones(2)], **each} for each in own])


@pytest.mark.parametrize(
    ("ours", "theirs", "changed"),
    [
        ({"lr": (0.1, 0.1)}, {"lr": (0.2, 0.2)}, {"lr": (0.1, 0.2)}),
        ({"lr": (0.1, 0.1)}, {"lr": (0.2, 0.1)}, {"param_groups[0].lr": (0.1, 0.2)}),
        (
            {"lr": (0.1, 0.1), "eps": (0.0, 1.0)},
            {"lr": (0.1, 0.2), "eps": (1.0, 1.0)},
            {"param_groups[1].lr": (0.1, 0.2), "param_groups[0].eps": (0.0, 1.0)},
        ),
        (
            {"lr": (0.1, 0.3)},
            {"lr": (0.2, 0.2)},
            {"param_groups[0].lr": (0.1, 0.2), "param_groups[1].lr": (0.3, 0.2)},
        ),
        ({"lr": (1, 0.5)}, {"lr": (1.0, np.float32(0.5))}, {}),
        ({"betas": ([0.9, 0.99], (0.9, 0.99))}, {"betas": ((0.9, 0.99), [0.9, 0.99])}, {}),
        ({"lr": (schedules.linear(1.0, 0.0, 9), 1.0)}, {"lr": (schedules.linear(1, 0, 9), 1.0)}, {}),
        (
            {"lr": (schedules.linear(1.0, 0.0, 9), 1.0)},
            {"lr": (schedules.linear(1.0, 0.0, 8), 1.0)},
            {"param_groups[0].lr": (schedules.linear(1.0, 0.0, 9), schedules.linear(1.0, 0.0, 8))},
        ),
    ],
)
def test_names_of_options(ours: Any, theirs: Any, changed: Any) -> None:
    opt = groups(**ours)
    assert opt.load_state_dict(groups(**theirs).state_dict()).options == changed


def half(step: int) -> float:
    return 0.5


def test_functions_are_no_change_and_need_not_be_there() -> None:
    saved = fastopt.SGD([np.ones(1)], lr=half, weight_decay=schedules.lambda_(half)).state_dict()
    opt = fastopt.SGD([np.ones(1)], lr=half, weight_decay=schedules.lambda_(half))
    assert opt.load_state_dict(saved).options == {}
    other = fastopt.SGD([np.ones(1)], lr=lambda step: 1.0)
    with pytest.raises(ValueError, match="calls the function"):
        other.load_state_dict(saved)
    assert other.load_state_dict(saved, options=False).options == {}
    back = opt.load_state_dict(fastopt.SGD([np.ones(1)], lr=0.25, weight_decay=0.0).state_dict())
    assert back.options == {"lr": (half, 0.25), "weight_decay": (schedules.lambda_(half), 0.0)}


def test_the_result_is_the_pair() -> None:
    opt = fastopt.SGD({"a": np.ones(1)}, lr=half)
    result = opt.load_state_dict(fastopt.SGD({"b": np.ones(1)}, lr=0.25).state_dict(), strict=False)
    missing, unexpected = result
    assert result == (missing, unexpected) == fastopt.LoadResult(missing=missing, unexpected=unexpected)
    assert repr(result) == f"LoadResult(missing={missing}, unexpected={unexpected})"
    assert result._fields == ("missing", "unexpected")
    result = opt.load_state_dict(fastopt.SGD({"a": np.ones(1)}, lr=0.25).state_dict())
    assert result.options == {"lr": (half, 0.25)}
    loaded = pickle.loads(pickle.dumps(result))
    assert (loaded, type(loaded), loaded.options) == (result, fastopt.LoadResult, {})


# --- what is an option and what is state ------------------------------------------------------------------------------


def test_groups_that_differ_matter_to_options_alone() -> None:
    opt = fastopt.Adam({"a": np.ones(1), "b": np.ones(1)})
    opt.step({"a": np.ones(1), "b": np.ones(1)})
    split = fastopt.group_by({"a": np.ones(1), "b": np.ones(1)}, {"a": {"lr": 0.5}, "*": {}})
    other = fastopt.Adam(split)
    with pytest.raises(ValueError, match=r"param_groups\[0\] is of the arrays"):
        other.load_state_dict(opt.state_dict())
    assert other.load_state_dict(opt.state_dict(), options=False) == ([], [])
    assert same(other.state_dict()["state"], opt.state_dict()["state"])


def test_a_loss_scale_is_state_and_its_factors_are_options() -> None:
    def build(**options: Any) -> fastopt.Optimizer:
        scale = fastopt.DynamicLossScale(**options)
        return fastopt.SGD([np.ones(1)], grad_scale=scale, nonfinite="skip")

    def scale(opt: fastopt.Optimizer) -> list[Any]:
        assert isinstance(opt.grad_scale, fastopt.DynamicLossScale)
        return [getattr(opt.grad_scale, name) for name in ("scale", "growth_tracker", "growth_interval")]

    opt = build(init_scale=8.0, growth_interval=5)
    opt.step([np.ones(1)])
    saved = opt.state_dict()
    for parts, expected, options in (
        ({}, [8, 1, 5], {"grad_scale", "step_count"}),
        ({"options": False}, [8, 1, 9], {"step_count"}),
        ({"state": False}, [2, 0, 5], {"grad_scale"}),
    ):
        other = build(init_scale=2.0, growth_interval=9)
        own = other.grad_scale
        result = other.load_state_dict(saved, **parts)
        assert scale(other) == expected
        assert other.grad_scale is own
        assert set(result.options) == options
    assert [each.growth_interval for each in result.options["grad_scale"]] == [9, 5]
    plain = fastopt.SGD([np.ones(1)], grad_scale=2.0)
    assert plain.load_state_dict(saved, options=False) == ([], [])
    assert plain.grad_scale == 2.0
    build().load_state_dict(plain.state_dict(), options=False)


def test_the_rates_that_a_driver_began_with() -> None:
    """Whoever keeps the options keeps the rate, also that from which a driver built later begins."""
    opt = fastopt.SGD([np.ones(1)], lr=0.5)
    lr_scheduler.StepLR(opt, 1, 0.5).step()
    saved = opt.state_dict()
    other = fastopt.SGD([np.ones(1)], lr=0.25)
    other.load_state_dict(saved, options=False)
    driver = lr_scheduler.StepLR(other, 1, 0.5)
    assert (driver.base_lrs, other.param_groups[0]["lr"]) == ([0.25], 0.25)
    driver.step()
    assert other.param_groups[0]["lr"] == 0.125


def test_averages_and_accumulated_gradients_are_state() -> None:
    options: dict[str, Any] = {"ema_decay": 0.5, "accumulate_steps": 3}
    opt = fastopt.SGD([np.ones(2)], lr=0.5, **options)
    for _ in range(4):
        opt.step([np.ones(2)])
    other = fastopt.SGD([np.ones(2)], lr=0.25, **options)
    other.load_state_dict(opt.state_dict(), options=False)
    assert (other.accumulated_calls, other.step_count, other.ema[0].tolist()) == (1, 1, opt.ema[0].tolist())
    third = fastopt.SGD([np.ones(2)], lr=0.25, **options)
    third.load_state_dict(opt.state_dict(), state=False)
    assert (third.accumulated_calls, third.step_count, third.ema[0].tolist()) == (0, 0, [1, 1])


class WithMore(fastopt.SGD):
    """An optimizer with state besides its arrays'."""

    more = 1

    def extra_state(self) -> dict[str, Any]:
        return {"more": self.more}

    def load_extra_state(self, extra: Mapping[str, Any]) -> None:
        self.more = extra["more"]


def test_extra_state_is_state() -> None:
    opt, other = WithMore([np.ones(1)]), WithMore([np.ones(1)])
    opt.more = 7
    other.load_state_dict(opt.state_dict(), state=False)
    assert other.more == 1
    other.load_state_dict(opt.state_dict(), options=False)
    assert other.more == 7


# --- arrays in another order ------------------------------------------------------------------------------------------


@pytest.mark.by_turns("case")
@both_ways
@every_optimizer
def test_arrays_in_another_order(case: Case, by: str, tmp_path: Path) -> None:
    """State goes by names: keys of a dict, and arrays of a group, may be in any order."""
    rng = np.random.default_rng(3)
    names, shapes = "abcd", [(2, 3), (4,), (3, 2), (5,)]
    params = {name: rng.normal(size=shape) for name, shape in zip(names, shapes, strict=True)}
    patterns = {"[ac]": {"lr": 0.25}, "*": {}}
    more = {} if "ema_decay" in case.optimizer.refused else {"ema_decay": 0.5}
    opt = case.build(fastopt.group_by(params, patterns), **more)
    for step in range(3):
        opt.step({name: None if (name, step) == ("b", 1) else rng.normal(size=params[name].shape) for name in names})
    opt.freeze("d")
    turned = {name: params[name].copy() for name in "dcab"}
    other = case.build(fastopt.group_by(turned, patterns), **more)
    checkpoint = written(tmp_path, opt)
    result = load(other, checkpoint, by)
    assert result == ([], [])
    assert other.frozen == ["d"]
    assert list(other.params) == [*"dcab"]
    grads = {name: rng.normal(size=params[name].shape) for name in names}
    opt.step(grads)
    other.step({name: grads[name] for name in "dcab"})
    is_one_sum = "clip_global_norm" in case.options or "per_group" in case.options  # added in the order of the arrays
    for name in names:
        if is_one_sum:
            np.testing.assert_allclose(params[name], turned[name], rtol=1e-12)
        else:
            assert same([params[name], {**opt.state[name]}], [turned[name], {**other.state[name]}])


def test_groups_in_another_order() -> None:
    def build(patterns: dict[str, Any]) -> fastopt.Optimizer:
        return fastopt.SGD(fastopt.group_by({name: np.ones(1) for name in "abc"}, patterns), momentum=0.9)

    opt, other = build({"a": {"lr": 0.5}, "*": {"lr": 0.25}}), build({"[bc]": {}, "a": {}})
    other.load_state_dict(opt.state_dict())
    assert [group["lr"] for group in other.param_groups] == [0.25, 0.5]


@pytest.mark.parametrize("strict", [True, False])
def test_positions_are_names(strict: bool) -> None:
    """Arrays of a list are called by their places: another order is another array."""
    opt = fastopt.Adam([np.ones(2), np.ones(3)])
    opt.step([np.ones(2), np.ones(3)])
    other = fastopt.Adam([np.ones(3), np.ones(2)])
    if strict:
        with pytest.raises(ValueError, match=r"0.m is of shape \(2,\)"):
            other.load_state_dict(opt.state_dict())
    else:
        assert other.load_state_dict(opt.state_dict(), strict=False).missing == ["0.m", "0.v", "1.m", "1.v"]


@pytest.mark.parametrize("params", [["a"], ["a", "a"], ["a", "b", "b"], ["a", "c"], []])
def test_other_arrays_are_another_group(params: list[str]) -> None:
    opt = fastopt.SGD({"a": np.ones(1), "b": np.ones(1)})
    saved = opt.state_dict()
    saved["param_groups"][0]["params"] = params
    with pytest.raises(ValueError, match=r"param_groups\[0\] is of the arrays"):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("names", [[["a"]], [1], [None], "a"])
def test_names_that_are_no_names(names: Any) -> None:
    opt = fastopt.SGD({"a": np.ones(1)})
    saved = opt.state_dict()
    for wrong in (
        {**saved, "frozen": names},
        {**saved, "param_groups": [{**saved["param_groups"][0], "params": names}]},
    ):
        with pytest.raises(TypeError, match=r"'frozen' is|param_groups\[0\] is"):
            opt.load_state_dict(wrong)
