"""Averaged stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..arithmetic.powers import power
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent, as ``torch.optim.ASGD``: a falling rate and averaged parameters.

    For step ``t`` from 1::

        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        p = (1 - lambd * eta) * p - eta * g
        ax += (p - ax) / max(1, t - 1 - t0)

    ``ax`` is the average, ``opt.state[name]["ax"]``. A schedule gives the ``lr`` of this step (torch's ``eta`` lags by
    one step).

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    lambd : float >= 0, default 1e-4
        Weight decay inside the rule.
    alpha : float >= 0, default 0.75
        Power of the falling learning rate.
    t0 : float >= 0, default 1e6
        The step after which the averaging starts.
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    torch keeps ``eta`` and the weight of the average in float32 (unless its default dtype is float64), this class in
    double precision. So a float64 parameter differs from torch's by up to 6e-8 of the distance that it has gone.

    State: ``ax``, with the shape and dtype of its parameter. ``state_dtype`` is an error: ``ax`` is the result. So are
    ``bounds`` and ``cautious_decay``: ``ax`` is made before them, and would lie outside; ``SGD(polyak=True)`` averages
    what they leave.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging (1992);
    https://docs.pytorch.org/docs/stable/generated/torch.optim.ASGD.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.ASGD(theta, lr=0.1, t0=1.0)
    >>> for _ in range(4):
    ...     info = opt.step(2 * theta)
    >>> theta.round(4), opt.state["0"]["ax"].round(4)
    (array([0.4096]), array([0.4608]))
    """

    refused: ClassVar[Mapping[str, str]] = {
        "state_dtype": "its one slot, ax, is the result",
        **dict.fromkeys(
            ("bounds", "cautious_decay"),
            "ax averages what the rule makes, before that; SGD with polyak=True averages what comes after it",
        ),
    }
    ranges: ClassVar[Mapping[str, Allowed]] = {"lambd": NON_NEGATIVE, "alpha": NON_NEGATIVE, "t0": NON_NEGATIVE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.asgd

    def hyper(self, group: Group, step: int) -> rules.ASGDScalars:
        lr, lambd = group["lr"], group["lambd"]
        eta = lr / power(1.0 + lambd * lr * (step - 1), group["alpha"])
        weight = 1.0 / max(1.0, step - 1 - group["t0"])
        return rules.ASGDScalars(1.0 - lambd * eta, eta, 1.0 - weight, weight)
