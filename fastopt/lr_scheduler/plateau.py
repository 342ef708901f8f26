"""The driver that follows a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core.optimizer import Optimizer
from ..options.ranges import Choice, Range, check
from .base import LRScheduler, check_optimizer, per_group, read_lrs


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
        One for all groups, or one for each.
    eps : float, default 1e-8
        A rate that would change by no more than this stays the same.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> scheduler = ReduceLROnPlateau(fastopt.SGD(np.ones(2), lr=1.0), factor=0.5, patience=1)
    >>> [(scheduler.step(loss), scheduler.get_last_lr()[0])[1] for loss in (3.0, 2.0, 2.0, 2.0)]
    [1.0, 1.0, 1.0, 0.5]
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
        check("factor", factor, Range(high=1.0))
        check("mode", mode, Choice("min", "max"))
        check("threshold_mode", threshold_mode, Choice("rel", "abs"))
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lrs = per_group("min_lr", optimizer, min_lr)
        self.eps = eps
        self.base_lrs = read_lrs(optimizer)
        self.best = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = 0
        self.num_bad_epochs = 0
        self.last_epoch = 0
        self._last_lr = list(self.base_lrs)

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Record a metric, and reduce the rates if it is time.

        Parameters
        ----------
        metrics : float
            NaN is not an improvement.
        epoch : int or None, default None
            The number of this step. None: one more than the last step's.
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
        self._last_lr = read_lrs(self.optimizer)

    def is_better(self, metric: float) -> bool:
        """Return whether a metric is better than the best so far."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            return sign * metric > sign * self.best * (1 + sign * self.threshold)
        return sign * metric > sign * self.best + self.threshold
