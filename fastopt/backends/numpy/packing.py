"""Vectors of many arrays, and sums of several vectors; csrc/wire.c is the twin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves
from ...arrays.dtypes import FLOAT32, Array, is_half
from ..packing import FROM_ROW, FROM_SUMS, Rows

#: How many elements are added at once, so that they stay in the cache.
PIECE = 1 << 15


class NumpyPacking:
    """Makes vectors of arrays; see :class:`fastopt.backends.packing.Packing`."""

    def __init__(self, starts: npt.NDArray[np.int64]) -> None:
        self.runs = list(pairwise(starts.tolist()))

    def of(self, arrays: Sequence[Array | None]) -> NumpyPackedArrays:
        return NumpyPackedArrays(self.runs, arrays)


class NumpyPackedArrays:
    """Arrays as one vector; see :class:`fastopt.backends.packing.PackedArrays`."""

    def __init__(self, runs: Sequence[tuple[int, int]], arrays: Sequence[Array | None]) -> None:
        self.runs, self.arrays = runs, arrays

    def parts(self, begin: int, into: Array) -> Iterator[tuple[Array | None, Array]]:
        """Return the elements of each array from ``begin`` on, and their places in a vector; None for those of None."""
        end = begin + into.size
        for (start, stop), array in zip(self.runs, self.arrays, strict=True):
            first, last = max(begin, start), min(end, stop)
            if last > first:
                part = None if array is None else array.reshape(-1)[first - start : last - start]
                yield part, into[first - begin : last - begin]

    def pack(self, begin: int, into: Array) -> None:
        with np.errstate(all="ignore"):
            for part, place in self.parts(begin, into):
                convert(part, place)

    def unpack(self, begin: int, values: Array) -> None:
        for part, place in self.parts(begin, values):
            assert part is not None
            part[...] = place

    def accumulate(self, begin: int, rows: Rows, sums: Array) -> None:
        with np.errstate(all="ignore"):
            factor = sums.dtype.type(rows.scale)
            length = min(PIECE, sums.size)
            buffer, own = np.empty(length, sums.dtype), np.empty(length, rows.dtype)
            for first in range(0, sums.size, PIECE):
                total = sums[first : first + PIECE]
                if rows.beginning != FROM_SUMS:
                    # Only -0 leaves every number as it is, -0 too.
                    total[...] = -0.0 if rows.beginning == FROM_ROW else 0.0
                values = buffer[: total.size]
                for row in rows.vectors:
                    part = own[: total.size] if row is None else row[first : first + PIECE]
                    if row is None:
                        self.pack(begin + first, part)
                    convert(part, values)
                    np.add(total, np.multiply(values, factor, out=values), out=total)


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
