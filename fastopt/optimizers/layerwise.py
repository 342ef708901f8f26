"""The optimizers with a learning rate for each array: LARS, LAMB."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..backends.table import HyperRow, Source, Trust
from ..core.step import Step
from ..core.whole_arrays import ArrayOptimizer, slots_only
from ..options.ranges import NON_NEGATIVE, Allowed, Group, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class _Layerwise(ArrayOptimizer):
    """What LARS and LAMB share: the trust ratio."""

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
        """Return the ratio's coefficient, and what is added to its denominator."""
        return 1.0, 0.0

    def scaled(self, group: Group) -> tuple[str, ...]:
        """Return the scalars of the rule that the ratio is a factor of."""
        return ("step_size",)


class LARS(_Layerwise):
    r"""LARS, as ``optax.lars``: momentum, with a learning rate for each array from its norm and its gradient's.

    For each array, ``g`` with weight decay included::

        ratio = trust_coefficient * norm(p) / (norm(g) + eps)      1 where either norm is 0
        b = momentum * b + lr * ratio * g
        p -= b                                                     or, with nesterov: p -= momentum * b + lr * ratio * g

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 0.1
        Learning rate, at least 0 (optax has no default).
    momentum : float, default 0.9
        At least 0.
    weight_decay : float, default 0.0
        At least 0; L2, or with ``decoupled=True`` a shrinking of the parameters by ``1 - lr * weight_decay``.
    nesterov : bool, default False
    trust_coefficient : float, default 1e-3
        At least 0.
    eps : float, default 0.0
        At least 0.
    adapt : bool, default True
        False: the trust ratio is 1 (for a group of biases, say).
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State: ``b``, with the shape and dtype of its parameter; ``trust_ratio`` (of the last step, 0-d float64). The norms
    are added in double precision, with the same bits on every machine.

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
        options = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "adapt": adapt,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
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
    r"""LAMB, as ``optax.lamb``: Adam, with a learning rate for each array from its norm and its step's.

    For each array and step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t) + eps_root) + eps) + weight_decay * p
        ratio = norm(p) / norm(u)                                  1 where either norm is 0
        p -= lr * ratio * u

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 1e-3
        Learning rate, at least 0.
    betas : pair of float, default (0.9, 0.999)
        Each from 0 to below 1.
    eps : float, default 1e-6
        At least 0.
    weight_decay : float, default 0.0
        At least 0; in ``u``, or with ``decoupled=False`` L2.
    eps_root : float, default 0.0
        Added inside the root, after the correction. At least 0.
    adapt : bool, default True
        False: the trust ratio is 1 (for a group of biases, say).
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``u`` (the last step, before ratio and lr; ``state_dtype``
    leaves it as it is), ``m``, ``v``; ``trust_ratio`` (of the last step, 0-d float64). The norms are added in double
    precision, with the same bits on every machine.

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
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_root": eps_root,
            "adapt": adapt,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.adam_direction

    def hyper(self, group: Group, step: int) -> rules.AdamDirectionScalars:
        beta1, beta2 = group["betas"]
        correction2 = 1.0 - beta2**step
        # As in Adam: multiplying the fraction by this root leaves v as it is.
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
