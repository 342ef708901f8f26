"""A sharded optimizer on the ranks of a communicator beside a plain one in one process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from cases import raw

import fastopt
from fastopt.arithmetic.dither import SCALE_BLOCK
from fastopt.arrays.dtypes import compute_dtype
from fastopt.distributed import Sharded

#: None in these places means: no gradient.
Grads = list[Any]


def summed(of_ranks: Sequence[Grads]) -> Grads:
    """Return the sum of the ranks' gradients, added in rank order in the compute dtype; None where no rank has one."""
    sums: Grads = []
    for column in zip(*of_ranks, strict=True):
        present = [grad for grad in column if grad is not None]
        if not present:
            sums.append(None)
            continue
        like = np.zeros(present[0].shape, compute_dtype(present[0].dtype))
        with np.errstate(all="ignore"):
            total = like if column[0] is None else column[0].astype(like.dtype)
            for grad in column[1:]:
                total = total + (like if grad is None else grad.astype(like.dtype))
        sums.append(np.asarray(total))
    return sums


def part_of(opt: Sharded, name: str, slot: str, whole: Any, entry: Any) -> Any:
    """Return the part of an entry of a plain optimizer's state that a rank of a sharded one has."""
    begin, end = opt.slices[name]
    if entry.shape == () and whole.shape == () and slot in ("step", "accumulated_calls", *opt.numbers):
        return whole
    if entry.ndim != 1 or whole.shape == entry.shape:
        return whole if end > begin or whole.size == 0 else whole.reshape(-1)[:0]
    flat = whole.reshape(-1)
    if begin == end:
        return flat[:0]
    return flat[begin // SCALE_BLOCK : -(-end // SCALE_BLOCK)] if slot.endswith("_scale") else flat[begin:end]


def differences(opt: Sharded, plain: fastopt.Optimizer, ignored: Collection[str] = ()) -> list[str]:
    """Return the parameters, copies and entries of the state that differ, but for slots that are ignored."""
    found = []
    for name, array, other in zip(opt.whole.names, opt.whole.arrays, plain.parts.parameters.arrays, strict=True):
        found += [name] * (raw(array) != raw(other))
    for name, copy, other in zip(opt.whole.names, opt.whole.copies, plain.parts.parameters.copies, strict=True):
        found += [f"copy of {name}"] * (copy is not None and raw(copy) != raw(other))
    for name, entries in plain.state.items():
        slots = {slot: entry for slot, entry in entries.items() if slot not in ignored}
        if {*opt.state[name]} != {*slots}:
            found.append(f"{name}: {[*opt.state[name]]}, not {[*slots]}")
            continue
        for slot, whole in slots.items():
            entry = opt.state[name][slot]
            if raw(entry) != raw(part_of(opt, name, slot, whole, entry)):
                found.append(f"{name}.{slot}")
    return found
