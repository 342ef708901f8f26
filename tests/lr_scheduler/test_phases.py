"""Drivers one after another, on loaded optimizers, and continued: hand-computed values and those of live torch."""

from __future__ import annotations

import copy
import itertools
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver_stacks import ORDERS, OURS, OurRun, Stack, TheirRun, random_driver, torchs_module

import fastopt
from fastopt import lr_scheduler

GRAD = np.zeros(2)


def sgd(lr: float = 0.1) -> fastopt.Optimizer:
    return fastopt.SGD(np.ones(2), lr=lr, momentum=0.9)


def follow(opt: fastopt.Optimizer, scheduler: Any, steps: int) -> list[float]:
    found = [opt.param_groups[0]["lr"]]
    for _ in range(steps):
        opt.step(GRAD)
        scheduler.step()
        found.append(opt.param_groups[0]["lr"])
    return found


def loaded(opt: fastopt.Optimizer, folder: Path, way: str) -> fastopt.Optimizer:
    """Return an optimizer that goes on from another's state."""
    other = sgd(lr=7.0)
    if way == "state_dict":
        other.load_state_dict(opt.state_dict())
    else:
        fastopt.save(folder / "run.npz", opt)
        fastopt.load(folder / "run.npz").restore(other)
    return other


# --- A driver that begins on a loaded optimizer -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["state_dict", "restore"])
def test_a_new_driver_makes_its_step_0_on_a_loaded_optimizer(way: str, tmp_path: Path) -> None:
    opt = sgd()
    follow(opt, lr_scheduler.ConstantLR(opt, 1.0), 3)
    opt = loaded(opt, tmp_path, way)
    scheduler = lr_scheduler.LinearLR(opt, 0.1, total_iters=4)
    assert follow(opt, scheduler, 5) == pytest.approx([0.01, 0.0325, 0.055, 0.0775, 0.1, 0.1], rel=1e-15)


def test_after_a_phase_that_ended_at_0_the_next_begins_at_its_own_rate(tmp_path: Path) -> None:
    opt = sgd()
    assert follow(opt, lr_scheduler.PolynomialLR(opt, 2), 2) == [0.1, 0.05, 0.0]
    cases: list[tuple[Callable[[fastopt.Optimizer], Any], float]] = [
        (lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: 0.5), 0.05),
        (lambda opt: lr_scheduler.CyclicLR(opt, 0.02, 0.3), 0.02),
        (lambda opt: lr_scheduler.OneCycleLR(opt, 0.5, 40), 0.02),
        (lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3), 0.1),
        (lambda opt: lr_scheduler.SequentialLR(opt, [lr_scheduler.LinearLR(opt, 0.1)], []), 0.01),
        (lambda opt: lr_scheduler.LinearLR(opt, 0.1), 0.0),  # as in torch, a factor of the present rate
    ]
    for make, rate in cases:
        other = loaded(opt, tmp_path, "state_dict")
        make(other)
        assert other.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-15)


def test_a_loaded_driver_has_the_loaded_rate_whatever_another_hand_wrote_before_it_was_saved() -> None:
    opt = sgd()
    scheduler = lr_scheduler.LinearLR(opt, 0.1, total_iters=4)
    follow(opt, scheduler, 2)
    opt.param_groups[0]["lr"] = 0.3
    saved = opt.state_dict(), scheduler.state_dict()
    for order in ORDERS:
        other = sgd(7.0)
        for what in order:
            if what == "b":
                again = lr_scheduler.LinearLR(other, 0.1, total_iters=4)
            elif what == "o":
                other.load_state_dict(saved[0])
            else:
                again.load_state_dict(saved[1])
        assert other.param_groups[0]["lr"] == 0.3


def test_only_what_building_changed_is_taken_back() -> None:
    """As in torch, loading a driver's state leaves the rates alone otherwise."""
    opt = sgd()
    saved = lr_scheduler.ConstantLR(opt, 0.1).state_dict()

    def written(opt: fastopt.Optimizer, scheduler: Any) -> None:
        opt.param_groups[0]["lr"] = 0.4

    def stepped(opt: fastopt.Optimizer, scheduler: Any) -> None:
        scheduler.step()

    def both_stepped(opt: fastopt.Optimizer, scheduler: Any) -> None:
        opt.step(GRAD)

    for change in (written, stepped, both_stepped):
        other = sgd()
        other.load_state_dict(opt.state_dict())
        scheduler = lr_scheduler.ConstantLR(other, 0.1)
        change(other, scheduler)
        before = other.param_groups[0]["lr"]
        scheduler.load_state_dict(saved)
        assert other.param_groups[0]["lr"] == before
    fresh = sgd()
    scheduler = lr_scheduler.ConstantLR(fresh, 0.1)
    scheduler.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] == pytest.approx(0.01)


