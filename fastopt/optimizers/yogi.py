"""Yogi: Adam whose second moment changes by additions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable
from .adam import bias_corrected


class Yogi(Optimizer):
    r"""Yogi, as ``optax.yogi``: Adam whose second moment changes by additions, so that it never falls fast.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v -= (1 - beta2) * sign(v - g * g) * g * g
        p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-3
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    initial_accumulator_value : float >= 0, default 1e-6
        The first value of ``m`` and of ``v``, as in optax.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``v`` (second moment).

    Source: Zaheer et al., Adaptive Methods for Nonconvex Optimization (NeurIPS 2018);
    https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.yogi.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.Yogi(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(5)
    array([0.90004])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"initial_accumulator_value": NON_NEGATIVE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        initial_accumulator_value: float = 1e-6,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.yogi

    def initial_slot(self, group: Group, slot: str) -> float:
        return float(group["initial_accumulator_value"])

    def hyper(self, group: Group, step: int) -> rules.YogiScalars:
        beta1, beta2 = group["betas"]
        step_size, root, _ = bias_corrected(group["lr"], group["betas"], step)
        return rules.YogiScalars(beta1, 1.0 - beta1, 1.0 - beta2, step_size, group["eps"] * root)
