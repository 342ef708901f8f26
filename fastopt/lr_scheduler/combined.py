"""Drivers that combine other drivers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.optimizer import Optimizer
from .base import LRScheduler, read_lrs
from .plateau import ReduceLROnPlateau
from .resuming import building, put_back, unchanged_if_it_fails


class Combined(LRScheduler):
    """The base of the two: it steps its members, and saves their states along with its own."""

    def __init__(self, optimizer: Optimizer | None, schedulers: Sequence[LRScheduler], last_epoch: int = -1) -> None:
        check_schedulers(type(self).__name__, optimizer, schedulers)
        self.optimizer = schedulers[0].optimizer
        self.base_lrs = schedulers[0].base_lrs
        self.last_epoch = last_epoch + 1
        self._last_lr = read_lrs(self.optimizer)
        self._schedulers = list(schedulers)
        self.takes_groups = all(scheduler.takes_groups for scheduler in schedulers)
        #: The drivers below this one, and the options that they may write.
        self._members = [member for scheduler in schedulers for member in scheduler.drivers()]
        self._written = sorted({name for member in self._members for name in member.options_to_write()})
        self.optimizer.parts.groups.followers.add(self)

    def advance(self, epoch: int) -> LRScheduler:
        """Make step number ``epoch`` of the members, and return the one that wrote the rates."""
        raise NotImplementedError

    def begin(self) -> None:
        self.make_step(0)

    def options_to_write(self) -> list[str]:
        return self._written

    def restart(self) -> None:
        with unchanged_if_it_fails(self.optimizer, self._members):
            for k, group in enumerate(self.optimizer.param_groups):
                if "initial_lr" not in group:
                    raise ValueError(
                        f"{type(self).__name__}: the rate that param_groups[{k}] began with is not known; build its "
                        "schedulers after add_param_group"
                    )
                group["lr"] = group["initial_lr"]
            self.begin()

    def make_step(self, epoch: int) -> None:
        """Make step number ``epoch``; nothing has changed if a member raises."""
        self._last_lr = self.advance(epoch).get_last_lr()
        self.last_epoch = epoch

    def shown_members(self) -> dict[str, Any]:
        return {"schedulers": self._schedulers}

    def drivers(self) -> list[LRScheduler]:
        return [self, *self._members]

    def rewrite(self) -> None:
        for scheduler in self._schedulers:
            scheduler.rewrite()
        super().rewrite()

    def step(self, epoch: int | None = None) -> None:
        """Step the members; ``epoch`` must be None."""
        if epoch is not None:
            raise ValueError(f"{type(self).__name__}.step takes no epoch; step it from the beginning")
        self.make_step(self.last_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().check_state_dict(state_dict)
        if len(state_dict["_schedulers"]) != len(self._schedulers):
            raise ValueError(
                f"state_dict: expected that of a {type(self).__name__} of {len(self._schedulers)} schedulers"
            )
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.check_state_dict(saved)

    def load_attributes(self, state_dict: Mapping[str, Any]) -> None:
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_attributes(saved)
        super().load_attributes({name: value for name, value in state_dict.items() if name != "_schedulers"})


class SequentialLR(Combined):
    """One driver after another; each starts from its step 0 at its milestone.

    Parameters
    ----------
    schedulers : sequence of LRScheduler
        Drivers of this optimizer, except :class:`ReduceLROnPlateau`.
    milestones : sequence of int
        In increasing order; one fewer than there are schedulers.
    last_epoch : int, default -1
        The number of the last step of an earlier run. Building makes that many steps and one more, so that the groups
        get the rates of step ``last_epoch + 1``. (torch writes those of step 0.)

    Notes
    -----
    A :class:`ChainedScheduler` or SequentialLR as a member begins at its step 0 like the other drivers. (torch makes
    one step too many then, when it builds the outer one.)

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = SequentialLR(opt, [LinearLR(opt, 0.5, total_iters=2), ExponentialLR(opt, 0.1)], milestones=[2])
    >>> [(scheduler.get_last_lr()[0], scheduler.step())[0] for _ in range(4)]
    [0.5, 0.75, 1.0, 0.1]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        self._milestones = list(milestones)
        super().__init__(optimizer, schedulers, last_epoch)
        if len(milestones) != len(schedulers) - 1 or sorted(milestones) != list(milestones):
            raise ValueError(
                f"milestones={milestones!r}: expected {len(schedulers) - 1} of them for {len(schedulers)} schedulers, "
                "in increasing order"
            )
        with building(optimizer) as self._rewrites, unchanged_if_it_fails(optimizer, self._members):
            self.restart()
            for epoch in range(last_epoch + 1):
                self.make_step(epoch + 1)

    def shown_members(self) -> dict[str, Any]:
        return {**super().shown_members(), "milestones": self._milestones}

    def advance(self, epoch: int) -> LRScheduler:
        turn = bisect_right(self._milestones, epoch)
        scheduler = self._schedulers[turn]
        if epoch == 0:
            scheduler.begin()
        elif turn > 0 and self._milestones[turn - 1] == epoch:
            scheduler.restart()
        else:
            scheduler.step()
        return scheduler


class ChainedScheduler(Combined):
    """Several drivers stepped together. Each changes the rate that the one before it left, so their factors multiply.

    As in torch, drivers that ignore the current rate (:class:`LambdaLR`, :class:`CyclicLR`, :class:`OneCycleLR`,
    :class:`CosineAnnealingWarmRestarts`) undo the ones before them; put them first.

    Parameters
    ----------
    schedulers : sequence of LRScheduler
        Drivers of one optimizer, except :class:`ReduceLROnPlateau`.
    optimizer : Optimizer or None, default None
        None: the optimizer of the first driver.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.ones(2), lr=1.0)
    >>> scheduler = ChainedScheduler([ConstantLR(opt, 0.5, total_iters=9), ExponentialLR(opt, 0.5)])
    >>> scheduler.step(), scheduler.step(), scheduler.get_last_lr()
    (None, None, [0.125])
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if optimizer is None and schedulers:
            optimizer = getattr(schedulers[0], "optimizer", None)
        super().__init__(optimizer, schedulers)

    def advance(self, epoch: int) -> LRScheduler:
        groups = self.optimizer.parts.groups.param_groups
        written = [[group[name] for group in groups] for name in self._written]
        attributes = [vars(member).copy() for member in self._members]
        try:
            for scheduler in self._schedulers:
                if epoch == 0:
                    scheduler.begin()
                else:
                    scheduler.step()
        except BaseException:
            for name, values in zip(self._written, written, strict=True):
                for group, value in zip(groups, values, strict=True):
                    group[name] = value
            put_back([vars(member) for member in self._members], attributes)
            raise
        return self._schedulers[-1]


def check_schedulers(where: str, optimizer: Any, schedulers: Sequence[Any]) -> None:
    if not schedulers:
        raise ValueError(f"{where}: expected at least one scheduler")
    for k, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise TypeError(f"{where}: number {k} is a {type(scheduler).__name__}, which steps in another way")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{where}: number {k} is of another optimizer")
