"""torch's drivers: hand-computed values, the live ones of torch over their whole span, and resuming."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt import lr_scheduler, schedules


class Decay:
    """A callable object, whose state a driver saves."""

    def __init__(self, rate: float = 0.9) -> None:
        self.rate = rate

    def __call__(self, epoch: int) -> float:
        return self.rate**epoch


class Case(NamedTuple):
    """What builds a driver of a module (torch's or ours) for an optimizer, and how many steps its span has."""

    make: Callable[[Any, Any], Any]
    steps: int = 40
    optimizer: str = "SGD"

    def __str__(self) -> str:
        return "-".join(self.make.__code__.co_names)


CASES = [
    Case(lambda m, opt: m.LambdaLR(opt, lambda epoch: 0.9**epoch)),
    Case(lambda m, opt: m.LambdaLR(opt, [Decay(0.8), lambda epoch: 1 / (1 + epoch)])),
    Case(lambda m, opt: m.MultiplicativeLR(opt, lambda epoch: 0.95 + 0.001 * epoch)),
    Case(lambda m, opt: m.StepLR(opt, 7, gamma=0.3)),
    Case(lambda m, opt: m.StepLR(opt, 1, gamma=1.1)),
    Case(lambda m, opt: m.MultiStepLR(opt, [20, 5, 11, 11], gamma=0.5)),
    Case(lambda m, opt: m.ConstantLR(opt)),
    Case(lambda m, opt: m.ConstantLR(opt, factor=0.5, total_iters=12)),
    Case(lambda m, opt: m.LinearLR(opt)),
    Case(lambda m, opt: m.LinearLR(opt, start_factor=1.0, end_factor=0.1, total_iters=15)),
    Case(lambda m, opt: m.ExponentialLR(opt, 0.9)),
    Case(lambda m, opt: m.PolynomialLR(opt, total_iters=20, power=1.5)),
    Case(lambda m, opt: m.PolynomialLR(opt)),
    Case(lambda m, opt: m.CosineAnnealingLR(opt, 10), 65),
    Case(lambda m, opt: m.CosineAnnealingLR(opt, 7, eta_min=0.02), 65),
    Case(lambda m, opt: m.CosineAnnealingWarmRestarts(opt, 5, eta_min=0.01)),
    Case(lambda m, opt: m.CosineAnnealingWarmRestarts(opt, 3, T_mult=2), 80),
    Case(lambda m, opt: m.CyclicLR(opt, 0.01, 0.1, step_size_up=7)),
    Case(lambda m, opt: m.CyclicLR(opt, [0.01, 0.02], [0.1, 0.3], 6, 3, mode="triangular2")),
    Case(lambda m, opt: m.CyclicLR(opt, 0.01, 0.1, 7, 4, mode="exp_range", gamma=0.98, base_momentum=0.6), 50, "Adam"),
    Case(lambda m, opt: m.CyclicLR(opt, 0.01, 0.1, 5, scale_fn=lambda x: 1 / x, cycle_momentum=False)),
    Case(lambda m, opt: m.CyclicLR(opt, 0.01, 0.1, 5, scale_fn=Decay(), scale_mode="iterations")),
    Case(lambda m, opt: m.CyclicLR(opt, 0.01, 0.1, 5, cycle_momentum=False), 20, "Adagrad"),
    Case(lambda m, opt: m.OneCycleLR(opt, 0.5, total_steps=40), 39),
    Case(lambda m, opt: m.OneCycleLR(opt, [0.5, 0.2], epochs=5, steps_per_epoch=8, three_phase=True), 39, "AdamW"),
    Case(
        lambda m, opt: m.OneCycleLR(
            opt, 0.5, 50, pct_start=0.37, anneal_strategy="linear", div_factor=5, final_div_factor=7, base_momentum=0.7
        ),
        49,
    ),
    Case(
        lambda m, opt: m.SequentialLR(
            opt, [m.LinearLR(opt, 0.1, total_iters=6), m.CosineAnnealingLR(opt, 9)], milestones=[6]
        ),
    ),
    Case(
        lambda m, opt: m.SequentialLR(
            opt,
            [m.ConstantLR(opt, 0.1, 100), m.ExponentialLR(opt, 0.9), m.StepLR(opt, 3), m.LambdaLR(opt, Decay())],
            milestones=[4, 12, 25],
        ),
    ),
    Case(
        lambda m, opt: m.SequentialLR(
            opt, [m.MultiplicativeLR(opt, Decay(0.99)), m.CosineAnnealingWarmRestarts(opt, 4)], milestones=[9]
        ),
    ),
    Case(
        lambda m, opt: m.SequentialLR(
            opt, [m.MultiStepLR(opt, [3, 6]), m.MultiplicativeLR(opt, Decay(0.99))], milestones=[9]
        ),
    ),
    Case(lambda m, opt: m.ChainedScheduler([m.ConstantLR(opt, 0.1, 7), m.ExponentialLR(opt, 0.9)])),
    Case(
        lambda m, opt: m.ChainedScheduler(
            [m.LinearLR(opt, 0.5, total_iters=9), m.CosineAnnealingLR(opt, 6, eta_min=0.01), m.StepLR(opt, 5, 0.7)],
            optimizer=opt,
        ),
    ),
    Case(lambda m, opt: m.ChainedScheduler([m.LambdaLR(opt, Decay()), m.StepLR(opt, 4), m.PolynomialLR(opt, 30)])),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def ours(case: Case) -> tuple[Any, Any]:
    options: dict[str, Any] = {"momentum": 0.9} if case.optimizer == "SGD" else {}
    params = [{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(2), "lr": 0.05}]
    opt = getattr(fastopt, case.optimizer)(params, **options)
    return opt, case.make(lr_scheduler, opt)


def rates(opt: Any) -> list[float]:
    """Return the rate and momentum of each group."""
    found = []
    for group in opt.param_groups:
        found += [group["lr"], group.get("momentum", group.get("betas", (0.0,))[0])]
    return found


@every_case
# torch's own SequentialLR and CyclicLR warn of what they do
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_same_numbers_as_torch(case: Case) -> None:
    torch = pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")

    def theirs() -> tuple[Any, Any]:
        options: dict[str, Any] = {"momentum": 0.9} if case.optimizer == "SGD" else {}
        tensors = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
        groups = [{"params": [tensor], "lr": lr} for tensor, lr in zip(tensors, (0.1, 0.05), strict=True)]
        opt = getattr(torch.optim, case.optimizer)(groups, **options)
        return opt, case.make(torch.optim.lr_scheduler, opt)

    (opt, scheduler), (their_opt, their_scheduler) = ours(case), theirs()
    for epoch in range(case.steps + 1):
        assert rates(opt) == pytest.approx(rates(their_opt), rel=1e-9, abs=1e-12), epoch
        assert scheduler.get_last_lr() == pytest.approx(their_scheduler.get_last_lr(), rel=1e-9, abs=1e-12)
        assert scheduler.get_last_lr() == [group["lr"] for group in opt.param_groups]
        if epoch in (1, 8, case.steps // 2):
            saved = opt.state_dict(), scheduler.state_dict()
            their_saved = their_opt.state_dict(), their_scheduler.state_dict()
            (opt, scheduler), (their_opt, their_scheduler) = ours(case), theirs()
            opt.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
            their_opt.load_state_dict(their_saved[0])
            their_scheduler.load_state_dict(their_saved[1])
        opt.step([np.ones(2), np.ones(2)])
        scheduler.step()
        their_opt.step()
        their_scheduler.step()


@every_case
@pytest.mark.parametrize("lr", [0.3, 1, np.float32(0.3)], ids=repr)
def test_the_groups_together_have_the_rates_of_their_schedules(case: Case, lr: Any) -> None:
    opt = getattr(fastopt, case.optimizer)([{"params": np.ones(2), "lr": lr}, {"params": np.ones(2)}])
    scheduler = case.make(lr_scheduler, opt)
    for driver in getattr(scheduler, "_schedulers", [scheduler]):
        for epoch in range(case.steps):
            assert repr(driver.rates(epoch)) == repr([driver.schedule(k)(epoch) for k in range(2)])


def test_a_subclass_that_overrides_the_schedule_alone_follows_it() -> None:
    class AtLeast(lr_scheduler.StepLR):
        def schedule(self, k: int) -> Callable[[int], float]:
            decay = super().schedule(k)
            return lambda epoch: max(decay(epoch), 0.25)

    opt = fastopt.SGD([{"params": np.ones(1)}, {"params": np.ones(1), "lr": 0.5}], lr=1.0)
    scheduler = AtLeast(opt, 1, gamma=0.5)
    for expected in ([0.5, 0.25], [0.25, 0.25], [0.25, 0.25]):
        scheduler.step()
        assert scheduler.get_last_lr() == expected


def test_the_groups_together_have_the_momentums_of_their_cycles() -> None:
    lows, highs = [0.6, 0.85], [0.7, 0.95]
    for options in ({}, {"three_phase": True}, {"anneal_strategy": "linear"}):
        opt = fastopt.SGD([{"params": np.ones(2)}, {"params": np.ones(2)}], momentum=0.9)
        driver = lr_scheduler.OneCycleLR(opt, 0.5, 40, base_momentum=lows, max_momentum=highs, **options)
        cycles = [driver.schedule(k).momentum(lows[k], highs[k]) for k in range(2)]
        for epoch in range(42):
            assert driver.momentums(epoch) == [cycle(epoch) for cycle in cycles]


@every_case
def test_loading_a_driver_takes_back_what_building_it_changed(case: Case, tmp_path: Path) -> None:
    opt, scheduler = ours(case)
    for _ in range(5):
        opt.step([np.ones(2), np.ones(2)])
        scheduler.step()
    fastopt.save(tmp_path / "run.npz", opt, extra={"scheduler": scheduler.state_dict()})
    loaded = fastopt.load(tmp_path / "run.npz")
    other = getattr(fastopt, case.optimizer)([{"params": np.ones(2), "lr": 7}, {"params": np.ones(2)}])
    loaded.restore(other)
    before = rates(other)
    assert before == rates(opt)
    other_scheduler = case.make(lr_scheduler, other)
    other_scheduler.load_state_dict(loaded.extra["scheduler"])
    assert rates(other) == before
    assert json.dumps(other_scheduler.state_dict()) == json.dumps(scheduler.state_dict())
    for _ in range(10):
        opt.step([np.ones(2), np.ones(2)])
        other.step([np.ones(2), np.ones(2)])
        scheduler.step()
        other_scheduler.step()
        assert rates(other) == rates(opt)
        assert other_scheduler.get_last_lr() == scheduler.get_last_lr()


PLATEAU: list[dict[str, Any]] = [
    {"patience": 2},
    {"mode": "max", "patience": 1, "factor": 0.5, "min_lr": [0.02, 0.01]},
    {"threshold": 0.05, "threshold_mode": "abs", "patience": 0, "cooldown": 3},
    {"mode": "max", "threshold": 0.3, "threshold_mode": "abs", "patience": 1, "cooldown": 1},
    {"patience": 0, "factor": 0.3, "eps": 1e-3},
]


@pytest.mark.parametrize("options", PLATEAU)
def test_reduce_on_plateau_as_torch(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    rng = np.random.default_rng(2)
    groups = [{"params": np.ones(1), "lr": 0.1}, {"params": np.ones(1), "lr": 0.05}]
    opt = fastopt.SGD(groups)
    tensors = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    their_opt = torch.optim.SGD([{"params": [tensors[0]], "lr": 0.1}, {"params": [tensors[1]], "lr": 0.05}])
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, **options)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(their_opt, **options)
    for epoch in range(60):
        metric = math.nan if epoch % 9 == 4 else float(np.round(rng.normal() + 5 / (epoch + 1), 1))
        scheduler.step(metric)
        theirs.step(metric)
        assert scheduler.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
        assert scheduler.num_bad_epochs == theirs.num_bad_epochs
        if epoch in (3, 20, 21):
            saved = opt.state_dict(), json.loads(json.dumps(scheduler.state_dict()))
            opt = fastopt.SGD([{"params": np.ones(1)}, {"params": np.ones(1)}])
            opt.load_state_dict(saved[0])
            scheduler = lr_scheduler.ReduceLROnPlateau(opt)
            scheduler.load_state_dict(saved[1])
    assert scheduler.get_last_lr()[0] < 0.1


def test_all_of_torchs_names_are_here() -> None:
    torch = pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    assert set(lr_scheduler.__all__) == {*torch.optim.lr_scheduler.__all__, "SWALR"}
    for name in lr_scheduler.__all__:
        mine = inspect.signature(getattr(lr_scheduler, name)).parameters
        module = torch.optim.swa_utils if name == "SWALR" else torch.optim.lr_scheduler
        theirs = inspect.signature(getattr(module, name)).parameters
        assert {key: value.default for key, value in mine.items()} == {
            key: value.default for key, value in theirs.items()
        }, name
        assert list(mine) == list(theirs)


def test_drivers_are_of_the_package() -> None:
    assert {getattr(lr_scheduler, name).__module__ for name in lr_scheduler.__all__} == {"fastopt.lr_scheduler"}


# --- by hand ----------------------------------------------------------------------------------------------------------


def follow(opt: Any, scheduler: Any, steps: int) -> list[float]:
    found = [opt.param_groups[0]["lr"]]
    for _ in range(steps):
        opt.step(np.ones(2))
        scheduler.step()
        found.append(opt.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda m, opt: m.StepLR(opt, 2, 0.5), [1, 1, 0.5, 0.5, 0.25]),
        (lambda m, opt: m.MultiStepLR(opt, [1, 3, 3], 0.5), [1, 0.5, 0.5, 0.125, 0.125]),
        (lambda m, opt: m.LinearLR(opt, 0.5, total_iters=2), [0.5, 0.75, 1, 1, 1]),
        (lambda m, opt: m.ConstantLR(opt, 0.5, 2), [0.5, 0.5, 1, 1, 1]),
        (lambda m, opt: m.PolynomialLR(opt, 4), [1, 0.75, 0.5, 0.25, 0]),
        (lambda m, opt: m.CosineAnnealingLR(opt, 2), [1, 0.5, 0, 0.5, 1]),
        (lambda m, opt: m.CosineAnnealingWarmRestarts(opt, 2), [1, 0.5, 1, 0.5, 1]),
        (lambda m, opt: m.CyclicLR(opt, 0.5, 1.0, 2), [0.5, 0.75, 1, 0.75, 0.5]),
        (
            lambda m, opt: m.ChainedScheduler([m.StepLR(opt, 2, 0.5), m.ExponentialLR(opt, 0.5)]),
            [1, 0.5, 1 / 8, 1 / 16, 1 / 64],
        ),
    ],
)
def test_values(make: Callable[[Any, Any], Any], expected: list[float]) -> None:
    opt = fastopt.SGD(np.ones(2), lr=1.0, momentum=0.5)
    assert follow(opt, make(lr_scheduler, opt), 4) == pytest.approx(expected, abs=1e-15)


def test_closed_forms_carry_no_rounding_along() -> None:
    opt = fastopt.SGD(np.ones(2), lr=0.1)
    found = follow(opt, lr_scheduler.CosineAnnealingLR(opt, 500), 500)
    assert found == [schedules.cosine(0.1, 500)(step) for step in range(501)]


def test_one_cycle_stays_at_its_last_value() -> None:
    opt = fastopt.SGD(np.ones(2), lr=0.1, momentum=0.9)
    found = follow(opt, lr_scheduler.OneCycleLR(opt, 1.0, total_steps=5), 9)
    assert found[4:] == [pytest.approx(4e-6)] * 6
    assert opt.param_groups[0]["momentum"] == pytest.approx(0.95)


def test_what_the_user_writes_in_between_is_kept() -> None:
    opt = fastopt.SGD(np.ones(2), lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    scheduler.step()
    opt.param_groups[0]["lr"] = 0.1
    scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.05)


def test_stepping_to_an_epoch_as_torch() -> None:
    torch = pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    opt = fastopt.SGD(np.ones(2), lr=0.1)
    their_opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, 2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(their_opt, 3, 2)
    for epoch in [0.5, 2.25, 3, 4.75, None, None, 8.5, 9.5, None, 20, 0.25, None]:
        scheduler.step(epoch)
        theirs.step(epoch)
        assert scheduler.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
        assert scheduler.last_epoch == theirs.last_epoch
    with pytest.raises(ValueError, match="epoch=-1: expected a finite number of at least 0"):
        scheduler.step(-1)
    exponential = lr_scheduler.ExponentialLR(opt, 0.5)
    exponential.step(3)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_going_on_by_last_epoch() -> None:
    opt = fastopt.SGD(np.ones(2), lr=1.0)
    scheduler = lr_scheduler.StepLR(opt, 2, 0.5)
    expected = follow(opt, scheduler, 8)
    other = fastopt.SGD(np.ones(2), lr=1.0)
    follow(other, lr_scheduler.StepLR(other, 2, 0.5), 3)
    other.param_groups[0]["lr"] = expected[3]
    again = lr_scheduler.StepLR(other, 2, 0.5, last_epoch=3)
    assert again.last_epoch == 4
    assert follow(other, again, 4) == expected[4:]
    with pytest.raises(ValueError, match=r"last_epoch=3: the rate that param_groups\[0\] began with is not known"):
        lr_scheduler.StepLR(fastopt.SGD(np.ones(2)), 2, last_epoch=3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, opt: m.StepLR("x", 3), TypeError, "expected a first-order optimizer of fastopt, got str"),
        (lambda m, opt: m.StepLR(opt, 0), ValueError, "step_size=0: expected a whole number of at least 1"),
        (lambda m, opt: m.LambdaLR(opt, 3), TypeError, "lr_lambda=3: expected a function"),
        (lambda m, opt: m.LambdaLR(opt, [Decay()] * 2), ValueError, "lr_lambda: expected one for each of the 1 groups"),
        (lambda m, opt: m.ConstantLR(opt, 1.5), ValueError, "factor=1.5: expected a number from 0 to 1"),
        (lambda m, opt: m.LinearLR(opt, 0), ValueError, "start_factor=0: expected a number above 0"),
        (lambda m, opt: m.LinearLR(opt, end_factor=2), ValueError, "end_factor=2: expected a number from 0 to 1"),
        (lambda m, opt: m.ExponentialLR(opt, -1), ValueError, "gamma=-1: expected a finite number above 0"),
        (lambda m, opt: m.CosineAnnealingLR(opt, 0), ValueError, "T_max=0: expected a whole number of at least 1"),
        (lambda m, opt: m.CosineAnnealingWarmRestarts(opt, 0), ValueError, "T_0=0: expected a whole number"),
        (lambda m, opt: m.CyclicLR(opt, 0.1, 1, mode="x"), ValueError, "mode='x': expected one of 'triangular'"),
        (lambda m, opt: m.CyclicLR(opt, 0.1, 1, scale_mode="x"), ValueError, "scale_mode='x'"),
        (lambda m, opt: m.CyclicLR(opt, [0.1, 0.2], 1), ValueError, "base_lr: expected one for each of the 1 groups"),
        (lambda m, opt: m.OneCycleLR(opt, 0.1, epochs=3), ValueError, "give total_steps, or both"),
        (lambda m, opt: m.OneCycleLR(opt, 0.1, 0), ValueError, "total_steps=0: expected a whole number of at least 1"),
        (lambda m, opt: m.SequentialLR(opt, [], []), ValueError, "expected at least one scheduler"),
        (lambda m, opt: m.SequentialLR(opt, [m.StepLR(opt, 1)], [1]), ValueError, r"milestones=\[1\]: expected 0"),
        (lambda m, opt: m.ChainedScheduler([]), ValueError, "expected at least one scheduler"),
        (
            lambda m, opt: m.ChainedScheduler([m.ReduceLROnPlateau(opt)]),
            TypeError,
            "number 0 is a ReduceLROnPlateau, which steps in another way",
        ),
        (
            lambda m, opt: m.ChainedScheduler([m.StepLR(opt, 1), m.StepLR(fastopt.SGD(np.ones(1)), 1)]),
            ValueError,
            "number 1 is of another optimizer",
        ),
        (lambda m, opt: m.ReduceLROnPlateau(opt, factor=1), ValueError, "factor=1: expected a finite number below 1"),
        (lambda m, opt: m.ReduceLROnPlateau(opt, mode="x"), ValueError, "mode='x': expected one of 'min', 'max'"),
        (lambda m, opt: m.ReduceLROnPlateau(opt, threshold_mode="x"), ValueError, "threshold_mode='x'"),
    ],
)
def test_bad_arguments(make: Callable[[Any, Any], Any], error: type[Exception], message: str) -> None:
    opt = fastopt.SGD(np.ones(2), lr=0.5)
    with pytest.raises(error, match=message):
        make(lr_scheduler, opt)
    assert opt.param_groups[0]["lr"] == 0.5


