"""The options that a load changes, and how: for its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..options.loss_scale import DynamicLossScale
from ..options.ranges import Group, plain
from .groups import SavedGroup

#: An option's old value and its new one.
Change: TypeAlias = tuple[Any, Any]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Change]]:
    """Yield each option of ``after`` that has another value in ``before``."""
    for name, value in after.items():
        if comparable(before[name]) != comparable(value):
            yield name, (as_result(before[name]), as_result(value))


def comparable(value: Any) -> Any:
    """Return what to compare of an option: of a loss scale its options, since steps find the scale itself."""
    return value.options() if isinstance(value, DynamicLossScale) else plain(value)


def as_result(value: Any) -> Any:
    """Return an option as a result holds it: a copy of a loss scale, which the load changes in place."""
    return value.with_options_of(value) if isinstance(value, DynamicLossScale) else plain(value)


def changes_of_groups(groups: Sequence[Group], saved: Mapping[int, SavedGroup]) -> dict[str, Change]:
    """Return the changes of the groups' options: under the option's name where all groups change alike."""
    by_name: dict[str, dict[int, Change]] = {}
    for k, group in saved.items():
        for name, change in changes(groups[k], group.options):
            by_name.setdefault(name, {})[k] = change
    found: dict[str, Change] = {}
    for name, of_groups in by_name.items():
        first, *others = of_groups.values()
        if len(of_groups) == len(groups) and all(change == first for change in others):
            found[name] = first
        else:
            found |= {f"param_groups[{k}].{name}": change for k, change in sorted(of_groups.items())}
    return found