def test_two_drivers_that_are_loaded_one_by_one_have_the_loaded_rate() -> None:
    def build(opt: fastopt.Optimizer) -> list[Any]:
        return [lr_scheduler.ConstantLR(opt, 0.5), lr_scheduler.LinearLR(opt, 0.1), lr_scheduler.ReduceLROnPlateau(opt)]

    opt = sgd()
    drivers = build(opt)
    for driver in drivers[:2]:
        driver.step()
    rate = opt.param_groups[0]["lr"]
    for order in itertools.permutations(range(3)):
        other = sgd()
        other.load_state_dict(opt.state_dict())
        again = build(other)
        for k in order:
            again[k].load_state_dict(drivers[k].state_dict())
        assert other.param_groups[0]["lr"] == rate
    other = sgd()
    other.load_state_dict(opt.state_dict())
    again = build(other)
    begun = other.param_groups[0]["lr"]
    again[2].load_state_dict(drivers[2].state_dict())  # it wrote no rate, so that none is taken back
    assert other.param_groups[0]["lr"] == begun != rate


def test_the_initial_rate_of_a_group_that_a_loaded_driver_found_is_not_set() -> None:
    """The group was added after the driver was built: the next driver finds the rate that it begins with."""
    groups = [{"params": np.ones(1), "lr": 0.1}]
    opt = fastopt.SGD(groups)
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    opt.add_param_group({"params": np.ones(1), "lr": 0.3})
    for order in ORDERS:
        other = fastopt.SGD([*groups, {"params": np.ones(1)}])
        for what in order:
            if what == "b":
                again = lr_scheduler.ExponentialLR(other, 0.5)
            elif what == "o":
                other.load_state_dict(opt.state_dict())
            else:
                again.load_state_dict(scheduler.state_dict())
        assert ["initial_lr" in group for group in other.param_groups] == [True, False]


def test_torch_loses_the_rate_in_one_order() -> None:
    """The reason why the comparison with torch resumes torch in another order."""
    pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    stack: Stack = ("LinearLR", {"start_factor": 0.1, "total_iters": 4}, [])
    rates = []
    for run in (OurRun([0.1], "SGD"), TheirRun([0.1], "SGD")):
        run.build(stack)
        run.step()
        saved = run.save()
        run.opt = run.optimizer([0.1])
        run.load(saved)
        run.build(stack)
        run.driver.load_state_dict(copy.deepcopy(saved.driver))
        rates += run.rates
    assert rates == pytest.approx([0.0325, 0.00325])


# --- last_epoch -------------------------------------------------------------------------------------------------------


def test_last_epoch_on_the_optimizer_that_a_driver_drove() -> None:
    opt = sgd(1.0)
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    follow(opt, scheduler, 3)
    again = lr_scheduler.ExponentialLR(opt, 0.5, last_epoch=scheduler.last_epoch - 1)
    assert (opt.param_groups[0]["lr"], again.last_epoch) == (0.125, 3)
    assert follow(opt, again, 1) == [0.125, 0.0625]


def test_every_driver_goes_on_by_last_epoch_as_torch() -> None:
    """The rates are those of one driver, at each step; torch's too, where it doesn't apply a factor twice."""
    pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    theirs, rng, names = torchs_module(), random.Random(3), set()
    # torch's StepLR, MultiStepLR and ConstantLR apply a factor that is due at the step again, WarmRestarts forgets that
    # its periods grow, and SWALR counts its steps from 0.
    wrong_in_torch = {"StepLR", "MultiStepLR", "ConstantLR", "CosineAnnealingWarmRestarts", "SWALR"}
    for _ in range(45):
        name, arguments, _ = stack = random_driver(rng, set())
        names.add(name)
        expected = OurRun([0.1, 0.05], "SGD")
        expected.build(stack)
        going_on, their_run = OurRun([0.1, 0.05], "SGD"), TheirRun([0.1, 0.05], "SGD")
        going_on.build(stack)
        their_run.build(stack)
        for _ in range(7):
            for run in (expected, going_on, their_run):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run.step()
            going_on.driver = OURS.drivers[name](going_on.opt, last_epoch=going_on.driver.last_epoch - 1, **arguments)
            assert going_on.rates == pytest.approx(expected.rates, rel=1e-12, abs=1e-15), stack
            assert going_on.driver.last_epoch == expected.driver.last_epoch
            if name not in wrong_in_torch:
                their_run.driver = theirs.drivers[name](
                    their_run.opt, last_epoch=their_run.driver.last_epoch - 1, **arguments
                )
                assert their_run.rates == pytest.approx(going_on.rates, rel=1e-12, abs=1e-15), stack
    assert len(names) == 14


