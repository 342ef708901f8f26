"""The driver that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.optimizer import Optimizer
from ..options.ranges import ANY_NUMBER, Choice, Range, as_option, check
from .base import LRScheduler, check_no_schedule, check_optimizer, per_group, read_lrs


class ReduceLROnPlateau(LRScheduler):
    """``lr * factor`` when a metric has not improved for more than ``patience`` steps.

    Parameters
    ----------
    mode : {"min", "max"}
        Whether a lower or a higher metric is better.
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        The number of steps without improvement that are allowed.
    threshold : float, default 1e-4
        An improvement must exceed this fraction of the best metric (``"rel"``), or this amount (``"abs"``).
    threshold_mode : {"rel", "abs"}
    cooldown : int, default 0
        The number of steps after a reduction that are not counted.
    min_lr : float or list of float, default 0
        One for all groups, also those that are added later, or one for each.
    eps : float, default 1e-8
        A rate that would change by no more than this stays the same.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = ReduceLROnPlateau(fastopt.SGD(np.ones(2), lr=1.0), factor=0.5, patience=1)
    >>> [(scheduler.step(loss), scheduler.get_last_lr()[0])[1] for loss in (3.0, 2.0, 2.0, 2.0)]
    [1.0, 1.0, 1.0, 0.5]
    """

    takes_groups = True
    of_groups = LRScheduler.of_groups | {"min_lrs"}

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
        check("mode", mode, Choice("min", "max"))
        check("threshold_mode", threshold_mode, Choice("rel", "abs"))
        self.optimizer = optimizer
        self.mode = mode
        self.factor = check("factor", factor, Range(high=1.0))
        self.patience = as_option(patience)
        self.threshold: float = as_option(threshold)
        self.threshold_mode = threshold_mode
        self.cooldown = as_option(cooldown)
        self.min_lrs = per_group("min_lr", optimizer, min_lr, ANY_NUMBER)
        #: The one for all groups, or None.
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else as_option(min_lr)
        self.eps = as_option(eps)
        self.base_lrs = read_lrs(optimizer)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = list(self.base_lrs)
        optimizer.parts.groups.followers.add(self)

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Record a metric, and reduce the rates if it is time.

        Parameters
        ----------
        metrics : float
            NaN is not an improvement.
        epoch : int or None, default None
            The number of this step. None: one more than the last step's.

        Raises
        ------
        TypeError
            If the ``lr`` of a group has become a schedule. Nothing has changed then.
        ValueError
            If it is time to reduce the rates, groups were added, and ``min_lr`` was a list. Nothing has changed then.
        """
        check_no_schedule(self.optimizer)
        metric = float(metrics)
        is_better, is_cooling = self.is_better(metric), self.cooldown_counter > 0
        bad_epochs = 0 if is_better or is_cooling else self.num_bad_epochs + 1
        if bad_epochs > self.patience:
            self.reduce()
            bad_epochs, self.cooldown_counter = 0, self.cooldown
        elif is_cooling:
            self.cooldown_counter -= 1
        if is_better:
            self.best = metric
        self.num_bad_epochs = bad_epochs
        self.last_epoch = self.last_epoch + 1 if epoch is None else as_option(epoch)
        self.optimizer.parts.groups.end_loading()
        self._last_lr = read_lrs(self.optimizer)

    def reduce(self) -> None:
        """Write the reduced rates into the groups."""
        lrs = read_lrs(self.optimizer)
        if len(lrs) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise ValueError(
                    f"ReduceLROnPlateau: min_lr has {len(self.min_lrs)} rates, now there are {len(lrs)} groups; append "
                    "those of the new groups to the driver's min_lrs"
                )
            self.min_lrs = [self.default_min_lr] * len(lrs)
        # First all of them: where a rate is not a number, this raises.
        lower = [max(lr * self.factor, min_lr) for lr, min_lr in zip(lrs, self.min_lrs, strict=True)]
        for group, lr, less in zip(self.optimizer.param_groups, lrs, lower, strict=True):
            if lr - less > self.eps:
                group["lr"] = less

    def is_better(self, metric: float) -> bool:
        """Return whether a metric is better than the best so far."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * metric > sign * self.best * (1 + sign * self.threshold)
        return sign * metric > sign * self.best + self.threshold

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().check_state_dict(with_default_min_lr(state_dict))

    def load_attributes(self, state_dict: Mapping[str, Any]) -> None:
        super().load_attributes(with_default_min_lr(state_dict))


def with_default_min_lr(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state with the entry that older ones lack."""
    if not isinstance(state_dict, Mapping) or "default_min_lr" in state_dict or not state_dict.get("min_lrs"):
        return state_dict
    first, *others = state_dict["min_lrs"]
    return {**state_dict, "default_min_lr": first if all(lr == first for lr in others) else None}
