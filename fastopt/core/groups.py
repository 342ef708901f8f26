"""The groups of an optimizer: their options, checked when written and evaluated at a step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..arithmetic.rules import Rule
from ..arrays.memory import shown
from ..options.bounds import Pair
from ..options.common import OF_WHOLE_STEP, PLAIN_OPTIONS
from ..options.names import RENAMED, hints
from ..options.ranges import Group, Range
from ..options.values import differ, is_scheduled, value_at
from .hook_checks import check_rule
from .option_set import OPTIMIZER, OptionSet
from .results import Misfit, missing

#: It counts as 0 in every sum with a number that matters.
LEAST_POSITIVE = math.ulp(0.0)


#: The entries of a group besides its options. A group with an lr_scheduler has the rate that it began with.
NO_OPTIONS = ("params", "initial_lr")

#: Options that saved groups of earlier versions lack, with the values that turn them off.
LATER: Mapping[str, Any] = {name: PLAIN_OPTIONS[name] for name in ("bounds", "cautious_decay")}


class SavedGroup(NamedTuple):
    """The options of a saved group, the learning rate that its lr_scheduler began with, and its rule."""

    options: Group
    initial_lr: float | None
    rule: Rule


class CheckedGroup(NamedTuple):
    """A group's options as they were last checked, and what follows from them."""

    #: As the group holds them, and as plain Python.
    options: Group
    values: Group
    #: They distinguish True from 1.0.
    types: list[type]
    rule: Rule
    scheduled: tuple[str, ...]
    clips_arrays: bool
    limits_norms: bool
    option_set: OptionSet


def place(k: int) -> str:
    """Return how errors about the options of group number ``k`` begin."""
    return f"param_groups[{k}]: " if k else ""


class Follower(Protocol):
    """A driver of the rates, as far as groups know it."""

    def follow(self, source: int, group: int, ratio: float) -> None:
        """Go on with a group that has arrays of group ``source`` (or is it), whose rate was changed by this factor."""


