"""AdaBelief: Adam with the variance of the gradient."""

from __future__ import annotations

from typing import Any

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import Group, Schedulable
from .adam import bias_corrected


class AdaBelief(Optimizer):
    r"""AdaBelief, as ``optax.adabelief``: Adam whose second moment is taken around the gradient's mean.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m)**2 + eps_root
        p -= lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps)

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-16
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    eps_root : float >= 0, default 1e-16
        Added to ``s`` in every step.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``s`` (variance around it).

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
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, eps_root=eps_root)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adabelief

    def hyper(self, group: Group, step: int) -> rules.AdaBeliefScalars:
        beta1, beta2 = group["betas"]
        step_size, root, _ = bias_corrected(group["lr"], group["betas"], step)
        eps, eps_root = group["eps"] * root, group["eps_root"]
        return rules.AdaBeliefScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, eps, eps_root)
