"""Random stacks of drivers, the same for torch and fastopt, and random runs with them."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt import lr_scheduler

#: A driver that both build: its name, its arguments, and its members if it combines drivers.
Stack = tuple[str, dict[str, Any], list[Any]]

#: The drivers that torch steps on with groups that were added later.
TAKING_GROUPS = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR")


class Power:
    """A callable object, whose state a driver saves."""

    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, epoch: float) -> float:
        return float(self.base**epoch)


def random_driver(rng: random.Random, taken: set[str]) -> Stack:
    """Return a driver. ``taken`` has those that torch's others would disturb, as they keep arguments in the groups."""
    total = rng.randint(1, 9)
    choices: dict[str, Callable[[], dict[str, Any]]] = {
        "LambdaLR": lambda: {"lr_lambda": Power(rng.choice([0.7, 0.9, 1.1]))},
        "MultiplicativeLR": lambda: {"lr_lambda": Power(rng.choice([0.95, 1.01]))},
        "StepLR": lambda: {"step_size": rng.randint(1, 5), "gamma": rng.choice([0.1, 0.5, 1.2])},
        "MultiStepLR": lambda: {"milestones": [rng.randint(0, 12) for _ in range(3)], "gamma": 0.5},
        "ConstantLR": lambda: {"factor": rng.choice([0.25, 0.5, 1.0]), "total_iters": total},
        "LinearLR": lambda: {
            "start_factor": rng.choice([0.1, 0.5, 1.0]),
            "end_factor": rng.choice([0.0, 0.25, 1.0]),
            "total_iters": total,
        },
        "ExponentialLR": lambda: {"gamma": rng.choice([0.5, 0.9, 1.1])},
        "PolynomialLR": lambda: {"total_iters": total, "power": rng.choice([0.5, 1.0, 2.0])},
        "CosineAnnealingLR": lambda: {"T_max": total, "eta_min": rng.choice([0.0, 0.02, 0.1])},
        "CosineAnnealingWarmRestarts": lambda: {
            "T_0": total,
            "T_mult": rng.choice([1, 2]),
            "eta_min": rng.choice([0.0, 0.02]),
        },
        "CyclicLR": lambda: {
            "base_lr": rng.choice([0.01, 0.0]),
            "max_lr": 0.2,
            "step_size_up": total,
            "step_size_down": rng.choice([None, 3]),
            "mode": rng.choice(["triangular", "triangular2", "exp_range"]),
            "gamma": 0.98,
            "scale_fn": rng.choice([None, Power(0.8)]),
            "cycle_momentum": "OneCycleLR" not in taken and rng.random() < 0.5,
        },
        "OneCycleLR": lambda: {
            "max_lr": 0.3,
            "total_steps": 150,
            "pct_start": rng.choice([0.05, 0.3]),
            "three_phase": rng.random() < 0.3,
            "cycle_momentum": "CyclicLR" not in taken and rng.random() < 0.5,
        },
        "SWALR": lambda: {
            "swa_lr": rng.choice([0.05, 0.0]),
            "anneal_epochs": rng.choice([0, 1, total]),
            "anneal_strategy": rng.choice(["cos", "linear"]),
        },
        "Own": lambda: {"warmup": total},
    }
    for name in taken & {"OneCycleLR", "SWALR"}:
        del choices[name]
    name = rng.choice(list(choices))
    arguments = choices[name]()
    taken.add(name)
    return name, arguments, []


def random_stack(rng: random.Random, taken: set[str], depth: int = 2, drivers: int = 4) -> Stack:
    """Return a stack as torch steps it rightly: it has nothing combined in a SequentialLR."""
    kind = rng.random() if depth else 0.0
    if kind < 0.5:
        return random_driver(rng, taken)
    count = rng.randint(1, drivers - 1)
    if kind < 0.75:
        milestones = sorted(rng.sample(range(1, 20), count - 1))
        return "SequentialLR", {"milestones": milestones}, [random_driver(rng, taken) for _ in range(count)]
    return "ChainedScheduler", {}, [random_stack(rng, taken, depth - 1, 3) for _ in range(count)]


def drivers_of(stack: Stack) -> list[Stack]:
    """Return the drivers of a stack that combine no others."""
    return [driver for member in stack[2] for driver in drivers_of(member)] or [stack]


