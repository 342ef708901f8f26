"""Adan: Adam with Nesterov momentum from the change of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, Allowed, Group, Schedulable
from .adam import bias_corrected


class Adan(Optimizer):
    r"""Adan, as ``optax.adan``: Adam with Nesterov momentum, found from the change of the gradient.

    For step ``t`` from 1 (``c`` is 0 at t = 1)::

        c = g - last                    the change of the gradient
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * c
        n = beta3 * n + (1 - beta3) * (g + w * c)**2
        u = m / (1 - beta1**t) + w * v / (1 - beta2**t)
        p -= lr * u / (sqrt(n / (1 - beta3**t) + eps_root) + eps)

    The weight ``w`` is ``1 - beta2`` in optax, and ``beta2`` in the paper (there written ``1 - beta2``) and its
    authors' code: see ``paper``.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : triple of float in [0, 1), default (0.98, 0.92, 0.99)
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        Decoupled, or L2 with ``decoupled=False``.
    eps_root : float >= 0, default 1e-8
        Added inside the root, after the correction; the paper has 0.
    paper : bool, default False
        Whether ``w`` is the paper's, ``beta2``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``v`` (mean change), ``n``
    (second moment), ``last`` (the last gradient). ``state_dtype`` stores only ``v`` and ``n`` in fewer bits: ``m``
    averages so many steps that its rounding errors would add up, and ``last`` is subtracted from a close number.

    Source: Xie et al., arXiv 2208.06677; https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.adan.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.Adan(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.9])
    """

    non_negative = frozenset({"n"})
    exact = frozenset({"m", "last"})
    ranges: ClassVar[Mapping[str, Allowed]] = {"betas": (BELOW_ONE, BELOW_ONE, BELOW_ONE)}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 1e-8,
        paper: bool = False,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, eps_root=eps_root, paper=paper)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adan

    def hyper(self, group: Group, step: int) -> rules.AdanScalars:
        beta1, beta2, beta3 = group["betas"]
        change_weight = beta2 if group["paper"] else 1.0 - beta2
        step_size, root, correction3 = bias_corrected(group["lr"], (beta1, beta3), step)
        change_step_size = group["lr"] * change_weight / (1.0 - beta2**step) * root
        return rules.AdanScalars(
            beta1,
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            beta3,
            1.0 - beta3,
            0.0 if step == 1 else 1.0,
            change_weight,
            step_size,
            change_step_size,
            group["eps"] * root,
            group["eps_root"] * correction3,
        )
