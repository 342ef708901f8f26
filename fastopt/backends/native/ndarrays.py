"""NumPy's array objects as C reads them, so that one call checks many arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import FLOAT32, Array
from ...arrays.layouts import Layout, Layouts
from ...arrays.memory import Views, address, are_writeable
from .library import NULL, ffi, lib, struct_dtype

#: Flags of NumPy's C interface, as in csrc/ndarray.h.
C_ORDER, ALIGNED, WRITEABLE = 0x0001, 0x0100, 0x0400

#: The least number of objects whose addresses are read from an array of objects.
MANY = 32

LAYOUT = struct_dtype("fo_layout")


def addresses_of(objects: Sequence[Any]) -> npt.NDArray[np.uintp]:
    """Return the addresses of CPython's objects themselves."""
    if len(objects) < MANY:
        return np.fromiter(map(id, objects), np.uintp, len(objects))
    # An array of objects is made of their addresses; to ask each one takes eight times as long.
    held = np.fromiter(objects, object, len(objects))
    memory = ffi.buffer(ffi.cast("char *", address(held)), held.nbytes)
    found: npt.NDArray[np.uintp] = np.frombuffer(memory, np.uintp).copy()
    return found


def pointers_to(objects: Sequence[Any]) -> Any:
    """Return the addresses of CPython's objects as C reads them, for one call."""
    if len(objects) < MANY:
        return ffi.new("uintptr_t[]", list(map(id, objects)))
    return uintptrs(addresses_of(objects))


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


def writeable_check(arrays: Sequence[Array]) -> Callable[[], bool]:
    """Return a function that returns whether these arrays are all writeable."""
    if not has_known_ndarrays or set(map(type, arrays)) != {np.ndarray}:
        return lambda: are_writeable(arrays)
    objects, memory, type_ = uintptrs(addresses_of(arrays)), ffi.new("void *[]", len(arrays)), id(np.ndarray)
    owners = (arrays,)

    def are_all() -> bool:
        return bool(lib.fo_find_memory(objects, objects, NULL, len(owners[0]), type_, WRITEABLE, memory))

    return are_all


def find_memory(
    arrays: npt.NDArray[np.uintp], models: npt.NDArray[np.uintp], dtypes: npt.NDArray[np.uintp], flags: int, memory: Any
) -> bool:
    """Return whether these arrays have the models' shapes, these dtypes and flags; write their memory's addresses."""
    objects = [uintptrs(addresses) for addresses in (arrays, models, dtypes)]
    return bool(lib.fo_find_memory(*objects, len(arrays), id(np.ndarray), flags, memory))


class ColumnLayouts:
    """The layouts of several arrays, or of the views like them, as C compares them."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        count, models = len(arrays), arrays.likes if isinstance(arrays, Views) else arrays
        self.layouts = ffi.new("fo_layout[]", count)
        self.columns = np.frombuffer(ffi.buffer(self.layouts), LAYOUT)[:count]
        self.columns["array"] = addresses_of(models)
        self.shapes = ffi.new("intptr_t[]", lib.fo_record_layouts(self.layouts, count, NULL))
        lib.fo_record_layouts(self.layouts, count, self.shapes)
        if isinstance(arrays, Views):
            self.dtypes = [arrays.dtype] * count
            self.columns["memory"], self.columns["dtype"] = arrays.addresses, id(arrays.dtype)
        else:
            self.dtypes = list(map(attrgetter("dtype"), arrays))

    def at(self, i: int) -> Layout:
        layout = self.layouts[i]
        shape = tuple(ffi.unpack(self.shapes + layout.first, layout.dimensions))
        return Layout(self.dtypes[i], shape, layout.order == C_ORDER, int(ffi.cast("uintptr_t", layout.memory)))

    def forms(self) -> list[tuple[tuple[int, ...], bool]]:
        """Return the shape of each array, and whether it was in C order."""
        shapes = tuple(ffi.unpack(self.shapes, len(self.shapes)))
        places = zip(*(self.columns[name].tolist() for name in ("first", "dimensions", "order")), strict=True)
        return [(shapes[first : first + axes], order == C_ORDER) for first, axes, order in places]


class NativeLayouts(Layouts):
    """Layouts that C compares, all in one call; :class:`AttributeLayouts` describes the parameters."""

    def __init__(self, columns: Sequence[Sequence[Array]], users: int, visible: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.visible, self.blocks, self.found = visible, ffi.new("fo_layouts[]", len(columns)), ffi.new("int64_t[2]")
        self.records = list(map(ColumnLayouts, columns))
        #: The numbers of the columns that nobody has seen yet.
        self.hidden: Sequence[int] = range(users, len(columns))
        for block, record, arrays in zip(self.blocks, self.records, columns, strict=True):
            block.layouts, block.shapes, block.count = record.layouts, record.shapes, len(arrays)
            if isinstance(arrays, Views):
                arrays.forms = record.forms
        for k in self.hidden:
            self.blocks[k].hidden_by = id(visible)

    def are_kept(self) -> bool:
        if self.hidden and self.visible:
            for k in self.hidden:
                self.records[k].columns["array"] = addresses_of(self.columns[k])
                self.blocks[k].hidden_by = 0
            self.hidden = ()
        return bool(lib.fo_are_kept(self.blocks, len(self.columns), self.found))

    def at(self, k: int, i: int) -> Layout:
        return self.records[k].at(i)


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
