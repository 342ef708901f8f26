"""``opt.set``: options by name; groups are split where they must be, and drivers go on for both parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, everything, needs_native

import fastopt
from fastopt import lr_scheduler, schedules

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


def model() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    blocks = [{"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(2)]
    return {"blocks": blocks, "head": rng.normal(size=(2, 2))}


def grads_of(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(100 + step)
    blocks = [{"W": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(2)]
    return {"blocks": blocks, "head": rng.normal(size=(2, 2))}


def bits(params: Any) -> list[bytes]:
    return [params["head"].tobytes(), *(array.tobytes() for block in params["blocks"] for array in block.values())]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_bits_as_groups_from_the_beginning(case: Case) -> None:
    """Before the first step, for every optimizer: slots, numbers and rules come out as they would."""
    if "lr" not in case.options or case.optimizer is fastopt.Prodigy:
        pytest.skip("the d of Prodigy is of all groups")
    set_later, from_start = model(), model()
    opt = case.build(set_later)
    assert opt.set("blocks.0.*", lr=0.003) == ["blocks.0.W", "blocks.0.b"]
    patterns: dict[Any, dict[str, Any]] = {"blocks.0.*": {"lr": 0.003}, "*": {}}
    other = case.build(fastopt.group_by(from_start, patterns))
    for step in range(5):
        opt.step(grads_of(step))
        other.step(grads_of(step))
        assert bits(set_later) == bits(from_start)
    assert [len(group["params"]) for group in opt.param_groups] == [3, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_bits_as_writing_into_groups(backend: str) -> None:
    """In the middle of a run, also where steps are planned: slots and step counts stay."""
    ours, theirs = model(), model()
    opt = fastopt.AdamW(ours, lr=0.01, backend=backend)
    patterns: dict[Any, dict[str, Any]] = {"blocks.0.*": {}, "head": {}, "*": {}}
    other = fastopt.AdamW(fastopt.group_by(theirs, patterns), lr=0.01, backend=backend)
    group_of = {0: None, 5: (0, "blocks.0.*"), 10: (1, "head"), 13: (0, "blocks.0.*")}
    for step in range(18):
        if group_of.get(step):
            k, pattern = group_of[step]  # type: ignore[misc]
            opt.set(pattern, lr=0.001 * (step + 1), weight_decay=0.5)
            other.param_groups[k].update(lr=0.001 * (step + 1), weight_decay=0.5)
        assert opt.step(grads_of(step)).applied
        other.step(grads_of(step))
        assert bits(ours) == bits(theirs), step
    assert len(opt.param_groups) == 3
    assert {name: int(slots["step"]) for name, slots in opt.state.items()} == dict.fromkeys(opt.state, 18)
    if backend == "native":
        assert opt.planned_steps > 5


def test_a_whole_group_is_not_split() -> None:
    opt = fastopt.SGD(fastopt.group_by(model(), {"blocks.*": {"momentum": 0.9}, "*": {}}), lr=0.5)
    first, second = opt.param_groups
    assert opt.set("blocks.*", lr=0.25) == ["blocks.0.W", "blocks.0.b", "blocks.1.W", "blocks.1.b"]
    assert opt.set("*", weight_decay=0.1)
    assert opt.param_groups == [first, second]
    assert opt.param_groups[0] is first
    assert (first["lr"], second["lr"], first["momentum"], second["momentum"]) == (0.25, 0.5, 0.9, 0.0)
    assert first["weight_decay"] == second["weight_decay"] == 0.1


def test_several_groups_are_split_at_once() -> None:
    opt = fastopt.SGD(fastopt.group_by(model(), {"blocks.0.*": {"lr": 0.1}, "*": {"lr": 0.2}}), momentum=0.9)
    opt.step(grads_of(0))
    assert opt.set("*b", lr=0.5) == ["blocks.0.b", "blocks.1.b"]
    assert [(len(group["params"]), group["lr"], group["momentum"]) for group in opt.param_groups] == [
        (1, 0.1, 0.9),
        (2, 0.2, 0.9),
        (1, 0.5, 0.9),
        (1, 0.5, 0.9),
    ]
    assert opt.step(grads_of(1)).lrs == (0.1, 0.2, 0.5, 0.5)
    shown = repr(opt).splitlines()
    assert shown[1] == "  group 0: 1 array, 6 elements, lr=0.1, momentum=0.9"


def test_other_rules_and_slots() -> None:
    params = model()
    opt = fastopt.SGD(params, lr=0.5)
    opt.step(grads_of(0))
    opt.set("head", momentum=0.9)
    opt.step(grads_of(1))
    assert list(opt.state["head"]) == ["step", "b"]
    assert list(opt.state["blocks.0.W"]) == ["step"]


def test_schedules_and_options_of_every_kind() -> None:
    opt = fastopt.AdamW(model(), lr=schedules.constant(0.1))
    opt.set("head", lr=schedules.constant(0.5) * 0.5, betas=(0.5, 0.9), bounds=(-1.0, 1.0), clip_norm=1.0)
    info = opt.step(grads_of(0))
    assert info.lrs == (0.1, 0.25)
    assert np.abs(opt.params["head"]).max() <= 1.0
    assert np.abs(opt.params["blocks"][0]["W"]).max() > 0


def test_unfreezing_with_another_rate() -> None:
    params = model()
    opt = fastopt.SGD(params, lr=0.5)
    opt.freeze("blocks.*")
    opt.step(grads_of(0))
    assert opt.unfreeze("blocks.1.*", lr=0.01) == ["blocks.1.W", "blocks.1.b"]
    assert opt.frozen == ["blocks.0.W", "blocks.0.b"]
    assert opt.step(grads_of(1)).lrs == (0.5, 0.01)
    with pytest.raises(ValueError, match="lr=-1"):
        opt.unfreeze("blocks.0.*", lr=-1)
    assert opt.frozen == ["blocks.0.W", "blocks.0.b"]
    assert opt.unfreeze() == list(opt.state)
    assert len(opt.param_groups) == 2


def test_combined() -> None:
    params = model()
    opt = fastopt.Combined(params, {"*W": (fastopt.Muon, {"lr": 0.02}), "*": (fastopt.AdamW, {"lr": 3e-4})})
    opt.step(grads_of(0))
    opt.set("blocks.1.*", lr=0.001)
    assert [(group["optimizer"], group["lr"], len(group["params"])) for group in opt.param_groups] == [
        ("Muon", 0.02, 1),
        ("AdamW", 3e-4, 2),
        ("Muon", 0.001, 1),
        ("AdamW", 0.001, 1),
    ]
    opt.step(grads_of(1))
    with pytest.raises(ValueError, match="no option is called"):
        opt.set("*", ns_steps=3)  # AdamW's groups have none
    with pytest.raises(ValueError, match="optimizer='SGD'"):
        opt.set("head", optimizer="SGD")


@pytest.mark.parametrize(
    ("pattern", "options", "error", "message"),
    [
        ("nothing", {"lr": 0.1}, ValueError, "no array's name matches 'nothing'"),
        ("head", {"learning_rate": 0.1}, ValueError, "for 'learning_rate' write 'lr'"),
        ("head", {"clip_global_norm": 0.1}, ValueError, "is an option of the whole optimizer"),
        ("head", {"lr": -1.0}, ValueError, r"^set\('head'\): lr=-1\.0: expected"),
        ("*", {"lr": -1.0}, ValueError, r"^set\('\*'\): lr=-1\.0: expected"),
        ("head", {"lr": "fast"}, TypeError, r"^set\('head'\): lr='fast': expected"),
        ("*", {"params": []}, ValueError, "no option is called"),
        ("head", {}, TypeError, r"expected options, such as opt\.set\('head', lr="),
        (["head"], {"lr": 0.1}, TypeError, "expected a name or a pattern"),
        ("blocks.*", {"bounds": (1.0, -1.0)}, ValueError, "bounds"),
        ("head", {"cautious_decay": True}, ValueError, "expected decoupled=True"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_change_nothing(pattern: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    params = model()
    opt = fastopt.SGD(params, lr=0.5)
    opt.step(grads_of(0))
    before = everything([params["head"]], opt), [dict(group) for group in opt.param_groups]
    with pytest.raises(error, match=message):
        opt.set(pattern, **options)
    assert everything([params["head"]], opt) == before[0]
    assert [list(group) for group in opt.param_groups] == [list(group) for group in before[1]]
    opt.step(grads_of(1))


@pytest.mark.parametrize("kind", ["run.npz", "run.safetensors"])
def test_checkpoints(tmp_path: Path, kind: str) -> None:
    """The state has the groups as they are; another optimizer with the same calls goes on from it."""
    ours = model()
    opt = fastopt.Adam(ours, lr=schedules.cosine(0.1, total=20) * 0.5 + 0.01)
    opt.step(grads_of(0))
    opt.set("blocks.0.*", lr=schedules.cosine(0.1, total=20) * schedules.constant(0.1))
    opt.step(grads_of(1))
    fastopt.save(tmp_path / kind, opt)
    theirs = model()
    other = fastopt.Adam(theirs, lr=0.5)
    with pytest.raises(ValueError, match="does not fit"):
        fastopt.load(tmp_path / kind).restore(other)
    other.set("blocks.0.*", lr=0.25)
    result = fastopt.load(tmp_path / kind).restore(other)
    assert result == ([], [])
    assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in opt.param_groups]
    for step in range(2, 6):
        assert opt.step(grads_of(step)) == other.step(grads_of(step))
    assert bits(ours) == bits(theirs)


# --- Drivers ----------------------------------------------------------------------------------------------------------


def halved_each_time(epoch: int) -> float:
    return 0.5**epoch


DRIVERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 2, 0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [3], 0.5),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.5, 4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.5, total_iters=6),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 9),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 9),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4),
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, halved_each_time),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda epoch: 0.9),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.1, 1.0, 3, cycle_momentum=False),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, total_steps=12),
    "SWALR": lambda opt: lr_scheduler.SWALR(opt, 0.05, 6),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.5, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], [5]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.5, 3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
}


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize("factor", [None, 0.1])
def test_drivers_go_on_for_both(name: str, factor: float | None) -> None:
    """The part with the same rate has the rates of the other; the part with another one has them in proportion."""
    opt, alone = (fastopt.SGD(model(), lr=1.0, momentum=0.9) for _ in range(2))
    driver, driver_alone = DRIVERS[name](opt), DRIVERS[name](alone)
    for _ in range(2):
        driver.step()
        driver_alone.step()
    options = {"weight_decay": 0.1} if factor is None else {"lr": opt.lr * factor}
    opt.set("head", **options)
    group, new = opt.param_groups
    assert new["initial_lr"] == pytest.approx(group["initial_lr"] * (factor or 1.0), rel=1e-12)
    assert driver.get_last_lr() == opt.lr if isinstance(opt.lr, list) else [opt.lr] * 2
    for _ in range(8):
        driver.step()
        driver_alone.step()
        assert group["lr"] == alone.lr
        assert new["lr"] == pytest.approx(alone.lr * (factor or 1.0), rel=1e-9)
        assert driver.get_last_lr() == [group["lr"], new["lr"]]
        opt.step(grads_of(0))


@pytest.mark.parametrize("name", [name for name in DRIVERS if name != "MultiplicativeLR"])
def test_states_of_drivers_after_a_split(name: str) -> None:
    """A driver's state loads into one that was built before the split of its optimizer, and after it."""
    opt = fastopt.SGD(model(), lr=1.0, momentum=0.9)
    driver = DRIVERS[name](opt)
    driver.step()
    opt.set("head", lr=opt.lr * 0.5)
    driver.step()
    saved = driver.state_dict(), opt.state_dict()
    for is_built_first in (True, False):
        other = fastopt.SGD(model(), lr=1.0, momentum=0.9)
        again = DRIVERS[name](other) if is_built_first else None
        other.set("head", lr=0.5)
        again = again or DRIVERS[name](other)
        other.load_state_dict(saved[1])
        again.load_state_dict(saved[0])
        assert other.lr == opt.lr
        following = [(again.step(), again.get_last_lr())[1] for _ in range(5)]
        fresh = fastopt.SGD(model(), lr=1.0, momentum=0.9)
        expected = DRIVERS[name](fresh)
        expected.step()
        fresh.set("head", lr=fresh.lr * 0.5)
        expected.step()
        assert following == [(expected.step(), expected.get_last_lr())[1] for _ in range(5)]