class Groups:
    """The groups: they know options alone."""

    def __init__(self) -> None:
        self.param_groups: list[Group] = []
        self.checked: list[CheckedGroup] = []
        self.clips_arrays = self.limits_norms = False
        #: The bounds of each group; another list after each change.
        self.bounds: list[Pair] = []
        #: Whether a group has another rule than when the table was made.
        self.rules_changed = False
        #: The step count with which rates were loaded; None after a driver's step.
        self.resumed_at: int | None = None
        #: The changes that building drivers has made since then (:mod:`fastopt.lr_scheduler.resuming`).
        self.rewrites: list[Any] = []
        #: The step count that was loaded without the rates; None after a driver's step.
        self.state_loaded_at: int | None = None
        #: The drivers of the rates, which follow where a group is split.
        self.followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        #: Functions that write the options of drivers' loaded states, for :meth:`keep_options`.
        self.drivers_options: list[Callable[[], None]] = []

    @property
    def lr(self) -> Any:
        """The learning rate of all groups, or the list of theirs if they differ."""
        lrs = [group["lr"] for group in self.param_groups]
        return lrs[0] if all(lr is lrs[0] or lr == lrs[0] for lr in lrs) else lrs

    @lr.setter
    def lr(self, lr: Any) -> None:
        count = len(self.param_groups)
        lrs = lr if isinstance(lr, (list, tuple)) else [lr] * count
        if len(lrs) != count:
            raise ValueError(f"lr={lr!r}: expected a learning rate, or a list of {count}, one for each group")
        checked = [its.option_set.check("lr", each) for its, each in zip(self.checked, lrs, strict=True)]
        for group, each in zip(self.param_groups, checked, strict=True):
            group["lr"] = each

    def check_group(
        self, options: Group, where: str, option_set: OptionSet, rule: Callable[[Group], Rule]
    ) -> CheckedGroup:
        """Check the options of a group, and derive what follows from them; errors begin with where it is."""
        options = {
            name: value if name == "params" else option_set.check(name, value, where) for name, value in options.items()
        }
        values = {
            name: value if name == "params" else option_set.computed(name, value) for name, value in options.items()
        }
        option_set.check_allowed({name: values[name] for name in PLAIN_OPTIONS if name in values})
        if values["cautious_decay"] and not values["decoupled"]:
            raise ValueError(
                f"{where}cautious_decay=True, decoupled=False: expected decoupled=True; L2 is a part of the gradient"
            )
        its_rule = rule(values)
        check_rule(its_rule)
        return CheckedGroup(
            options,
            values,
            list(map(type, options.values())),
            its_rule,
            tuple(name for name, value in values.items() if name != "params" and is_scheduled(value)),
            values["clip_norm"] is not None,
            values["max_weight_norm"] is not None,
            option_set,
        )

    def addition(
        self,
        groups: Sequence[Group],
        members: Sequence[tuple[Any, ...]],
        option_sets: Sequence[OptionSet],
        rule: Callable[[Group], Rule],
    ) -> list[CheckedGroup]:
        """Check the options of new groups, and return them; nothing changes yet."""
        first = len(self.param_groups)
        return [
            self.check_group({"params": its, **option_set.defaults, **options}, place(first + k), option_set, rule)
            for k, (its, option_set, options) in enumerate(zip(members, option_sets, groups, strict=True))
        ]

    def add(self, checked: Sequence[CheckedGroup]) -> None:
        """Add groups that :meth:`addition` returned."""
        for group in checked:
            self.param_groups.append(dict(group.options))
            self.checked.append(group)
        self.note_checked()

    def note_checked(self) -> None:
        """Keep what a step asks of all groups together."""
        self.clips_arrays = any(group.clips_arrays for group in self.checked)
        self.limits_norms = any(group.limits_norms for group in self.checked)
        bounds = [group.values["bounds"] for group in self.checked]
        self.bounds = bounds if bounds != self.bounds else self.bounds

    def refresh(self, rule: Callable[[Group], Rule]) -> None:
        """Check what was written into the groups; ``rules_changed`` is set where a group has another rule then."""
        if len(self.param_groups) != len(self.checked):
            raise ValueError(
                f"param_groups: expected {len(self.checked)} groups, got {len(self.param_groups)}; use "
                "add_param_group, or build a new optimizer"
            )
        for k, group in enumerate(self.param_groups):
            checked = self.checked[k]
            if group.get("params") is not checked.values["params"]:
                raise ValueError(
                    f"param_groups[{k}]: 'params' was replaced; use add_param_group, or build a new optimizer"
                )
            if differ(group, checked.values) or list(map(type, group.values())) != checked.types:
                if group.keys() - {"initial_lr"} != checked.values.keys() - {"initial_lr"}:
                    unknown = [name for name in group if name not in checked.values]
                    checked.option_set.check_known({name: group[name] for name in unknown if name in OF_WHOLE_STEP})
                    lacking = [name for name in checked.values if name not in group]
                    found = [f"{name!r} too" for name in unknown] + [f"no {name!r}" for name in lacking]
                    removal = ", ".join(f"opt.param_groups[{k}][{name!r}]" for name in unknown)
                    raise ValueError(
                        f"param_groups[{k}]: expected the options {list(checked.values)}, got {', '.join(found)}"
                        f"{hints(unknown, checked.option_set.defaults)}{f'; do: del {removal}' if removal else ''}"
                    )
                new = self.check_group(group, place(k), checked.option_set, rule)
                group.update({name: value for name, value in new.options.items() if value is not group[name]})
                # In this order: after an interrupt in between, the table is made again and no limit is left out.
                self.rules_changed |= new.rule is not checked.rule
                self.clips_arrays |= new.clips_arrays
                self.limits_norms |= new.limits_norms
                self.checked[k] = new
                self.note_checked()

    def values(self, step_count: int) -> list[Group]:
        """Return the options of each group in a step: schedules are evaluated."""
        return [
            self.evaluated(k, group.values, group.scheduled, step_count) if group.scheduled else group.values
            for k, group in enumerate(self.checked)
        ]

    def evaluated(self, k: int, values: Group, scheduled: Sequence[str], step_count: int) -> Group:
        """Return these options of group number ``k`` with its schedules evaluated and checked."""
        values, option_set = dict(values), self.checked[k].option_set
        for name in scheduled:
            option = values[name]
            try:
                value = option(step_count) if callable(option) else value_at(option, step_count)
            except OverflowError:
                value = math.inf  # refused below, as each value out of its range
            allowed = option_set.allowed(name)
            # Most values are found to be right without a text of where they come from.
            if not (type(value) is float and isinstance(allowed, Range) and allowed.low < value < allowed.high):
                where = f"param_groups[{k}]: the schedule at step {step_count}: "
                if is_scheduled(value):
                    raise TypeError(
                        f"{where}{name}={shown(value)}: expected a number (call it first, to make a schedule?)"
                    )
                value = option_set.computed(name, option_set.check(name, value, where))
            values[name] = value
        if values.get("momentum") == 0 and "momentum" in scheduled:
            # momentum == 0 selects a rule without a buffer; a schedule that passes through 0 keeps its buffer.
            values["momentum"] = LEAST_POSITIVE
        return values

    def plan(
        self,
        saved: Sequence[Mapping[str, Any]],
        members: Sequence[list[str]],
        decode: Callable[[Any, Any], Any],
        rule: Callable[[Group], Rule],
        wrong: list[str],
        misfits: list[Misfit],
    ) -> dict[int, SavedGroup]:
        """Return the saved group for each group that has one; add to ``wrong`` and ``misfits``.

        ``members`` has the names of each group's arrays; ``decode`` makes an option of a saved one and the present one.
        """
        found: dict[int, SavedGroup] = {}
        for j, group in enumerate(saved):
            arrays = sorted(group["params"])
            k = next((k for k, names in enumerate(members) if k not in found and sorted(names) == arrays), None)
            if k is None:
                text = (
                    f"param_groups[{j}] is of the arrays {group['params']}; the groups here are of {list(members)}; "
                    "make the same ones first, with fastopt.group_by or opt.set"
                )
                misfits.append(Misfit(f"param_groups[{j}]", False, True, text))
                continue
            current = {name: value for name, value in self.param_groups[k].items() if name not in NO_OPTIONS}
            if is_of_another(group, self.checked[k]):
                text = f"param_groups[{j}] is {of_another(group, self.checked[k])}"
                misfits.append(Misfit(f"param_groups[{j}]", False, True, text))
                continue
            names = [name for name in group if name not in NO_OPTIONS]
            by_name = {RENAMED.get(name, name): group[name] for name in names}
            given = {**LATER, **by_name}
            if set(given) != set(current) or len(by_name) < len(names):  # fewer: an old name and its new one
                wrong.append(f"param_groups[{j}]: expected the options {list(current)}, got {shown(names)}")
                continue
            try:
                options = {name: decode(given[name], current[name]) for name in current}
                checked = self.check_group(options, place(0), self.checked[k].option_set, rule)
                found[k] = SavedGroup(checked.options, group.get("initial_lr"), checked.rule)
            except (TypeError, ValueError, OverflowError) as error:
                wrong.append(f"param_groups[{j}]: {error}")
        if not wrong:
            misfits += [missing(f"param_groups[{k}]") for k in range(len(members)) if k not in found]
        return found

    def load(self, groups: Mapping[int, SavedGroup], step_count: int) -> None:
        """Take over saved groups that :meth:`plan` returned; the optimizer goes on from this many steps."""
        for k, group in groups.items():
            self.param_groups[k].update(group.options)
            if group.initial_lr is None:
                self.param_groups[k].pop("initial_lr", None)
            else:
                self.param_groups[k]["initial_lr"] = group.initial_lr
        if groups:
            self.end_loading()
            self.resumed_at, self.rewrites = step_count, []

    def keep_options(self, step_count: int) -> None:
        """Keep the options while a state is loaded, except those that a driver with a loaded state writes."""
        self.state_loaded_at = step_count
        self.write_drivers_options()

    def write_drivers_options(self) -> None:
        """Write the options of the drivers' loaded states."""
        writes, self.drivers_options = self.drivers_options, []
        for write in writes:
            write()

    def end_loading(self) -> None:
        """Note that the rates are no longer those of a load: a driver makes a step, or other rates are loaded."""
        self.resumed_at = self.state_loaded_at = None
        if self.drivers_options:
            self.drivers_options = []


def is_of_another(saved: Mapping[str, Any], group: CheckedGroup) -> bool:
    """Return whether a saved group is of another optimizer than a group here, where several share a step."""
    its, here = saved.get(OPTIMIZER), group.option_set.optimizer
    return bool(group.values.get(OPTIMIZER) == here) and not (isinstance(its, str) and its == here)


def of_another(saved: Mapping[str, Any], group: CheckedGroup) -> str:
    """Return how errors say so."""
    return f"of the optimizer {shown(saved.get(OPTIMIZER))}, here it is of {group.option_set.optimizer!r}"
