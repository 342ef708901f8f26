"""AdEMAMix: AdamW with a fast and a slow mean of the gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, SCHEDULED, SCHEDULED_BELOW_ONE, Allowed, Group, Schedulable
from .adam import bias_corrected


class AdEMAMix(Optimizer):
    r"""AdEMAMix, as ``optax.contrib.ademamix``: AdamW with two running means of the gradients, a fast and a slow one.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        m_slow = beta3 * m_slow + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t) + alpha * m_slow) / (sqrt(v / (1 - beta2**t) + eps_root) + eps)

    In the first ``warmup`` steps ``alpha`` and ``beta3`` rise to their values as in the paper: ``alpha * t / warmup``,
    and ``exp(ln(beta1) * ln(beta3) / ((1 - t / warmup) * ln(beta3) + t / warmup * ln(beta1)))``.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    beta3 : float in [0, 1) or schedule, default 0.9999
        Decay of the slow mean.
    alpha : float >= 0 or schedule, default 5.0
        Weight of the slow mean.
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        Decoupled, or L2 with ``decoupled=False``.
    eps_root : float >= 0, default 0.0
        Added inside the root, after the correction.
    warmup : int >= 0, default 0
        Steps over which ``alpha`` and ``beta3`` rise; in the paper all steps of the training.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` and ``m_slow`` (first moments), ``v`` (second moment).

    Source: Pagliardini et al., arXiv 2409.03137;
    https://optax.readthedocs.io/en/latest/api/contrib.html#optax.contrib.ademamix.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.AdEMAMix(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.89995])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"beta3": SCHEDULED_BELOW_ONE, "alpha": SCHEDULED, "warmup": NON_NEGATIVE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: Schedulable = 0.9999,
        alpha: Schedulable = 5.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 0.0,
        warmup: int = 0,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(
            lr=lr,
            betas=betas,
            beta3=beta3,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            eps_root=eps_root,
            warmup=warmup,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.ademamix

    def hyper(self, group: Group, step: int) -> rules.AdEMAMixScalars:
        lr, (beta1, beta2), beta3, alpha = group["lr"], group["betas"], group["beta3"], group["alpha"]
        if step < group["warmup"]:
            part = step / group["warmup"]
            alpha *= part
            if 0.0 < beta1 < beta3:
                log1, log3 = math.log(beta1), math.log(beta3)
                beta3 = min(math.exp(log1 * log3 / ((1.0 - part) * log3 + part * log1)), beta3)
        step_size, root, correction2 = bias_corrected(lr, group["betas"], step)
        return rules.AdEMAMixScalars(
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            beta3,
            1.0 - beta3,
            step_size,
            lr * alpha * root,
            group["eps"] * root,
            group["eps_root"] * correction2,
        )
