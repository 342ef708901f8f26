"""Vectors of many arrays, and sums of several vectors, by csrc/wire.c."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from .. import threads
from .library import ffi, lib, number_of
from .ndarrays import memory_of


class NativePacking:
    """Copies arrays into a vector and back; see :class:`fastopt.backends.packing.Packing`."""

    def __init__(self, starts: npt.NDArray[np.int64]) -> None:
        self.count = len(starts) - 1
        self.starts = ffi.from_buffer("int64_t[]", starts)
        self.memory = np.zeros(self.count, np.uintp)
        self.pointers = ffi.from_buffer("void *[]", self.memory, require_writable=True)
        self.dtypes = np.zeros(self.count, np.int32)
        self.dtype_numbers = ffi.from_buffer("int32_t[]", self.dtypes)
        #: The arrays that the pointers point to, if they are the same in each call.
        self.arrays: Sequence[Array] | None = None

    def pack(self, arrays: Sequence[Array | None], vector: Array, begin: int, end: int) -> None:
        self.point_to(arrays)
        into = number_of(vector.dtype), ffi.from_buffer(vector, require_writable=True)
        lib.fo_pack(self.pointers, self.dtype_numbers, self.starts, self.count, begin, end, *into)

    def unpack(self, vector: Array, arrays: Sequence[Array], begin: int, end: int) -> None:
        self.point_to(arrays)
        source = ffi.from_buffer(vector), number_of(vector.dtype)
        lib.fo_unpack(*source, self.starts, self.count, begin, end, self.pointers)

    def point_to(self, arrays: Sequence[Array | None]) -> None:
        present = [array for array in arrays if array is not None]
        places = slice(None) if len(present) == self.count else [k for k, a in enumerate(arrays) if a is not None]
        self.memory[:] = 0
        self.memory[places] = memory_of(present)
        dtypes = {array.dtype for array in present}
        self.dtypes[places] = (
            number_of(dtypes.pop()) if len(dtypes) == 1 else [number_of(array.dtype) for array in present]
        )


def accumulate_rows(rows: Sequence[Array], scale: float, beginning: int, sums: Array) -> None:
    """Add scaled rows to sums, as :meth:`fastopt.backends.backend.Backend.accumulate_rows` does."""
    pointers = ffi.new("void *[]", [ffi.from_buffer(row) for row in rows])
    what = pointers, number_of(rows[0].dtype), len(rows), sums.size, scale, beginning
    into = number_of(sums.dtype), ffi.from_buffer(sums, require_writable=True)
    lib.fo_accumulate_rows(*what, *into, threads.get_num_threads())
