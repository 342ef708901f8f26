"""Yogi."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..core.optimizer import Optimizer
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class Yogi(Optimizer):
    r"""Yogi, as ``optax.yogi``: Adam whose second moment grows and falls by additions, so that it never falls fast.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v -= (1 - beta2) * sign(v - g * g) * g * g
        p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 1e-2
        Learning rate, at least 0.
    betas : pair of float, default (0.9, 0.999)
        Each from 0 to below 1.
    eps : float, default 1e-3
        At least 0.
    weight_decay : float, default 0.0
        At least 0; L2, or with ``decoupled=True`` a shrinking of the parameters by ``1 - lr * weight_decay``.
    initial_accumulator_value : float, default 1e-6
        What ``m`` and ``v`` begin with (as in optax, both). At least 0.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m``, ``v``.

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
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.yogi

    def initial_slot(self, group: Group, slot: str) -> float:
        return float(group["initial_accumulator_value"])

    def hyper(self, group: Group, step: int) -> rules.YogiScalars:
        beta1, beta2 = group["betas"]
        # As in Adam: multiplying the fraction by this root leaves v as it is.
        root = math.sqrt(1.0 - beta2**step)
        step_size = group["lr"] / (1.0 - beta1**step) * root
        return rules.YogiScalars(beta1, 1.0 - beta1, 1.0 - beta2, step_size, group["eps"] * root)
