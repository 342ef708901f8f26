"""The drivers that follow one schedule."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from .. import schedules
from ..core.optimizer import Optimizer
from ..options.ranges import ANY_NUMBER, COUNT, FRACTION, INDEX, NON_NEGATIVE, POSITIVE, Choice, as_number, check
from ..schedules.base import SHAPES, each, on_cosine, on_line, progress
from .base import LRScheduler, number_of, per_group, read_lrs


class LambdaLR(LRScheduler):
    """``base_lr * lr_lambda(epoch)``.

    Parameters
    ----------
    lr_lambda : callable or list of them
        One for all groups, or one for each.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = LambdaLR(fastopt.SGD(np.ones(2), lr=1.0), lambda epoch: 0.5**epoch)
    >>> scheduler.step(), scheduler.get_last_lr()
    (None, [0.5])
    """

    functions = ("lr_lambdas",)
    of_groups = LRScheduler.of_groups | {"lr_lambdas"}
    is_absolute = True
    epochs = ANY_NUMBER

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

    def schedule(self, k: int) -> Callable[[int], float]:
        return lambda epoch: self.base_lrs[k] * self.lr_lambdas[k](epoch)

    def rates(self, epoch: int) -> list[float]:
        return [lr * factor(epoch) for lr, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]


class MultiplicativeLR(LambdaLR):
    """``lr * lr_lambda(epoch)``: a factor for each step. It has no closed form.

    Parameters
    ----------
    lr_lambda : callable or list of them
        One for all groups, or one for each.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = MultiplicativeLR(fastopt.SGD(np.ones(2), lr=1.0), lambda epoch: 0.5)
    >>> scheduler.step(), scheduler.step(), scheduler.get_last_lr()
    (None, None, [0.25])
    """

    is_absolute = False
    finds_rate = True

    def schedule(self, k: int) -> Callable[[int], float]:
        lr = read_lrs(self.optimizer)[k]
        return lambda epoch: lr * self.lr_lambdas[k](epoch)

    def rates(self, epoch: int) -> list[float]:
        return [lr * factor(epoch) for lr, factor in zip(read_lrs(self.optimizer), self.lr_lambdas, strict=True)]

    def next_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        return self.rates(epoch) if epoch else lrs


class StepLR(LRScheduler):
    """:class:`fastopt.schedules.step_decay`: multiplied by ``gamma`` every ``step_size`` steps.

    Parameters
    ----------
    step_size : int, >= 1
    gamma : float, > 0, default 0.1

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = StepLR(fastopt.SGD(np.ones(2), lr=1.0), step_size=2, gamma=0.5)
    >>> scheduler.step(epoch=4), scheduler.get_last_lr()
    (None, [0.25])
    """

    takes_groups = True

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = as_number("step_size", step_size, COUNT)
        self.gamma = as_number("gamma", gamma, POSITIVE)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        return schedules.step_decay(self.base_lrs[k], self.step_size, self.gamma)

    def rates(self, epoch: int) -> list[float]:
        factor = float(self.gamma) ** (epoch // self.step_size)
        return [float(lr) * factor for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Multiplied by ``gamma`` at each milestone; a milestone given twice counts twice.

    Parameters
    ----------
    milestones : iterable of int
    gamma : float, default 0.1

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = MultiStepLR(fastopt.SGD(np.ones(2), lr=1.0), milestones=[2, 4], gamma=0.5)
    >>> scheduler.step(epoch=4), scheduler.get_last_lr()
    (None, [0.25])
    """

    takes_groups = True
    epochs = ANY_NUMBER

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones = sorted(each(partial(number_of, allowed=ANY_NUMBER))("milestones", milestones))
        self.gamma = number_of("gamma", gamma, ANY_NUMBER)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        return lambda epoch: self.base_lrs[k] * self.gamma ** bisect_right(self.milestones, epoch)

    def rates(self, epoch: int) -> list[float]:
        factor = self.gamma ** bisect_right(self.milestones, epoch)
        return [lr * factor for lr in self.base_lrs]