def test_plateau_and_a_whole_group() -> None:
    opt = fastopt.SGD(model(), lr=1.0)
    driver = lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=0, min_lr=[0.3])
    driver.step(1.0)
    opt.set("head", lr=0.5)
    driver.step(2.0)
    assert opt.lr == [0.5, 0.3]
    absolute = fastopt.SGD(model(), lr=1.0)
    follower = lr_scheduler.LambdaLR(absolute, halved_each_time)
    follower.step()
    absolute.set("*", lr=0.05)  # of 0.5
    follower.step()
    assert absolute.lr == pytest.approx(0.025)


def test_groups_that_a_driver_does_not_know() -> None:
    opt = fastopt.SGD({"a": np.ones(1), "b": np.ones(1)}, lr=1.0)
    driver = lr_scheduler.StepLR(opt, 1, 0.5)
    opt.add_param_group({"params": {"c": np.ones(1)}, "lr": 0.1})
    opt.set("b", lr=0.4)
    driver.step()
    assert opt.lr == pytest.approx([0.5, 0.05, 0.2])
    absolute = fastopt.SGD({"a": np.ones(1), "b": np.ones(1)}, lr=1.0)
    follower = lr_scheduler.LambdaLR(absolute, halved_each_time)
    absolute.add_param_group({"params": {"c": np.ones(1)}, "lr": 0.1})
    absolute.set("b", lr=0.4)
    with pytest.raises(ValueError, match="it was built for 1 groups, now there are 3"):
        follower.step()


def test_drivers_that_are_gone() -> None:
    opt = fastopt.SGD(model(), lr=1.0)
    driver = lr_scheduler.StepLR(opt, 1)
    assert len(opt.parts.groups.followers) == 1
    del driver
    opt.set("head", lr=0.5)
    assert len(opt.parts.groups.followers) == 0
