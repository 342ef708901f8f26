"""The drivers that also cycle the momentum: down while the rate goes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from .. import schedules
from ..core.optimizer import Optimizer
from ..options.ranges import (
    ANY_NUMBER,
    COUNT,
    FRACTION,
    INDEX,
    NON_NEGATIVE,
    POSITIVE,
    Choice,
    Range,
    as_number,
    as_option,
    check,
)
from ..schedules.base import SHAPES, on_line
from .base import LRScheduler, momentums_of, number_of, per_group


class MomentumCycle(LRScheduler):
    """The base of the two."""

    is_absolute = True
    momentum_range: ClassVar[Range] = NON_NEGATIVE
    rates_of_groups = LRScheduler.rates_of_groups | {"min_lrs", "max_lrs"}
    of_groups = rates_of_groups | {"base_momentums", "max_momentums"}

    def set_momentums(
        self,
        optimizer: Optimizer,
        cycle_momentum: bool,
        base_momentum: float | Sequence[float],
        max_momentum: float | Sequence[float],
    ) -> None:
        """Set the range of the momentum of each group.

        Raises
        ------
        ValueError
            If there is no momentum to cycle.
        """
        self.cycle_momentum = cycle_momentum
        allowed = self.momentum_range if cycle_momentum else None
        self.base_momentums = per_group("base_momentum", optimizer, base_momentum, allowed)
        self.max_momentums = per_group("max_momentum", optimizer, max_momentum, allowed)
        if cycle_momentum and not momentums_of(optimizer):
            raise ValueError(f"cycle_momentum=True: {type(optimizer).__name__} has neither momentum nor betas")

    def options_to_write(self) -> list[str]:
        return ["lr", *momentums_of(self.optimizer)]

    def momentums(self, epoch: int) -> list[float]:
        """Return the momentum of each group; subclasses define this."""
        raise NotImplementedError

    def write(self, lrs: Sequence[float], epoch: int) -> None:
        # Computed first: it may raise.
        momentums = list(map(as_option, self.momentums(epoch))) if self.cycle_momentum else []
        super().write(lrs, epoch)
        self.write_momentums(momentums)

    def rewrite(self) -> None:
        super().rewrite()
        if self.cycle_momentum:
            self.write_momentums(list(map(as_option, self.momentums(self.last_epoch))))

    def write_momentums(self, momentums: Sequence[float]) -> None:
        """Write the momentum of each group that has one."""
        for group, momentum in zip(self.optimizer.param_groups, momentums, strict=False):
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = momentum


class CyclicLR(MomentumCycle):
    """:class:`fastopt.schedules.triangular`, ``triangular2`` or ``exp_range``, and the inverse cycle for momentum.

    Parameters
    ----------
    base_lr, max_lr : float or list of float
        One for all groups, or one for each.
    step_size_up : int, default 2000
    step_size_down : int or None, default None
        None: the same as ``step_size_up``.
    mode : {"triangular", "triangular2", "exp_range"}
    gamma : float, default 1
        For ``"exp_range"``.
    scale_fn : callable or None, default None
        Replaces ``mode``: the height of the cycle as a function of the cycle's number (from 1) or the step.
    scale_mode : {"cycle", "iterations"}
        The argument of ``scale_fn``.
    cycle_momentum : bool, default True
        Whether to write ``momentum``, or the first of ``betas``, as well, where a group has one. Raises ValueError if
        there is neither.
    base_momentum, max_momentum : float or list of float, default 0.8 and 0.9

    Notes
    -----
    It begins at ``base_lr``. (torch's writes ``group["initial_lr"]`` at step 0 if the groups had a driver before.)

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = CyclicLR(fastopt.SGD(np.ones(2), lr=1.0, momentum=0.9), base_lr=0.5, max_lr=1.0, step_size_up=4)
    >>> scheduler.step(epoch=2), scheduler.get_last_lr()
    (None, [0.75])
    """

    functions = ("scale_fn",)

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if scale_fn is None:
            check("mode", mode, Choice("triangular", "triangular2", "exp_range"))
        check("scale_mode", scale_mode, Choice("cycle", "iterations"))
        self.min_lrs = per_group("base_lr", optimizer, base_lr, NON_NEGATIVE)
        self.max_lrs = per_group("max_lr", optimizer, max_lr, NON_NEGATIVE)
        self.step_size_up = as_number("step_size_up", step_size_up, COUNT)
        down = as_number("step_size_down", step_size_down, COUNT._replace(optional=True))
        self.step_size_down = self.step_size_up if down is None else down
        self.mode = mode
        self.gamma = number_of("gamma", gamma, ANY_NUMBER)
        if scale_fn is not None and not callable(scale_fn):
            raise TypeError(f"scale_fn={scale_fn!r}: expected a function, or None")
        self.scale_fn = scale_fn
        self.scale_mode = scale_mode
        self.set_momentums(optimizer, cycle_momentum, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def start(self) -> list[float]:
        return list(self.min_lrs)

    def height(self, epoch: int) -> float:
        """Return the height of the cycle at a step: from 0 to 1, times its scale."""
        up, down = self.step_size_up, self.step_size_down
        cycle, step = divmod(epoch, up + down)
        x: float = step / up if step <= up else (up + down - step) / down
        if self.scale_fn is not None:
            return x * self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else epoch)
        if self.mode == "exp_range":
            return x * float(self.gamma) ** epoch
        return x * 0.5**cycle if self.mode == "triangular2" else x

    def schedule(self, k: int) -> Callable[[int], float]:
        return lambda epoch: self.min_lrs[k] + (self.max_lrs[k] - self.min_lrs[k]) * self.height(epoch)

    def rates(self, epoch: int) -> list[float]:
        height = self.height(epoch)
        return [low + (high - low) * height for low, high in zip(self.min_lrs, self.max_lrs, strict=True)]

    def momentums(self, epoch: int) -> list[float]:
        height = self.height(epoch)
        limits = zip(self.base_momentums, self.max_momentums, strict=True)
        return [high - (high - low) * height for low, high in limits]


class OneCycleLR(MomentumCycle):
    """:class:`fastopt.schedules.one_cycle`, and the inverse cycle for momentum.

    After the last step the rate stays the same (torch raises it once more, and then raises an error).

    Parameters
    ----------
    max_lr : float or list of float
        One for all groups, or one for each.
    total_steps : int or None, default None
        None: ``epochs * steps_per_epoch``, which must be given then.
    epochs, steps_per_epoch : int or None, default None
    pct_start, anneal_strategy, div_factor, final_div_factor, three_phase
        As in :class:`fastopt.schedules.one_cycle`.
    cycle_momentum : bool, default True
        Whether to write ``momentum``, or the first of ``betas``, as well, where a group has one. Raises ValueError if
        there is neither.
    base_momentum, max_momentum : float or list of float, default 0.85 and 0.95

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = OneCycleLR(fastopt.SGD(np.ones(2), momentum=0.9), max_lr=1.0, total_steps=10)
    >>> scheduler.step(epoch=2), scheduler.get_last_lr()
    (None, [1.0])
    """

    momentum_range = POSITIVE

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
            total_steps = as_number("epochs", epochs, COUNT) * as_number("steps_per_epoch", steps_per_epoch, COUNT)
        self.total_steps = as_number("total_steps", total_steps, COUNT)
        self.max_lrs = per_group("max_lr", optimizer, max_lr, NON_NEGATIVE)
        self.pct_start = as_number("pct_start", pct_start, FRACTION)
        check("anneal_strategy", anneal_strategy, Choice(*SHAPES))
        self.anneal_strategy = anneal_strategy
        self.div_factor = as_number("div_factor", div_factor, POSITIVE)
        self.final_div_factor = as_number("final_div_factor", final_div_factor, POSITIVE)
        check("three_phase", three_phase, None)
        self.three_phase = three_phase
        self.set_momentums(optimizer, cycle_momentum, base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def start(self) -> list[float]:
        lrs = [self.schedule(k)(0) for k in range(len(self.max_lrs))]
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["initial_lr"] = lr
        return lrs

    def schedule(self, k: int) -> schedules.one_cycle:
        return schedules.one_cycle(
            self.max_lrs[k],
            self.total_steps,
            self.pct_start,
            self.div_factor,
            self.final_div_factor,
            self.anneal_strategy,
            self.three_phase,
        )

    def rates(self, epoch: int) -> list[float]:
        highest = [float(lr) for lr in self.max_lrs]
        initial = [lr / self.div_factor for lr in highest]
        return self.between(epoch, initial, highest, [lr / self.final_div_factor for lr in initial])

    def momentums(self, epoch: int) -> list[float]:
        bases = [float(base) for base in self.base_momentums]
        # The greatest momentum but for rounding: to the bit what one_cycle.momentum begins with.
        initial = [base / (base / float(greatest)) for base, greatest in zip(bases, self.max_momentums, strict=True)]
        return self.between(epoch, initial, bases, initial)

    def between(self, epoch: int, *levels: Sequence[float]) -> list[float]:
        """Return the value of each group's cycle. ``levels`` are those of ``one_cycle.place``, for each group."""
        begin, end, x = self.schedule(0).place(as_number("epoch", epoch, INDEX))
        return [on_line(start, stop, x) for start, stop in zip(levels[begin], levels[end], strict=True)]
