"""The layerwise optimizers, with a learning rate for each array: LARS, LAMB."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

from ..arithmetic import rules
from ..backends.table import HyperRow, Source, Trust
from ..core.step import Step
from ..core.whole_arrays import ArrayOptimizer, slots_only
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable


class _Layerwise(ArrayOptimizer):
    """The trust ratio, which LARS and LAMB share."""

    numbers: ClassVar[Mapping[str, float]] = {"trust_ratio": 1.0}
    measured = frozenset({"trust_ratio"})

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return []  # the ratio is not in the row

    def step_by_ratios(self, step: Step, rows: Sequence[HyperRow], update: Source) -> None:
        """Step by these rows, with learning rates from the norms of each parameter and of its ``update``."""
        trusts = [
            Trust(group["lr"], *self.trust(group), group["adapt"], self.scaled(group)) for group in step.row_options
        ]
        ratios = step.array_numbers("trust_ratio")
        step.parts.backend.step_by_trust(step.table, rows, step.hyper_rows, update, trusts, step.present, ratios)

    def trust(self, group: Group) -> tuple[float, float]:
        """Return the ratio's coefficient, and the ``eps`` in its denominator."""
        return 1.0, 0.0

    def scaled(self, group: Group) -> tuple[str, ...]:
        """Return the names of the rule's scalars that the ratio multiplies."""
        return ("step_size",)


class LARS(_Layerwise):
    r"""LARS, as ``optax.lars``: momentum with a learning rate per array, from the norms of the array and its gradient.

    For each array, ``g`` with weight decay included::

        ratio = trust_coefficient * norm(p) / (norm(g) + eps)      1 where either norm is 0
        b = momentum * b + lr * ratio * g
        p -= b                                                     or, with nesterov: p -= momentum * b + lr * ratio * g

    Parameters
    ----------
    lr : float >= 0 or schedule, default 0.1
        optax has no default.
    momentum : float >= 0, default 0.9
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    nesterov : bool, default False
    trust_coefficient : float >= 0, default 1e-3
    eps : float >= 0, default 0.0
    adapt : bool, default True
        Whether to use the trust ratio. False, for example for a group of biases: it is 1.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``b`` (momentum buffer), with the shape and dtype of its parameter; ``trust_ratio`` (of the last step, 0-d
    float64). The norms are added in double precision, with the same bits on every machine. Where ``lr * ratio`` is too
    large for the parameter's dtype, the greatest number of this dtype takes its place.

    Source: You, Gitman and Ginsburg, arXiv 1708.03888;
    https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.lars.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([3.0, 4.0])
    >>> opt = fastopt.LARS(theta, lr=0.1, trust_coefficient=1.0)
    >>> info = opt.step(np.array([0.0, 50.0]))
    >>> theta, float(opt.state["0"]["trust_ratio"])
    (array([3. , 3.5]), 0.1)
    """

    takes_slices = True
    ranges: ClassVar[Mapping[str, Allowed]] = {"trust_coefficient": NON_NEGATIVE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        adapt: bool = True,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            trust_coefficient=trust_coefficient,
            eps=eps,
            adapt=adapt,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.nesterov if group["nesterov"] else rules.momentum

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        if group["nesterov"]:
            return rules.NesterovScalars(group["momentum"], group["lr"], group["lr"], 1.0)
        return rules.MomentumScalars(group["momentum"], group["lr"], 1.0)

    def update(self, step: Step) -> None:
        self.step_by_ratios(step, step.hyper_rows, update="grad")

    def trust(self, group: Group) -> tuple[float, float]:
        return group["trust_coefficient"], group["eps"]

    def scaled(self, group: Group) -> tuple[str, ...]:
        return ("grad_weight", "lookahead_grad_weight") if group["nesterov"] else ("grad_weight",)


class LAMB(_Layerwise):
    r"""LAMB, as ``optax.lamb``: Adam with a learning rate per array, from the norms of the array and its step.

    For each array and step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t) + eps_root) + eps) + weight_decay * p
        ratio = norm(p) / norm(u)                                  1 where either norm is 0
        p -= lr * ratio * u

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-6
    weight_decay : float >= 0, default 0.0
        Part of ``u``, or L2 with ``decoupled=False``.
    eps_root : float >= 0, default 0.0
        Added inside the root, after the correction.
    adapt : bool, default True
        Whether to use the trust ratio. False, for example for a group of biases: it is 1.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``u`` (the last step before ratio and lr; ``state_dtype``
    does not change it), ``m`` (first moment), ``v`` (second moment); ``trust_ratio`` (of the last step, 0-d float64).
    The norms are added in double precision, with the same bits on every machine. Where ``lr * ratio`` is too large for
    the parameter's dtype, the greatest number of this dtype takes its place. ``cautious_decay`` is an error: decay is a
    part of ``u``, whose norm the ratio needs.

    Source: You et al., arXiv 1904.00962; https://optax.readthedocs.io/en/latest/api/optimizers.html#optax.lamb.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([3.0, 4.0])
    >>> opt = fastopt.LAMB(theta, lr=0.1)
    >>> info = opt.step(np.array([0.0, 50.0]))
    >>> theta.round(6)
    array([3. , 3.5])
    """

    refused: ClassVar[Mapping[str, str]] = {"cautious_decay": "decay is a part of u, whose norm the trust ratio needs"}
    takes_slices = True
    further_rules = (rules.descend,)
    non_negative = frozenset({"v"})
    exact = frozenset({"u"})

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 0.0,
        adapt: bool = True,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, eps_root=eps_root, adapt=adapt)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adam_direction

    def hyper(self, group: Group, step: int) -> rules.AdamDirectionScalars:
        beta1, beta2 = group["betas"]
        correction2 = 1.0 - beta2**step
        # adam.bias_corrected without lr. Its own result for lr=1 is rounded in another order: other bits.
        root = math.sqrt(correction2)
        step_size = root / (1.0 - beta1**step)
        decay = group["weight_decay"] if group["decoupled"] else 0.0
        eps, eps_root = group["eps"] * root, group["eps_root"] * correction2
        return rules.AdamDirectionScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, decay, eps, eps_root)

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        return row._replace(decay=1.0)

    def update(self, step: Step) -> None:
        step.table.step(slots_only(step.hyper_rows))
        descents = [
            row._replace(rule=rules.descend, scalars=rules.DescendScalars(group["lr"]))
            for row, group in zip(step.hyper_rows, step.row_options, strict=True)
        ]
        self.step_by_ratios(step, descents, update=0)
