"""Steps of drivers that raise: all is as before, and a retry gives the right rates. Groups added in the middle."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from driver_stacks import OURS, OurRun, Power, Stack, TheirRun, random_driver, random_stack

import fastopt
from fastopt import lr_scheduler


class Fails(Exception):
    pass


class Flaky(Power):
    """A function of a driver that raises when it is called after some further calls."""

    calls_left: float = np.inf

    def __call__(self, epoch: float) -> float:
        Flaky.calls_left -= 1
        if Flaky.calls_left < 0:
            raise Fails if epoch else KeyboardInterrupt
        return super().__call__(epoch)


class Own(OURS.drivers["Own"]):  # type: ignore[misc, name-defined]
    """A driver of a user's own that writes before it raises."""

    counter = 0

    def get_lr(self) -> list[float]:
        self.counter += 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * 0.9
        Flaky(1.0)(self.last_epoch)
        return super().get_lr()  # type: ignore[no-any-return]


OURS_AND_OWN = OURS._replace(drivers={**OURS.drivers, "Own": Own})


def flaky(stack: Stack) -> Stack:
    """Return a stack with functions that raise."""
    name, arguments, members = stack
    changed = {key: Flaky(value.base) if isinstance(value, Power) else value for key, value in arguments.items()}
    return name, changed, [flaky(member) for member in members]


