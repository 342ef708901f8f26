"""RMSprop: the gradient divided by its running root mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, Allowed, Group, Schedulable


class RMSprop(Optimizer):
    r"""RMSprop, as ``torch.optim.RMSprop``: the gradient divided by its running root mean square.

    ::

        v = alpha * v + (1 - alpha) * g * g
        p -= lr * g / (sqrt(v) + eps)

    With ``centered``: ``m = alpha * m + (1 - alpha) * g``, and ``sqrt(v - m * m)`` instead of ``sqrt(v)`` (a difference
    that rounding makes negative counts as 0). With momentum: ``b = momentum * b + g / (sqrt(v) + eps); p -= lr * b``.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    alpha : float in [0, 1), default 0.99
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0 or schedule, default 0.0
        L2, or decoupled with ``decoupled=True``.
    momentum : float >= 0 or schedule, default 0.0
    centered : bool, default False
        Whether to divide by the standard deviation instead of the root mean square.
    eps_in_root : bool, default False
        Whether ``eps`` is inside the root: ``g / sqrt(v + eps)``. With ``lr_in_momentum``, ``alpha=0.9`` and
        ``eps=1e-10`` this is TensorFlow 1's form (where ``v`` starts at 1, not 0).
    lr_in_momentum : bool, default False
        Whether the learning rate is inside the momentum buffer: ``b = momentum * b + lr * g / ...; p -= b``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``v`` (second moment); ``m`` (first moment) with
    ``centered``; ``b`` (momentum buffer) with momentum.

    Source: Hinton, Neural Networks for Machine Learning, lecture 6e (2012);
    https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.RMSprop(theta, lr=0.1)
    >>> info = opt.step(np.array([2.0]))
    >>> theta.round(6)
    array([0.])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"alpha": BELOW_ONE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: Schedulable = 0.0,
        momentum: Schedulable = 0.0,
        centered: bool = False,
        *,
        eps_in_root: bool = False,
        lr_in_momentum: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            eps_in_root=eps_in_root,
            lr_in_momentum=lr_in_momentum,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        if group["momentum"] == 0:
            return rules.rmsprop_centered if group["centered"] else rules.rmsprop
        return rules.rmsprop_centered_momentum if group["centered"] else rules.rmsprop_momentum

    @same_from(1)
    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        eps, eps_root = (0.0, group["eps"]) if group["eps_in_root"] else (group["eps"], 0.0)
        if momentum == 0:
            if group["centered"]:
                return rules.RMSpropCenteredScalars(alpha, 1.0 - alpha, 0.0, lr, eps, eps_root)
            return rules.RMSpropScalars(alpha, 1.0 - alpha, lr, eps, eps_root)
        lr_inside, lr_outside = (lr, 1.0) if group["lr_in_momentum"] else (1.0, lr)
        if group["centered"]:
            return rules.RMSpropCenteredMomentumScalars(
                alpha, 1.0 - alpha, 0.0, momentum, lr_inside, lr_outside, eps, eps_root
            )
        return rules.RMSpropMomentumScalars(alpha, 1.0 - alpha, momentum, lr_inside, lr_outside, eps, eps_root)
