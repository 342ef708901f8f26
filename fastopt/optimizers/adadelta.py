"""Adadelta: Adagrad with running means, and without a learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, Allowed, Group, Schedulable


class Adadelta(Optimizer):
    r"""Adadelta, as ``torch.optim.Adadelta``: steps in the units of the parameters, without a learning rate to choose.

    ::

        v = rho * v + (1 - rho) * g * g
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d * d
        p -= lr * d

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1.0
    rho : float in [0, 1), default 0.9
    eps : float >= 0, default 1e-6
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``v`` (second moment of the gradients), ``u`` (of the steps).

    Source: Zeiler, arXiv 1212.5701; https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.Adadelta(theta)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.996838])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"rho": BELOW_ONE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adadelta

    @same_from(1)
    def hyper(self, group: Group, step: int) -> rules.AdadeltaScalars:
        return rules.AdadeltaScalars(group["rho"], 1.0 - group["rho"], group["lr"], group["eps"])
