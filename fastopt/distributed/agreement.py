"""Checks that all ranks have the same arrays and values when they begin, and the same options in every step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays.dtypes import Array
from ..arrays.memory import in_memory_order
from ..core.bounds import OwnBounds
from ..core.encoding import encoded
from ..core.groups import NO_OPTIONS
from ..core.parts import Parts
from ..options.ranges import Group
from .ranks import Ranks, canonical

#: The advice to a program that begins with parameters which differ.
BEGIN_ALIKE = "begin with the same values, for example broadcast them from rank 0"


def check_same_values(ranks: Ranks, names: Sequence[str], arrays: Sequence[Array], advice: str = BEGIN_ALIKE) -> None:
    """Raise on every rank unless all have the same values in these parameters."""
    checksums = {
        f"the checksum of params: {name!r}": checksum(array) for name, array in zip(names, arrays, strict=True)
    }
    try:
        ranks.agree(checksums)
    except ValueError as error:
        raise ValueError(f"{error}: {advice}") from None


def checksum(array: Array) -> str:
    memory = in_memory_order(array).reshape(-1)
    return f"{zlib.crc32(memory.view(np.uint8).data):08x}"


def forms_of(names: Sequence[str], arrays: Sequence[Array], what: str = "params") -> dict[str, Any]:
    """Return the names, shapes, dtypes and memory orders of arrays, by text to name them."""
    return {
        "the number of arrays": len(names),
        "the names of the arrays": list(names),
        **{f"{what}: {name!r}": form_of(array) for name, array in zip(names, arrays, strict=True)},
    }


def form_of(array: Array | None) -> str:
    if array is None:
        return "None"
    order = "" if array.flags.c_contiguous else ", in Fortran order"
    return f"{array.dtype} of shape {array.shape}{order}"


def options_of(parts: Parts) -> dict[str, Any]:
    """Return all options of an optimizer, its counts and which arrays are frozen, by text to name them."""
    found: dict[str, Any] = {
        "step_count": parts.progress.step_count,
        "accumulated_calls": parts.progress.accumulated_calls,
        "the number of groups": len(parts.groups.param_groups),
    }
    for k, group in enumerate(parts.groups.param_groups):
        found[f"the arrays of param_groups[{k}]"] = parts.parameters.members(k)
        found |= {f"param_groups[{k}][{name!r}]": value for name, value in encoded_options(group).items()}
    found |= {name: encoded(value) for name, value in parts.options._asdict().items()}
    whole = parts.whole
    found |= {name: encoded(getattr(whole, name)) for name in ("clip_global_norm", "skip_above", "grad_scale", "seed")}
    return {**found, "frozen": sorted(parts.parameters.frozen)}


def encoded_options(group: Group) -> dict[str, Any]:
    return {name: encoded(value) for name, value in group.items() if name not in NO_OPTIONS}


def bounds_of(names: Sequence[str], bounds: Sequence[OwnBounds | None]) -> dict[str, Any]:
    """Return the bounds of single arrays, by text to name them."""
    return {f"bounds: {name!r}": shown_bounds(its) for name, its in zip(names, bounds, strict=True) if its is not None}


def shown_bounds(bounds: OwnBounds) -> list[Any]:
    return [
        number if array is None else f"an array with the checksum {checksum(array)}"
        for array, number in zip(bounds.arrays, bounds.numbers, strict=True)
    ]


class Digest:
    """A number that differs where ranks have other options or frozen arrays.

    It is computed again only for groups that have changed since it was asked for last.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.groups: list[Group] = []
        self.numbers: list[int] = []
        self.whole: tuple[Any, ...] = ()
        self.frozen: frozenset[str] | None = None
        self.number = 0

    def forget(self) -> None:
        """Find a change in the next call, whatever the options are then."""
        self.frozen = None

    def has_changed(self) -> bool:
        """Return whether options were written since the last call, and compute the number again then."""
        parts, whole = self.parts, self.parts.whole
        scale = whole.scale if whole.dynamic_scale is None else whole.dynamic_scale.scale
        whole_options = whole.clip_global_norm, whole.skip_above, whole.seed, scale
        groups, frozen = parts.groups.param_groups, parts.parameters.frozen
        if are_equal(groups, self.groups) and whole_options == self.whole and frozen is self.frozen:
            return False
        if len(groups) != len(self.groups):
            self.groups, self.numbers = [{} for _ in groups], [0] * len(groups)
        for k, group in enumerate(groups):
            if not are_equal(group, self.groups[k]):
                self.groups[k] = dict(group)
                self.numbers[k] = hash(tuple(stable(value) for name, value in group.items() if name not in NO_OPTIONS))
        self.whole, self.frozen = whole_options, frozen
        members = zlib.crc32(parts.parameters.group_of.tobytes())
        names = zlib.crc32("\n".join(sorted(frozen)).encode())
        self.number = hash((*self.numbers, *map(stable, whole_options), members, names))
        return True


def are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # of arrays, which are other objects
        return False


def stable(value: Any) -> Any:
    """Return a value whose hash is that of equal values in every process."""
    kind = type(value)
    if kind is float or kind is int or kind is bool:
        return value
    if kind is tuple:
        return tuple(map(stable, value))
    return zlib.crc32(canonical(encoded(value)).encode())
