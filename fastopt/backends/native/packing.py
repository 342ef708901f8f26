"""Vectors of many arrays, and sums of several vectors, by csrc/wire.c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from .. import threads
from ..packing import Rows
from .library import NULL, ffi, lib, number_of
from .ndarrays import addresses_of, has_known_ndarrays, memory_of, pointers_to, uintptrs


class NativePacking:
    """Makes vectors of arrays; see :class:`fastopt.backends.packing.Packing`."""

    def __init__(self, starts: npt.NDArray[np.int64]) -> None:
        self.starts, self.count = starts, len(starts) - 1
        #: The dtypes of the last arrays, if none was missing, as numbers and as objects that C sees.
        self.dtypes = np.zeros(self.count, np.int32)
        self.last_dtypes: list[np.dtype[Any]] = []
        self.dtype_objects: Any = NULL

    def of(self, arrays: Sequence[Array | None]) -> NativePackedArrays:
        memory = np.zeros(self.count, np.uintp)
        if not self.find(arrays, memory):
            self.ask_each(arrays, memory)
        return NativePackedArrays(arrays, memory, self.dtypes, self.starts)

    def find(self, arrays: Sequence[Array | None], memory: npt.NDArray[np.uintp]) -> bool:
        """Write where these arrays are if all are there and have the dtypes of the last ones; return whether so."""
        if not self.last_dtypes:
            return False
        pointers = pointers_to(arrays)
        objects = pointers, pointers, self.dtype_objects
        into = ffi.from_buffer("void *[]", memory, require_writable=True)
        return bool(lib.fo_find_memory(*objects, self.count, id(np.ndarray), 0, into))

    def ask_each(self, arrays: Sequence[Array | None], memory: npt.NDArray[np.uintp]) -> None:
        """Write where these arrays are, and which dtypes they have."""
        present = [array for array in arrays if array is not None]
        places = slice(None) if len(present) == self.count else [k for k, a in enumerate(arrays) if a is not None]
        memory[places] = memory_of(present)
        dtypes = [array.dtype for array in present]
        different = set(dtypes)
        self.dtypes = np.zeros(self.count, np.int32)
        self.dtypes[places] = (
            number_of(different.pop()) if len(different) == 1 else [number_of(dtype) for dtype in dtypes]
        )
        self.last_dtypes = []
        if len(present) == self.count and has_known_ndarrays:
            self.last_dtypes, self.dtype_objects = dtypes, uintptrs(addresses_of(dtypes))


class NativePackedArrays:
    """Arrays as one vector; see :class:`fastopt.backends.packing.PackedArrays`."""

    def __init__(
        self,
        arrays: Sequence[Array | None],
        memory: npt.NDArray[np.uintp],
        dtypes: npt.NDArray[np.int32],
        starts: npt.NDArray[np.int64],
    ) -> None:
        self.arrays = arrays
        columns = ffi.from_buffer("void *[]", memory), ffi.from_buffer("int32_t[]", dtypes)
        self.owners = *columns, ffi.from_buffer("int64_t[]", starts)
        self.struct = ffi.new("fo_packed *", (*self.owners, len(memory)))

    def pack(self, begin: int, into: Array) -> None:
        its = number_of(into.dtype), ffi.from_buffer(into, require_writable=True)
        lib.fo_pack(self.struct, begin, begin + into.size, *its, threads.get_num_threads())

    def unpack(self, begin: int, values: Array) -> None:
        its = number_of(values.dtype), ffi.from_buffer(values)
        lib.fo_unpack(self.struct, begin, begin + values.size, *its, threads.get_num_threads())

    def accumulate(self, begin: int, rows: Rows, sums: Array) -> None:
        pointers = ffi.new("void *[]", [NULL if row is None else ffi.from_buffer(row) for row in rows.vectors])
        how = number_of(rows.dtype), len(rows.vectors), sums.size, rows.scale, rows.beginning
        into = number_of(sums.dtype), ffi.from_buffer(sums, require_writable=True)
        lib.fo_accumulate_rows(self.struct, begin, pointers, *how, *into, threads.get_num_threads())