GOOD: dict[str, dict[str, Any]] = {
    "LambdaLR": {"lr_lambda": Decay()},
    "MultiplicativeLR": {"lr_lambda": Decay()},
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [3]},
    "ConstantLR": {},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.5},
    "PolynomialLR": {},
    "CosineAnnealingLR": {"T_max": 4},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
    "OneCycleLR": {"max_lr": 0.1, "epochs": 3, "steps_per_epoch": 3},
    "SWALR": {"swa_lr": 0.1},
    "ReduceLROnPlateau": {},
}


def outcome(driver: Any, opt: fastopt.Optimizer, arguments: dict[str, Any]) -> str | None:
    """Return the message of the error of building a driver, if there is one."""
    try:
        driver(opt, **arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def test_messages_name_the_argument_that_was_given() -> None:
    errors = 0
    for name, given in GOOD.items():
        driver = getattr(lr_scheduler, name)
        for argument in list(inspect.signature(driver).parameters)[1:]:
            for value in (-1.5, math.nan, "text", [-1.0]):
                opt = fastopt.SGD([np.ones(1)], lr=0.1, momentum=0.9)
                message = outcome(driver, opt, {**given, argument: value})
                if message is not None:
                    errors += 1
                    assert message.startswith((f"{argument}=", f"{argument}[0]=", f"{argument}: expected"))
                    assert opt.param_groups[0]["lr"] == 0.1
    assert errors > 150
    opt = fastopt.SGD([np.ones(1)])
    opt.param_groups[0]["lr"] = -0.5
    with pytest.raises(ValueError, match=r"param_groups\[0\]: lr=-0.5: expected a finite number of at least 0"):
        lr_scheduler.StepLR(opt, 3)


def test_a_schedule_is_driven_already() -> None:
    opt = fastopt.SGD(np.ones(2), lr=schedules.cosine(0.1, 5))
    with pytest.raises(TypeError, match=r"param_groups\[0\]: lr=cosine\(.*\) is a schedule already"):
        lr_scheduler.StepLR(opt, 3)


def test_no_momentum_to_cycle() -> None:
    opt = fastopt.Adagrad(np.ones(2))
    for make in (lambda: lr_scheduler.CyclicLR(opt, 0.1, 1), lambda: lr_scheduler.OneCycleLR(opt, 0.1, 5)):
        with pytest.raises(ValueError, match="cycle_momentum=True: Adagrad has neither momentum nor betas"):
            make()


def test_bad_states() -> None:
    opt = fastopt.SGD([np.ones(2)], lr=0.5)
    scheduler = lr_scheduler.StepLR(opt, 3)
    saved = scheduler.state_dict()
    for bad, error in [(3, TypeError), ({}, ValueError), ({**saved, "x": 1}, ValueError)]:
        with pytest.raises(error, match="state_dict: expected"):
            scheduler.load_state_dict(bad)
    with pytest.raises(ValueError, match="it is for 2 groups, the optimizer has 1"):
        scheduler.load_state_dict({**saved, "_last_lr": [1, 2]})
    assert scheduler.state_dict() == saved
    chained = lr_scheduler.ChainedScheduler([scheduler])
    with pytest.raises(ValueError, match="expected that of a ChainedScheduler of 1 schedulers"):
        chained.load_state_dict({**chained.state_dict(), "_schedulers": []})
    for combined in (chained, lr_scheduler.SequentialLR(opt, [scheduler], [])):
        with pytest.raises(ValueError, match="takes no epoch"):
            combined.step(3)


def test_a_saved_state_is_a_copy() -> None:
    opt = fastopt.SGD([np.ones(2)], lr=0.5)
    scheduler = lr_scheduler.MultiStepLR(opt, [1, 2])
    saved = scheduler.state_dict()
    scheduler.step()
    assert saved["last_epoch"] == 0
    assert saved["_last_lr"] == [0.5]
    scheduler.load_state_dict(saved)
    scheduler.milestones.append(9)
    assert saved["milestones"] == [1, 2]
