"""The averages of the parameters, put into the parameters for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..arrays.dtypes import Array
from ..backends.backend import ArrayOps
from .parameters import Parameters


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