class ConstantLR(LRScheduler):
    """``base_lr * factor`` for ``total_iters`` steps, then ``base_lr``.

    Parameters
    ----------
    factor : float, from 0 to 1, default 1/3
    total_iters : int, >= 1, default 5

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = ConstantLR(fastopt.SGD(np.ones(2), lr=1.0), factor=0.5, total_iters=3)
    >>> scheduler.get_last_lr(), scheduler.step(epoch=3), scheduler.get_last_lr()
    ([0.5], None, [1.0])
    """

    takes_groups = True

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        self.factor = as_number("factor", factor, FRACTION)
        self.total_iters = as_number("total_iters", total_iters, COUNT)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        base_lr = self.base_lrs[k]
        return schedules.piecewise_constant([base_lr * self.factor, base_lr], [self.total_iters])

    def rates(self, epoch: int) -> list[float]:
        factor = self.factor if epoch < self.total_iters else 1.0
        return [float(lr * factor) for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """:class:`fastopt.schedules.linear`: from ``base_lr * start_factor`` to ``base_lr * end_factor``.

    Parameters
    ----------
    start_factor : float, > 0 and at most 1, default 1/3
    end_factor : float, from 0 to 1, default 1
    total_iters : int, >= 1, default 5

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = LinearLR(fastopt.SGD(np.ones(2), lr=1.0), start_factor=0.5, total_iters=4)
    >>> scheduler.step(epoch=2), scheduler.get_last_lr()
    (None, [0.75])
    """

    takes_groups = finds_rate = True

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = as_number("start_factor", start_factor, FRACTION._replace(excludes_low=True))
        self.end_factor = as_number("end_factor", end_factor, FRACTION)
        self.total_iters = as_number("total_iters", total_iters, COUNT)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        factor = schedules.linear(self.start_factor, self.end_factor, self.total_iters)
        return lambda epoch: self.base_lrs[k] * factor(epoch)

    def rates(self, epoch: int) -> list[float]:
        factor = on_line(self.start_factor, self.end_factor, progress(epoch, self.total_iters))
        return [lr * factor for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """:class:`fastopt.schedules.exponential`: multiplied by ``gamma`` in each step.

    Parameters
    ----------
    gamma : float, > 0

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = ExponentialLR(fastopt.SGD(np.ones(2), lr=1.0), gamma=0.5)
    >>> scheduler.step(epoch=3), scheduler.get_last_lr()
    (None, [0.125])
    """

    takes_groups = finds_rate = True

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = as_number("gamma", gamma, POSITIVE)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        return schedules.exponential(self.base_lrs[k], self.gamma)

    def rates(self, epoch: int) -> list[float]:
        factor = float(self.gamma) ** epoch
        return [float(lr) * factor for lr in self.base_lrs]


class PolynomialLR(LRScheduler):
    """:class:`fastopt.schedules.polynomial`: down to 0 at step ``total_iters``.

    Parameters
    ----------
    total_iters : int, >= 1, default 5
    power : float, > 0, default 1

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = PolynomialLR(fastopt.SGD(np.ones(2), lr=1.0), total_iters=4, power=2)
    >>> scheduler.step(epoch=2), scheduler.get_last_lr()
    (None, [0.25])
    """

    takes_groups = finds_rate = True

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = as_number("total_iters", total_iters, COUNT)
        self.power = as_number("power", power, POSITIVE)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        return schedules.polynomial(self.base_lrs[k], self.total_iters, self.power)

    def rates(self, epoch: int) -> list[float]:
        x = on_line(0.0, 1.0, (1 - progress(epoch, self.total_iters)) ** self.power)
        return [on_line(0.0, float(lr), x) for lr in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """A cosine from ``base_lr`` to ``eta_min`` at step ``T_max``, then up and down without end, as in torch.

    :class:`fastopt.schedules.cosine` is its first half period.

    Parameters
    ----------
    T_max : int, >= 1
    eta_min : float, >= 0, default 0

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = CosineAnnealingLR(fastopt.SGD(np.ones(2), lr=1.0), T_max=4)
    >>> scheduler.step(epoch=4), scheduler.get_last_lr(), scheduler.step(epoch=8), scheduler.get_last_lr()
    (None, [0.0], None, [1.0])
    """

    takes_groups = finds_rate = True

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = as_number("T_max", T_max, COUNT)
        self.eta_min = as_number("eta_min", eta_min, NON_NEGATIVE)
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        half_period = schedules.cosine(self.base_lrs[k], self.T_max, self.eta_min)
        return lambda epoch: half_period(self.steps_down(epoch))

    def steps_down(self, epoch: int) -> int:
        """Return the step of the first half period that has the rate of this epoch."""
        halves, steps = divmod(epoch, self.T_max)
        return int(self.T_max - steps if halves % 2 else steps)

    def rates(self, epoch: int) -> list[float]:
        return way_down(self.base_lrs, self.eta_min, on_cosine(0.0, 1.0, self.steps_down(epoch) / self.T_max))

    def next_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        now = self.rates(epoch)
        before = self.rates(epoch - 1) if epoch > 0 else self.base_lrs
        if lrs == before:
            return now
        if self.goes_up_from_eta_min(epoch):
            others = [lr + (after - start) for lr, start, after in zip(lrs, before, now, strict=True)]
        else:
            others = self.lrs_of_new_groups(lrs, epoch)
        moves = zip(lrs, before, now, others, strict=True)
        return [after if lr == start else other for lr, start, after, other in moves]

    def lrs_of_new_groups(self, lrs: list[float], epoch: int) -> list[float]:
        if epoch == 0:
            return lrs
        if self.goes_up_from_eta_min(epoch):
            raise ValueError(
                f"CosineAnnealingLR: param_groups[{len(self.base_lrs)}] was added later, so that the driver does not "
                f"know the rate to go up to from eta_min at step {epoch}; build it after add_param_group"
            )
        # How far above eta_min a rate is: the difference of two rates would be inexact where they are close.
        before, now = (on_cosine(1.0, 0.0, self.steps_down(step) / self.T_max) for step in (epoch - 1, epoch))
        return [now / before * (lr - self.eta_min) + self.eta_min for lr in lrs]

    def goes_up_from_eta_min(self, epoch: int) -> bool:
        return epoch > 0 and (epoch - 1) % (2 * self.T_max) == self.T_max


class CosineAnnealingWarmRestarts(LRScheduler):
    """:class:`fastopt.schedules.cosine_restarts`, which ``step`` can also set to a fraction of an epoch.

    Parameters
    ----------
    T_0 : int, >= 1
        The steps of the first period.
    T_mult : int, >= 1, default 1
    eta_min : float, >= 0, default 0

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = CosineAnnealingWarmRestarts(fastopt.SGD(np.ones(2), lr=1.0), T_0=1)
    >>> scheduler.step(2.5), scheduler.get_last_lr()
    (None, [0.5])
    """

    is_absolute = True

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = as_number("T_0", T_0, COUNT)
        self.T_mult = as_number("T_mult", T_mult, COUNT)
        self.eta_min = as_number("eta_min", eta_min, NON_NEGATIVE)
        #: The fraction of the epoch at the last step.
        self.fraction = 0.0
        super().__init__(optimizer, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Write the next rates into the groups.

        Parameters
        ----------
        epoch : float or None, >= 0, default None
            The epoch to jump to, such as ``epoch + batch / batches``. None: the next.

        Raises
        ------
        ValueError
            If ``epoch`` is negative.
        """
        if epoch is None:
            super().step()
            return
        epoch = check("epoch", epoch, NON_NEGATIVE)
        fraction, self.fraction = self.fraction, epoch - math.floor(epoch)
        try:
            super().step(math.floor(epoch))
        except BaseException:
            self.fraction = fraction
            raise

    def schedule(self, k: int) -> Callable[[int], float]:
        return self.restarts(self.base_lrs[k], self.eta_min)

    def restarts(self, base_lr: float, eta_min: float) -> Callable[[int], float]:
        """Return the schedule that begins each period at ``base_lr``."""
        restarts = schedules.cosine_restarts(base_lr, self.T_0, self.T_mult, eta_min)
        return (lambda epoch: restarts.at(epoch + self.fraction)) if self.fraction else restarts

    def rates(self, epoch: int) -> list[float]:
        return way_down(self.base_lrs, self.eta_min, self.restarts(0.0, 1.0)(epoch))


def way_down(base_lrs: Sequence[float], eta_min: float, x: float) -> list[float]:
    """Return the rates that have gone the part ``x`` of the way from the initial rates to ``eta_min``."""
    eta_min = float(eta_min)
    return [on_line(float(lr), eta_min, x) for lr in base_lrs]


class SWALR(LRScheduler):
    """From the rates of the groups to ``swa_lr``, where they stay: for averaged weights (``polyak=True``).

    This is ``torch.optim.swa_utils.SWALR``. It begins at the rates that it finds when it is built.

    Parameters
    ----------
    swa_lr : float or list of float, >= 0
        One for all groups, or one for each.
    anneal_epochs : int, >= 0, default 10
        The steps until ``swa_lr`` is reached. 0: building writes it.
    anneal_strategy : {"cos", "linear"}

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = SWALR(fastopt.SGD(np.ones(2), lr=1.0), swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
    >>> [(scheduler.get_last_lr()[0], scheduler.step())[0] for _ in range(4)]
    [1.0, 0.75, 0.5, 0.5]
    """

    finds_rate = True

    rates_of_groups = LRScheduler.rates_of_groups | {"swa_lrs"}
    of_groups = rates_of_groups

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        self.swa_lrs = per_group("swa_lr", optimizer, swa_lr, NON_NEGATIVE)
        self.anneal_epochs = as_number("anneal_epochs", anneal_epochs, INDEX)
        check("anneal_strategy", anneal_strategy, Choice(*SHAPES))
        self.anneal_strategy = anneal_strategy
        super().__init__(optimizer, last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        lr = read_lrs(self.optimizer)[k]
        return lambda epoch: on_line(lr, self.swa_lrs[k], self.way(epoch))

    def way(self, epoch: int) -> float:
        """Return which part of the way to ``swa_lr`` is done after a step."""
        return SHAPES[self.anneal_strategy](min(1.0, epoch / self.anneal_epochs) if self.anneal_epochs else 1.0)

    def rates(self, epoch: int) -> list[float]:
        return self.next_lrs(read_lrs(self.optimizer), epoch)

    def next_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        before, now = self.way(max(epoch - 1, 0)) if self.anneal_epochs else 0.0, self.way(epoch)
        if before == 1:
            return list(self.swa_lrs)
        # As much of what is left of the way as this step's part of it.
        part = (now - before) / (1 - before)
        return [on_line(lr, end, part) for lr, end in zip(lrs, self.swa_lrs, strict=True)]
