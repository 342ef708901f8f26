"""The averages of the parameters, put into the parameters for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import numpy as np

from ..arrays.dtypes import Array
from .params_in_state import values_stand_in
from .parts import Parts
from .workspace import Workspace

#: For errors.
AVERAGES = "the averaged ones; leave averaged() first"


class Averaging(Protocol):
    """An optimizer, as far as its averages need it."""

    @property
    def parts(self) -> Parts: ...
    def ready(self) -> Workspace: ...


def averages_of(opt: Averaging, what: str) -> list[Array]:
    """Return the average of each array; ``what`` names what asks for them."""
    parts = opt.parts
    if not parts.options.averages:
        raise ValueError(f"{what}: this optimizer keeps no average; build it with ema_decay= or polyak=True")
    parts.progress.undo_skipped_step()
    workspace = parts.workspace  # another thread may set a hook meanwhile, and so forget it
    if workspace is None or parts.slots.pending:
        opt.ready()
    else:
        workspace.check_layouts()
    state = with_own_values(parts)
    return [state[name]["ema"] for name in parts.parameters.names]


def with_own_values(parts: Parts) -> Mapping[str, Mapping[str, Array]]:
    """Return the state, with new entries, in which the average of an array without a step is what the array is now."""
    state = parts.slots.with_pending()
    if not parts.options.averages:
        return state
    found, to_compute_dtype = dict(state), parts.backend.ops.to_compute_dtype
    for i in np.flatnonzero(parts.progress.steps == 0):
        name, array = parts.parameters.names[i], parts.parameters.arrays[i]
        if "ema" in parts.slots.entries[name]:  # else it is new, and a copy already
            found[name] = {**state[name], "ema": to_compute_dtype(array)}
    return found


def averaged(opt: Averaging) -> AbstractContextManager[None]:
    """Write averages into the parameters and their copies; see :meth:`fastopt.Optimizer.averaged`."""
    return values_stand_in(opt.parts, "averaged()", AVERAGES, partial(prepare_averaged, opt))


def prepare_averaged(opt: Averaging) -> tuple[Sequence[Array], Callable[[], None]]:
    """Return the arrays that get averages, and a function that writes these."""
    parts, averages = opt.parts, averages_of(opt, "averaged()")
    if parts.stand_in == AVERAGES:
        raise ValueError("averaged(): the parameters are the averaged ones already")
    params, copies, steps = parts.parameters.arrays, parts.parameters.copies, parts.progress.steps.tolist()
    targets = [
        (array, average, count)
        for param, copy, average, count in zip(params, copies, averages, steps, strict=True)
        for array in (param, copy)
        if array is not None
    ]

    def write_averages() -> None:
        for array, average, count in targets:
            if count > 0:
                parts.backend.ops.write_rounded(array, average)

    return [array for array, _, _ in targets], write_averages