def test_sequential_goes_on_by_last_epoch_with_the_rate_of_the_next_step() -> None:
    """torch begins at the rate of step 0."""

    def build(opt: fastopt.Optimizer, last_epoch: int) -> Any:
        drivers = [lr_scheduler.LinearLR(opt, 0.5, total_iters=2), lr_scheduler.ExponentialLR(opt, 0.5)]
        return lr_scheduler.SequentialLR(opt, drivers, [3], last_epoch=last_epoch)

    rates = [0.5, 0.75, 1.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
    opt = sgd(1.0)
    assert follow(opt, build(opt, -1), 7) == rates
    for last_epoch in range(-1, 6):
        opt = sgd(1.0)
        scheduler = build(opt, last_epoch)
        assert scheduler.last_epoch == last_epoch + 1
        assert scheduler.get_last_lr() == [rates[last_epoch + 1]]
        assert follow(opt, scheduler, 2)[: 7 - last_epoch] == rates[last_epoch + 1 : last_epoch + 4]


def test_sequential_around_chained_begins_each_at_step_0() -> None:
    """torch makes one step too many: its rates are 0.125, 0.0625, ... here."""
    opt = sgd(1.0)
    chain = lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(opt, 0.5, 9), lr_scheduler.ExponentialLR(opt, 0.5)])
    inner = lr_scheduler.SequentialLR(
        opt, [lr_scheduler.ExponentialLR(opt, 0.5), lr_scheduler.ExponentialLR(opt, 0.1)], [2]
    )
    scheduler = lr_scheduler.SequentialLR(opt, [chain, inner], [2])
    assert follow(opt, scheduler, 6) == pytest.approx([0.5, 0.25, 1.0, 0.5, 1.0, 0.1, 0.01])


# --- initial_lr -------------------------------------------------------------------------------------------------------


def test_the_initial_rate_is_in_the_group_and_may_be_written() -> None:
    opt = fastopt.SGD([{"params": np.ones(2), "lr": 0.5, "initial_lr": 2.0}, {"params": np.ones(2), "lr": 0.25}])
    opt.step([GRAD, GRAD])
    opt.param_groups[1]["initial_lr"] = 1.0
    opt.step([GRAD, GRAD])
    scheduler = lr_scheduler.LambdaLR(opt, lambda epoch: 0.5**epoch, last_epoch=2)
    assert scheduler.base_lrs == [2.0, 1.0]
    assert scheduler.get_last_lr() == [0.25, 0.125]
    opt.add_param_group({"params": np.ones(2), "lr": 0.1, "initial_lr": 4.0})
    scheduler = lr_scheduler.LambdaLR(opt, lambda epoch: 0.5**epoch, last_epoch=1)
    assert scheduler.get_last_lr() == [0.5, 0.25, 1.0]
    assert [group["initial_lr"] for group in opt.param_groups] == [2.0, 1.0, 4.0]
    saved = json.loads(json.dumps(opt.state_dict()["param_groups"]))
    assert [group["initial_lr"] for group in saved] == [2.0, 1.0, 4.0]
    other = fastopt.SGD([{"params": np.ones(2), "lr": 0.5} for _ in range(3)])
    other.load_state_dict({**other.state_dict(), "param_groups": saved})
    assert [group["initial_lr"] for group in other.param_groups] == [2.0, 1.0, 4.0]
    for wrong, error in [(-1.0, ValueError), ("x", TypeError)]:
        opt.param_groups[0]["initial_lr"] = wrong
        with pytest.raises(error, match=r"initial_lr=.*: expected a finite number of at least 0"):
            opt.step([GRAD] * 3)
        with pytest.raises(error, match=r"param_groups\[0\]: initial_lr=.*: expected a finite number of at least 0"):
            lr_scheduler.StepLR(opt, 3)


def test_a_driver_costs_no_planned_step() -> None:
    opt = fastopt.SGD({"W": np.ones(2)}, lr=0.1)
    if opt.backend != "native":
        pytest.skip("plans are native")
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    for _ in range(10):
        opt.step({"W": GRAD})
        scheduler.step()
    assert opt.planned_steps >= 7
    before = opt.planned_steps
    opt.param_groups[0]["initial_lr"] = 0.3
    for _ in range(3):
        opt.step({"W": GRAD})
    assert opt.planned_steps == before + 3


# --- single drivers ---------------------------------------------------------------------------------------------------


def test_cosine_annealing_to_the_base_rate_pulls_another_hands_rate_back() -> None:
    opt = sgd()
    scheduler = lr_scheduler.CosineAnnealingLR(opt, 4, eta_min=0.1)
    assert follow(opt, scheduler, 1) == [0.1, 0.1]
    opt.param_groups[0]["lr"] = 0.5
    scheduler.step()
    heights = [(1 + np.cos(np.pi * n / 4)) / 2 for n in range(5)]
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 + 0.4 * heights[2] / heights[1])
    assert follow(opt, scheduler, 2)[1:] == pytest.approx([0.1 + 0.4 * heights[3] / heights[1], 0.1])


