"""Vectors of many arrays, and sums of several vectors, by csrc/wire.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from .. import threads
from .library import NULL, ffi, lib, number_of
from .ndarrays import addresses_of, has_known_ndarrays, memory_of, pointers_to, uintptrs


class NativePacking:
    """Copies arrays into a vector and back; see :class:`fastopt.backends.packing.Packing`."""

    def __init__(self, starts: npt.NDArray[np.int64]) -> None:
        self.count = len(starts) - 1
        self.starts = ffi.from_buffer("int64_t[]", starts)
        self.memory = np.zeros(self.count, np.uintp)
        self.pointers = ffi.from_buffer("void *[]", self.memory, require_writable=True)
        self.dtypes = np.zeros(self.count, np.int32)
        self.dtype_numbers = ffi.from_buffer("int32_t[]", self.dtypes)
        #: The arrays of the calls that pass this very sequence.
        self.arrays: Sequence[Array] | None = None
        #: The dtypes of the last arrays, if none was missing, and those objects as C sees them.
        self.last_dtypes: list[np.dtype[Any]] = []
        self.dtype_objects: Any = NULL

    def keep(self, arrays: Sequence[Array]) -> None:
        self.point_to(arrays)
        self.arrays = arrays

    def pack(self, arrays: Sequence[Array | None], vector: Array, begin: int, end: int) -> None:
        self.point_to(arrays)
        into = number_of(vector.dtype), ffi.from_buffer(vector, require_writable=True)
        lib.fo_pack(self.pointers, self.dtype_numbers, self.starts, self.count, begin, end, *into)

    def unpack(self, vector: Array, arrays: Sequence[Array], begin: int, end: int) -> None:
        self.point_to(arrays)
        source = ffi.from_buffer(vector), number_of(vector.dtype)
        lib.fo_unpack(*source, self.starts, self.count, begin, end, self.pointers)

    def point_to(self, arrays: Sequence[Array | None]) -> None:
        if arrays is self.arrays or self.find(arrays):
            return
        self.arrays, self.last_dtypes = None, []
        present = [array for array in arrays if array is not None]
        places = slice(None) if len(present) == self.count else [k for k, a in enumerate(arrays) if a is not None]
        self.memory[:] = 0
        self.memory[places] = memory_of(present)
        dtypes = [array.dtype for array in present]
        different = set(dtypes)
        self.dtypes[places] = (
            number_of(different.pop()) if len(different) == 1 else [number_of(dtype) for dtype in dtypes]
        )
        if len(present) == self.count and has_known_ndarrays:
            self.last_dtypes, self.dtype_objects = dtypes, uintptrs(addresses_of(dtypes))

    def find(self, arrays: Sequence[Array | None]) -> bool:
        """Point to these arrays if all are there and have the dtypes of the last ones; return whether they do."""
        if not self.last_dtypes:
            return False
        self.arrays = None
        pointers = pointers_to(arrays)
        objects = pointers, pointers, self.dtype_objects
        return bool(lib.fo_find_memory(*objects, self.count, id(np.ndarray), 0, self.pointers))


def accumulate_rows(rows: Sequence[Array], scale: float, beginning: int, sums: Array) -> None:
    """Add scaled rows to sums, as :meth:`fastopt.backends.backend.Backend.accumulate_rows` does."""
    pointers = ffi.new("void *[]", [ffi.from_buffer(row) for row in rows])
    what = pointers, number_of(rows[0].dtype), len(rows), sums.size, scale, beginning
    into = number_of(sums.dtype), ffi.from_buffer(sums, require_writable=True)
    lib.fo_accumulate_rows(*what, *into, threads.get_num_threads())
