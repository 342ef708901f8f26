"""AdEMAMix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..core.optimizer import Optimizer
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Range, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class AdEMAMix(Optimizer):
    r"""AdEMAMix, as ``optax.contrib.ademamix``: AdamW with a second, slow mean of the gradients beside the fast one.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        m_slow = beta3 * m_slow + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t) + alpha * m_slow) / (sqrt(v / (1 - beta2**t) + eps_root) + eps)

    In the first ``warmup`` steps ``alpha`` and ``beta3`` rise to their values as in the paper: ``alpha * t / warmup``,
    and ``exp(ln(beta1) * ln(beta3) / ((1 - t / warmup) * ln(beta3) + t / warmup * ln(beta1)))``.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 1e-3
        Learning rate, at least 0.
    betas : pair of float, default (0.9, 0.999)
        Each from 0 to below 1.
    beta3 : float or schedule, default 0.9999
        Of the slow mean, from 0 to below 1.
    alpha : float or schedule, default 5.0
        Weight of the slow mean, at least 0.
    eps : float, default 1e-8
        At least 0.
    weight_decay : float, default 0.0
        At least 0; a shrinking of the parameters by ``1 - lr * weight_decay``, or with ``decoupled=False`` L2.
    eps_root : float, default 0.0
        Added inside the root, after the correction. At least 0.
    warmup : int, default 0
        Steps; the paper takes all of the training's.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m``, ``m_slow``, ``v``.

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

    ranges: ClassVar[Mapping[str, Allowed]] = {
        "beta3": Range(0.0, 1.0, schedulable=True),
        "alpha": Range(0.0, schedulable=True),
        "warmup": NON_NEGATIVE,
    }

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
        options = {
            "lr": lr,
            "betas": betas,
            "beta3": beta3,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_root": eps_root,
            "warmup": warmup,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.ademamix

    def hyper(self, group: Group, step: int) -> rules.AdEMAMixScalars:
        lr, (beta1, beta2), beta3, alpha = group["lr"], group["betas"], group["beta3"], group["alpha"]
        if step < group["warmup"]:
            part = step / group["warmup"]
            alpha *= part
            if 0.0 < beta1 < beta3:
                log1, log3 = math.log(beta1), math.log(beta3)
                beta3 = min(math.exp(log1 * log3 / ((1.0 - part) * log3 + part * log1)), beta3)
        correction2 = 1.0 - beta2**step
        # As in Adam: multiplying the fraction by this root leaves v as it is.
        root = math.sqrt(correction2)
        return rules.AdEMAMixScalars(
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            beta3,
            1.0 - beta3,
            lr / (1.0 - beta1**step) * root,
            lr * alpha * root,
            group["eps"] * root,
            group["eps_root"] * correction2,
        )
