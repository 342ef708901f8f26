"""FTRL-Proximal: parameters that are computed anew from the sum of all gradients, with exact zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..arithmetic import rules
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Range, Schedulable

#: The rule divides by the rate, which must be above 0 in single precision too.
LEAST_RATE = float(np.finfo(np.float32).smallest_normal)


class FTRL(Optimizer):
    r"""FTRL-Proximal, as Keras's ``Ftrl``: a learning rate per element, and exact zeros by ``l1``. For linear models.

    With ``l1``, ``l2`` and ``shrinkage`` for the three regularization strengths::

        d = (sqrt(n + g * g) - sqrt(n)) / lr
        n += g * g
        z += g + 2 * shrinkage * p - d * p
        p = 0                                                           where abs(z) <= l1
        p = (sign(z) * l1 - z) / ((beta + sqrt(n)) / lr + 2 * l2)       elsewhere

    Each step computes the parameter anew from ``n`` and ``z``. So the first one replaces it: what an array begins with
    counts only as far as its gradients depend on it, and where the first gradient is 0 the parameter becomes 0. A
    :class:`fastopt.RowSparse` gradient does so with its rows alone.

    Parameters
    ----------
    lr : float > 0 or schedule, default 1e-3
        At least 1.2e-38; 0 is an error, before anything is changed. A rate that falls draws the parameters towards 0:
        ``z`` has the ``d`` of the rates before.
    learning_rate_power : float, default -0.5
        The power of ``n`` by which the rate falls: no other one is done.
    initial_accumulator_value : float >= 0, default 0.1
        The first value of ``n``.
    l1_regularization_strength : float >= 0, default 0.0
    l2_regularization_strength : float >= 0, default 0.0
    l2_shrinkage_regularization_strength : float >= 0, default 0.0
        Adds the gradient of a penalty to ``z`` and not to ``n``.
    beta : float >= 0, default 0.0
    weight_decay : float >= 0 or schedule, default 0.0
        Decoupled, or L2 with ``decoupled=False``. The decayed parameter counts in ``d * p`` alone.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``n`` (the sum of squared gradients; Keras's
    ``accumulator``), ``z`` (Keras's ``linear``). Some options are an error: ``state_dtype``, since the parameter is
    computed from both; ``l1`` and ``prox_l1``, of which ``l1_regularization_strength`` takes the place; and
    ``cautious_decay``, which the next step would undo.

    Source: McMahan et al., Ad Click Prediction: a View from the Trenches (KDD 2013), algorithm 1, which begins with
    ``n = 0``; https://keras.io/api/optimizers/ftrl.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([5.0, 5.0, 5.0])
    >>> opt = fastopt.FTRL(theta, lr=1.0, l1_regularization_strength=1.0, initial_accumulator_value=0.0)
    >>> info = opt.step(np.array([-4.0, 0.25, 0.0]))
    >>> theta
    array([5.75, 0.  , 0.  ])
    """

    refused: ClassVar[Mapping[str, str]] = {
        "state_dtype": "the parameter is computed from both its slots",
        "l1": "its own is l1_regularization_strength, which makes exact zeros",
        "prox_l1": "its own is l1_regularization_strength, and the next step computes the parameter anew",
        "cautious_decay": "the next step computes the parameter anew, from z and n",
    }
    ranges: ClassVar[Mapping[str, Allowed]] = {
        "lr": Range(LEAST_RATE, schedulable=True),
        "initial_accumulator_value": NON_NEGATIVE,
        "l1_regularization_strength": NON_NEGATIVE,
        "l2_regularization_strength": NON_NEGATIVE,
        "l2_shrinkage_regularization_strength": NON_NEGATIVE,
        "beta": NON_NEGATIVE,
    }
    row_sparse_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        weight_decay: Schedulable = 0.0,
        **common: Unpack[Common],
    ) -> None:
        if learning_rate_power != -0.5:
            raise ValueError(
                f"learning_rate_power={learning_rate_power!r}: expected -0.5; the rule takes square roots, since other "
                "powers have other bits on other machines"
            )
        common.setdefault("decoupled", True)
        options = dict(
            lr=lr,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
            beta=beta,
            weight_decay=weight_decay,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.ftrl

    def initial_slot(self, group: Group, slot: str) -> float:
        return float(group["initial_accumulator_value"]) if slot == "n" else 0.0

    @same_from(1)
    def hyper(self, group: Group, step: int) -> rules.FTRLScalars:
        l1 = group["l1_regularization_strength"]
        return rules.FTRLScalars(
            0.0,
            1.0,
            group["lr"],
            group["beta"],
            l1,
            -l1,
            2.0 * group["l2_regularization_strength"],
            2.0 * group["l2_shrinkage_regularization_strength"],
        )
