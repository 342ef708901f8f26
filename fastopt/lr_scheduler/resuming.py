"""Building drivers on an optimizer: undone if it fails, and taken back if the drivers' own states are loaded.

A new driver makes its step 0, so it writes rates. If the optimizer's state was just loaded, the run may go on with the
driver's state as well: then the rates that were loaded are right. So each building leaves a record of what it changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..core.optimizer import Optimizer
from ..options.ranges import Group

#: Stands for an entry that a group did not have.
ABSENT: Any = ...


class Rewrite:
    """The changes that building a driver made.

    Attributes
    ----------
    changes : list of dict
        For each group, the entries that changed: ``{name: (before, after)}``; ABSENT stands for one that is new.
    is_revoked : bool
        Whether the driver's state was loaded since.
    """

    __slots__ = ("changes", "is_revoked")

    def __init__(self, before: Sequence[Group], after: Sequence[Group]) -> None:
        self.changes = [
            {name: (old.get(name, ABSENT), value) for name, value in new.items() if value is not old.get(name, ABSENT)}
            for old, new in zip(before, after, strict=True)
        ]
        self.is_revoked = False

    def take_back(self, groups: Sequence[Group]) -> None:
        """Write the entries from before, except where something else was written since."""
        for group, changes in zip(groups, self.changes, strict=False):
            for name, (before, after) in changes.items():
                if group.get(name) is not after:
                    continue
                if before is ABSENT:
                    del group[name]
                else:
                    group[name] = before


@contextmanager
def building(optimizer: Optimizer) -> Iterator[list[Rewrite]]:
    """Have the groups unchanged if the block fails; else the list that is yielded gets the record, if it matters."""
    groups, parts = optimizer.param_groups, optimizer.parts.groups
    before = [dict(group) for group in groups]
    records: list[Rewrite] = []
    was_resumed, state_loaded_at = is_resumed(optimizer), parts.state_loaded_at
    try:
        yield records
    except BaseException:
        put_back(groups, before)
        raise
    finally:
        parts.state_loaded_at = state_loaded_at
        if was_resumed:
            parts.resumed_at = optimizer.step_count
    if was_resumed:
        records.append(Rewrite(before, groups))
        parts.rewrites += records


def is_resumed(optimizer: Optimizer) -> bool:
    """Return whether the rates were loaded, and neither the optimizer nor a driver has made a step since."""
    return optimizer.parts.groups.resumed_at == optimizer.step_count


def revoke(optimizer: Optimizer, records: Sequence[Rewrite]) -> None:
    """Take back what building drivers changed, as their states were loaded.

    What was written on top of it by building another driver, whose state was not loaded, stays.
    """
    for record in records:
        record.is_revoked = True
    rewrites = optimizer.parts.groups.rewrites
    while is_resumed(optimizer) and rewrites and rewrites[-1].is_revoked:
        rewrites.pop().take_back(optimizer.param_groups)


def rewrite_if_options_are_kept(optimizer: Optimizer, rewrite: Callable[[], None]) -> None:
    """Write the options of a driver's loaded state, if the optimizer's state is loaded without its options.

    It may be loaded before the driver's, or after it.
    """
    method, groups = weakref.WeakMethod(rewrite), optimizer.parts.groups  # weak: a driver refers to its optimizer

    def write() -> None:
        rewrite_of_living = method()
        if rewrite_of_living is not None:
            rewrite_of_living()

    groups.drivers_options.append(write)
    if groups.state_loaded_at == optimizer.step_count:
        groups.write_drivers_options()


def put_back(groups: Sequence[Group], before: Sequence[dict[str, Any]]) -> None:
    """Give each group the options that it had before."""
    for group, options in zip(groups, before, strict=True):
        group.update(options)
        for name in group.keys() - options.keys():
            del group[name]


@contextmanager
def unchanged_if_it_fails(optimizer: Optimizer, drivers: Sequence[Any]) -> Iterator[None]:
    """Have the groups and the attributes of these drivers unchanged if the block fails."""
    groups = optimizer.param_groups
    options, attributes = [dict(group) for group in groups], [dict(vars(driver)) for driver in drivers]
    try:
        yield
    except BaseException:
        put_back(groups, options)
        put_back([vars(driver) for driver in drivers], attributes)
        raise
