"""How the entries of a saved state fit into those of an array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..arrays.dtypes import Array
from ..arrays.memory import described
from ..options.ranges import STEPS
from .results import Misfit, missing, unexpected

#: The entries of gradients that have accumulated since the last step.
ACCUMULATED = ("accumulated", "accumulated_calls")


class Pieces(Protocol):
    """How the entries of a state lie in those of a saved one."""

    def shape(self, name: str, slot: str, entry: Array) -> tuple[int, ...]:
        """Return the shape that the saved entry has."""

    def piece(self, name: str, slot: str, entry: Array, saved: Any) -> Any:
        """Return the part of a saved entry, which has that shape, that goes into the entry."""


class EntriesAreWhole:
    """See :class:`Pieces`: an entry has all of the saved one."""

    def shape(self, name: str, slot: str, entry: Array) -> tuple[int, ...]:
        return entry.shape

    def piece(self, name: str, slot: str, entry: Array, saved: Any) -> Any:
        return saved


WHOLE = EntriesAreWhole()


def fitting_entries(
    name: str,
    entries: Mapping[str, Array],
    needed: Sequence[str],
    saved: Mapping[str, Any],
    pieces: Pieces,
    misfits: list[Misfit],
) -> dict[str, tuple[Array, Any]] | None:
    """Return where each saved entry of an array's state goes, None where they do not fit."""
    before = len(misfits)
    misfits += [missing(f"{name}.{slot}") for slot in needed if slot not in saved]
    for slot, value in saved.items():
        if slot not in entries:
            misfits.append(unexpected(f"{name}.{slot}"))
            continue
        shape, dtype = pieces.shape(name, slot, entries[slot]), entries[slot].dtype
        if not isinstance(value, (np.ndarray, np.generic)):
            found = described(value)
        elif value.shape != shape or value.dtype != dtype:
            found = f"of shape {value.shape}, {value.dtype}"
        elif slot in ("step", "accumulated_calls") and not STEPS.holds(int(value)):
            misfits.append(Misfit(f"{name}.{slot}", True, True, f"{name}.{slot} is {value}; expected {STEPS}"))
            continue
        else:
            continue
        text = f"{name}.{slot} is {found}; expected shape {shape}, {dtype}"
        misfits.append(Misfit(f"{name}.{slot}", True, True, text))
    if len(misfits) > before:
        return None
    return {slot: (entries[slot], pieces.piece(name, slot, entries[slot], value)) for slot, value in saved.items()}


def is_fresh(entries: Mapping[str, Any]) -> bool:
    """Return whether an array made no step and has no slots yet; they will be made as in a new optimizer."""
    return set(entries) == {"step"} and np.array_equal(entries["step"], 0)
