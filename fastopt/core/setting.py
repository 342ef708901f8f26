"""Setting options by the names of arrays: a group of which only some are meant is split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..backends.interrupts import uninterrupted
from ..options.group_by import matching
from ..options.ranges import Group, plain
from .adding import AddingHooks
from .bounds import number_pair
from .groups import CheckedGroup
from .parts import Parts


class Part(NamedTuple):
    """The part of a group that gets new options, and these."""

    number: int
    checked: CheckedGroup
    #: The group without these arrays; None if all are meant.
    rest: CheckedGroup | None
    places: Sequence[int]
    #: The new learning rate by the old one.
    ratio: float


def set_options(hooks: AddingHooks, parts: Parts, pattern: str, options: Mapping[str, Any]) -> list[str]:
    """Set options of the arrays that match; see :meth:`fastopt.Optimizer.set`."""
    names = matching(pattern, parts.parameters.names)
    if not options:
        raise TypeError(f"set: expected options, such as opt.set({pattern!r}, lr=1e-4)")
    parts.groups.refresh(hooks.rule)
    parts.progress.undo_skipped_step()
    wanted = set(names)
    members: list[list[int]] = [[] for _ in parts.groups.param_groups]
    for i, (name, k) in enumerate(zip(parts.parameters.names, parts.parameters.group_of.tolist(), strict=True)):
        if name in wanted:
            members[k].append(i)
    where = f"set({pattern!r}): "
    planned = [part_of(hooks, parts, k, places, options, where) for k, places in enumerate(members) if places]
    uninterrupted(lambda: carry_out(parts, planned))
    return names


def part_of(
    hooks: AddingHooks, parts: Parts, k: int, places: Sequence[int], options: Mapping[str, Any], where: str
) -> Part:
    """Check the new options of some arrays of group number ``k``; nothing changes yet."""
    group, option_set = parts.groups.param_groups[k], parts.groups.checked[k].option_set
    option_set.check_known(dict(options))
    in_group = [i for i, its in enumerate(parts.parameters.group_of.tolist()) if its == k]
    at = dict(zip(in_group, group["params"], strict=True))
    is_whole = len(places) == len(in_group)
    ratio = ratio_of(group["lr"], options.get("lr"))
    new: Group = {**group, **options}
    if "initial_lr" in group and "initial_lr" not in options:
        new["initial_lr"] = group["initial_lr"] if ratio == 1.0 else plain(group["initial_lr"]) * ratio
    if not is_whole:
        new["params"] = tuple(at[i] for i in places)
    checked = parts.groups.check_group(new, where, option_set, hooks.rule)
    for i in places:
        name, array = parts.parameters.names[i], parts.parameters.arrays[i]
        number_pair(name, str(array.dtype), checked.values["bounds"])
    rest = None
    if not is_whole:
        others = tuple(at[i] for i in in_group if i not in set(places))
        rest = parts.groups.check_group({**group, "params": others}, where, option_set, hooks.rule)
    return Part(k, checked, rest, places, ratio)


def ratio_of(old: Any, new: Any) -> float:
    """Return by how much a learning rate changes; 1 if one is a schedule, or nothing is told."""
    old, new = plain(old), plain(new)
    is_number = [isinstance(each, (int, float)) and not isinstance(each, bool) for each in (old, new)]
    return new / old if all(is_number) and old else 1.0


def carry_out(parts: Parts, planned: Sequence[Part]) -> None:
    """Write the options, and make the new groups; the drivers follow."""
    parts.forget_workspace()
    groups = parts.groups
    for part in planned:
        k = part.number
        if part.rest is None:
            groups.param_groups[k].update(part.checked.options)
            groups.checked[k] = part.checked
        else:
            groups.param_groups[k]["params"] = part.rest.options["params"]
            groups.checked[k] = part.rest
            k = len(groups.param_groups)
            groups.add([part.checked])
            parts.parameters.move(part.places, k)
        for follower in list(groups.followers):
            follower.follow(part.number, k, part.ratio)
    groups.rules_changed = True
    groups.note_checked()
