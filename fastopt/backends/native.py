"""The native backend: C kernels over a table of pointers. The one place that reads ``FASTOPT_ISA``."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import rules, threads
from ..arrays import FLOAT32, Array, address, are_like, are_writeable_as
from . import Beside, Hyper, Source

#: Why there is no native backend; None where there is one.
missing: str | None = None


try:
    from .._native import ffi, lib
except ImportError as error:
    told = Path(__file__).parents[1] / "native_missing.txt"
    missing = told.read_text().strip() if told.exists() else f"fastopt._native can't be imported ({error})"


def isas_found() -> list[str]:
    """Return the instruction sets that both this build and this machine have, from the oldest to the newest."""
    return [name for number, name in isa_names() if lib.fo_isa_found(number)]


def isa_names() -> list[tuple[int, str]]:
    return [(number, ffi.string(lib.fo_isa_name(number)).decode()) for number in range(lib.FO_ISA_COUNT)]


def isa() -> str:
    """Return the instruction set in use."""
    return str(dict(isa_names())[lib.fo_isa_in_use()])


def use_isa(name: str | None) -> None:
    """Use this instruction set from now on; None: the newest there is.

    Raises
    ------
    ValueError
        If there is no such instruction set, or not on this machine.
    """
    found = isas_found()
    if name is None:
        name = found[-1]
    if name not in found:
        raise ValueError(f"FASTOPT_ISA={name}: expected one of {', '.join(found)} (what this build and machine have)")
    lib.fo_isa_use({known: number for number, known in isa_names()}[name])


def has_threads() -> bool:
    """Tell whether this build can use more than the calling thread."""
    return bool(lib.fo_has_threads())


if missing is None:
    DTYPES: dict[Any, int] = {np.dtype(name): number for number, name in enumerate(["float32", "float64", "float16"])}
    SINGLE, DOUBLE = lib.FO_FLOAT32, lib.FO_FLOAT64
    NULL, from_buffer = ffi.NULL, ffi.from_buffer
    RULES = {
        getattr(rules, ffi.string(lib.fo_rule_name(number)).decode()): number for number in range(lib.fo_rule_count())
    }
    SOURCES: dict[Source, int] = {
        "param": lib.FO_PARAM,
        "clipped_grad": lib.FO_CLIPPED_GRAD,
        "grad": lib.FO_GRAD,
    }
    use_isa(os.environ.get("FASTOPT_ISA") or None)
    threads.wanted()  # a wrong FASTOPT_NUM_THREADS is told here, not in the first step


class NativeTable:
    """The arrays of an optimizer as C structs. It keeps the memory alive that they point to."""

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], beside: Sequence[Beside] | None = None
    ) -> None:
        count = len(params)
        self.count = count
        self.arrays = ffi.new("fo_array[]", count)
        self.grads = ffi.new("void *[]", count)
        self.grad_owners: Sequence[Any] = ()
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.shapes = [param.shape for param in params]
        self.param_addresses = addresses_of(params)
        self.owners = params, slots, beside
        columns = np.frombuffer(ffi.buffer(self.arrays), dtype=ARRAY)
        self.rows = columns["hyper"]
        self.array_clip = columns["array_clip"]
        self.nonfinite = np.zeros(count, np.int64)
        self.array_clip[:] = 1
        self.numbers = columns["number"]
        self.numbers[:] = np.arange(count)
        self.sizes = np.array([param.size for param in params], np.int64)
        self.present: list[bool] = []
        columns["param_dtype"] = param_dtypes = [number_of(param.dtype) for param in params]
        columns["dtype"] = [DOUBLE if dtype == DOUBLE else SINGLE for dtype in param_dtypes]
        columns["is_stored"] = columns["param_dtype"] != columns["dtype"]
        columns["param"] = memory_of(params)
        for column, array_slots in zip(columns, slots, strict=True) if any(slots) else ():
            for k, slot in enumerate(array_slots):
                column["slots"][k] = address(slot)
                column["slot_dtypes"][k] = number_of(slot.dtype)
                column["is_stored"] |= column["slot_dtypes"][k] != column["dtype"]
        self.columns = columns
        for column, array_beside in zip(columns, beside or (), strict=False):
            set_beside(column, array_beside)
        self.make_hypers(1)
        self.readings = ffi.new("fo_reading[]", count)
        self.read = np.frombuffer(ffi.buffer(self.readings), dtype=READING)

    def number_chunks(self, lengths: npt.NDArray[np.int64]) -> None:
        chunks = -(-lengths // lib.FO_CHUNK)
        self.columns["first_chunk"] = np.cumsum(chunks) - chunks
        self.partials = ffi.new("fo_reading[]", int(chunks.sum()))

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.point_to(grads)
        present = [grad is not None for grad in grads]
        if present != self.present:
            # An array without a gradient has no chunks, so that no thread goes through them.
            self.columns["length"] = self.sizes * np.array(present)
            self.number_chunks(self.columns["length"])
            self.present = present
        self.grad_dtypes = [None if grad is None else grad.dtype for grad in grads]
        self.dtype_addresses = addresses_of(self.grad_dtypes)
        self.columns["grad_dtype"] = [0 if dtype is None else number_of(dtype) for dtype in self.grad_dtypes]

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not has_known_ndarrays:
            if not are_like(grads, self.grad_dtypes, self.shapes, are_written):
                return False
            self.point_to(grads)
            return True
        flags = C_ORDER | WRITEABLE if are_written else C_ORDER
        if not find_memory(addresses_of(grads), self.param_addresses, self.dtype_addresses, flags, self.grads):
            return False
        self.grad_owners = grads
        return True

    def point_to(self, grads: Sequence[Array | None]) -> None:
        self.grad_owners = [NULL if grad is None else from_buffer(grad) for grad in grads]
        self.grads[0 : self.count] = self.grad_owners

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.frombuffer(ffi.buffer(self.grads), dtype=np.uintp)

    def is_current(self) -> bool:
        return True

    def check_rules(self, asked: Sequence[rules.Rule]) -> None:
        for rule in asked:
            if rule not in RULES:
                raise ValueError(f'the rule {rule.__name__} is not among the compiled ones; use backend="numpy"')

    def use_counts(self, counts: npt.NDArray[np.int64]) -> None:
        """Take the counts, of shape (2, 1 + arrays), that calls with ``is_counted`` bring up to date."""
        self.counts = ffi.from_buffer("int64_t[]", counts, require_writable=True)

    def step(self, hypers: Sequence[Hyper], is_counted: bool = False) -> None:
        self.set_hypers(hypers)
        counts = self.counts if is_counted else NULL
        lib.fo_step(self.arrays, self.grads, self.count, self.hypers, threads.wanted(), counts)

    def accumulate(self, hypers: Sequence[Hyper], is_counted: bool = False) -> None:
        self.set_hypers(hypers)
        counts = self.counts if is_counted else NULL
        lib.fo_accumulate(self.arrays, self.grads, self.count, self.hypers, threads.wanted(), counts)

    def sum_products(
        self, hypers: Sequence[Hyper], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        self.set_hypers(hypers)
        into = self.partials, self.readings
        read = self.arrays, self.grads, self.count, self.hypers
        sources = SOURCES.get(left, left), SOURCES.get(right, right)
        lib.fo_sum_products(*read, *sources, count_nonfinite, *into, threads.wanted())
        if count_nonfinite:
            self.nonfinite = self.read["nonfinite"].copy()
        sums: npt.NDArray[np.float64] = self.read["sum"].copy()
        return sums

    def set_hypers(self, hypers: Sequence[Hyper]) -> None:
        if len(hypers) * ROW.size > len(self.hyper_memory):
            self.make_hypers(len(hypers))
        for k, hyper in enumerate(hypers):
            rule, scale, clip_value, global_clip, l2, decay, scalars, mean, l1, *finish = hyper
            before = scale, mean, clip_value, global_clip, l2, l1, decay
            fill = NO_SCALARS[len(scalars) :]
            ROW.pack_into(self.hyper_memory, k * ROW.size, *before, *scalars, *fill, *finish, RULES[rule])

    def make_hypers(self, count: int) -> None:
        self.hypers = ffi.new("fo_hyper[]", count)
        self.hyper_memory = ffi.buffer(self.hypers)


def add_runs(runs: Array, sums: npt.NDArray[np.float64]) -> None:
    """Do what axis_sums.add_runs does."""
    values = np.ascontiguousarray(runs)
    into = ffi.from_buffer("double[]", sums, require_writable=True)
    lib.fo_sum_squares(from_buffer(values), number_of(values.dtype), *values.shape, into)


def addresses_of(objects: Sequence[Any]) -> npt.NDArray[np.uintp]:
    """Return where CPython's objects themselves are."""
    return np.fromiter(map(id, objects), np.uintp, len(objects))