class Module(NamedTuple):
    """The names that a stack is built with."""

    drivers: dict[str, Any]

    @classmethod
    def of(cls, module: Any, swalr: Any) -> Module:
        class Own(module.LRScheduler):  # type: ignore[misc]
            """A driver of a user's own, in torch's style."""

            _is_initial = False

            def __init__(self, optimizer: Any, warmup: int, last_epoch: int = -1) -> None:
                self.warmup = warmup
                super().__init__(optimizer, last_epoch)

            def get_lr(self) -> list[float]:
                if self._is_initial or self.last_epoch > self.warmup:
                    return [group["lr"] for group in self.optimizer.param_groups]
                return [lr * (1 + self.last_epoch) / (1 + self.warmup) for lr in self.base_lrs]

        return cls({**{name: getattr(module, name) for name in dir(module)}, "SWALR": swalr, "Own": Own})

    def build(self, stack: Stack, opt: Any) -> Any:
        name, arguments, members = stack
        arguments = copy.deepcopy(arguments)
        if members:
            built = [self.build(member, opt) for member in members]
            return self.drivers[name](**({"optimizer": opt} if arguments else {}), schedulers=built, **arguments)
        return self.drivers[name](opt, **arguments)


OURS = Module.of(lr_scheduler, lr_scheduler.SWALR)


@functools.cache
def torchs_module() -> Module:
    import torch

    class CyclicLR(torch.optim.lr_scheduler.CyclicLR):  # type: ignore[misc]
        """torch's begins an optimizer's second phase at the initial rate of the first, instead of at ``base_lr``."""

        def __init__(self, optimizer: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(optimizer, *arguments, **options)
            if self.last_epoch == 0:
                for group, lr in zip(optimizer.param_groups, self.base_lrs, strict=True):
                    group["lr"] = lr
                self._last_lr = list(self.base_lrs)

    module = Module.of(torch.optim.lr_scheduler, torch.optim.swa_utils.SWALR)
    module.drivers["CyclicLR"] = CyclicLR
    return module


class Saved(NamedTuple):
    optimizer: Any
    driver: Any


class Run:
    """An optimizer of one of the two with a driver: what a training loop does with both."""

    def __init__(self, lrs: list[float], kind: str) -> None:
        self.kind = kind
        self.opt = self.optimizer(lrs)
        self.driver: Any = None

    def optimizer(self, lrs: list[float]) -> Any:
        raise NotImplementedError

    def build(self, stack: Stack) -> None:
        self.driver = self.module.build(stack, self.opt)

    @property
    def module(self) -> Module:
        raise NotImplementedError

    @property
    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.opt.param_groups]

    @property
    def momentums(self) -> list[float]:
        return [float(group["betas"][0] if "betas" in group else group["momentum"]) for group in self.opt.param_groups]

    def step(self) -> None:
        self.opt.step(*self.gradients())
        self.driver.step()

    def gradients(self) -> tuple[Any, ...]:
        return ()

    def resume(self, stack: Stack, lrs: list[float], saved: Saved, order: str) -> None:
        """Go on in a new process: build the driver (b), load the optimizer (o) and the driver (d), in this order."""
        self.opt = self.optimizer(lrs)
        for what in order:
            if what == "b":
                self.build(stack)
            elif what == "o":
                self.load(saved)
            else:
                self.driver.load_state_dict(copy.deepcopy(saved.driver))

    def load(self, saved: Saved) -> None:
        self.opt.load_state_dict(copy.deepcopy(saved.optimizer))

    def save(self) -> Saved:
        return Saved(copy.deepcopy(self.opt.state_dict()), copy.deepcopy(self.driver.state_dict()))


OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "Adam": {}}


class OurRun(Run):
    module = OURS

    def optimizer(self, lrs: list[float]) -> Any:
        return getattr(fastopt, self.kind)([{"params": np.ones(1), "lr": lr} for lr in lrs], **OPTIONS[self.kind])

    def add_group(self, lr: float) -> None:
        self.opt.add_param_group({"params": np.ones(1), "lr": lr})

    def gradients(self) -> tuple[Any, ...]:
        return ([np.zeros(1)] * len(self.opt.param_groups),)

    def save(self) -> Saved:
        saved = super().save()
        return saved._replace(driver=json.loads(json.dumps(saved.driver)))


class TheirRun(Run):
    """Like ours; torch has another order in which it loses no rates."""

    def __init__(self, lrs: list[float], kind: str) -> None:
        import torch

        self.torch = torch
        super().__init__(lrs, kind)

    @functools.cached_property
    def module(self) -> Module:
        return torchs_module()

    def optimizer(self, lrs: list[float]) -> Any:
        groups = [{"params": [self.torch.nn.Parameter(self.torch.zeros(1))], "lr": lr} for lr in lrs]
        return getattr(self.torch.optim, self.kind)(groups, foreach=False, **OPTIONS[self.kind])

    def add_group(self, lr: float) -> None:
        self.opt.add_param_group({"params": [self.torch.nn.Parameter(self.torch.zeros(1))], "lr": lr})

    def resume(self, stack: Stack, lrs: list[float], saved: Saved, order: str) -> None:
        super().resume(stack, lrs, saved, "bod")


