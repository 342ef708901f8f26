"""NumPy's array objects as C reads them, so that one call checks many arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import FLOAT32, Array
from ...arrays.memory import Views, address, are_writeable_as
from .library import NULL, ffi, lib

#: Flags of NumPy's C interface, as in csrc/ndarray.h.
C_ORDER, ALIGNED, WRITEABLE = 0x0001, 0x0100, 0x0400


def addresses_of(objects: Sequence[Any]) -> npt.NDArray[np.uintp]:
    """Return the addresses of CPython's objects themselves."""
    return np.fromiter(map(id, objects), np.uintp, len(objects))


def uintptrs(addresses: npt.NDArray[np.uintp]) -> Any:
    return ffi.from_buffer("uintptr_t[]", addresses)


def memory_of(arrays: Sequence[Array]) -> npt.NDArray[np.uintp]:
    """Return the address of the memory of each array."""
    if isinstance(arrays, Views):
        return arrays.addresses
    if has_known_ndarrays and len(arrays) > 3:  # fewer take as long one by one
        objects, memory = uintptrs(addresses_of(arrays)), np.empty(len(arrays), np.uintp)
        into = ffi.from_buffer("void *[]", memory)
        if lib.fo_find_memory(objects, objects, NULL, len(arrays), id(np.ndarray), 0, into):
            return memory
    return np.array([address(array) for array in arrays], np.uintp)


def writeable_check(arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> Callable[[], bool]:
    """Return a function that returns whether these arrays still have these dtypes and are all writeable."""
    if not has_known_ndarrays or set(map(type, arrays)) != {np.ndarray}:
        return lambda: are_writeable_as(arrays, dtypes)
    objects, dtype_objects = uintptrs(addresses_of(arrays)), uintptrs(addresses_of(dtypes))
    memory, type_ = ffi.new("void *[]", len(arrays)), id(np.ndarray)
    owners = arrays, dtypes

    def are_writeable() -> bool:
        count = len(owners[0])
        return bool(lib.fo_find_memory(objects, objects, dtype_objects, count, type_, WRITEABLE, memory))

    return are_writeable


def find_memory(
    arrays: npt.NDArray[np.uintp], models: npt.NDArray[np.uintp], dtypes: npt.NDArray[np.uintp], flags: int, memory: Any
) -> bool:
    """Return whether these arrays have the models' shapes, these dtypes and flags; write their memory's addresses."""
    objects = [uintptrs(addresses) for addresses in (arrays, models, dtypes)]
    return bool(lib.fo_find_memory(*objects, len(arrays), id(np.ndarray), flags, memory))


def knows_ndarrays() -> bool:
    """Return whether array objects have the layout that csrc/ndarray.c expects, by trying it out."""
    if sys.implementation.name != "cpython":
        return False
    array, other = np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)
    read_only = np.zeros((2, 3), np.float32)
    read_only.flags.writeable = False
    found = ffi.new("void *[]", 1)

    def is_found(candidate: Array, dtype: np.dtype[Any] = FLOAT32, flags: int = C_ORDER) -> bool:
        models, dtypes = addresses_of([array]), addresses_of([dtype])
        return find_memory(addresses_of([candidate]), models, dtypes, flags, found)

    unlike = [other, other.T, np.float32(0), np.zeros((2, 3)), np.zeros(2, np.float32), np.ma.zeros((2, 3), np.float32)]
    return (
        is_found(array, flags=C_ORDER | WRITEABLE)
        and int(ffi.cast("uintptr_t", found[0])) == address(array)
        and is_found(read_only)
        and not is_found(read_only, flags=WRITEABLE)
        and not is_found(array, np.dtype(np.float64))
        and not any(map(is_found, unlike))
    )


has_known_ndarrays = knows_ndarrays()
