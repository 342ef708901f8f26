"""AdaBelief."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..core.optimizer import Optimizer
from ..options.ranges import Group, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class AdaBelief(Optimizer):
    r"""AdaBelief, as ``optax.adabelief``: Adam whose second moment is that of the gradient about its mean.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)**2 + eps_root
        p -= lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps)

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 1e-3
        Learning rate, at least 0.
    betas : pair of float, default (0.9, 0.999)
        Each from 0 to below 1.
    eps : float, default 1e-16
        At least 0.
    weight_decay : float, default 0.0
        At least 0; L2, or with ``decoupled=True`` a shrinking of the parameters by ``1 - lr * weight_decay``.
    eps_root : float, default 1e-16
        Added to ``s`` in every step. At least 0.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m``, ``s``.

    Source: Zhuang et al., arXiv 2010.07468;
    https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.adabelief.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.AdaBelief(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.888889])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 1e-16,
        **common: Unpack[Common],
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_root": eps_root,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.adabelief

    def hyper(self, group: Group, step: int) -> rules.AdaBeliefScalars:
        beta1, beta2 = group["betas"]
        # As in Adam: multiplying the fraction by this root leaves s as it is.
        root = math.sqrt(1.0 - beta2**step)
        step_size = group["lr"] / (1.0 - beta1**step) * root
        return rules.AdaBeliefScalars(
            beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, group["eps"] * root, group["eps_root"]
        )
