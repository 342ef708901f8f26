"""One step, in order: check, read, apply, count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ..arithmetic import tiny
from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array
from ..arrays.memory import shown
from ..backends.interrupts import uninterrupted
from ..backends.table import CLEAR, FINISH, UPDATE, WHOLE_PASS, HyperRow, LimitedUnits, Reading
from ..options.ranges import Group
from .hook_checks import check_row_keys, checked_row, checked_scalars
from .max_weight_norm import axes_of
from .params_in_state import begin_at_zero, renew
from .parts import Parts
from .results import StepInfo
from .row_sparse import NOT_BY_ROWS, RowSparseTable
from .rows import flush_of, history_of, hyper_row
from .workspace import Workspace


def is_none(value: Any) -> bool:
    return value is None


class GroupHooks(Protocol):
    """The hooks of a group that a step needs; ``hooks.py`` describes them."""

    copied: ClassVar[frozenset[str]]
    further_rules: ClassVar[Sequence[Rule]]
    numbers: ClassVar[Mapping[str, float]]
    row_sparse_options: ClassVar[Mapping[str, Any] | None]

    def hyper(self, group: Group, step: int) -> tuple[float, ...]: ...
    def check_row_sparse(self, name: str) -> None: ...


class StepHooks(Protocol):
    """The hooks that a step needs; ``hooks.py`` describes them."""

    numbers: ClassVar[Mapping[str, float]]
    rows_stay: ClassVar[bool]

    def of_group(self, group: Group) -> GroupHooks: ...
    def hyper(self, group: Group, step: int) -> tuple[float, ...]: ...
    def adjusted(self, row: HyperRow, group: Group) -> HyperRow: ...
    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]: ...
    def update(self, step: Step) -> None: ...


class Step:
    """One step. Whatever lives for a step alone is here.

    Attributes
    ----------
    parts, workspace
        The optimizer's.
    table : Table
        The workspace's, or one with the rows that row-sparse gradients touch.
    leaves : list of (array or None)
        The gradient of each array.
    present : bool array
        Which arrays have a gradient.
    groups : list of dict
        The options of each group in this step: schedules are evaluated.
    row_options : list of dict
        For each row the options of its group, and the numbers of its first array.
    hyper_rows : list of HyperRow
        The rows of hyperparameters.
    flushed_calls : int
        If the step applies the mean of the calls that have accumulated, and takes no gradients: how many calls.
    verdict : object
        On a GPU with nonfinite="skip": whether the step is applied, a number still being computed; else None.
    """

    __slots__ = (
        "flushed_calls",
        "groups",
        "hooks",
        "hyper_rows",
        "is_last",
        "leaves",
        "parts",
        "present",
        "row_options",
        "scale",
        "table",
        "units",
        "verdict",
        "workspace",
    )

    groups: list[Group]
    row_options: list[Group]
    hyper_rows: list[HyperRow]
    leaves: list[Any]
    present: npt.NDArray[np.bool_]
    units: list[LimitedUnits]
    verdict: Any

    def __init__(
        self, hooks: StepHooks, parts: Parts, workspace: Workspace, scale: float, flushed_calls: int = 0
    ) -> None:
        self.hooks, self.parts, self.workspace, self.scale = hooks, parts, workspace, scale
        self.table = workspace.table
        steps = parts.options.accumulate_steps
        self.flushed_calls = flushed_calls
        self.is_last = steps == 1 or flushed_calls > 0 or parts.progress.accumulated_calls + 1 >= steps

    def run(self, grads: Any, stream: Any) -> StepInfo:
        """Check everything, then change the parameters and count."""
        parts, workspace = self.parts, self.workspace
        backend, progress, options, gradients = parts.backend, parts.progress, parts.options, workspace.gradients
        backend.set_stream(self.table, stream)
        self.take_gradients(grads)
        self.present = gradients.present
        if not workspace.are_writeable():
            parts.parameters.check_writeable(gradients.present)
        self.groups = parts.groups.values(progress.counts.item(0))
        touched: Mapping[int, Array] = {}
        if gradients.sparse:
            self.table = touching = self.row_sparse_table()
            touched = touching.params
        self.units = self.limited_units(touched) if parts.groups.limits_norms else []
        self.hyper_rows = self.rows_of_step()
        backend.check_rules(workspace.table, self.hyper_rows)
        reading = self.read()
        skipped = reading.skipped
        self.verdict = None if reading.verdict is None else reading.verdict.then(is_none)
        before = None if self.verdict is None else progress.copies()
        if skipped is not None:
            progress.skip(skipped)
            if options.zero_grads:
                for grad in gradients.clearable:
                    backend.ops.clear(grad)
        else:
            progress.skips[0] = 0
            has_firsts = self.is_last and any(steps == 0 for _, steps in workspace.rows.members)
            if has_firsts and parts.slots.has_params:
                renew(self.hooks, parts, self.present)
            if parts.slots.pending:
                parts.slots.commit()
            if has_firsts and options.ema_start == "zero":
                begin_at_zero(parts, self.present)
            if self.is_last:
                self.apply()
            else:
                rows = [row._replace(mean=0.0) for row in self.hyper_rows]
                backend.accumulate(self.table, rows, self.count_call)
        if options.zero_grads:
            for grad in gradients.converted:
                backend.ops.clear(grad)
        if before is not None:
            progress.pending = reading.verdict, before
            if parts.whole.dynamic_scale is None and options.accumulate_steps == 1:
                step_count = int(before[0][0, 0])
                step = self.verdict.then(lambda applied: step_count + applied)
                info = self.info(self.verdict, reading, step)
                info.find_skipped = lambda: reading.verdict.value
                return info
            progress.undo_skipped_step()
            skipped = reading.verdict.value
        if skipped == "skip_above" and progress.accumulated_calls:
            uninterrupted(self.drop_accumulated)
        applied = self.is_last and skipped is None
        if parts.whole.dynamic_scale is not None and (applied or skipped == "nonfinite"):
            parts.whole.dynamic_scale.update(applied)
        info = self.info(applied, reading, progress.counts.item(0))
        info.skipped = skipped
        return info

    def nothing(self) -> StepInfo:
        """Return the result of a flush where no call has accumulated."""
        step_count = self.parts.progress.counts.item(0)
        self.groups = self.parts.groups.values(step_count)
        return self.info(False, Reading(), step_count)

    def read(self) -> Reading:
        """Read all gradients: set the clip factors, and find out whether the step is skipped."""
        parts, progress = self.parts, self.parts.progress
        nonfinite, refuse = parts.options.nonfinite, self.refuse_nonfinite
        limit = parts.options.nonfinite_limit
        if limit is not None and progress.skips.item(0) >= limit:
            nonfinite, refuse = "raise", self.refuse_another_skip
        return parts.backend.read(
            self.table,
            self.hyper_rows,
            self.limits() if self.is_last and parts.groups.clips_arrays else None,
            parts.whole.global_limit if self.is_last else None,
            nonfinite,
            refuse,
            parts.whole.norm_to_skip,
        )

    def info(self, applied: Any, reading: Reading, step: Any) -> StepInfo:
        """Return the result of the step."""
        lrs = tuple(group["lr"] for group in self.groups)
        info = StepInfo(applied, reading.norm, lrs[0], step)
        info.lrs = lrs
        if reading.norms is not None:
            present, norms = self.present, reading.norms
            info.norms_read = self.parts.parameters.names, lambda: np.where(present, norms(), -1.0)
        return info

    def take_gradients(self, grads: Any) -> None:
        """Check the gradients, hand them to the table, and assign rows to the arrays that have one."""
        parts, progress, rows = self.parts, self.parts.progress, self.workspace.rows
        parameters = parts.parameters
        leaves = [None] * len(parameters.names) if self.flushed_calls else parameters.leaves(grads, "grads")
        if self.is_last and parts.options.accumulate_steps > 1:
            leaves = self.with_zeros(leaves)
        if parameters.frozen:
            frozen = parameters.frozen
            leaves = [None if name in frozen else leaf for name, leaf in zip(parameters.names, leaves, strict=True)]
        self.leaves = leaves
        # First: an interrupt from here on has the rows assigned again.
        last, rows.history = rows.history, b""
        gradients = self.workspace.gradients
        has_changed = gradients.take(self.workspace.table, leaves, self.check_row_sparse_allowed)
        keys = self.hooks.row_keys(progress.numbers)
        check_row_keys(keys, len(leaves))
        history = history_of(progress.steps, keys, progress.undone)
        if has_changed or history != last:
            numbers = self.workspace.table.row_numbers
            keys = [*keys, *self.workspace.bounds.keys]
            rows.assign(numbers, gradients.present, parameters.group_of, progress.steps, keys)
        rows.history = history

    def with_zeros(self, leaves: list[Any]) -> list[Any]:
        """Give zeros to the arrays that have no gradient in the last of the accumulated calls, but had one before."""
        ops, entries, parameters = self.parts.backend.ops, self.parts.slots.entries, self.parts.parameters
        return [
            ops.slot_like(param, 0.0, ops.compute_dtype(param.dtype))
            if leaf is None and entries[name].get("accumulated_calls", 0) > 0
            else leaf
            for name, param, leaf in zip(parameters.names, parameters.arrays, leaves, strict=True)
        ]

    def check_row_sparse_allowed(self, i: int) -> None:
        """Raise if the optimizer, its backend or an option can't work with a row-sparse gradient of array ``i``."""
        parts = self.parts
        group = parts.groups.checked[parts.parameters.group_of[i]].values
        name, param, options = parts.parameters.names[i], parts.parameters.arrays[i], parts.options
        self.hooks.of_group(group).check_row_sparse(name)
        if not parts.backend.on_host:
            raise TypeError(f"grads: {name!r} is row-sparse, which is not done on a GPU yet; give a dense one")
        limits_norms = group["max_weight_norm"] is not None and param.ndim > 1
        asked = {
            "ema_decay": options.ema_decay is not None,
            "polyak": options.polyak,
            "accumulate_steps": options.accumulate_steps > 1,
            "state_dtype": any(scaled is not None for scaled in self.workspace.memory[i].extras.scales),
            "max_weight_norm": limits_norms and 0 in axes_of(name, param.ndim, group["max_weight_norm_axis"]),
        }
        for option, is_asked in asked.items():
            if is_asked:
                raise ValueError(
                    f"grads: {name!r} is row-sparse, which is not done with {option}: {NOT_BY_ROWS[option]}; or give a "
                    "dense gradient"
                )

    def row_sparse_table(self) -> RowSparseTable:
        """Return the table with copies of the rows that this step's row-sparse gradients touch."""
        sparse, memory = self.workspace.gradients.sparse, self.workspace.memory
        group_of, steps = self.parts.parameters.group_of, self.parts.progress.steps
        scalars = []
        for i in sparse:
            group, rule = self.groups[group_of[i]], self.parts.groups.checked[group_of[i]].rule
            more = self.hooks.of_group(group).row_sparse_options or {}
            its = self.hooks.hyper({**group, **more}, int(steps[i]) + 1)
            scalars.append(checked_scalars(its, rule))
        touched = [memory[i] for i in sparse]
        return RowSparseTable(self.workspace.table, sparse, touched, scalars, self.workspace.buffers)

    def limited_units(self, touched: Mapping[int, Array]) -> list[LimitedUnits]:
        """Return the arrays, or their touched rows, whose units' norms are limited in this step."""
        parameters, units = self.parts.parameters, []
        for i in np.flatnonzero(self.present):
            group = self.parts.groups.checked[parameters.group_of[i]].values
            computed = touched.get(int(i), self.workspace.memory[i].computed)
            if group["max_weight_norm"] is None or computed.ndim < 2:
                continue
            name = parameters.names[i]
            if self.parts.backend.ops.is_half(computed.dtype):
                raise ValueError(
                    f"max_weight_norm: {name!r} is bfloat16 without a master; expected stochastic_rounding=False"
                )
            axes = axes_of(name, computed.ndim, group["max_weight_norm_axis"])
            units.append(LimitedUnits(int(i), computed, group["max_weight_norm"], axes))
        return units

    def rows_of_step(self) -> list[HyperRow]:
        """Return the rows of hyperparameters of this step."""
        hooks, parts, members = self.hooks, self.parts, self.workspace.rows.members
        checked, scale, options, seed = parts.groups.checked, self.scale, parts.options, parts.whole.seed
        groups, bounds, firsts = self.groups, self.workspace.bounds, self.workspace.rows.firsts
        self.row_options = row_options = [groups[k] for k, _ in members]
        if len(parts.progress.numbers):
            numbers = parts.progress.numbers[:, firsts].T.tolist()
            for i, its in enumerate(numbers):
                names = hooks.of_group(row_options[i]).numbers
                row_options[i] = {**row_options[i], **dict(zip(names, its, strict=False))}
        rows = []
        for i, (k, step) in enumerate(members):
            group = row_options[i]
            of_group = hooks.of_group(group)
            scalars = hooks.hyper(group, step + 1)
            its_bounds = bounds.of(firsts[i])
            made = hyper_row(group, checked[k].rule, scalars, step + 1, scale, options, seed, its_bounds)
            row = checked_row(hooks.adjusted(made, group), made, (checked[k].rule, *of_group.further_rules))
            if tiny.is_due(step + 1):
                row = row._replace(flush=flush_of(row.rule, of_group.hyper, group, options))
            if self.flushed_calls:
                row = row._replace(mean=math.copysign(1.0 / self.flushed_calls, row.mean))
            rows.append(row)
        return rows

    def array_numbers(self, name: str) -> Any:
        """Return a number of every array: one NumPy array on the host; on a GPU, of one that stays there, a list.

        Arrays that lack it, since other optimizers share the step, have None in the list.
        """
        k = list(self.hooks.numbers).index(name)
        if self.parts.backend.on_host:
            return self.parts.progress.numbers[k]
        return [self.parts.slots.entries[array].get(name) for array in self.parts.parameters.names]

    def limits(self) -> npt.NDArray[np.float64]:
        """Return the greatest norm of each array."""
        of_groups = [group.values["clip_norm"] for group in self.parts.groups.checked]
        bounds = np.array([math.inf if limit is None else limit for limit in of_groups], np.float64)
        limits: npt.NDArray[np.float64] = bounds[self.parts.parameters.group_of]
        return limits

    def refuse_nonfinite(self, counts: npt.NDArray[np.int64]) -> None:
        """Raise for the first array whose gradient has elements that are not finite."""
        first = np.flatnonzero(counts)[0]
        raise ValueError(
            f"grads: {self.parts.parameters.names[first]!r} has {counts[first]} elements that are infinite or NaN, and "
            'nonfinite="raise"; nothing was changed'
        )

    def refuse_another_skip(self, counts: npt.NDArray[np.int64]) -> None:
        """Raise for gradients with elements that are not finite, if too many steps were skipped for that in a row."""
        names = [self.parts.parameters.names[i] for i in np.flatnonzero(counts)]
        limit, skips = self.parts.options.nonfinite_limit, self.parts.progress.skips.item(0)
        raise ValueError(
            f"grads: {shown(names):.400} have elements that are infinite or NaN, and {skips} steps in a row were "
            f"skipped for such elements (nonfinite_limit={limit}); nothing was changed"
        )

    def apply(self) -> None:
        """Change the parameters and slots, and count the step."""
        workspace, progress = self.workspace, self.parts.progress
        update = self.update_with_limited_norms if self.units else self.update
        if progress.accumulated_calls and (frozen := self.frozen_meanwhile()):
            uninterrupted(partial(self.clear_accumulated, frozen), update, self.count_step)
        elif workspace.is_one_call and not workspace.gradients.sparse and not self.units:
            self.parts.backend.step(self.table, self.hyper_rows, self.count_step)
        else:
            uninterrupted(update, self.count_step)
        history = None
        if self.hooks.rows_stay:
            history = history_of(progress.steps, self.hooks.row_keys(progress.numbers), progress.undone)
        workspace.rows.follow(history)

    def frozen_meanwhile(self) -> list[str]:
        """Return the names of the arrays that have accumulated gradients and were frozen since."""
        frozen = np.flatnonzero((self.parts.progress.counts[1, 1:] > 0) & ~self.present)
        return [self.parts.parameters.names[i] for i in frozen]

    def clear_accumulated(self, names: list[str]) -> None:
        """Clear the accumulated gradients of these arrays, unless a GPU skips the step."""
        if self.verdict is None or self.verdict:
            for name in names:
                self.parts.backend.ops.clear(self.parts.slots.entries[name]["accumulated"])

    def drop_accumulated(self) -> None:
        """Clear all accumulated gradients and their counts: the next call begins a new mean."""
        progress, entries = self.parts.progress, self.parts.slots.entries
        for i in np.flatnonzero(progress.counts[1, 1:]):
            self.parts.backend.ops.clear(entries[self.parts.parameters.names[i]]["accumulated"])
        progress.counts[1] = 0

    def update(self) -> None:
        self.hooks.update(self)

    def update_with_limited_norms(self) -> None:
        """Update, limit the units' norms, then average and copy the result."""
        rows, groups = self.hyper_rows, self.parts.groups.checked
        is_limited = [groups[k].values["max_weight_norm"] is not None for k, _ in self.workspace.rows.members]
        stages = [(UPDATE | CLEAR, FINISH) if limited else (WHOLE_PASS, 0) for limited in is_limited]
        self.hyper_rows = [row._replace(stages=first) for row, (first, _) in zip(rows, stages, strict=True)]
        self.hooks.update(self)
        self.parts.backend.limit_norms(self.table, self.hyper_rows, self.units)
        self.table.step([row._replace(stages=then) for row, (_, then) in zip(rows, stages, strict=True)])

    def count_step(self) -> None:
        self.parts.progress.count(0, self.present, self.workspace.gradients.are_all_present)

    def count_call(self) -> None:
        self.parts.progress.count(1, self.present, self.workspace.gradients.are_all_present)
