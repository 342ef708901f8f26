"""Schedule-Free SGD and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..arithmetic import rules
from ..arithmetic.powers import power
from ..backends.table import HyperRow
from ..core.hooks import Hooks
from ..core.optimizer import Optimizer
from ..core.step import Step
from ..core.turns import change
from ..core.whole_arrays import ArrayOptimizer
from ..options.common import Common, Unpack
from ..options.ranges import (
    ABOVE_ZERO_BELOW_ONE,
    BELOW_ONE,
    NON_NEGATIVE,
    STEPS,
    Allowed,
    Group,
    Range,
    Schedulable,
)

AVERAGING: Mapping[str, Allowed] = {
    "warmup_steps": NON_NEGATIVE,
    "r": Range(high=16.0, includes_high=True),
    "weight_lr_power": NON_NEGATIVE,
}


class _ScheduleFree(ArrayOptimizer):
    """The base of both: the averaging's weights and the two modes, which Schedule-Free SGD and AdamW share."""

    takes_slices = True
    numbers: ClassVar[Mapping[str, float]] = {"weight_sum": 0.0, "largest_lr": 0.0, "is_training": 1.0}
    exact = frozenset({"z"})
    copied = frozenset({"z"})
    refused: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("ema_decay", "polyak"), "it averages already; eval() brings the average x"),
        **dict.fromkeys(
            ("prox_l1", "max_weight_norm", "bounds"),
            "the parameters are y, and what is done to y alone is not done to x and z",
        ),
        "cautious_decay": "decay is a part of the step of z, by which y moves in part",
        "stochastic_rounding": "x is found from y and z, and needs y to the last bit",
    }

    def warmed_up(self, group: Group, step: int) -> tuple[float, float, float]:
        """Return the learning rate of a step, the largest one up to it, and the step's weight in the average."""
        lr = group["lr"] * min(1.0, step / group["warmup_steps"] if group["warmup_steps"] else 1.0)
        largest = max(lr, group["largest_lr"])
        return lr, largest, weight_of(step, largest, group)

    def averaging(self, group: Group, step: int) -> tuple[float, float]:
        """Return the learning rate of a step, and the weight of its ``z`` in the average."""
        lr, largest, weight = self.warmed_up(group, step)
        weight_sum = checked_weight(step, largest, group, group["weight_sum"] + weight)
        return lr, weight / weight_sum if weight_sum else 0.0

    def check_step(self) -> None:
        if not self.is_training:
            raise RuntimeError("step: the parameters are in eval mode; call train() before taking gradients")

    @property
    def is_training(self) -> bool:
        """Whether the parameters are the training sequence ``y``, where gradients belong."""
        return are_training(self)

    @change
    def train(self) -> None:
        """Change the parameters in place from ``x`` to ``y``, where they are not ``y`` already."""
        to_mode(self, True)

    @change
    def eval(self) -> None:
        """Change the parameters in place from ``y`` to the averages ``x``, where they are not ``x`` already."""
        to_mode(self, False)

    def interpolation(self, group: Group) -> float:
        """Return the part of ``x`` in ``y``."""
        raise NotImplementedError

    def update(self, step: Step) -> None:
        super().update(step)
        members = zip(step.row_options, step.workspace.rows.members, strict=True)
        _, largest, weight = np.array([self.warmed_up(its, steps + 1) for its, (_, steps) in members]).reshape(-1, 3).T
        numbers, rows = step.parts.progress.numbers, step.table.row_numbers[step.present]
        numbers[0, step.present] += weight[rows]
        numbers[1, step.present] = largest[rows]


def has_modes(hooks: Hooks) -> bool:
    """Return whether an optimizer has two modes: whether it is one of the two here."""
    return isinstance(hooks, _ScheduleFree)


def are_training(opt: Optimizer) -> bool:
    """Return whether the Schedule-Free arrays of an optimizer are their training sequences ``y``."""
    return all(bool(state.get("is_training", True)) for state in list(opt.state.values()))


