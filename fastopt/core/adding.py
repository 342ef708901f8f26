"""Adding arrays and groups to an optimizer: everything is checked before any part changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..arithmetic.rules import Rule
from ..arrays.structure import Branch
from ..backends import choosing
from ..backends.interrupts import uninterrupted
from ..options.ranges import Group
from .bounds import number_pair
from .groups import CheckedGroup
from .option_set import OptionSet
from .parts import Parts
from .progress import NumberHooks


class GroupHooks(NumberHooks, Protocol):
    """The hooks of a group that adding needs; ``hooks.py`` describes them."""

    runs_on_gpu: ClassVar[bool]
    further_rules: ClassVar[Sequence[Rule]]

    @property
    def option_set(self) -> OptionSet: ...
    def check_param(self, name: str, array: Any) -> None: ...


class AddingHooks(Protocol):
    """The hooks that adding needs; ``hooks.py`` describes them."""

    def of_group(self, group: Group) -> GroupHooks: ...
    def each(self) -> Sequence[GroupHooks]: ...
    def rule(self, group: Group) -> Rule: ...


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
    numbers = [0 if group_of is None else group_of[name] for name in branch.names()]
    add_branch(hooks, parts, branch, groups, numbers, asked_backend)


def add_branch(
    hooks: AddingHooks,
    parts: Parts,
    branch: Branch,
    groups: Sequence[Group],
    numbers: Sequence[int],
    asked_backend: str | None,
) -> None:
    """Add the arrays of a branch, each to the group of this number among these."""
    parts.progress.undo_skipped_step()
    hooks_of_groups = list(map(hooks.of_group, groups))
    for its, options in zip(hooks_of_groups, groups, strict=True):
        its.option_set.check_known(options)
    names, given = list(branch.names()), list(branch.arrays())
    if not parts.parameters.arrays:
        parts.backend = parts.chosen = choosing.backend_for(asked_backend, names, given)
    for its in hooks_of_groups:
        if not (parts.backend.on_host or its.runs_on_gpu):
            raise ValueError(
                f"{type(its).__name__}: expected NumPy arrays, got arrays on a GPU, where it can't run yet"
            )
        its.option_set.check_allowed(parts.options._asdict())
    checks = [hooks_of_groups[number].check_param for number in numbers]
    addition = parts.parameters.addition(branch, names, given, parts.backend, checks)
    if parts.options.state_dtype is not None:
        check_state_dtype(parts.options.state_dtype, names, addition.arrays)
    members: list[list[Any]] = [[] for _ in groups]
    for array, number in zip(given, numbers, strict=True):
        members[number].append(array)
    option_sets = [its.option_set for its in hooks_of_groups]
    checked = parts.groups.addition(groups, list(map(tuple, members)), option_sets, hooks.rule)
    rules = rules_of(hooks, (*parts.groups.checked, *checked))
    backend = choosing.backend_of_rules(asked_backend, parts.chosen, rules)
    if any(group.values["bounds"] for group in checked):
        for name, array, number in zip(names, addition.arrays, numbers, strict=True):
            number_pair(name, str(array.dtype), checked[number].values["bounds"])

    def apply() -> None:
        parts.forget_workspace()
        parts.backend = backend
        first = len(parts.groups.param_groups)
        parts.groups.add(checked)
        parts.parameters.add(addition, [first + number for number in numbers])
        parts.progress.add([hooks_of_groups[number] for number in numbers])
        parts.slots.add(parts.parameters, parts.progress, parts.backend)

    if parts.workspace is None:  # no step was made that an interrupt could tear, and asking for signals takes time
        apply()
    else:
        uninterrupted(apply)


def check_state_dtype(state_dtype: str, names: Sequence[str], arrays: Sequence[Any]) -> None:
    """Raise if an array's slots can't be stored in fewer bits."""
    for name, array in zip(names, arrays, strict=True):
        if str(array.dtype) == "float64":
            raise ValueError(
                f"state_dtype={state_dtype!r}: {name!r} is float64; expected parameters that are computed in float32; "
                "convert it, or leave state_dtype out"
            )


def check_rounding(parts: Parts) -> None:
    """Raise if parameters are to be rounded at random, and none of them is."""
    arrays, ops = parts.parameters.arrays, parts.backend.ops
    if parts.options.stochastic_rounding and not any(ops.is_bfloat16(array.dtype) for array in arrays):
        dtypes = sorted({str(array.dtype) for array in arrays})
        raise ValueError(
            f"stochastic_rounding=True: expected a bfloat16 array among the parameters, got {', '.join(dtypes)}; it "
            "does nothing to others: leave it out"
        )


def rules_of(hooks: AddingHooks, groups: Sequence[CheckedGroup]) -> list[Rule]:
    """Return the rules that steps of these groups run."""
    return [*(group.rule for group in groups), *(rule for its in hooks.each() for rule in its.further_rules)]