def uintptrs(addresses: npt.NDArray[np.uintp]) -> Any:
    return ffi.from_buffer("uintptr_t[]", addresses)


def memory_of(arrays: Sequence[Array]) -> npt.NDArray[np.uintp]:
    """Return where each C-contiguous array begins."""
    objects, dtypes = addresses_of(arrays), addresses_of([array.dtype for array in arrays])
    memory = np.empty(len(arrays), np.uintp)
    if has_known_ndarrays and find_memory(objects, objects, dtypes, C_ORDER, ffi.from_buffer("void *[]", memory)):
        return memory
    return np.array([address(array) for array in arrays], np.uintp)


def writeable_check(arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> Callable[[], bool]:
    """Return a function that tells whether all of these have these dtypes and can be written."""
    if not has_known_ndarrays or {type(array) for array in arrays} != {np.ndarray}:
        return lambda: are_writeable_as(arrays, dtypes)
    objects, dtype_objects = uintptrs(addresses_of(arrays)), uintptrs(addresses_of(dtypes))
    memory, type_ = ffi.new("void *[]", len(arrays)), id(np.ndarray)
    owners = arrays, dtypes

    def are_writeable() -> bool:
        count = len(owners[0])
        return bool(lib.fo_find_memory(objects, objects, dtype_objects, count, type_, WRITEABLE, memory))

    return are_writeable


def find_memory(
    arrays: npt.NDArray[np.uintp],
    models: npt.NDArray[np.uintp],
    dtypes: npt.NDArray[np.uintp],
    flags: int,
    memory: Any,
) -> bool:
    """Tell whether these arrays have the models' shapes, these dtypes and flags; write where their memory is."""
    objects = [uintptrs(addresses) for addresses in (arrays, models, dtypes)]
    return bool(lib.fo_find_memory(*objects, len(arrays), id(np.ndarray), flags, memory))


def knows_ndarrays() -> bool:
    """Try out whether arrays are laid out in memory as csrc/ndarray.c takes them to be."""
    if sys.implementation.name != "cpython":
        return False
    array, other = np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)
    fixed = np.zeros((2, 3), np.float32)
    fixed.flags.writeable = False
    found = ffi.new("void *[]", 1)

    def is_found(candidate: Array, dtype: np.dtype[Any] = FLOAT32, flags: int = C_ORDER) -> bool:
        models, dtypes = addresses_of([array]), addresses_of([dtype])
        return find_memory(addresses_of([candidate]), models, dtypes, flags, found)

    wrong = [other, other.T, np.float32(0), np.zeros((2, 3)), np.zeros(2, np.float32), np.ma.zeros((2, 3), np.float32)]
    return (
        is_found(array, flags=C_ORDER | WRITEABLE)
        and int(ffi.cast("uintptr_t", found[0])) == address(array)
        and is_found(fixed)
        and not is_found(fixed, flags=WRITEABLE)
        and not is_found(array, np.dtype(np.float64))
        and not any(map(is_found, wrong))
    )


