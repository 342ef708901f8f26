"""NAdam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..core.optimizer import Optimizer
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class NAdam(Optimizer):
    r"""NAdam, as ``torch.optim.NAdam``: Adam with Nesterov's momentum, which is warmed up.

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
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 2e-3
        Learning rate, at least 0.
    betas : pair of float, default (0.9, 0.999)
        Each from 0 to below 1.
    eps : float, default 1e-8
        At least 0.
    weight_decay : float, default 0.0
        At least 0; L2, or with ``decoupled=True`` a shrinking of the parameters by ``1 - lr * weight_decay``.
    momentum_decay : float, default 4e-3
        At least 0.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m``, ``v``.

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
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.nadam

    def hyper(self, group: Group, step: int) -> rules.NAdamScalars:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
        mu, mu_next = momentum_at(beta1, decay, step), momentum_at(beta1, decay, step + 1)
        product = momentum_product(beta1, decay, step)
        # As in Adam: multiplying the fraction by this root leaves v as it is.
        root = math.sqrt(1.0 - beta2**step)
        eps = group["eps"] * root
        grad_step_size = lr * (1.0 - mu) / (1.0 - product) * root
        step_size = lr * mu_next / (1.0 - product * mu_next) * root
        return rules.NAdamScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, grad_step_size, step_size, eps)


def momentum_at(beta1: float, decay: float, step: int) -> float:
    return float(beta1 * (1.0 - 0.5 * 0.96 ** (step * decay)))


def momentum_product(beta1: float, decay: float, step: int) -> float:
    """Return the product of the momenta of steps 1 to ``step``."""
    products = known_products(beta1, decay)
    # So small a product changes nothing in 1 - product.
    while len(products) <= step and products[-1] > 1e-20:
        products.append(products[-1] * momentum_at(beta1, decay, len(products)))
    return products[min(step, len(products) - 1)]


@lru_cache(maxsize=64)
def known_products(beta1: float, decay: float) -> list[float]:
    """Return the products so far, which :func:`momentum_product` goes on with; number 0 is the empty one."""
    return [1.0]
