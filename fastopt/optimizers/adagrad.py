"""Adagrad: a learning rate per element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable


class Adagrad(Optimizer):
    r"""Adagrad, as ``torch.optim.Adagrad``: a learning rate per element that falls as its squared gradients add up.

    For step ``t`` from 1::

        sum += g * g
        p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum) + eps)

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    lr_decay : float >= 0, default 0.0
    weight_decay : float >= 0 or schedule, default 0.0
        L2, or decoupled with ``decoupled=True``.
    initial_accumulator_value : float >= 0, default 0.0
        The first value of ``sum``.
    eps : float >= 0, default 1e-10
    eps_in_root : bool, default False
        Whether ``eps`` is inside the root: ``g / sqrt(sum + eps)``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``sum`` (of squared gradients), with the shape and dtype of its parameter.

    Source: Duchi, Hazan and Singer, Adaptive Subgradient Methods (JMLR 2011);
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0, 1.0])
    >>> opt = fastopt.Adagrad(theta, lr=0.5)
    >>> info = opt.step(np.array([0.01, 100.0]))
    >>> theta.round(6)
    array([0.5, 0.5])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"lr_decay": NON_NEGATIVE, "initial_accumulator_value": NON_NEGATIVE}
    row_sparse_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: Schedulable = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        eps_in_root: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            eps_in_root=eps_in_root,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adagrad

    def initial_slot(self, group: Group, slot: str) -> float:
        return float(group["initial_accumulator_value"])

    def hyper(self, group: Group, step: int) -> rules.AdagradScalars:
        eps, eps_root = (0.0, group["eps"]) if group["eps_in_root"] else (group["eps"], 0.0)
        return rules.AdagradScalars(group["lr"] / (1.0 + (step - 1) * group["lr_decay"]), eps, eps_root)
