"""Adamax: Adam with the infinity norm."""

from __future__ import annotations

from typing import Any

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import Group, Schedulable


class Adamax(Optimizer):
    r"""Adamax, as ``torch.optim.Adamax``: Adam with the infinity norm instead of the second moment's root.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, abs(g) + eps)
        p -= lr / (1 - beta1**t) * m / u

    Parameters
    ----------
    lr : float >= 0 or schedule, default 2e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``u`` (decaying maximum).

    Source: Kingma and Ba, arXiv 1412.6980, section 7.1;
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0, 1.0])
    >>> opt = fastopt.Adamax(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0, -0.3]))
    >>> theta.round(6)
    array([0.9, 1.1])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adamax

    def hyper(self, group: Group, step: int) -> rules.AdamaxScalars:
        beta1, beta2 = group["betas"]
        return rules.AdamaxScalars(beta1, 1.0 - beta1, beta2, group["lr"] / (1.0 - beta1**step), group["eps"])
