"""RAdam: Adam with a rectified start."""

from __future__ import annotations

import math
from typing import Any

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import Group, Schedulable


class RAdam(Optimizer):
    r"""RAdam, as ``torch.optim.RAdam``: rectified Adam, which is plain momentum until the second moment can be trusted.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p -= lr * r * m / (1 - beta1**t) * sqrt(1 - beta2**t) / (sqrt(v) + eps)      where rho > 5
        p -= lr * m / (1 - beta1**t)                                                 else

    torch's ``decoupled_weight_decay`` is ``decoupled`` here.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``v`` (second moment).

    Source: Liu et al., arXiv 1908.03265; https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.RAdam(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.7])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.radam

    def hyper(self, group: Group, step: int) -> rules.RAdamScalars:
        beta1, beta2 = group["betas"]
        step_size = group["lr"] / (1.0 - beta1**step)
        correction2 = 1.0 - beta2**step
        rho_inf = 2.0 / (1.0 - beta2) - 1.0
        rho = rho_inf - 2.0 * step * beta2**step / correction2
        if rho > 5.0:
            rectified = (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)
            step_size *= math.sqrt(rectified) * math.sqrt(correction2)
            greatest_root, eps = math.inf, group["eps"]
        else:
            # The denominator is exactly 1: a step of plain momentum.
            greatest_root, eps = 0.0, 1.0
        return rules.RAdamScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, greatest_root, eps)