def number_of(dtype: np.dtype[Any]) -> int:
    return int(DTYPES.get(dtype, lib.FO_BFLOAT16))


def set_beside(column: Any, beside: Beside) -> None:
    """Write what an array has besides its parameter and slots into its row of the table."""
    for name in ("average", "accumulated", "copy"):
        array = getattr(beside, name)
        column[name] = 0 if array is None else address(array)
    if beside.copy is not None:
        column["copy_dtype"] = number_of(beside.copy.dtype)
    for k, scaled in enumerate(beside.scales):
        if scaled is not None:
            map, scales = scaled
            column["scales"][k] = address(scales)
            column["slot_dtypes"][k] = lib.FO_SIGNED8 if map == "signed" else lib.FO_ROOT8


def pack_format(name: str) -> str:
    """Return the layout of a C struct of numbers as Python's struct module names it."""
    codes = {"int32_t": "i", "uint64_t": "Q", "double": "d"}
    items = [described.type for _, described in ffi.typeof(name).fields]
    numbers = [f"{it.length}{codes[it.item.cname]}" if it.kind == "array" else codes[it.cname] for it in items]
    return "".join(numbers) + "0d"  # padded as in an array of such structs


def struct_dtype(name: str) -> np.dtype[Any]:
    """Return the layout of a C struct of the contract as NumPy's dtype."""
    kinds = {"int32_t": "i4", "int64_t": "i8", "double": "f8", "void *": "u8"}
    names, formats, offsets = [], [], []
    for field, described in ffi.typeof(name).fields:
        item = described.type
        shape: tuple[int, ...] = ()
        if item.kind == "array":
            item, shape = item.item, (item.length,)
        names.append(field)
        formats.append((kinds[item.cname], shape))
        offsets.append(described.offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": ffi.sizeof(name)})


#: Flags of NumPy's C interface: NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE.
C_ORDER, WRITEABLE = 0x0001, 0x0400

if missing is None:
    has_known_ndarrays = knows_ndarrays()
    ARRAY, READING = struct_dtype("fo_array"), struct_dtype("fo_reading")
    ROW = struct.Struct(pack_format("fo_hyper"))
    NO_SCALARS = (0.0,) * lib.FO_MAX_SCALARS