def to_mode(opt: Optimizer, is_training: bool) -> None:
    """Change the Schedule-Free arrays of an optimizer to ``y``, or to ``x``, where they are not that already."""
    memory, parameters, ops = opt.ready().memory, opt.parts.parameters, opt.parts.backend.ops
    for i, (name, k) in enumerate(zip(parameters.names, parameters.group_of, strict=True)):
        state, group = opt.state[name], opt.param_groups[k]
        hooks = opt.of_group(group)
        if not isinstance(hooks, _ScheduleFree) or bool(state["is_training"]) == is_training:
            continue
        if state["step"] == 0:  # x, y and z are the same
            state["is_training"][...] = is_training
            continue
        beta = hooks.interpolation(group)
        weight = 1.0 - beta if is_training else 1.0 - 1.0 / beta
        computed = memory[i].computed
        values = ops.on_host(computed)
        values += values.dtype.type(weight) * (ops.on_host(state["z"], copy=False) - values)
        ops.write(computed, values)
        for shown in (parameters.arrays[i], parameters.copies[i]):
            if shown is not None and shown is not computed:
                ops.write_rounded(shown, computed)
        state["is_training"][...] = is_training


def weight_of(step: float, largest_lr: float, group: Group) -> float:
    """Return the weight of a step's ``z`` in the average, ``step**r * largest_lr**weight_lr_power``.

    Raises
    ------
    ValueError
        If it is beyond double precision.
    """
    weight = power(step, group["r"]) * power(largest_lr, group["weight_lr_power"])
    return checked_weight(step, largest_lr, group, weight)


def check_weights(group: Group) -> None:
    """Raise if a constant rate makes the weights so large that a run may come to their end."""
    if not callable(group["lr"]):
        weight_of(STEPS.high, group["lr"], group)


def checked_weight(step: float, largest_lr: float, group: Group, weight: float) -> float:
    """Return a weight, or a sum of weights; raise if it is beyond double precision."""
    if not weight < math.inf:
        r, weight_lr_power = group["r"], group["weight_lr_power"]
        raise ValueError(
            f"{r=}, {weight_lr_power=}: expected powers that leave the weights of the average finite, got {weight} in "
            f"step {step} with the rate {largest_lr}; give smaller ones, or a smaller lr"
        )
    return weight


class ScheduleFreeSGD(_ScheduleFree):
    r"""Schedule-Free SGD: momentum by averaging, instead of a schedule.

    For step ``t`` from 1, with ``x = y = z = p`` before it::

        c = w_t / (w_1 + ... + w_t)          w_t = t**r * (largest lr so far) ** weight_lr_power
        z -= lr * g                          g at y, weight decay included
        x = (1 - c) * x + c * z
        y = momentum * x + (1 - momentum) * z

    ``p`` holds ``y`` while training, where gradients are taken, and ``x`` after :meth:`eval`, which is what to use and
    keep; :meth:`train` brings ``y`` back. A step in eval mode raises a RuntimeError. The first ``warmup_steps`` steps
    have ``lr * t / warmup_steps``; no other schedule is needed.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1.0
    momentum : float in (0, 1), default 0.9
        The part of ``x`` in ``y``.
    weight_decay : float >= 0, default 0.0
        Taken at ``y``.
    warmup_steps : int >= 0, default 0
        Steps in which the learning rate rises.
    r : float <= 16, default 0.0
        Power of ``t`` in the averaging's weights.
    weight_lr_power : float >= 0, default 2.0
        Power of the largest learning rate so far in the averaging's weights.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``z``, with the shape and dtype of its parameter; ``weight_sum``, ``largest_lr``, ``is_training``, each 0-d
    float64. After a write of yours into the parameters call ``reload_params()``: it sets ``z`` too.

    ``ema_decay`` and ``polyak`` are errors: ``x`` is an average already. So are ``prox_l1``, ``max_weight_norm`` and
    ``bounds``, which would change ``y`` and neither ``x`` nor ``z``, ``cautious_decay``, as decay is a part of the step
    of ``z``, ``stochastic_rounding``, as ``x`` is found from ``y`` and ``z``, and ``state_dtype``, as ``z`` is a
    sequence of parameters. ``l1`` is taken at ``y``, as weight decay is.

    Source: Defazio et al., arXiv 2405.15682; https://github.com/facebookresearch/schedule_free.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.ScheduleFreeSGD(theta, lr=0.4)
    >>> for _ in range(5):
    ...     info = opt.step(2 * theta)
    >>> opt.eval()
    >>> theta.round(4)
    array([-0.0006])
    """

    refused: ClassVar[Mapping[str, str]] = {
        **_ScheduleFree.refused,
        "state_dtype": "its one slot, z, is a sequence of parameters",
    }
    ranges: ClassVar[Mapping[str, Allowed]] = {**AVERAGING, "momentum": ABOVE_ZERO_BELOW_ONE}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        check_weights(group)
        return rules.schedule_free_sgd

    def hyper(self, group: Group, step: int) -> rules.ScheduleFreeSGDScalars:
        lr, c = self.averaging(group, step)
        return rules.ScheduleFreeSGDScalars(1.0 - c, c, lr * (1.0 - group["momentum"] * (1.0 - c)), lr)

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        # Decay at y is L2, whichever way it is asked for.
        return row._replace(l2=group["weight_decay"], decay=1.0)

    def interpolation(self, group: Group) -> float:
        return float(group["momentum"])


