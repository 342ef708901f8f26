"""The rows of hyperparameters: which arrays share one, and the numbers in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arithmetic import averages, dither, tiny
from ..arithmetic.rules import Rule
from ..backends.table import FLUSH_AVERAGE, FLUSH_SLOTS, WHOLE_PASS, HyperRow
from ..options.common import StepOptions
from ..options.ranges import BELOW_ONE, Group, Schedulable, as_number

#: The options on which it depends whether ``lr`` changes more of a row than the rule's scalars.
RATED = frozenset({"decoupled", "prox_l1"})

#: The options that always do.
CHANGING_ROWS = RATED | {"weight_decay", "l1"}


class Rows:
    """Which arrays share a row: those that agree in group, step count and what else the optimizer names.

    Attributes
    ----------
    members : list of (group, step count)
        The group of each row's arrays, and the steps that were applied to them.
    firsts : list of int
        The first array of each row.
    """

    __slots__ = ("firsts", "history", "members")

    def __init__(self) -> None:
        self.members: list[tuple[int, int]] = []
        self.firsts: list[int] = []
        #: The state that the rows were made from (:func:`history_of`); b"" if they must be made again.
        self.history = b""

    def assign(
        self,
        row_numbers: npt.NDArray[np.int32],
        present: npt.NDArray[np.bool_],
        group_of: npt.NDArray[np.int64],
        steps: npt.NDArray[np.int64],
        keys: Sequence[npt.NDArray[Any]],
    ) -> None:
        """Give the arrays that agree in their group, step count and keys a common row."""
        row_of = group_of[present]
        for values in (steps, *keys):
            found, place = np.unique(values[present], return_inverse=True)
            _, first, row_of = np.unique(row_of * found.size + place, return_index=True, return_inverse=True)
        row_numbers[present] = row_of
        self.firsts = np.flatnonzero(present)[first].tolist()
        self.members = [(int(group_of[i]), int(steps[i])) for i in self.firsts]

    def follow(self, history: bytes | None) -> None:
        """Count a step in each row. ``history`` is that of the rows as they are now; None: make them again."""
        # In this order: an interrupt in between has the rows made again, instead of left one step behind.
        self.members = [(group, step + 1) for group, step in self.members]
        self.history = history or b""


def history_of(steps: npt.NDArray[np.int64], keys: Sequence[npt.NDArray[Any]], undone: int) -> bytes:
    """Return all that rows depend on besides the groups of their arrays, as bytes to compare."""
    history = steps.tobytes()
    for values in keys:
        history += values.tobytes()
    return b"%d,%b" % (undone, history) if undone else history


def steady_fields(group: Group, scale: float, options: StepOptions) -> tuple[float, float, float]:
    """Return the fields of a group's rows that no step and no schedule changes: ``grad_scale, clip_value, mean``."""
    sign, clip_value = -1.0 if group["maximize"] else 1.0, group["clip_value"]
    limit = math.inf if clip_value is None else clip_value
    if options.accumulate_steps == 1:
        return sign / scale, limit, 0.0
    return 1.0 / scale, limit, sign / options.accumulate_steps


def step_fields(
    group: Group, step: int, options: StepOptions, seed: int
) -> tuple[float, float, float, float, float, float, int]:
    """Return the further fields of a row: ``l2, decay, l1, cautious, threshold, average_weight, dither``."""
    lr, weight = group["lr"], 1.0
    if options.polyak:
        weight = averages.polyak_weight(options.polyak_start, step)
    elif options.ema_decay is not None:
        weight = ema_weight(options, options.ema_decay, step)
    key = dither.step_key(seed, step) if options.is_dithered else 0
    threshold = threshold_of(group, lr) if group["prox_l1"] else 0.0
    if group["decoupled"]:
        return 0.0, decay_of(group, lr), group["l1"], cautious_of(group, lr), threshold, weight, key
    return group["weight_decay"], 1.0, group["l1"], 0.0, threshold, weight, key


def ema_weight(options: StepOptions, decay: Schedulable, step: int) -> float:
    """Return the weight of the new parameter in the exponential average, at an array's step number ``step``, from 1.

    Raises
    ------
    TypeError, ValueError
        If a function returns no decay.
    """
    number: Any = decay(step) if callable(decay) else decay
    # Most numbers are found to be right without a text of where they come from.
    if not (type(number) is float and 0.0 <= number < 1.0):
        number = as_number(f"the function at an array's step {step}: ema_decay", number, BELOW_ONE)
    if step == 1 and options.ema_start == "after":
        return 1.0
    return averages.ema_weight(number, options.ema_bias_correction, step)


def depend_on_step(group: Group, scheduled: Sequence[str], options: StepOptions) -> bool:
    """Return whether one of :func:`step_fields` is another one in each step, given which options are schedules."""
    has_rate = any(group[name] for name in RATED)
    has_new_weights = options.polyak or options.ema_bias_correction or options.is_dithered
    has_new_weights |= callable(options.ema_decay)
    # The calls before an array's first step leave a row of that step, whose weight is 1.
    has_new_weights |= options.ema_start == "after" and options.accumulate_steps > 1
    return has_new_weights or "weight_decay" in scheduled or ("lr" in scheduled and has_rate)


def hyper_row(
    group: Group,
    rule: Rule,
    scalars: tuple[float, ...],
    step: int,
    scale: float,
    options: StepOptions,
    seed: int,
    bounds: tuple[float, float],
) -> HyperRow:
    """Return the row of hyperparameters of the arrays of a group of which this is step number ``step``, from 1."""
    grad_scale, clip_value, mean = steady_fields(group, scale, options)
    l2, decay, l1, cautious, threshold, weight, key = step_fields(group, step, options, seed)
    return HyperRow(
        rule,
        grad_scale,
        clip_value,
        1.0,
        l2,
        decay,
        scalars,
        mean,
        l1,
        cautious,
        threshold,
        *bounds,
        weight,
        key,
        WHOLE_PASS,
        options.zero_grads,
    )


def flush_of(rule: Rule, hyper: Callable[..., Any], group: Group, options: StepOptions) -> int:
    """Return whose tiny numbers are flushed when that is due (arithmetic/tiny.py); ``hyper`` is the hook."""
    has_average = options.polyak or options.ema_decay is not None
    flushes_slots = tiny.is_flushed(rule) and tiny.is_built_in(hyper) and tiny.has_safe_eps(rule, group)
    return FLUSH_SLOTS * flushes_slots + FLUSH_AVERAGE * has_average


def decay_of(group: Group, lr: float) -> float:
    """Return the factor of decoupled weight decay before the rule."""
    return 1.0 - lr * group["weight_decay"] if group["decoupled"] and not group["cautious_decay"] else 1.0


def cautious_of(group: Group, lr: float) -> float:
    """Return the weight of decoupled decay after the rule."""
    return float(lr * group["weight_decay"]) if group["cautious_decay"] else 0.0


def at_rate(row: HyperRow, group: Group, lr: float) -> HyperRow:
    """Return the row of an optimizer that finds its own learning rate, with the fields that depend on the rate."""
    decay, cautious, threshold = decay_of(group, lr), cautious_of(group, lr), threshold_of(group, lr)
    return row._replace(decay=decay, cautious=cautious, threshold=threshold)


def threshold_of(group: Group, lr: float) -> float:
    """Return by how much ``prox_l1`` shrinks; SWATS may find a negative lr, by which nothing shrinks."""
    threshold: float = max(lr * group["prox_l1"], 0.0)
    return threshold
