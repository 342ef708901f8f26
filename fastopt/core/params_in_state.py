"""The values of parameters in the state: masters, averages, and slots such as Schedule-Free's z begin as copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ..arithmetic import halves
from ..arrays.dtypes import Array
from ..backends.interrupts import uninterrupted
from ..options.ranges import Group
from .parts import Parts
from .turns import Kind


class GroupHooks(Protocol):
    """The hook of a group that is needed here; ``hooks.py`` describes it."""

    copied: ClassVar[frozenset[str]]


class CopyingHooks(Protocol):
    """The hook that is needed here; ``hooks.py`` describes it."""

    def of_group(self, group: Group) -> GroupHooks: ...


def renew(hooks: CopyingHooks, parts: Parts, present: npt.NDArray[np.bool_]) -> None:
    """Copy the parameters of arrays that make their first step into their state again: they may have been written."""
    entries = copied_entries(hooks, parts, ("master", "ema"))
    # The arrays of a column are of one group.
    new = {name for slot, names, _ in parts.slots.pending if slot in entries[names[0]] for name in names}
    first_steps = [parts.parameters.names[i] for i in np.flatnonzero((parts.progress.steps == 0) & present)]
    write(parts, [name for name in first_steps if name not in new], entries)


def begin_at_zero(parts: Parts, present: npt.NDArray[np.bool_]) -> None:
    """Clear the averages of arrays that make their first step."""
    for i in np.flatnonzero((parts.progress.steps == 0) & present):
        parts.backend.ops.clear(parts.slots.entries[parts.parameters.names[i]]["ema"])


def reload(hooks: CopyingHooks, parts: Parts, names: Sequence[str]) -> None:
    """Take over what was written into these arrays: see :meth:`fastopt.Optimizer.reload_params`."""
    check_own_values(parts, "reload_params")
    write(parts, names, copied_entries(hooks, parts, ("master",)))
    parts.parameters.write_copies(parts.backend)


def copied_entries(hooks: CopyingHooks, parts: Parts, always: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return which entries of each array's state begin as copies of its parameter: ``always``, and the copied slots."""
    of_groups = [(*always, *hooks.of_group(group.values).copied) for group in parts.groups.checked]
    members = zip(parts.parameters.names, parts.parameters.group_of.tolist(), strict=True)
    return {name: of_groups[k] for name, k in members}


def write(parts: Parts, names: Sequence[str], entries: Mapping[str, Sequence[str]]) -> None:
    """Write the parameters of these arrays into these entries of their state, if it has them."""
    ops, params = parts.backend.ops, dict(zip(parts.parameters.names, parts.parameters.arrays, strict=True))
    for name in names:
        state = parts.slots.entries[name]
        targets = [state[entry] for entry in entries[name] if entry in state]
        if targets:
            values = halves.to_compute_dtype(ops.on_host(params[name], copy=False))
            for target in targets:
                ops.write(target, values)


@contextmanager
def values_stand_in(
    parts: Parts, what: str, values: str, prepare: Callable[[], tuple[Sequence[Array], Callable[[], None]]]
) -> Iterator[None]:
    """Let other values be written into the parameters meanwhile; on leaving they get their bits back.

    ``what`` names the call in errors, and ``values`` says which values these are and how to end that. ``prepare``
    returns the arrays, and a function that writes the values. The call has a turn for entering, and one for leaving.
    """
    ops, turns = parts.backend.ops, parts.turns
    before: list[tuple[Array, Array]] = []
    values_around = ""

    def enter() -> None:
        nonlocal values_around
        arrays, write_values = prepare()
        if parts.stand_in and turns.marks.item(2) != get_ident():
            raise ValueError(f"{what}: in another thread the parameters are {parts.stand_in}")
        values_around = parts.stand_in
        before.extend((array, ops.on_host(array)) for array in arrays)
        set_stand_in(parts, values)
        write_values()

    def leave() -> None:
        for array, its in before:
            ops.write(array, its)
        set_stand_in(parts, values_around)
        before.clear()

    def leave_if_entered() -> None:
        if before:
            uninterrupted(partial(turns.run, what, Kind.RETURN, leave))

    try:
        try:
            turns.run(what, Kind.EXCHANGE, enter)
            yield
        finally:
            leave_if_entered()
    finally:
        leave_if_entered()  # an interrupt may have come before the first one began


def set_stand_in(parts: Parts, values: str) -> None:
    """Note which values stand in for the parameters'; "": none do. No step is planned while some do."""
    parts.turns.marks[2], parts.stand_in = get_ident() if values else 0, values


def check_own_values(parts: Parts, what: str) -> None:
    """Raise if the parameters have other values than their own, or another form; ``what`` names what needs these.

    Raises
    ------
    ValueError
    """
    if parts.stand_in:
        raise ValueError(f"{what}: the parameters are {parts.stand_in}")
    parts.parameters.check_layouts()
