"""Optimizers that share the steps of another one: each serves it as hooks, and updates a table of its own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..options.common import PLAIN_OPTIONS, StepOptions
from .gradients import Gradients
from .step import Step, StepHooks
from .whole_options import SAVED, WholeOptions
from .workspace import Workspace, make_table

#: Given instead of parameters: the optimizer serves another one, which has the arrays, as hooks.
HOOKS_ALONE = object()

#: The options of a whole optimizer, with the values that they have where nobody asks for them.
PLAIN_WHOLE_OPTIONS: Mapping[str, Any] = {
    **PLAIN_OPTIONS,
    "clip_global_norm": None,
    "skip_above": None,
    "grad_scale": 1.0,
    "seed": 0,
    "backend": None,
}


def check_no_whole_options(
    optimizer: str, pass_options: StepOptions, whole: WholeOptions, others: Mapping[str, Any]
) -> None:
    """Raise if an optimizer that serves as hooks sets an option of the whole optimizer."""
    saved = {name: getattr(whole, name) for name in SAVED}
    for name, value in {**pass_options._asdict(), **saved, **others}.items():
        plain = PLAIN_WHOLE_OPTIONS[name]
        if not (value is plain or (plain is not None and value == plain)):
            raise ValueError(whole_option(optimizer, name, value))


def whole_option(optimizer: str, name: str, value: Any) -> str:
    """Return the error of a whole option that is given to one of several optimizers that share a step."""
    return (
        f"{name}={value!r:.80}: {optimizer} shares its step with others, and this is an option of the whole step; give "
        "it to Combined, once"
    )


def part_workspace(workspace: Workspace) -> Workspace:
    """Return the workspace of an optimizer that shares a step: with a table of its own over the same memory."""
    table = make_table(workspace.backend, workspace.memory)
    whole = workspace.gradients
    gradients = Gradients(whole.ops, whole.add_rows, whole.names, whole.params, whole.extents, whole.are_cleared)
    are_writeable, layouts, where = workspace.are_writeable, workspace.layouts, workspace.where
    return Workspace(workspace.backend, table, gradients, workspace.memory, are_writeable, False, layouts, where)


def update_part(hooks: StepHooks, step: Step, its_rows: Sequence[int], workspace: Workspace) -> None:
    """Have an optimizer that shares a step update its arrays, which are those of these rows."""
    number_of = np.full(len(step.hyper_rows), -1, np.int32)  # of each row in the part's step
    number_of[its_rows] = np.arange(len(its_rows), dtype=np.int32)
    numbers = number_of[step.table.row_numbers * step.present]
    present = step.present & (numbers >= 0)
    gradients, rows, table = workspace.gradients, workspace.rows, workspace.table
    gradients.present, gradients.are_all_present = present, bool(present.all())
    gradients.given = [
        grad if is_there else None for grad, is_there in zip(step.workspace.gradients.given, present, strict=True)
    ]
    rows.members = [step.workspace.rows.members[r] for r in its_rows]
    rows.firsts = [step.workspace.rows.firsts[r] for r in its_rows]
    table.set_grads(gradients.given)
    table.row_numbers[present] = numbers[present]
    workspace.backend.follow(table, step.table)
    own = Step(hooks, step.parts, workspace, step.scale, step.flushed_calls)
    own.groups, own.leaves, own.present, own.units, own.verdict = step.groups, step.leaves, present, [], step.verdict
    own.row_options = [step.row_options[r] for r in its_rows]
    own.hyper_rows = [step.hyper_rows[r] for r in its_rows]
    try:
        hooks.update(own)
    finally:
        workspace.forget_grads()
