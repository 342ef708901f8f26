"""Drivers of the learning rate with torch's names, arguments and numbers, for loops that are written the torch way.

``scheduler = StepLR(opt, 30); ...; opt.step(grads); ...; scheduler.step()`` writes ``group["lr"]`` of every group, as
:mod:`torch.optim.lr_scheduler` does. New code does better with ``lr=`` one of :mod:`fastopt.schedules`: there is no
second object to step, save and load. A driver evaluates these schedules: the rate after step n is their value at n,
with no rounding carried along. Only where something else changed the rate since the driver's last step (another driver,
as in :class:`ChainedScheduler`, or the user) does it change that rate by the factor between its last two values.

The rates that the groups begin with stay with the optimizer, and its ``state_dict`` has them: a driver that is built
after ``load_state_dict`` changes nothing; load its own ``state_dict`` into it.

Each driver raises TypeError if ``optimizer`` is no optimizer or a group's ``lr`` a schedule already, and ValueError for
arguments out of their ranges, when it is built.
"""

from __future__ import annotations

import math
import types
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from . import schedules
from .core.optimizer import Optimizer

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

T = TypeVar("T")


class LRScheduler:
    """The base of the drivers.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int, default -1
        The last step that was made before, for going on without a ``state_dict``: -1 begins anew.

    Attributes
    ----------
    last_epoch : int
        How often :meth:`step` was called.
    base_lrs : list of float
        The rate that each group began with.

    Raises
    ------
    TypeError
        If ``optimizer`` is no optimizer, or a group's ``lr`` a schedule already.
    ValueError
        If ``last_epoch`` is not -1 and no rate that the groups began with is known.
    """

    #: The attributes that are functions, or lists of them: they are not saved.
    functions: ClassVar[tuple[str, ...]] = ()

    #: Whether the rate never depends on what it was before.
    is_absolute: ClassVar[bool] = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        initial_lrs = optimizer.parts.groups.initial_lrs
        for k, group in enumerate(optimizer.param_groups):
            if k not in initial_lrs and last_epoch != -1:
                raise ValueError(
                    f"last_epoch={last_epoch}: the rate that param_groups[{k}] began with is not known; load the "
                    "optimizer's state_dict first, or begin with last_epoch=-1"
                )
            initial_lrs.setdefault(k, group["lr"])
        self.optimizer = optimizer
        self.base_lrs = [initial_lrs[k] for k in range(len(optimizer.param_groups))]
        self.last_epoch = last_epoch + 1
        self._last_lr: list[float] = [group["lr"] for group in optimizer.param_groups]
        values = [self._next(k, lr, self.last_epoch) for k, lr in enumerate(self._last_lr)]
        if not is_resumed(optimizer):
            self._write(values, self.last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        """Return the rate of group number ``k``."""
        raise NotImplementedError

    def _next(self, k: int, lr: float, epoch: int) -> float:
        """Return the rate that follows ``lr``."""
        now = self._lr(k, epoch)
        if self.is_absolute:
            return now
        before = self._lr(k, epoch - 1) if epoch > 0 else self.base_lrs[k]
        if now == before:
            return lr
        return now if lr == before or before == 0 else lr * (now / before)

    def _write(self, lrs: Sequence[float], epoch: int) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
        self._last_lr = list(lrs)

    def _begin(self) -> None:
        """Make step 0 from the rates that the groups have."""
        lrs = [self._next(k, group["lr"], 0) for k, group in enumerate(self.optimizer.param_groups)]
        self.last_epoch = 0
        self._write(lrs, 0)

    def _restart(self) -> None:
        """Make step 0, whatever the rates are."""
        lrs = [self._lr(k, 0) for k in range(len(self.base_lrs))]
        self.last_epoch = 0
        self._write(lrs, 0)

    def step(self, epoch: int | None = None) -> None:
        """Write the next rates into the groups; call it after ``optimizer.step``.

        Parameters
        ----------
        epoch : int or None, default None
            To go to a certain step, as from 0, instead.

        Raises
        ------
        ValueError
            If groups were added since this was built.
        """
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"{type(self).__name__}: it was built for {len(self.base_lrs)} groups, now there are {len(groups)}; "
                "build it after add_param_group"
            )
        if epoch is None:
            epoch = self.last_epoch + 1
            lrs = [self._next(k, group["lr"], epoch) for k, group in enumerate(groups)]
        else:
            lrs = [self._lr(k, epoch) for k in range(len(groups))]
        self.last_epoch = epoch
        self._write(lrs, epoch)

    def get_last_lr(self) -> list[float]:
        """Return the rate that was last written into each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimizer, as plain Python.

        As in torch, a function is not saved, and of a callable object its ``__dict__`` is.
        """
        saved = {name: value for name, value in vars(self).items() if name != "optimizer"}
        for name in self.functions:
            saved[name] = each(lambda fn: None if is_function(fn) else dict(vars(fn)), saved[name])
        copied: dict[str, Any] = each(lambda value: value, saved)
        return copied

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state. The optimizer has its own ``load_state_dict``.

        Raises
        ------
        TypeError, ValueError
            If this is not what :meth:`state_dict` of such a driver returned. Nothing is changed then.
        """
        self._check_state_dict(state_dict)
        self._load_state_dict(state_dict)

    def _check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a dict from state_dict(), got {type(state_dict).__name__}")
        wanted = list(self.state_dict())
        if sorted(state_dict) != sorted(wanted):
            raise ValueError(
                f"state_dict: expected that of a {type(self).__name__}, with the entries {wanted}, got "
                f"{list(state_dict)}"
            )
        if len(state_dict["_last_lr"]) != len(self._last_lr):
            raise ValueError(
                f"state_dict: it is for {len(state_dict['_last_lr'])} groups, the optimizer has {len(self._last_lr)}"
            )

    def _load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for name, value in state_dict.items():
            if name not in self.functions:
                setattr(self, name, each(lambda item: item, value))
        for name in self.functions:
            ours, saved = getattr(self, name), state_dict[name]
            for fn, values in zip(ours, saved, strict=True) if isinstance(ours, list) else [(ours, saved)]:
                if values is not None and fn is not None:
                    vars(fn).update(values)


class LambdaLR(LRScheduler):
    """``base_lr * lr_lambda(epoch)``.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    lr_lambda : callable or list of them
        One for all groups, or one for each.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = LambdaLR(opt, lambda epoch: 0.5**epoch)
    >>> scheduler.step()
    >>> opt.param_groups[0]["lr"]
    0.5
    """

    functions = ("lr_lambdas",)
    is_absolute = True

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas = per_group("lr_lambda", optimizer, lr_lambda)
        if not all(map(callable, self.lr_lambdas)):
            raise TypeError(f"lr_lambda={lr_lambda!r}: expected a function, or a list of one for each group")
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return self.base_lrs[k] * self.lr_lambdas[k](epoch)


class MultiplicativeLR(LambdaLR):
    """``lr * lr_lambda(epoch)``: a factor for each step. It has no closed form.

    Parameters
    ----------
    optimizer, last_epoch, lr_lambda
        As in :class:`LambdaLR`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = MultiplicativeLR(opt, lambda epoch: 0.5)
    >>> scheduler.step(), scheduler.step(), scheduler.get_last_lr()
    (None, None, [0.25])
    """

    is_absolute = False

    def _lr(self, k: int, epoch: int) -> float:
        lr: float = self.optimizer.param_groups[k]["lr"]
        return lr * self.lr_lambdas[k](epoch)

    def _next(self, k: int, lr: float, epoch: int) -> float:
        return lr * self.lr_lambdas[k](epoch) if epoch else lr


class StepLR(LRScheduler):
    """:class:`fastopt.schedules.step_decay`: multiplied by ``gamma`` every ``step_size`` steps.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    step_size : int
        At least 1.
    gamma : float, default 0.1
        Above 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = StepLR(opt, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     info = opt.step(np.ones(2))
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return schedules.step_decay(self.base_lrs[k], self.step_size, self.gamma)(epoch)


class MultiStepLR(LRScheduler):
    """Multiplied by ``gamma`` at each milestone; a milestone that is there twice counts twice.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    milestones : iterable of int
    gamma : float, default 0.1

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = MultiStepLR(opt, milestones=[2, 4], gamma=0.5)
    >>> for _ in range(4):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.25
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return self.base_lrs[k] * self.gamma ** bisect_right(self.milestones, epoch)


class ConstantLR(LRScheduler):
    """``base_lr * factor`` for ``total_iters`` steps, then ``base_lr``.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    factor : float, default 1/3
        From 0 to 1.
    total_iters : int, default 5
        At least 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = ConstantLR(opt, factor=0.5, total_iters=3)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.5
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        check_fraction("factor", factor)
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        base_lr = self.base_lrs[k]
        return schedules.piecewise_constant([base_lr * self.factor, base_lr], [self.total_iters])(epoch)


class LinearLR(LRScheduler):
    """:class:`fastopt.schedules.linear`: from ``base_lr * start_factor`` to ``base_lr * end_factor``.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    start_factor : float, default 1/3
        Above 0, at most 1.
    end_factor : float, default 1
        From 0 to 1.
    total_iters : int, default 5
        At least 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = LinearLR(opt, start_factor=0.5, total_iters=4)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.75
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor == 0:
            raise ValueError(f"start_factor={start_factor!r}: expected a number above 0, at most 1")
        check_fraction("start_factor", start_factor)
        check_fraction("end_factor", end_factor)
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return self.base_lrs[k] * schedules.linear(self.start_factor, self.end_factor, self.total_iters)(epoch)


class ExponentialLR(LRScheduler):
    """:class:`fastopt.schedules.exponential`: multiplied by ``gamma`` in each step.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    gamma : float
        Above 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = ExponentialLR(opt, gamma=0.5)
    >>> for _ in range(3):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.125
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return schedules.exponential(self.base_lrs[k], self.gamma)(epoch)


class PolynomialLR(LRScheduler):
    """:class:`fastopt.schedules.polynomial`: down to 0 at step ``total_iters``.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    total_iters : int, default 5
        At least 1.
    power : float, default 1
        Above 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = PolynomialLR(opt, total_iters=4, power=2)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.25
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        return schedules.polynomial(self.base_lrs[k], self.total_iters, self.power)(epoch)


class CosineAnnealingLR(LRScheduler):
    """A cosine from ``base_lr`` to ``eta_min`` at step ``T_max``, and back up and down without end, as torch has it.

    :class:`fastopt.schedules.cosine` is its first half period.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    T_max : int
        At least 1.
    eta_min : float, default 0
        At least 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = CosineAnnealingLR(opt, T_max=4)
    >>> for _ in range(6):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.5
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _lr(self, k: int, epoch: int) -> float:
        half, x = divmod(epoch, self.T_max) if self.T_max else (0, 0)
        return schedules.cosine(self.base_lrs[k], self.T_max, self.eta_min)(self.T_max - x if half % 2 else x)

    def _next(self, k: int, lr: float, epoch: int) -> float:
        now = self._lr(k, epoch)
        before = self._lr(k, epoch - 1) if epoch > 0 else self.base_lrs[k]
        if lr == before:
            return now
        if before == self.eta_min:
            return lr + (now - before)
        return (now - self.eta_min) / (before - self.eta_min) * (lr - self.eta_min) + self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """:class:`fastopt.schedules.cosine_restarts`, which :meth:`step` can also set to a fraction of an epoch.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    T_0 : int
        The steps of the first period, at least 1.
    T_mult : int, default 1
        At least 1.
    eta_min : float, default 0
        At least 0.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = CosineAnnealingWarmRestarts(opt, T_0=1)
    >>> scheduler.step(2.5)
    >>> round(scheduler.get_last_lr()[0], 6)
    0.5
    """

    is_absolute = True

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        #: How far within the epoch the last step was.
        self.fraction = 0.0
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Write the next rates into the groups.

        Parameters
        ----------
        epoch : float or None, default None
            Where to go to, such as ``epoch + batch / batches``; at least 0.

        Raises
        ------
        ValueError
            If ``epoch`` is negative.
        """
        if epoch is None:
            super().step()
            return
        if not 0 <= epoch < math.inf:
            raise ValueError(f"epoch={epoch!r}: expected a number of at least 0")
        self.fraction = epoch - math.floor(epoch)
        super().step(math.floor(epoch))

    def _lr(self, k: int, epoch: int) -> float:
        schedule = schedules.cosine_restarts(self.base_lrs[k], self.T_0, self.T_mult, self.eta_min)
        return schedule.at(epoch + self.fraction) if self.fraction else schedule(epoch)


class CyclicLR(LRScheduler):
    """:class:`fastopt.schedules.triangular`, ``triangular2`` or ``exp_range``, and momentum the other way round.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    base_lr, max_lr : float or list of float
        For all groups, or for each.
    step_size_up : int, default 2000
    step_size_down : int or None, default None
        None: as ``step_size_up``.
    mode : {"triangular", "triangular2", "exp_range"}
    gamma : float, default 1
        For ``"exp_range"``.
    scale_fn : callable or None, default None
        Instead of ``mode``: the height of the cycle, from the cycle's number (from 1) or the step.
    scale_mode : {"cycle", "iterations"}
        What ``scale_fn`` takes.
    cycle_momentum : bool, default True
        Whether to write ``momentum``, or the first of ``betas``, too.
    base_momentum, max_momentum : float or list of float, default 0.8 and 0.9

    Raises
    ------
    ValueError
        Also if there is no momentum to cycle.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0, momentum=0.9)
    >>> scheduler = CyclicLR(opt, base_lr=0.1, max_lr=0.5, step_size_up=4)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6), round(opt.param_groups[0]["momentum"], 6)
    (0.3, 0.85)
    """

    functions = ("scale_fn",)
    is_absolute = True

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
        if scale_fn is None and mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"mode={mode!r}: expected 'triangular', 'triangular2' or 'exp_range'")
        if scale_mode not in ("cycle", "iterations"):
            raise ValueError(f"scale_mode={scale_mode!r}: expected 'cycle' or 'iterations'")
        self.min_lrs = per_group("base_lr", optimizer, base_lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        self.step_size_up = step_size_up
        self.step_size_down = step_size_up if step_size_down is None else step_size_down
        self.mode = mode
        self.gamma = gamma
        self.scale_fn = scale_fn
        self.scale_mode = scale_mode
        self.cycle_momentum = cycle_momentum
        self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
        self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
        if cycle_momentum:
            check_momentum(optimizer)
        if last_epoch == -1 and not is_resumed(optimizer):
            begin_at(optimizer, self.min_lrs)
        super().__init__(optimizer, last_epoch)

    def height(self, epoch: int) -> float:
        """Return how far up the cycle is, from 0 to 1 times its scale."""
        x = schedules.triangular(0.0, 1.0, self.step_size_up, self.step_size_down)(epoch)
        cycle = epoch // (self.step_size_up + self.step_size_down)
        if self.scale_fn is not None:
            return x * self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else epoch)
        if self.mode == "exp_range":
            return x * float(self.gamma**epoch)
        return x * 0.5**cycle if self.mode == "triangular2" else x

    def _lr(self, k: int, epoch: int) -> float:
        return self.min_lrs[k] + (self.max_lrs[k] - self.min_lrs[k]) * self.height(epoch)

    def _write(self, lrs: Sequence[float], epoch: int) -> None:
        super()._write(lrs, epoch)
        if self.cycle_momentum:
            height = self.height(epoch)
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                write_momentum(group, high - (high - low) * height)


class OneCycleLR(LRScheduler):
    """:class:`fastopt.schedules.one_cycle`, and momentum the other way round.

    Past the last step the rate stays where it is (torch lifts it once more, then raises).

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    max_lr : float or list of float
        For all groups, or for each.
    total_steps : int or None, default None
        None: ``epochs * steps_per_epoch``.
    epochs, steps_per_epoch : int or None, default None
    pct_start, anneal_strategy, div_factor, final_div_factor, three_phase
        As in :class:`fastopt.schedules.one_cycle`.
    cycle_momentum : bool, default True
        Whether to write ``momentum``, or the first of ``betas``, too.
    base_momentum, max_momentum : float or list of float, default 0.85 and 0.95

    Raises
    ------
    ValueError
        Also if there is no momentum to cycle, or the number of steps is not given.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0, momentum=0.9)
    >>> scheduler = OneCycleLR(opt, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6), round(opt.param_groups[0]["momentum"], 6)
    (1.0, 0.85)
    """

    is_absolute = True

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
            total_steps = epochs * steps_per_epoch
        self.total_steps = total_steps
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        self.pct_start = pct_start
        self.anneal_strategy = anneal_strategy
        self.div_factor = div_factor
        self.final_div_factor = final_div_factor
        self.three_phase = three_phase
        self.cycle_momentum = cycle_momentum
        self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
        self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
        if cycle_momentum:
            check_momentum(optimizer)
        lrs = [self.schedule(k)(0) for k in range(len(self.max_lrs))]
        if last_epoch == -1 and not is_resumed(optimizer):
            begin_at(optimizer, lrs)
            optimizer.parts.groups.initial_lrs.update(enumerate(lrs))
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> schedules.one_cycle:
        """Return the schedule of group number ``k``."""
        return schedules.one_cycle(
            self.max_lrs[k],
            self.total_steps,
            self.pct_start,
            self.div_factor,
            self.final_div_factor,
            self.anneal_strategy,
            self.three_phase,
        )

    def _lr(self, k: int, epoch: int) -> float:
        return self.schedule(k)(epoch)

    def _write(self, lrs: Sequence[float], epoch: int) -> None:
        super()._write(lrs, epoch)
        if self.cycle_momentum:
            for k, group in enumerate(self.optimizer.param_groups):
                write_momentum(group, self.schedule(k).momentum(self.base_momentums[k], self.max_momentums[k])(epoch))


class Combined(LRScheduler):
    """A driver of drivers."""

    _schedulers: list[LRScheduler]

    def _restart(self) -> None:
        for k, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.optimizer.parts.groups.initial_lrs[k]
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        saved = {name: value for name, value in vars(self).items() if name not in ("optimizer", "_schedulers")}
        members = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**{name: each(lambda item: item, value) for name, value in saved.items()}, "_schedulers": members}

    def _check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super()._check_state_dict(state_dict)
        if len(state_dict["_schedulers"]) != len(self._schedulers):
            raise ValueError(
                f"state_dict: expected that of a {type(self).__name__} of {len(self._schedulers)} schedulers"
            )
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler._check_state_dict(saved)

    def _load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler._load_state_dict(saved)
        super()._load_state_dict({name: value for name, value in state_dict.items() if name != "_schedulers"})


class SequentialLR(Combined):
    """One driver after another, each from its step 0 at its milestone.

    Parameters
    ----------
    optimizer, last_epoch
        As in :class:`LRScheduler`.
    schedulers : sequence of LRScheduler
        Of this optimizer; no :class:`ReduceLROnPlateau`.
    milestones : sequence of int
        One fewer, increasing.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> parts = [LinearLR(opt, 0.5, total_iters=2), ExponentialLR(opt, 0.1)]
    >>> scheduler = SequentialLR(opt, parts, milestones=[2])
    >>> rates = []
    >>> for _ in range(4):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [0.5, 0.75, 1.0, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        check_schedulers(type(self).__name__, optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1 or sorted(milestones) != list(milestones):
            raise ValueError(
                f"milestones={milestones!r}: expected {len(schedulers) - 1} of them for {len(schedulers)} schedulers, "
                "in increasing order"
            )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.base_lrs = schedulers[0].base_lrs
        self.last_epoch = last_epoch + 1
        self._last_lr = [group["lr"] for group in optimizer.param_groups]
        if not is_resumed(optimizer):
            self._restart()
            self.last_epoch = last_epoch + 1

    def _begin(self) -> None:
        self.last_epoch = 0
        scheduler = self._schedulers[bisect_right(self._milestones, 0)]
        scheduler._begin()
        self._last_lr = scheduler.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Make a step of the driver whose turn it is; ``epoch`` has to be None."""
        if epoch is not None:
            raise ValueError("SequentialLR.step takes no epoch; step it from the beginning")
        self.last_epoch += 1
        turn = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[turn]
        if turn > 0 and self._milestones[turn - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(Combined):
    """Several drivers stepped together, each changing what the one before it left: their factors multiply.

    Drivers that set the rate whatever it was (:class:`LambdaLR`, :class:`CyclicLR`, :class:`OneCycleLR`,
    :class:`CosineAnnealingWarmRestarts`) undo those before them, as in torch; put them first.

    Parameters
    ----------
    schedulers : sequence of LRScheduler
        Of one optimizer; no :class:`ReduceLROnPlateau`.
    optimizer : Optimizer or None, default None
        None: that of the first.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = ChainedScheduler([ConstantLR(opt, 0.5, total_iters=9), ExponentialLR(opt, 0.5)])
    >>> for _ in range(2):
    ...     scheduler.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.125
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if optimizer is None and schedulers:
            optimizer = getattr(schedulers[0], "optimizer", None)
        check_schedulers(type(self).__name__, optimizer, schedulers)
        self.optimizer = schedulers[0].optimizer
        self._schedulers = list(schedulers)
        self.base_lrs = schedulers[0].base_lrs
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _begin(self) -> None:
        self.last_epoch = 0
        for scheduler in self._schedulers:
            scheduler._begin()
        self._last_lr = self._schedulers[-1].get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Make a step of each driver; ``epoch`` has to be None."""
        if epoch is not None:
            raise ValueError("ChainedScheduler.step takes no epoch; step it from the beginning")
        for scheduler in self._schedulers:
            scheduler.step()
        self.last_epoch += 1
        self._last_lr = self._schedulers[-1].get_last_lr()


class ReduceLROnPlateau(LRScheduler):
    """``lr * factor`` when a metric has not improved for ``patience`` steps.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Whether the metric is to fall or to rise.
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        How many steps without improvement are allowed.
    threshold : float, default 1e-4
        What counts as an improvement: more than this part of the best (``"rel"``), or more than this (``"abs"``).
    threshold_mode : {"rel", "abs"}
    cooldown : int, default 0
        For how many steps after a reduction nothing is counted.
    min_lr : float or list of float, default 0
        For all groups, or for each.
    eps : float, default 1e-8
        A smaller change of the rate is not made.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        check_optimizer(optimizer)
        if not factor < 1:
            raise ValueError(f"factor={factor!r}: expected a number below 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r}: expected 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode={threshold_mode!r}: expected 'rel' or 'abs'")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = per_group("min_lr", optimizer, min_lr)
        self.eps = eps
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = list(self.base_lrs)

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take note of a metric, and reduce the rates if it is time.

        Parameters
        ----------
        metrics : float
            NaN is no improvement.
        epoch : int or None, default None
            The number of this step, if it is not one more than the last one's.
        """
        metric = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(metric):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, min_lr in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                reduced = max(group["lr"] * self.factor, min_lr)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def is_better(self, metric: float) -> bool:
        """Return whether a metric improves upon the best so far."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * metric > sign * self.best * (1 + sign * self.threshold)
        return sign * metric > sign * self.best + self.threshold


def each(convert: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of nested lists and dicts with what is in them converted."""
    if isinstance(value, list):
        return [each(convert, item) for item in value]
    if isinstance(value, dict):
        return {key: each(convert, item) for key, item in value.items()}
    return convert(value)


def is_function(value: Any) -> bool:
    return value is None or isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type))


def is_resumed(optimizer: Optimizer) -> bool:
    """Return whether the rates were just loaded, together with those that the groups began with."""
    return optimizer.parts.groups.resumed_at == optimizer.step_count


def begin_at(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr


def per_group(name: str, optimizer: Optimizer, value: T | Sequence[T]) -> list[T]:
    """Return one value for each group."""
    check_optimizer(optimizer)
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise ValueError(f"{name}: expected one for each of the {count} groups, got {len(value)}")
    return list(value)


def check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected an optimizer of fastopt, got {type(optimizer).__name__}")
    for k, group in enumerate(optimizer.param_groups):
        if callable(group["lr"]):
            raise TypeError(f"param_groups[{k}]: lr={group['lr']!r} is a schedule already; give a number to drive it")


def check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a number from 0 to 1")


def check_momentum(optimizer: Optimizer) -> None:
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(f"cycle_momentum=True: {type(optimizer).__name__} has neither momentum nor betas")


def check_schedulers(where: str, optimizer: Any, schedulers: Sequence[Any]) -> None:
    if not schedulers:
        raise ValueError(f"{where}: expected at least one scheduler")
    for k, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(f"{where}: number {k} is a {type(scheduler).__name__}, which steps in another way")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{where}: number {k} is of another optimizer")


def write_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum
