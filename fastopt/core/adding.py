"""Adding arrays and groups to an optimizer: everything is checked before any part changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..arithmetic.rules import Rule
from ..backends import choosing
from ..backends.interrupts import uninterrupted
from ..options.ranges import Group
from .parts import Parts


class AddingHooks(Protocol):
    """The hooks that adding needs; ``hooks.py`` describes them."""

    measured: ClassVar[frozenset[str]]
    runs_on_gpu: ClassVar[bool]
    further_rules: ClassVar[Sequence[Rule]]

    def rule(self, group: Group) -> Rule: ...
    def check_param(self, name: str, array: Any) -> None: ...


def add(
    hooks: AddingHooks,
    parts: Parts,
    params: Any,
    groups: Sequence[Group],
    group_of: Mapping[str, int] | None,
    asked_backend: str | None,
) -> None:
    """Add arrays, and groups of options.

    ``group_of`` gives for the name of each array its group among these; None: there is one group. The first arrays
    decide the backend.
    """
    branch = parts.parameters.branch(params)
    parts.progress.undo_skipped_step()
    parts.groups.check_known(groups)
    names, given = list(branch.names()), list(branch.arrays())
    if not parts.parameters.arrays:
        parts.backend = choosing.backend_for(asked_backend, names, given)
        if not (parts.backend.on_host or hooks.runs_on_gpu):
            raise ValueError(
                f"{type(hooks).__name__}: expected NumPy arrays, got arrays on a GPU, where it can't run yet"
            )
    parts.groups.check_allowed(parts.options._asdict())
    addition = parts.parameters.addition(branch, names, given, parts.backend, hooks.check_param)
    numbers = [0 if group_of is None else group_of[name] for name in names]
    members: list[list[Any]] = [[] for _ in groups]
    for array, number in zip(given, numbers, strict=True):
        members[number].append(array)
    checked = parts.groups.addition(groups, list(map(tuple, members)), hooks.rule)
    rules = [*(group.rule for group in (*parts.groups.checked, *checked)), *hooks.further_rules]
    backend = choosing.backend_of_rules(asked_backend, parts.backend, rules)

    def apply() -> None:
        parts.forget_workspace()
        parts.backend = backend
        first = len(parts.groups.param_groups)
        parts.groups.add(checked)
        parts.parameters.add(addition, [first + number for number in numbers])
        parts.progress.add(len(names))
        parts.slots.add(parts.parameters, parts.progress, parts.backend, hooks.measured)

    if parts.workspace is None:  # no step was made that an interrupt could tear, and asking for signals takes time
        apply()
    else:
        uninterrupted(apply)
