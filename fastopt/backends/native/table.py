"""The native backend's table: C kernels run over a table of pointers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from ...arrays.memory import address, are_like
from .. import threads
from ..table import ArrayExtras, HyperRow, Source
from . import ndarrays
from .library import ARRAY, DOUBLE, NO_SCALARS, NULL, READING, ROW, RULES, SINGLE, SOURCES, ffi, lib, number_of
from .ndarrays import C_ORDER, WRITEABLE, addresses_of, find_memory, memory_of


class NativeTable:
    """The arrays of an optimizer as C structs. It keeps alive the memory that they point to."""

    def __init__(
        self,
        params: Sequence[Array],
        slots: Sequence[Sequence[Array]],
        extras: Sequence[ArrayExtras] | None = None,
        counts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Calls with ``is_counted`` update ``counts``, which have the shape (2, 1 + arrays)."""
        count = len(params)
        self.count = count
        self.arrays = ffi.new("fo_array[]", count)
        self.grads = ffi.new("void *[]", count)
        self.grad_owners: Sequence[Any] = ()
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.shapes = [param.shape for param in params]
        self.param_addresses = addresses_of(params)
        self.owners = params, slots, extras
        columns = np.frombuffer(ffi.buffer(self.arrays), dtype=ARRAY)
        self.row_numbers = columns["hyper"]
        self.array_clip = columns["array_clip"]
        self.nonfinite = np.zeros(count, np.int64)
        self.array_clip[:] = 1
        self.is_clipped = False
        self.counts = None if counts is None else ffi.from_buffer("int64_t[]", counts, require_writable=True)
        self.indices = columns["number"]
        self.indices[:] = np.arange(count)
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
        for column, array_extras in zip(columns, extras or (), strict=False):
            set_extras(column, array_extras)
        self.make_hyper_rows(1)
        self.readings = ffi.new("fo_reading[]", count)
        self.read = np.frombuffer(ffi.buffer(self.readings), dtype=READING)

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.point_to(grads)
        present = [grad is not None for grad in grads]
        if present != self.present:
            # An array without a gradient has no chunks, so that threads pass it by.
            self.columns["length"] = lengths = self.sizes * np.array(present)
            chunks = -(-lengths // lib.FO_CHUNK)
            self.columns["first_chunk"] = np.cumsum(chunks) - chunks
            self.partials = ffi.new("fo_reading[]", int(chunks.sum()))
            self.present = present
        self.grad_dtypes = [None if grad is None else grad.dtype for grad in grads]
        self.dtype_addresses = addresses_of(self.grad_dtypes)
        self.columns["grad_dtype"] = [0 if dtype is None else number_of(dtype) for dtype in self.grad_dtypes]

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not ndarrays.has_known_ndarrays:
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
        from_buffer = ffi.from_buffer
        self.grad_owners = [NULL if grad is None else from_buffer(grad) for grad in grads]
        self.grads[0 : self.count] = self.grad_owners

    def forget_grads(self) -> None:
        self.grad_owners = ()

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.frombuffer(ffi.buffer(self.grads), dtype=np.uintp)

    def is_current(self) -> bool:
        return True

    def step(self, hyper_rows: Sequence[HyperRow], is_counted: bool = False) -> None:
        self.set_hyper_rows(hyper_rows)
        counts = self.counts if is_counted else NULL
        lib.fo_step(self.arrays, self.grads, self.count, self.hyper_rows, threads.get_num_threads(), counts)

    def accumulate(self, hyper_rows: Sequence[HyperRow], is_counted: bool = False) -> None:
        self.set_hyper_rows(hyper_rows)
        counts = self.counts if is_counted else NULL
        lib.fo_accumulate(self.arrays, self.grads, self.count, self.hyper_rows, threads.get_num_threads(), counts)

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        self.set_hyper_rows(hyper_rows)
        into = self.partials, self.readings
        read = self.arrays, self.grads, self.count, self.hyper_rows
        sources = SOURCES.get(left, left), SOURCES.get(right, right)
        lib.fo_sum_products(*read, *sources, count_nonfinite, *into, threads.get_num_threads())
        if count_nonfinite:
            self.nonfinite = self.read["nonfinite"].copy()
        sums: npt.NDArray[np.float64] = self.read["sum"].copy()
        return sums

    def set_hyper_rows(self, hyper_rows: Sequence[HyperRow]) -> None:
        if len(hyper_rows) * ROW.size > len(self.hyper_memory):
            self.make_hyper_rows(len(hyper_rows))
        for k, hyper in enumerate(hyper_rows):
            rule, scale, clip_value, global_clip, l2, decay, scalars, mean, l1, *finish = hyper
            before = scale, mean, clip_value, global_clip, l2, l1, decay
            fill = NO_SCALARS[len(scalars) :]
            ROW.pack_into(self.hyper_memory, k * ROW.size, *before, *scalars, *fill, *finish, RULES[rule])

    def make_hyper_rows(self, count: int) -> None:
        self.hyper_rows = ffi.new("fo_hyper[]", count)
        self.hyper_memory = ffi.buffer(self.hyper_rows)


def add_runs(runs: Array, sums: npt.NDArray[np.float64]) -> None:
    """Add the squares of each run, as axis_sums.add_runs does."""
    values = np.ascontiguousarray(runs)
    into = ffi.from_buffer("double[]", sums, require_writable=True)
    lib.fo_sum_squares(ffi.from_buffer(values), number_of(values.dtype), *values.shape, into)


def add_rows(values: Array, order: npt.NDArray[Any], firsts: npt.NDArray[Any]) -> Array:
    """Return sums of rows, as row_sums.add_rows does."""
    sums = np.empty((firsts.size, *values.shape[1:]), values.dtype)
    order, firsts = order.astype(np.int64, copy=False), firsts.astype(np.int64, copy=False)
    rows = ffi.from_buffer(values), number_of(values.dtype), math.prod(values.shape[1:])
    places = ffi.from_buffer("int64_t[]", order), order.size, ffi.from_buffer("int64_t[]", firsts), firsts.size
    lib.fo_add_rows(*rows, *places, ffi.from_buffer(sums, require_writable=True))
    return sums


def set_extras(column: Any, extras: ArrayExtras) -> None:
    """Write an array's extras into its row of the table."""
    for name in ("average", "accumulated", "copy"):
        array = getattr(extras, name)
        column[name] = 0 if array is None else address(array)
    if extras.copy is not None:
        column["copy_dtype"] = number_of(extras.copy.dtype)
    for k, scaled in enumerate(extras.scales):
        if scaled is not None:
            codec, scales = scaled
            column["scales"][k] = address(scales)
            column["slot_dtypes"][k] = lib.FO_SIGNED8 if codec == "signed" else lib.FO_ROOT8
