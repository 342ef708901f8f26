"""Prodigy: Adam whose learning rate is an estimate of the distance to the solution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..arithmetic import rules
from ..arrays.dtypes import Array
from ..arrays.memory import shown
from ..backends.table import UPDATE
from ..core.option_set import OPTIMIZER
from ..core.rows import at_rate
from ..core.step import Step
from ..core.whole_arrays import ArrayOptimizer, slots_only
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, NON_NEGATIVE, Allowed, Group, Range, Schedulable, plain

#: The places of two slots.
S, P0 = 2, 3

#: The options that all groups share, since there is one d.
OF_ALL = ("betas", "beta3", "d0", "d_coef", "growth_rate")


class Prodigy(ArrayOptimizer):
    r"""Prodigy: Adam with no learning rate to tune; ``lr`` scales an estimate ``d`` that is found and never falls.

    There is one ``d`` for all arrays of all groups, from ``d0``. With the parameter ``p0`` before an array's first
    step, its step count ``t`` from 1, and ``c = sqrt(1 - beta2**t) / (1 - beta1**t)`` if ``use_bias_correction``,
    else 1::

        rate = d * lr * c
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * (d * g)**2
        s = beta3 * s + d / d0 * rate * g               with safeguard_warmup: d / d0 * d * g
        r = beta3 * r + sum of d / d0 * rate * g * (p0 - p)       over all elements of all arrays
        d = min(max(d, d_coef * r / sum of abs(s)), growth_rate * d)
        p = (1 - rate * weight_decay) * p - rate * m / (sqrt(v) + d * eps)

    ``rate`` has the ``d`` before the step, ``d * eps`` the new one. As long as every ``s`` is 0, no parameter changes.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1.0
        A factor. The authors recommend 1, with a schedule such as ``schedules.cosine(1.0, steps)``.
    betas : pair of float in [0, 1), default (0.9, 0.999)
    beta3 : float in [0, 1), optional
        None: ``sqrt(beta2)``.
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0 or schedule, default 0.0
        Decoupled, or L2 with ``decoupled=False``.
    d0 : float >= 1e-30, default 1e-6
        The first ``d``, smaller than the distance.
    d_coef : float >= 0, default 1.0
        The factor to tune the method with: larger for a larger ``d``.
    growth_rate : float >= 1 or infinity, default infinity
        How much ``d`` grows at most in a step.
    safeguard_warmup : bool, default False
        Whether ``lr`` and ``c`` are left out of ``s``, so that small rates at the beginning don't make ``d`` large.
    use_bias_correction : bool, default False
        Whether ``rate`` has Adam's correction.
    params, **common : see :class:`fastopt.Optimizer`

    Attributes
    ----------
    d : float
        The estimate.

    Notes
    -----
    ``betas``, ``beta3``, ``d0``, ``d_coef`` and ``growth_rate`` must be the same in all groups. Arrays without a
    gradient count in none of the sums. ``prox_l1`` works with ``rate`` too. ``reload_params()`` makes of what it
    finds the new ``p0``; ``d`` goes on.

    The sums are added in double precision, with the same bits on every machine; on a GPU each step waits for them.

    State, each with the shape and dtype of its parameter: ``m`` (first moment), ``v`` (second moment), ``s`` (weighted
    sum of gradients) and ``p0`` (the parameter before its first step); ``state_dtype`` changes ``m`` and ``v`` alone.
    And ``d`` and ``r``, each 0-d float64 and the same for all arrays; the next step takes those of the array with the
    largest ``d``. A gradient that is not finite makes ``r`` NaN, and ``d`` grows no more: take ``nonfinite="skip"`` or
    ``"raise"`` where there may be one.

    With a finite ``growth_rate`` the authors' package differs: it keeps the largest estimate and lets ``d`` grow to
    it later, and the first growth is unlimited.

    Source: Mishchenko and Defazio, arXiv 2306.06101; https://github.com/konstmish/prodigy;
    https://optax.readthedocs.io/en/latest/api/contrib.html#optax.contrib.prodigy (always with the correction).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([3.0, 4.0])
    >>> opt = fastopt.Prodigy(theta)
    >>> for _ in range(100):
    ...     info = opt.step(2 * theta)
    >>> bool(np.abs(theta).max() < 0.5), bool(opt.d > 0.1)
    (True, True)
    """

    takes_slices = True
    further_rules = (rules.prodigy_descent,)
    non_negative = frozenset({"v"})
    exact = frozenset({"s"})
    copied = frozenset({"p0"})
    numbers: ClassVar[Mapping[str, float]] = {"d": 0.0, "r": 0.0}
    ranges: ClassVar[Mapping[str, Allowed]] = {
        "betas": (BELOW_ONE, BELOW_ONE),
        "beta3": Range(0.0, 1.0, optional=True),
        "d0": Range(1e-30),
        "d_coef": NON_NEGATIVE,
        "growth_rate": Range(1.0, includes_high=True),
    }

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: Schedulable = 0.0,
        *,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        safeguard_warmup: bool = False,
        use_bias_correction: bool = False,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            safeguard_warmup=safeguard_warmup,
            use_bias_correction=use_bias_correction,
        )
        super().__init__(params, options, **common)

    @property
    def d(self) -> float:
        """The estimate of the distance from the first parameters to the solution: the learning rate at ``lr=1``."""
        return self._d_and_r()[0]

    def _d_and_r(self) -> tuple[float, float]:
        """Return the largest ``d`` that an array has (a new one has none yet), else ``d0``, and its ``r``."""
        numbers = self.parts.progress.numbers[:2, self._places()]
        d, r = numbers[:, numbers[0].argmax()].tolist()
        return d or float(self.parts.groups.checked[self._own_groups()[0]].values["d0"]), r

    def _places(self) -> list[int]:
        """Return the numbers of this optimizer's arrays: others may share its steps."""
        own = self._own_groups()
        return [i for i, k in enumerate(self.parts.parameters.group_of.tolist()) if k in own]

    def _own_groups(self) -> list[int]:
        """Return the numbers of this optimizer's groups."""
        name = type(self).__name__
        return [k for k, group in enumerate(self.parts.groups.checked) if group.values.get(OPTIMIZER, name) == name]

    def rule(self, group: Group) -> rules.Rule:
        return rules.prodigy

    def slot_names(self, rule: rules.Rule, param: Array) -> tuple[str, ...]:
        return (*rules.slots(rule), "p0")

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return []  # all arrays have the same

    def check_step(self) -> None:
        groups = [self.param_groups[k] for k in self._own_groups()]
        for name in OF_ALL:
            found = [plain(group.get(name)) for group in groups]
            if any(value != found[0] for value in found):
                raise ValueError(f"{name}: expected the same in all groups, since they share one d, got {shown(found)}")

    def hyper(self, group: Group, step: int) -> rules.ProdigyScalars:
        (beta1, beta2), d = group["betas"], self.d
        weight = d if group["safeguard_warmup"] else rate_of(d, group, step)
        s_weight = d / group["d0"] * weight
        return rules.ProdigyScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, beta3_of(group), d, s_weight)

    def update(self, step: Step) -> None:
        table, rows, (d, r) = step.table, step.hyper_rows, self._d_and_r()
        members = list(zip(step.row_options, step.workspace.rows.members, strict=True))
        rates = [rate_of(d, group, steps + 1) for group, (_, steps) in members]
        slopes = table.sum_products(rows, "grad", ("distance", P0))
        table.step(slots_only(rows))
        sizes = table.sum_products(rows, S, ("signs", S))
        is_applied = step.verdict is None or bool(step.verdict)  # else a GPU skips the step
        present = np.flatnonzero(step.present)
        with np.errstate(all="ignore"):
            slope = total(np.array(rates)[table.row_numbers[present]] * slopes[present])
            size = total(sizes[present])
        is_moving = is_applied and size != 0
        if is_moving:
            group = step.row_options[0]
            r = beta3_of(group) * r + d / group["d0"] * slope
            d = min(max(d, group["d_coef"] * r / size), group["growth_rate"] * d)
            step.parts.progress.numbers[:2, self._places()] = [[d], [r]]
        stages = 0 if is_moving else UPDATE
        table.step(
            [
                at_rate(row, group, rate)._replace(
                    rule=rules.prodigy_descent,
                    scalars=rules.ProdigyDescentScalars(rate, d * group["eps"]),
                    stages=row.stages & ~stages,
                )
                for row, group, rate in zip(rows, step.row_options, rates, strict=True)
            ]
        )


def rate_of(d: float, group: Group, step: int) -> float:
    """Return the learning rate of arrays of which this is step number ``step``."""
    rate: float = d * group["lr"]
    if group["use_bias_correction"]:
        beta1, beta2 = group["betas"]
        rate *= math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
    return rate


def beta3_of(group: Group) -> float:
    """Return the decay rate of ``s`` and ``r``."""
    return math.sqrt(group["betas"][1]) if group["beta3"] is None else group["beta3"]


def total(sums: Array) -> float:
    """Return the sum of the arrays' sums, in their order."""
    return float(np.cumsum(sums)[-1]) if sums.size else 0.0
