"""The optimizers that use the signs of gradients: Rprop, Signum, Lion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, NON_NEGATIVE, Allowed, Group, Range, Schedulable, as_number


class Rprop(Optimizer):
    r"""Rprop, as ``torch.optim.Rprop``: a step size per element, which grows while its gradient keeps its sign.

    ``step_size`` starts at ``lr``::

        product = g * last
        step_size *= eta_plus where product > 0, eta_minus where product < 0
        step_size is clamped to step_sizes
        last = 0 where product < 0, else g
        p -= sign(last) * step_size

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
        The first step size; for a schedule, its value at 0.
    etas : pair of float, default (0.5, 1.2)
        ``eta_minus`` in [0, 1) and ``eta_plus`` >= 1.
    step_sizes : pair of float >= 0, default (1e-6, 50)
        The least and the greatest step size.
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``last`` (the last gradient), ``step_size``.
    ``state_dtype`` is an error: both must be exact to the last bit.

    Source: Riedmiller and Braun, A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm
    (1993); https://docs.pytorch.org/docs/stable/generated/torch.optim.Rprop.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.Rprop(theta, lr=0.1)
    >>> for grad in (3.0, 2.0):
    ...     info = opt.step(np.array([grad]))
    >>> theta.round(6)
    array([0.78])
    """

    refused: ClassVar[Mapping[str, str]] = {"state_dtype": "both its slots must be right to the last bit"}
    ranges: ClassVar[Mapping[str, Allowed]] = {
        "etas": (BELOW_ONE, Range(1.0)),
        "step_sizes": (NON_NEGATIVE, NON_NEGATIVE),
    }

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, etas=etas, step_sizes=step_sizes, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.rprop

    def initial_slot(self, group: Group, slot: str) -> float:
        if slot != "step_size":
            return 0.0
        lr = group["lr"]
        rate: float = as_number("the schedule at step 0: lr", lr(0) if callable(lr) else lr, NON_NEGATIVE)
        return rate

    @same_from(1)
    def hyper(self, group: Group, step: int) -> rules.RpropScalars:
        return rules.RpropScalars(0.0, 1.0, *group["etas"], *group["step_sizes"])


class Signum(Optimizer):
    r"""Signum, as ``optax.signum``: steps of equal size against the sign of the momentum; signSGD with ``momentum=0``.

    ::

        b = momentum * b + (1 - momentum) * g
        p -= lr * sign(b)

    ``sign(0)`` is 0.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-4
    momentum : float in [0, 1), default 0.9
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``b`` (momentum buffer), with the shape and dtype of its parameter.

    Source: Bernstein et al., arXiv 1802.04434;
    https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.signum (which has no default for ``lr``).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0, 1.0])
    >>> opt = fastopt.Signum(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0, -0.3]))
    >>> theta
    array([0.9, 1.1])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"momentum": BELOW_ONE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.signum

    @same_from(1)
    def hyper(self, group: Group, step: int) -> rules.SignumScalars:
        return rules.SignumScalars(group["momentum"], 1.0 - group["momentum"], group["lr"])


class Lion(Optimizer):
    r"""Lion, as ``optax.lion``: steps of equal size against the sign of a mean of gradients, new and old.

    ::

        p -= lr * sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g

    ``sign(0)`` is 0.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-4
    betas : pair of float in [0, 1), default (0.9, 0.99)
    weight_decay : float >= 0, default 0.0
        Decoupled, or L2 with ``decoupled=False``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``m`` (first moment), with the shape and dtype of its parameter.

    Source: Chen et al., arXiv 2302.06675; https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.lion.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0, 1.0, 1.0])
    >>> opt = fastopt.Lion(theta, lr=0.1)
    >>> info = opt.step(np.array([3.0, -1e-30, 0.0]))
    >>> theta
    array([0.9, 1.1, 1. ])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(lr=lr, betas=betas, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.lion

    @same_from(1)
    def hyper(self, group: Group, step: int) -> rules.LionScalars:
        beta1, beta2 = group["betas"]
        return rules.LionScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, group["lr"])