def test_another_hand_moves_a_rate_whose_base_is_0() -> None:
    opt = sgd(0.0)
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    assert follow(opt, scheduler, 1) == [0.0, 0.0]
    opt.param_groups[0]["lr"] = 0.4
    assert follow(opt, scheduler, 2) == [0.4, 0.2, 0.1]


def test_swalr_by_hand() -> None:
    opt = sgd(1.0)
    scheduler = lr_scheduler.SWALR(opt, 0.2, anneal_epochs=4, anneal_strategy="linear")
    assert follow(opt, scheduler, 5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    opt = sgd(1.0)
    assert follow(opt, lr_scheduler.SWALR(opt, 0.2, anneal_epochs=2), 3) == pytest.approx([1.0, 0.6, 0.2, 0.2])
    opt = sgd(1.0)
    assert follow(opt, lr_scheduler.SWALR(opt, 0.2, anneal_epochs=0), 1) == [0.2, 0.2]


def test_a_subclass_may_define_get_lr_or_step() -> None:
    class AtLeast(lr_scheduler.ExponentialLR):
        def get_lr(self) -> list[float]:
            assert self._get_lr_called_within_step
            return [max(lr, 0.3) for lr in super().get_lr()]

        _get_lr_called_within_step = False

    opt = sgd(1.0)
    scheduler = AtLeast(opt, 0.5)
    assert follow(opt, scheduler, 3) == [1.0, 0.5, 0.3, 0.3]
    assert "gamma" in scheduler.state_dict()

    class Halved(lr_scheduler.LRScheduler):
        def step(self, epoch: int | None = None) -> None:
            self.last_epoch += 1
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * 0.5**self.last_epoch

    opt = sgd(1.0)
    halved = Halved(opt)
    assert follow(opt, halved, 2) == [1.0, 0.5, 0.25]
    assert halved.last_epoch == 2

    class Closed(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            return [group["lr"] * 0.5 for group in self.optimizer.param_groups]

        def _get_closed_form_lr(self) -> list[float]:
            return [lr * 0.25**self.last_epoch for lr in self.base_lrs]

    opt = sgd(1.0)
    closed = Closed(opt)
    closed.step(2)
    assert (opt.param_groups[0]["lr"], closed.last_epoch) == (0.0625, 2)
    other = Closed(sgd(1.0))
    other.load_state_dict(json.loads(json.dumps(closed.state_dict())))
    assert other.last_epoch == 2


ARRAYS: list[tuple[str, Callable[[fastopt.Optimizer, Any], Any]]] = [
    ("CyclicLR", lambda opt, array: lr_scheduler.CyclicLR(opt, array, 1.0, 2)),
    ("CyclicLR in a list", lambda opt, array: lr_scheduler.CyclicLR(opt, [array], 1.0, 2)),
    ("max_lr", lambda opt, array: lr_scheduler.CyclicLR(opt, 0.1, array, 2)),
    ("gamma", lambda opt, array: lr_scheduler.MultiStepLR(opt, [1, 2], array)),
    ("min_lr", lambda opt, array: lr_scheduler.ReduceLROnPlateau(opt, min_lr=array, patience=0)),
    ("swa_lr", lambda opt, array: lr_scheduler.SWALR(opt, array, 2)),
]


@pytest.mark.parametrize(("name", "make"), ARRAYS)
def test_arrays_given_as_numbers_are_copied(name: str, make: Callable[[fastopt.Optimizer, Any], Any]) -> None:
    array, opt, expected_opt = np.array(0.5), sgd(), sgd()
    scheduler, expected = make(opt, array), make(expected_opt, 0.5)
    array[...] = 0.125
    for _ in range(4):
        for driver in (scheduler, expected):
            driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))
        assert opt.param_groups[0]["lr"] == expected_opt.param_groups[0]["lr"]
    json.dumps(scheduler.state_dict())


def test_a_groups_array_is_copied_and_the_last_rates_are_a_copy() -> None:
    opt, array = sgd(), np.array(0.5)
    opt.param_groups[0]["lr"] = array
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    array[...] = 9.0
    assert follow(opt, scheduler, 1) == [0.5, 0.25]
    scheduler.get_last_lr()[0] = 9.0
    assert scheduler.get_last_lr() == [0.25]


def test_a_rate_that_stays_is_the_same_object() -> None:
    """A planned step compares addresses."""
    opt = sgd()
    scheduler = lr_scheduler.StepLR(opt, 3)
    before = opt.param_groups[0]["lr"]
    scheduler.step()
    assert opt.param_groups[0]["lr"] is before
