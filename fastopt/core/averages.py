"""The averages of the parameters, put into the parameters for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ..arrays.dtypes import Array
from ..backends.backend import ArrayOps
from .parameters import Parameters
from .parts import Parts
from .workspace import Workspace


class Averaging(Protocol):
    """An optimizer, as far as its averages need it."""

    @property
    def parts(self) -> Parts: ...
    def ready(self) -> Workspace: ...


def averages_of(opt: Averaging, what: str) -> list[Array]:
    """Return the average of each array, made now if there was no step; ``what`` names what asks for them."""
    parts = opt.parts
    if not parts.options.averages:
        raise ValueError(f"{what}: this optimizer keeps no average; build it with ema_decay= or polyak=True")
    if parts.workspace is None or parts.slots.pending:
        opt.ready()
        parts.slots.commit()
    parts.progress.undo_skipped_step()
    return [parts.slots.entries[name]["ema"] for name in parts.parameters.names]


@contextmanager
def written_averages(parameters: Parameters, averages: Sequence[Array], ops: ArrayOps) -> Iterator[None]:
    """Write averages into the parameters and their copies; on leaving, the arrays get back the bits that they had."""
    targets = [
        (array, average)
        for param, copy, average in zip(parameters.arrays, parameters.copies, averages, strict=True)
        for array in (param, copy)
        if array is not None
    ]
    before = [ops.on_host(array) for array, _ in targets]
    try:
        for array, average in targets:
            ops.write_rounded(array, average)
        yield
    finally:
        for (array, _), values in zip(targets, before, strict=True):
            ops.write(array, values)
