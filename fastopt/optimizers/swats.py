"""SWATS: Adam that switches to SGD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..arithmetic import rules
from ..backends.table import HyperRow
from ..core.rows import at_rate
from ..core.step import Step
from ..core.whole_arrays import ArrayOptimizer, slots_only
from ..options.common import Common, Unpack
from ..options.ranges import Group, Schedulable


class SWATS(ArrayOptimizer):
    r"""SWATS: Adam until the learning rate that SGD would need for the same steps converges; then SGD with that rate.

    Adam's phase, for step ``t`` from 1, of each array (or with ``per_group=True`` of all arrays of a group together)::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)
        p -= u
        where u @ g is not 0:
            rate = (u @ u) / (u @ g)
            rate_average = beta2 * rate_average + (1 - beta2) * rate
            if t > 1 and abs(rate_average / (1 - beta2**t) - rate) < eps:
                sgd_lr = rate_average / (1 - beta2**t), and SGD's phase begins with u = 0

    SGD's phase, which ignores ``lr``::

        u = beta1 * u + g
        p -= (1 - beta1) * sgd_lr * u

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
        Of Adam's phase.
    betas : pair of float in [0, 1), default (0.9, 0.999)
    eps : float >= 0, default 1e-9
        In Adam's denominator, and the tolerance of the switch (one number, as in the paper).
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    per_group : bool, default False
        Whether the arrays of a group switch together.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``u`` (Adam's step, then SGD's momentum; ``state_dtype``
    does not change it), ``m`` (first moment), ``v`` (second moment); and, each 0-d float64: ``rate_average``,
    ``switch_step`` (after which step SGD's phase began, 0 before it), ``sgd_lr`` (0 before it; after it also the ``lr``
    of decay and ``prox_l1``). The products are added in double precision, with the same bits on every machine. On a GPU
    a step of Adam's phase waits for them.

    Source: Keskar and Socher, arXiv 1712.07628, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.SWATS(theta, lr=0.1, eps=1e-2)
    >>> for _ in range(10):
    ...     info = opt.step(2 * theta)
    >>> state = opt.state["0"]
    >>> int(state["switch_step"]), round(float(state["sgd_lr"]), 4)
    (2, 0.046)
    """

    takes_slices = True
    rows_stay = False  # one of them may switch
    further_rules = (rules.descend, rules.momentum)
    non_negative = frozenset({"v"})
    exact = frozenset({"u"})
    numbers: ClassVar[Mapping[str, float]] = {"rate_average": 0.0, "switch_step": 0.0, "sgd_lr": 0.0}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        *,
        per_group: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, per_group=per_group)
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        return rules.adam_direction

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return list(numbers[1:])  # every array has an average of its own, which no row needs

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        beta1, beta2 = group["betas"]
        if group["switch_step"]:
            return rules.MomentumScalars(beta1, 1.0, (1.0 - beta1) * group["sgd_lr"])
        step_size = group["lr"] * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
        return rules.AdamDirectionScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, 0.0, group["eps"], 0.0)

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        if not group["switch_step"]:
            return row
        return at_rate(row, group, group["sgd_lr"])._replace(rule=rules.momentum)

    def update(self, step: Step) -> None:
        table, rows = step.table, step.hyper_rows
        first, second = [], []
        for row, only_slots in zip(rows, slots_only(rows), strict=True):
            in_adams_phase = row.rule is rules.adam_direction
            first.append(only_slots if in_adams_phase else row)
            descent = {"rule": rules.descend, "scalars": rules.DescendScalars(1.0)} if in_adams_phase else {"stages": 0}
            second.append(row._replace(**descent))
        table.step(first)
        is_adams = np.array([row.rule is rules.adam_direction for row in rows], bool)
        if not is_adams.any():
            return
        squares = table.sum_products(rows, 0, 0)
        products = table.sum_products(rows, 0, "grad")
        table.step(second)
        if step.verdict is not None and not step.verdict:
            return  # skipped by a GPU
        in_adam = step.present.copy()
        in_adam[in_adam] = is_adams[table.row_numbers[in_adam]]
        for k in sorted({k for k, _ in step.workspace.rows.members}):
            group = step.groups[k]
            of_group = np.flatnonzero(step.parts.parameters.group_of == k)
            for arrays in [of_group] if group["per_group"] else of_group[:, None]:
                measured = arrays[in_adam[arrays]]
                if measured.size:
                    sums = float(np.cumsum(squares[measured])[-1]), float(np.cumsum(products[measured])[-1])
                    judge(step, group, arrays, 1 + int(step.parts.progress.steps[measured].max()), *sums)


def judge(step: Step, group: Group, arrays: npt.NDArray[np.intp], number: int, square: float, product: float) -> None:
    """Update the average of these arrays' rate in their step of this number; switch them to SGD once it is steady."""
    if product == 0:
        return
    beta2, numbers = group["betas"][1], step.parts.progress.numbers
    rate = square / product
    average = beta2 * numbers.item(0, arrays[0]) + (1.0 - beta2) * rate
    corrected = average / (1.0 - beta2**number)
    numbers[0, arrays] = average
    if number > 1 and abs(corrected - rate) < group["eps"]:
        numbers[1, arrays] = number
        numbers[2, arrays] = corrected
        for i in arrays:
            step.parts.backend.ops.clear(step.workspace.memory[i].slots[0])  # u
