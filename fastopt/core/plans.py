"""The contents of a plan, after a whole step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ..arrays.memory import is_one_run
from ..backends.plan import Plan, PlanArrays, PlanContents, PlanGroup
from ..options.common import StepOptions
from ..options.ranges import Group
from ..options.values import differ, is_scheduled
from .groups import Groups
from .hooks import Hooks, first_of_same, is_default
from .parts import Parts
from .results import StepInfo
from .rows import CHANGING_ROWS, RATED, depend_on_step, flush_of, steady_fields, step_fields
from .workspace import Workspace

#: The options that make another plan necessary: reading the gradients depends on them, the table, or flushing.
FIXED = frozenset(
    {
        "params",
        "clip_value",
        "clip_norm",
        "maximize",
        "max_weight_norm",
        "max_weight_norm_axis",
        "bounds",
        "cautious_decay",
        "eps",
        "eps_root",
    }
)

#: The types of options that can't change in place, besides those of NumPy's scalars.
CONSTANTS = (bool, int, float, str, type(None))


class GroupHooks(Protocol):
    """The hooks of a group that a plan needs; ``hooks.py`` describes them."""

    copied: ClassVar[frozenset[str]]

    def hyper(self, group: Group, step: int) -> tuple[float, ...]: ...


class PlanHooks(GroupHooks, Protocol):
    """The hooks that a plan needs; ``hooks.py`` describes them."""

    def of_group(self, group: Group) -> GroupHooks: ...


def can_plan(hooks: Hooks, parts: Parts) -> bool:
    """Return whether the steps of an optimizer can be planned."""
    return parts.backend.makes_plans and all(map(is_planned, hooks.each())) and parts.parameters.root.is_plain()


def is_planned(hooks: Hooks) -> bool:
    """Return whether each step with these hooks is one pass, and its rows depend on steps alone."""
    kind = type(hooks)
    return (
        all(is_default(hooks, name) for name in ("check_step", "update", "row_keys", "adjusted"))
        and not kind.numbers
        and kind.rows_stay
    )


def plan_of(hooks: PlanHooks, parts: Parts, workspace: Workspace, leaves: Sequence[Any]) -> Plan | None:
    """Return a plan after a whole step with these gradients, or None if the options or gradients allow none."""
    parameters, whole = parts.parameters, dict(vars(parts.whole))
    if workspace.gradients.sparse or parts.groups.limits_norms or whole["dynamic_scale"] is not None:
        return None
    groups = planned_groups(hooks, parts.groups, parts.options, parts.whole.scale_of(None))
    if groups is None:
        return None
    if not workspace.gradients.are_plain:
        add_buffers(workspace.planning.buffers, parameters.arrays, leaves)
    frozen, written = parameters.frozen, workspace.gradients.extents
    arrays = PlanArrays(
        parameters.arrays,
        workspace.layouts,
        parameters.root,
        parameters.is_single,
        parameters.is_grouped,
        parameters.group_of,
        [name in frozen for name in parameters.names],
        workspace.bounds.lower,
        workspace.bounds.upper,
        written.starts,
        written.stops,
        workspace.planning.buffers,
    )
    source = RowSource(parts.groups, groups, parts.options, whole["seed"])
    return parts.backend.plan(
        workspace.table,
        PlanContents(
            arrays,
            groups,
            (vars(parts.whole), whole),
            (vars(parameters), frozen),
            (vars(parts.groups), parts.groups.param_groups),
            source,
            StepInfo,
            parts.turns.marks,
            parts.turns.queue,
            2 * len(workspace.rows.members),
            parts.options.zero_grads,
            parts.options.accumulate_steps,
            parts.groups.clips_arrays,
            parts.whole.global_limit,
            parts.whole.norm_to_skip,
            parts.options.nonfinite != "propagate",
            tuple(parameters.names),
            parts.progress.skips,
        ),
    )


def planned_groups(hooks: PlanHooks, groups: Groups, options: StepOptions, scale: float) -> list[PlanGroup] | None:
    """Return the groups of a plan.

    None if an option could change in place, or has changed since it was checked, or C can't look into a group.
    """
    given = groups.param_groups
    if type(given) is not list or len(given) != len(groups.checked) or {dict} != set(map(type, given)):
        return None
    planned = []
    for group, checked in zip(given, groups.checked, strict=True):
        entries = dict(group)
        if differ(entries, checked.values) or list(map(type, entries.values())) != checked.types:
            return None
        if not all(is_constant(value) for name, value in entries.items() if name != "params"):
            return None
        values, hooks_of = dict(checked.values), hooks.of_group(checked.values)
        hyper = hooks_of.hyper
        is_rated = any(values[name] for name in RATED)
        fixed = FIXED.union(checked.scheduled, checked.option_set.refused)
        if not is_rated or "lr" in checked.scheduled:
            fixed |= RATED
        if values["cautious_decay"]:
            fixed |= {"decoupled"}  # without which it is an error
        planned.append(
            PlanGroup(
                group,
                entries,
                values,
                {name: checked.option_set.allowed(name) for name in entries if name not in fixed},
                CHANGING_ROWS | {"lr"} if is_rated else CHANGING_ROWS,
                checked.rule,
                bool(hooks_of.copied),
                checked.scheduled,
                depend_on_step(values, checked.scheduled, options),
                first_of_same(hyper),
                flush_of(checked.rule, hyper, values, options),
                math.inf if values["clip_norm"] is None else values["clip_norm"],
                *steady_fields(values, scale, options),
            )
        )
    return planned


def is_constant(value: Any) -> bool:
    """Return whether an option can't change in place."""
    if type(value) is tuple:
        return all(map(is_constant, value))
    return type(value) in CONSTANTS or isinstance(value, np.generic) or callable(value)


def add_buffers(buffers: dict[int, npt.NDArray[np.uint8]], params: Sequence[Any], leaves: Sequence[Any]) -> None:
    """Add memory for each gradient that is not in its parameter's order."""
    for i, (param, leaf) in enumerate(zip(params, leaves, strict=True)):
        is_copied = isinstance(leaf, np.ndarray) and not is_one_run(leaf, param.flags.c_contiguous)
        if is_copied and (i not in buffers or buffers[i].size < leaf.nbytes):
            buffers[i] = np.empty(leaf.nbytes, np.uint8)


class RowSource:
    """The options and rows that differ from those of the last step."""

    def __init__(self, groups: Groups, planned: Sequence[PlanGroup], options: StepOptions, seed: int) -> None:
        self.groups, self.options, self.seed = groups, options, seed
        self.planned = planned

    def check_option(self, k: int, name: str, value: Any) -> bool:
        """Take over an option that was written into group number ``k``; return False if the plan ends with it."""
        if not is_constant(value) or is_scheduled(value):
            return False
        option_set = self.groups.checked[k].option_set
        try:
            is_as_written = option_set.check(name, value) is value
        except (TypeError, ValueError, OverflowError):
            return False
        if is_as_written:
            self.planned[k].values[name] = option_set.computed(name, value)
        return is_as_written

    def options_at(self, k: int, step_count: int) -> Group:
        """Return the options of group number ``k``, with its schedules evaluated."""
        group = self.planned[k]
        return self.groups.evaluated(k, group.values, group.scheduled, step_count)

    def row_at(self, hooks: PlanHooks, values: Group, step: int) -> tuple[Any, ...]:
        """Return the scalars and :func:`step_fields` of the arrays of which this is step number ``step``, from 1."""
        return hooks.hyper(values, step), *step_fields(values, step, self.options, self.seed)
