"""The numbers of thinc's optimizers, as an optimizer of fastopt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.ranges import Allowed, Group

#: Gradients are multiplied by this before they are clipped, and the rule's scalars divide by it; both are exact. So the
#: 1e-6 of fastopt's factor ``c / (norm + 1e-6)`` counts for nothing beside the norm: thinc's factor is ``c / norm``.
GAIN = 2.0**20


def average_decay(step: int) -> float:
    """Return the decay of thinc's averages at an array's step, from 1. They begin at zero."""
    return min(0.9999, (1.0 + step) / (10.0 + step))


class Update(Optimizer):
    """thinc's Adam, RAdam and SGD, with its conventions.

    For step ``t`` from 1, with the clipped gradient ``g``::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)
        p -= lr * weight_decay * p

    With ``beta2`` of 0 the first three lines are ``p -= lr * g``. The average begins at zero.

    Parameters
    ----------
    lr : float >= 0
    betas : pair of float in [0, 1)
    eps : float >= 0
    weight_decay : float >= 0
        Decoupled, and after the step.
    clip_norm : float >= 0 or None
        In units of ``1 / GAIN``.
    use_radam : bool
        Whether the step size is rectified, as thinc does it.
    use_averages : bool
        Whether to keep the average.
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"use_radam": None}

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        clip_norm: float | None,
        use_radam: bool,
        use_averages: bool,
    ) -> None:
        super().__init__(
            params,
            dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, use_radam=use_radam),
            decoupled=True,
            clip_norm=clip_norm,
            grad_scale=1.0 / GAIN,
            zero_grads=True,
            ema_decay=average_decay if use_averages else None,
            ema_start="zero" if use_averages else "before",
        )

    def rule(self, group: Group) -> rules.Rule:
        if group["use_radam"]:
            return rules.radam
        return rules.adam if group["betas"][1] > 0 else rules.sgd

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        # fastopt decays before the step: (p - u) * keep = p * keep - u * keep.
        lr = group["lr"] * (1.0 - group["lr"] * group["weight_decay"])
        if group["use_radam"]:
            return radam_scalars(lr, group["betas"], group["eps"], step)
        beta1, beta2 = group["betas"]
        if beta2 == 0:
            return rules.SGDScalars(lr / GAIN)
        step_size = lr * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
        # thinc's Adam, and it alone, subtracts them from 1 in single precision.
        return rules.AdamScalars(*moments(in_single(beta1), in_single(beta2)), step_size, group["eps"], 0.0)


@lru_cache
def in_single(number: float) -> float:
    """Return a number rounded to single precision."""
    return float(np.float32(number))


def moments(beta1: float, beta2: float) -> tuple[float, float, float, float]:
    """Return the decay of each moment and the weight of the gradient in it, or of its square."""
    return beta1, (1.0 - beta1) / GAIN, beta2, (1.0 - beta2) / GAIN**2


def radam_scalars(lr: float, betas: tuple[float, float], eps: float, step: int) -> rules.RAdamScalars:
    """Return the scalars of thinc's RAdam, which counts its steps from 2, and does not correct ``v`` apart from ``r``.

    As in the authors' first code, ``r`` has the factor ``sqrt(1 - beta2**t)``, and applies where ``rho >= 5``.
    """
    (beta1, beta2), t = betas, step + 1
    correction2 = 1.0 - beta2**t
    step_size = lr / (1.0 - beta1**t)
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * t * beta2**t / correction2
    if rho < 5.0:
        return rules.RAdamScalars(*moments(beta1, beta2), step_size, 0.0, 1.0)  # the denominator is exactly 1
    r = math.sqrt(correction2 * (rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
    return rules.RAdamScalars(*moments(beta1, beta2), step_size * r, math.inf, eps)