def nested(rng: random.Random, depth: int = 2) -> Stack:
    """Return a stack with anything in anything."""
    if depth == 0 or rng.random() < 0.3:
        return random_driver(rng, {"OneCycleLR"})
    members = [nested(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        return "ChainedScheduler", {}, members
    return "SequentialLR", {"milestones": sorted(rng.sample(range(1, 9), len(members) - 1))}, members


def contents(run: OurRun) -> Any:
    """Return all that a driver's step may change."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in run.opt.param_groups]
    return copy.deepcopy((groups, run.driver and run.driver.state_dict()))


def failing(action: Callable[[], Any], run: OurRun, calls: float) -> None:
    """Do it, and if it raises compare and do it again."""
    before = contents(run)
    Flaky.calls_left = calls
    try:
        action()
    except (Fails, KeyboardInterrupt):
        Flaky.calls_left = np.inf
        assert contents(run) == before
        action()
    finally:
        Flaky.calls_left = np.inf


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 250), marks=pytest.mark.exhaustive)], ids=len)
def test_a_step_that_raises_changes_nothing_and_can_be_made_again(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OurRun, "module", OURS_AND_OWN)
    for seed in seeds:
        rng = random.Random(seed)
        stack, kind = flaky(nested(rng)), rng.choice(["SGD", "Adam"])
        run, expected = OurRun([0.1, 0.05], kind), OurRun([0.1, 0.05], kind)
        expected.build(stack)
        # The members of a stack are built one by one.
        failing(lambda: run.build(stack), run, np.inf if stack[2] else rng.randint(0, 1))  # noqa: B023
        assert contents(run) == contents(expected)
        for _ in range(10):
            failing(run.driver.step, run, rng.randint(0, 4))
            expected.driver.step()
            assert contents(run) == contents(expected), stack


@pytest.mark.parametrize("last_epoch", [-1, 4])
def test_building_a_sequential_that_fails_changes_nothing(last_epoch: int) -> None:
    run = OurRun([0.1, 0.05], "SGD")
    run.driver = lr_scheduler.LambdaLR(run.opt, Flaky(0.5))
    members = [run.driver, lr_scheduler.MultiplicativeLR(run.opt, Flaky(0.9))]
    failing(lambda: lr_scheduler.SequentialLR(run.opt, members, [2], last_epoch), run, 1 if last_epoch == -1 else 9)
    assert run.rates == pytest.approx([0.1, 0.05] if last_epoch == -1 else [0.05 * 0.9**6, 0.025 * 0.9**6])


def test_a_failed_step_at_an_epoch_changes_nothing() -> None:
    opt = fastopt.SGD(np.ones(1), lr=0.1)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(opt, 3)
    scheduler.step(1.5)
    saved = scheduler.state_dict()
    opt.add_param_group({"params": np.ones(1)})
    for epoch in (2.25, None):
        with pytest.raises(ValueError, match="it was built for 1 groups, now there are 2"):
            scheduler.step(epoch)
        assert scheduler.state_dict() == saved
    for driver in (lr_scheduler.StepLR(opt, 2), lr_scheduler.OneCycleLR(opt, 0.1, 9, cycle_momentum=False)):
        for epoch in (-1, 1.5):
            with pytest.raises((ValueError, TypeError), match=f"epoch={epoch}: expected a whole number of at least 0"):
                driver.step(epoch)  # type: ignore[arg-type]


def test_momentums_are_as_before_too() -> None:
    class Momentum(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            for group in self.optimizer.param_groups:
                group["momentum"] = 0.1 * self.last_epoch
            return [group["lr"] for group in self.optimizer.param_groups]

    run = OurRun([0.1, 0.05], "SGD")
    cycle = lr_scheduler.CyclicLR(run.opt, 0.01, 0.1, 5, scale_fn=Flaky(0.9), scale_mode="iterations")
    run.driver = cycle
    for calls in range(3):  # one of the rates, one of the momentums
        failing(cycle.step, run, calls)
    for first in (cycle, Momentum(run.opt)):
        run.driver = lr_scheduler.ChainedScheduler([first, lr_scheduler.LambdaLR(run.opt, Flaky(0.5))])
        for calls in range(4):
            failing(run.driver.step, run, calls)


def test_get_lr_with_too_few_rates_is_an_error() -> None:
    class Short(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            return self.base_lrs[: 2 - self.last_epoch]

    opt = fastopt.SGD([{"params": np.ones(1)}, {"params": np.ones(1)}], lr=0.1)
    scheduler = Short(opt)
    with pytest.raises(ValueError, match=r"Short.get_lr: expected a rate for each of the 2 groups, got \[0.1\]"):
        scheduler.step()
    assert scheduler.last_epoch == 0


GROWING = {
    "ExponentialLR": {"gamma": 1e200},
    "StepLR": {"step_size": 1, "gamma": 10**200},
    "MultiStepLR": {"milestones": [1, 2], "gamma": 1e200},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 1, "mode": "exp_range", "gamma": 1e200},
}


@pytest.mark.parametrize(("name", "arguments"), GROWING.items(), ids=list(GROWING))
def test_a_rate_too_large_for_a_float_is_an_error(name: str, arguments: dict[str, Any]) -> None:
    opt = fastopt.SGD(np.ones(1), lr=1.0)
    driver = getattr(lr_scheduler, name)(opt, **arguments)
    driver.step()
    before = driver.state_dict(), opt.param_groups[0]["lr"]
    for epoch in ((), (7,)):
        with pytest.raises(ValueError, match=f"{name}: the rate of step . is too large for a float"):
            driver.step(*epoch)
        assert (driver.state_dict(), opt.param_groups[0]["lr"]) == before


# --- Groups added in the middle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 150), marks=pytest.mark.exhaustive)], ids=len)
def test_drivers_go_on_with_new_groups_where_torchs_do_else_nothing_changes(seeds: range) -> None:
    pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    for seed in seeds:
        rng = random.Random(seed)
        stack = random_stack(rng, set())
        ours, theirs = OurRun([0.1, 0.05], "SGD"), TheirRun([0.1, 0.05], "SGD")
        added_at = rng.randint(0, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours.build(stack)
            theirs.build(stack)
            for step in range(20):
                if step == added_at:
                    ours.add_group(0.3)
                    theirs.add_group(0.3)
                try:
                    theirs.step()
                except (ValueError, KeyError):
                    before = contents(ours)
                    for _ in range(2):
                        with pytest.raises(ValueError, match=r"groups|param_groups\[2\]") as error:
                            ours.driver.step()
                        assert "zip" not in str(error.value)
                    assert contents(ours) == before
                    break
                ours.step()
                assert ours.rates == pytest.approx(theirs.rates, rel=1e-9, abs=1e-13), stack
                if min(ours.rates) < 0:
                    break


def test_plateau_goes_on_with_new_groups_as_torch() -> None:
    pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    for min_lr in (0.01, [0.01, 0.02]):
        ours, theirs = OurRun([0.1, 0.05], "SGD"), TheirRun([0.1, 0.05], "SGD")
        for run in (ours, theirs):
            run.driver = run.module.drivers["ReduceLROnPlateau"](run.opt, patience=0, factor=0.5, min_lr=min_lr)
            run.driver.step(1.0)
            run.add_group(0.3)
            run.driver.step(0.5)
        for metric in (0.5, 0.4, 0.4, 0.4):
            try:
                theirs.driver.step(metric)
            except RuntimeError:
                before = contents(ours)
                for _ in range(2):
                    with pytest.raises(ValueError, match="min_lr has 2 rates, now there are 3 groups; append"):
                        ours.driver.step(metric)
                assert contents(ours) == before
                ours.driver.min_lrs.append(0.03)
                ours.driver.step(metric)
                assert ours.rates == [0.05, 0.025, 0.15]
                break
            ours.driver.step(metric)
            assert ours.rates == pytest.approx(theirs.rates)
            assert ours.driver.best == theirs.driver.best
        assert (len(ours.driver.min_lrs), isinstance(min_lr, list)) in [(3, False), (3, True)]


def test_states_of_runs_with_added_groups() -> None:
    opt = fastopt.SGD({"a": np.ones(1)}, lr=0.1)
    scheduler = lr_scheduler.LinearLR(opt, 0.5, total_iters=4)
    scheduler.step()
    opt.add_param_group({"params": {"b": np.ones(1)}, "lr": 0.3})
    scheduler.step()
    saved = opt.state_dict(), scheduler.state_dict()
    other = fastopt.SGD({"a": np.ones(1)})
    other.add_param_group({"params": {"b": np.ones(1)}})
    again = lr_scheduler.LinearLR(other)
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for _ in range(3):
        scheduler.step()
        again.step()
        assert again.get_last_lr() == scheduler.get_last_lr()
    plateau = lr_scheduler.ReduceLROnPlateau(opt, min_lr=0.2, patience=0)
    old = {name: value for name, value in plateau.state_dict().items() if name != "default_min_lr"}
    other_plateau = lr_scheduler.ReduceLROnPlateau(opt)
    other_plateau.load_state_dict(old)  # from before there was this entry
    assert other_plateau.state_dict() == plateau.state_dict()


def test_the_least_rates_of_a_plateau_are_numbers() -> None:
    for bad in (np.array([0.1, 0.2]), [0.1, "0.2"], np.nan):
        opt = fastopt.SGD([{"params": np.ones(1)}, {"params": np.ones(1)}])
        with pytest.raises((TypeError, ValueError), match="min_lr"):
            lr_scheduler.ReduceLROnPlateau(opt, min_lr=bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda opt: lr_scheduler.StepLR(opt, 1),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: 0.5),
        lambda opt: lr_scheduler.OneCycleLR(opt, 0.5, 9),
        lambda opt: lr_scheduler.ChainedScheduler([lr_scheduler.CosineAnnealingWarmRestarts(opt, 3)]),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
        lambda opt: Own(opt, warmup=2),
    ],
)
def test_a_rate_that_has_become_a_schedule_is_not_overwritten(make: Callable[[fastopt.Optimizer], Any]) -> None:
    opt = fastopt.SGD(np.ones(1), lr=0.5, momentum=0.9)
    driver = make(opt)
    opt.lr = schedule = fastopt.schedules.constant(0.25)
    before = driver.state_dict()
    for _ in range(2):
        with pytest.raises(TypeError, match=r"param_groups\[0\]: lr=constant.* is a schedule already"):
            driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))
    assert (opt.lr, driver.state_dict()) == (schedule, before)
