"""A driver goes on from its own state on an optimizer that keeps the options of the code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver_stacks import ORDERS

import fastopt
from fastopt import lr_scheduler as ours

Make = Callable[[fastopt.Optimizer], Any]

DRIVERS: dict[str, Make] = {
    "StepLR": lambda opt: ours.StepLR(opt, 2, 0.5),
    "MultiStepLR": lambda opt: ours.MultiStepLR(opt, [1, 3], 0.5),
    "ConstantLR": lambda opt: ours.ConstantLR(opt, 0.5, 3),
    "LinearLR": lambda opt: ours.LinearLR(opt, 0.1, 1.0, 4),
    "ExponentialLR": lambda opt: ours.ExponentialLR(opt, 0.5),
    "PolynomialLR": lambda opt: ours.PolynomialLR(opt, 6, 2.0),
    "CosineAnnealingLR": lambda opt: ours.CosineAnnealingLR(opt, 3, 0.001),
    "CosineAnnealingWarmRestarts": lambda opt: ours.CosineAnnealingWarmRestarts(opt, 2, 2, 0.001),
    "LambdaLR": lambda opt: ours.LambdaLR(opt, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda opt: ours.MultiplicativeLR(opt, lambda epoch: 0.9),
    "CyclicLR": lambda opt: ours.CyclicLR(opt, 0.01, 0.1, 2),
    "OneCycleLR": lambda opt: ours.OneCycleLR(opt, 0.5, 20),
    "SWALR": lambda opt: ours.SWALR(opt, 0.01, 5),
    "SequentialLR": lambda opt: ours.SequentialLR(opt, [ours.LinearLR(opt, 0.1), ours.CosineAnnealingLR(opt, 5)], [2]),
    "ChainedScheduler": lambda opt: ours.ChainedScheduler([ours.ConstantLR(opt, 0.5), ours.ExponentialLR(opt, 0.9)]),
    "a cycle second": lambda opt: ours.SequentialLR(opt, [ours.LinearLR(opt), ours.CyclicLR(opt, 0.01, 0.1, 4)], [2]),
    "ReduceLROnPlateau": lambda opt: ours.ReduceLROnPlateau(opt, factor=0.5, patience=0),
}

every_driver = pytest.mark.parametrize("make", DRIVERS.values(), ids=list(DRIVERS))


def sgd(clip_global_norm: float = 1.0) -> fastopt.Optimizer:
    groups = [{"params": np.ones(2)}, {"params": np.ones(2), "lr": 0.02}]
    return fastopt.SGD(groups, lr=0.1, momentum=0.9, clip_global_norm=clip_global_norm)


def lrs(opt: fastopt.Optimizer) -> list[float]:
    return [group["lr"] for group in opt.param_groups]


def written(opt: fastopt.Optimizer) -> list[tuple[float, float]]:
    """Return the options that drivers write."""
    return [(group["lr"], group["momentum"]) for group in opt.param_groups]


def rates(opt: fastopt.Optimizer, driver: Any, steps: int) -> list[float]:
    """Return the rates of both groups now and after each of some steps."""
    found = lrs(opt)
    for _ in range(steps):
        opt.step([np.ones(2), np.ones(2)])
        driver.step(*([1.0] if isinstance(driver, ours.ReduceLROnPlateau) else []))
        found += lrs(opt)
    return found


@every_driver
def test_the_rates_are_those_of_the_uninterrupted_run(make: Make, tmp_path: Path) -> None:
    opt = sgd()
    driver = make(opt)
    rates(opt, driver, 3)
    fastopt.save(tmp_path / "run.npz", opt, extra=driver.state_dict())
    at_load = written(opt)
    expected, loaded = rates(opt, driver, 3), fastopt.load(tmp_path / "run.npz")
    for order in ORDERS:
        other = sgd(clip_global_norm=5.0)
        for what in order:
            if what == "b":
                again = make(other)
            elif what == "o":
                loaded.restore(other, options=False)
            else:
                again.load_state_dict(loaded.extra)
        assert written(other) == at_load
        assert rates(other, again, 3) == expected
        assert other.clip_global_norm == 5.0


@every_driver
def test_a_rate_that_another_hand_wrote_stays(make: Make) -> None:
    opt = sgd()
    driver = make(opt)
    rates(opt, driver, 3)
    saved = opt.state_dict(), driver.state_dict()
    for order in ORDERS:
        other = sgd()
        for what in order:
            if what == "b":
                again = make(other)
                other.lr = [0.3, 0.4]
            elif what == "o":
                other.load_state_dict(saved[0], options=False)
            else:
                again.load_state_dict(saved[1])
        assert other.lr == [0.3, 0.4]


@every_driver
def test_after_a_step_a_driver_only_takes_its_own_state(make: Make) -> None:
    """As on any optimizer: rates are written by steps."""
    opt = sgd()
    driver = make(opt)
    saved = opt.state_dict(), driver.state_dict()
    rates(opt, driver, 3)
    opt.load_state_dict(saved[0], options=False)
    rates(opt, driver, 1)
    before = lrs(opt)
    driver.load_state_dict(saved[1])
    assert lrs(opt) == before
    driver = make(opt)
    driver.load_state_dict(saved[1])
    rates(opt, driver, 1)
    before = lrs(opt)
    opt.load_state_dict(saved[0], options=False)
    assert lrs(opt) == before


@pytest.mark.parametrize("options", [True, False])
def test_a_driver_whose_building_failed_leaves_the_load_as_it_was(options: bool) -> None:
    opt = sgd()
    driver = ours.SequentialLR(opt, [ours.LinearLR(opt), ours.LambdaLR(opt, lambda epoch: 0.5)], [1])
    rates(opt, driver, 2)
    saved = opt.state_dict(), driver.state_dict()
    other, factors = sgd(), [1.0]
    members = [ours.LinearLR(other), ours.LambdaLR(other, lambda epoch: factors[epoch])]
    other.load_state_dict(saved[0], options=options)
    with pytest.raises(IndexError):
        ours.SequentialLR(other, members, [1], last_epoch=2)
    factors += [0.5] * 3
    again = ours.SequentialLR(other, members, [1])
    again.load_state_dict(saved[1])
    assert lrs(other) == lrs(opt)


@every_driver
def test_the_options_alone_are_loaded_with_a_driver(make: Make) -> None:
    opt = sgd()
    driver = make(opt)
    rates(opt, driver, 3)
    saved, at_load = (opt.state_dict(), driver.state_dict()), written(opt)
    expected = rates(opt, driver, 3)
    for order in ORDERS:
        other = sgd()
        for what in order:
            if what == "b":
                again = make(other)
            elif what == "o":
                other.load_state_dict(saved[0], state=False)
            else:
                again.load_state_dict(saved[1])
        assert (written(other), other.step_count) == (at_load, 0)
        assert rates(other, again, 3) == expected
