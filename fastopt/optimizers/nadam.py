"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable


class NAdam(Optimizer):
    r"""NAdam, as ``torch.optim.NAdam``: Adam with Nesterov momentum that is warmed up.

    For step ``t`` from 1::

        mu_t = beta1 * (1 - 0.96 ** (t * momentum_decay) / 2)
        M_t = mu_1 * ... * mu_t
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = (1 - mu_t) / (1 - M_t) * g + mu_(t+1) / (1 - M_(t+1)) * m
        p -= lr * u / (sqrt(v / (1 - beta2**t)) + eps)

    torch's ``decoupled_weight_decay`` is ``decoupled`` here.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 2e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    momentum_decay : float >= 0, default 4e-3
        How fast the momentum is warmed up.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    torch keeps ``M_t`` in float32 (unless its default dtype is float64), fastopt in double precision. So a float64
    parameter differs from torch's by up to 6e-8 of the distance that it has gone.

    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``v`` (second moment).

    Source: Dozat, Incorporating Nesterov Momentum into Adam (ICLR 2016 workshop);
    https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.NAdam(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0]))
    >>> theta.round(6)
    array([0.894355])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"momentum_decay": NON_NEGATIVE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.nadam

    def hyper(self, group: Group, step: int) -> rules.NAdamScalars:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
        mu, mu_next = momentum_at(beta1, decay, step), momentum_at(beta1, decay, step + 1)
        product = momentum_product(beta1, decay, step)
        # As in adam.bias_corrected, for both parts of the step.
        root = math.sqrt(1.0 - beta2**step)
        eps = group["eps"] * root
        grad_step_size = lr * (1.0 - mu) / (1.0 - product) * root
        step_size = lr * mu_next / (1.0 - product * mu_next) * root
        return rules.NAdamScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, grad_step_size, step_size, eps)


def momentum_at(beta1: float, decay: float, step: int) -> float:
    """Return ``mu_t``, the momentum of a step."""
    return float(beta1 * (1.0 - 0.5 * 0.96 ** (step * decay)))


#: How many products are computed one by one.
MOST_PRODUCTS = 10**6


def momentum_product(beta1: float, decay: float, step: int) -> float:
    """Return ``M_t``, the product of the momenta of steps 1 to ``step``."""
    products = known_products(beta1, decay)
    # A smaller product would not change 1 - product.
    while len(products) <= min(step, MOST_PRODUCTS) and products[-1] > 1e-20:
        products.append(products[-1] * momentum_at(beta1, decay, len(products)))
    if step < len(products) or products[-1] <= 1e-20:
        return products[min(step, len(products) - 1)]
    # The product is larger only where 0.96 ** (t * decay) has vanished long before: each further factor is beta1.
    return products[-1] * beta1 ** (step + 1 - len(products))


@lru_cache(maxsize=64)
def known_products(beta1: float, decay: float) -> list[float]:
    """Return the products computed so far, to which :func:`momentum_product` appends; number 0 is the empty one."""
    return [1.0]