class ScheduleFreeAdamW(_ScheduleFree):
    r"""Schedule-Free AdamW: AdamW with averaging instead of momentum and schedule.

    For step ``t`` from 1, with ``x = y = z = p`` before it::

        v = beta2 * v + (1 - beta2) * g * g
        d = g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y
        c = w_t / (w_1 + ... + w_t)          w_t = t**r * (largest lr so far) ** weight_lr_power
        z -= lr * d
        x = (1 - c) * x + c * z
        y = beta1 * x + (1 - beta1) * z

    ``p`` holds ``y`` while training, where gradients are taken, and ``x`` after :meth:`eval`, which is what to use and
    keep; :meth:`train` brings ``y`` back. A step in eval mode raises a RuntimeError. The first ``warmup_steps`` steps
    have ``lr * t / warmup_steps``; no other schedule is needed.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 2.5e-3
    betas : pair of float, default (0.9, 0.999)
        The first, in (0, 1), is the part of ``x`` in ``y``; the second, in [0, 1), is Adam's.
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0, default 0.0
        Taken at ``y``, or L2 with ``decoupled=False``.
    warmup_steps : int >= 0, default 0
        Steps in which the learning rate rises.
    r : float <= 16, default 0.0
        Power of ``t`` in the averaging's weights.
    weight_lr_power : float >= 0, default 2.0
        Power of the largest learning rate so far in the averaging's weights.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``z`` (``state_dtype`` does not change it), ``v`` (second
    moment); ``weight_sum``, ``largest_lr``, ``is_training``, each 0-d float64. After a write of yours into the
    parameters call ``reload_params()``: it sets ``z`` too.

    ``ema_decay`` and ``polyak`` are errors: ``x`` is an average already. So are ``prox_l1``, ``max_weight_norm`` and
    ``bounds``, which would change ``y`` and neither ``x`` nor ``z``, ``cautious_decay``, as decay is a part of the step
    of ``z``, and ``stochastic_rounding``, as ``x`` is found from ``y`` and ``z``. ``l1`` is taken at ``y``, as weight
    decay is.

    Source: Defazio et al., arXiv 2405.15682; https://github.com/facebookresearch/schedule_free.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.ScheduleFreeAdamW(theta, lr=0.5)
    >>> for _ in range(5):
    ...     info = opt.step(2 * theta)
    >>> opt.eval()
    >>> bool(abs(theta[0]) < 0.2)
    True
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {**AVERAGING, "betas": (ABOVE_ZERO_BELOW_ONE, BELOW_ONE)}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        check_weights(group)
        return rules.schedule_free_adamw

    def hyper(self, group: Group, step: int) -> rules.ScheduleFreeAdamWScalars:
        lr, c = self.averaging(group, step)
        beta1, beta2 = group["betas"]
        # As in adam.bias_corrected.
        root = math.sqrt(1.0 - beta2**step)
        decay = group["weight_decay"] if group["decoupled"] else 0.0
        step_size = lr * (1.0 - beta1 * (1.0 - c))
        return rules.ScheduleFreeAdamWScalars(
            beta2, 1.0 - beta2, root, decay, 1.0 - c, c, step_size, lr, group["eps"] * root
        )

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        return row._replace(decay=1.0)

    def interpolation(self, group: Group) -> float:
        return float(group["betas"][0])