#: The orders in which a run is resumed: each loads the driver after it is built.
ORDERS = ["".join(order) for order in itertools.permutations("bod") if order.index("b") < order.index("d")]


class Both:
    """The same run with both. Each method does the same to both and compares the rates."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.count = rng.randint(1, 3)
        kind = rng.choice(list(OPTIONS))
        lrs = self.some_lrs()
        self.ours, self.theirs = OurRun(lrs, kind), TheirRun(lrs, kind)
        self.log: list[Any] = [kind, lrs]
        self.new_phase()

    def some_lrs(self) -> list[float]:
        return [self.rng.choice([0.1, 0.05, 0.02, 0.0 if self.rng.random() < 0.2 else 0.3]) for _ in range(self.count)]

    def new_phase(self) -> None:
        if self.rng.random() < 0.2:
            for run in (self.ours, self.theirs):
                run.opt.param_groups[0]["initial_lr"] = 0.07
            self.log.append("initial_lr")
        self.stack = random_stack(self.rng, set())
        self.log.append(self.stack)
        for run in (self.ours, self.theirs):
            run.build(self.stack)
        self.saved: list[tuple[Saved, Saved]] = []
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        self.ours.step()
        self.theirs.step()

    def save(self) -> None:
        self.saved.append((self.ours.save(), self.theirs.save()))

    def resume(self) -> None:
        """Save, and go on in a new process."""
        lrs, order = self.some_lrs(), self.rng.choice(ORDERS)
        self.log.append(order)
        self.ours.resume(self.stack, lrs, self.ours.save(), order)
        self.theirs.resume(self.stack, lrs, self.theirs.save(), order)

    def next_phase_of_a_loaded_run(self) -> None:
        """Go on in a new process, where another driver begins."""
        lrs = self.some_lrs()
        saved = self.ours.save(), self.theirs.save()
        for run, its in zip((self.ours, self.theirs), saved, strict=True):
            run.opt = run.optimizer(lrs)
            run.load(its)
        self.new_phase()

    def rewind(self) -> None:
        """Load a state of this phase into the optimizer, the driver, or both.

        Not before the phase's first step: then the driver is one that is built to go on with the optimizer's state.
        """
        if not self.saved or not self.steps:
            return
        ours, theirs = self.rng.choice(self.saved)
        parts = self.rng.choice(["o", "d", "od", "do"])
        self.log.append(parts)
        for run, saved in ((self.ours, ours), (self.theirs, theirs)):
            for part in parts:
                if part == "o":
                    run.load(saved)
                else:
                    run.driver.load_state_dict(copy.deepcopy(saved.driver))

    def write(self) -> None:
        """Have another hand write a rate."""
        k, lr = self.rng.randrange(self.count), self.rng.choice([0.0, 0.04, 0.5])
        self.log.append((k, lr))
        for run in (self.ours, self.theirs):
            run.opt.param_groups[k]["lr"] = lr

    def add_group(self) -> None:
        """Add a group, if torch goes on then."""
        if self.count == 4 or not all(name in TAKING_GROUPS for name, _, _ in drivers_of(self.stack)):
            return
        if "SequentialLR" in str(self.stack):
            return
        self.count += 1
        lr = self.rng.choice([0.1, 0.03])
        for run in (self.ours, self.theirs):
            run.add_group(lr)
        self.saved = []

    def go(self, events: int) -> None:
        """Do random things and compare after each."""
        kinds = [self.step] * 10 + [self.save, self.resume, self.next_phase_of_a_loaded_run, self.new_phase]
        kinds += [self.rewind, self.write, self.write, self.add_group]
        self.compare()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(events):
                event = self.rng.choice(kinds)
                self.log.append(event.__name__)
                event()
                self.compare()
                if min(self.ours.rates) < 0:  # the way to eta_min of a rate below it; no step takes that
                    return

    def compare(self) -> None:
        ours = self.ours.rates, self.ours.momentums, self.ours.driver.get_last_lr()
        theirs = self.theirs.rates, self.theirs.momentums, self.theirs.driver.get_last_lr()
        for mine, its in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-13, err_msg=str(self.log))
