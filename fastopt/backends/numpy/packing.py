"""Vectors of many arrays, and sums of several vectors; csrc/wire.c is the twin."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves
from ...arrays.dtypes import FLOAT32, Array, is_half
from ..packing import FROM_ROW, FROM_SUMS

#: How many elements are added at once, so that they stay in the cache.
PIECE = 1 << 15


class NumpyPacking:
    """Copies arrays into a vector and back; see :class:`fastopt.backends.packing.Packing`."""

    def __init__(self, starts: npt.NDArray[np.int64]) -> None:
        self.runs = list(pairwise(starts.tolist()))

    def keep(self, arrays: Sequence[Array]) -> None:
        """Do nothing: arrays are found as fast as they are remembered."""

    def pack(self, arrays: Sequence[Array | None], vector: Array, begin: int, end: int) -> None:
        with np.errstate(all="ignore"):
            for (start, stop), array in zip(self.runs, arrays, strict=True):
                first, last = max(begin, start), min(end, stop)
                if last > first:
                    values = None if array is None else array.reshape(-1)[first - start : last - start]
                    convert(values, vector[first:last])

    def unpack(self, vector: Array, arrays: Sequence[Array], begin: int, end: int) -> None:
        for (start, stop), array in zip(self.runs, arrays, strict=True):
            first, last = max(begin, start), min(end, stop)
            if last > first:
                array.reshape(-1)[first - start : last - start] = vector[first:last]


def convert(values: Array | None, into: Array) -> None:
    """Write values into an array of another dtype; None stands for zeros."""
    if values is None:
        into[...] = 0
    elif values.dtype == into.dtype:
        into[...] = values
    else:
        wide = halves.to_float32(values) if is_half(values.dtype) else values
        if is_half(into.dtype):
            halves.round_into(into, wide.astype(FLOAT32, copy=False))
        else:
            into[...] = wide


def accumulate_rows(rows: Sequence[Array], scale: float, beginning: int, sums: Array) -> None:
    """Add scaled rows to sums, as :meth:`fastopt.backends.backend.Backend.accumulate_rows` does."""
    with np.errstate(all="ignore"):
        factor = sums.dtype.type(scale)
        buffer = np.empty(min(PIECE, sums.size), sums.dtype)
        for begin in range(0, sums.size, PIECE):
            total = sums[begin : begin + PIECE]
            if beginning != FROM_SUMS:
                # Only -0 leaves every number as it is, -0 too.
                total[...] = -0.0 if beginning == FROM_ROW else 0.0
            values = buffer[: total.size]
            for row in rows:
                convert(row[begin : begin + PIECE], values)
                np.add(total, np.multiply(values, factor, out=values), out=total)
