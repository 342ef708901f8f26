"""The native backend's table: C kernels run over a table of pointers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic.operations import Rule
from ...arrays.dtypes import Array
from ...arrays.memory import Views, are_like
from .. import threads
from ..table import ArrayExtras, HyperRow, Reduction, Source, slot_columns
from . import ndarrays
from .compiling import OwnRule, compiled
from .library import ARRAY, DOUBLE, NO_SCALARS, NULL, READING, ROW, RULES, SINGLE, SOURCES, ffi, lib, number_of
from .ndarrays import C_ORDER, WRITEABLE, addresses_of, memory_of, pointers_to, uintptrs

CODECS = {"signed": lib.FO_SIGNED8, "root": lib.FO_ROOT8}


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
        self.memory_of_grads = np.frombuffer(ffi.buffer(self.grads), dtype=np.uintp)
        self.grad_owners: Sequence[Any] = ()
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.param_objects = uintptrs(addresses_of(params))
        self.owners = params, slots, extras
        columns = np.frombuffer(ffi.buffer(self.arrays), dtype=ARRAY)
        self.row_numbers = columns["hyper"]
        self.array_clip = columns["array_clip"]
        self.nonfinite = np.zeros(count, np.int64)
        self.array_clip[:] = 1
        self.is_clipped = False
        self.reduction: Reduction | None = None
        self.counts = None if counts is None else ffi.from_buffer("int64_t[]", counts, require_writable=True)
        self.indices = columns["number"]
        self.indices[:] = np.arange(count)
        self.first_blocks = columns["first_block"]
        self.sizes = np.array([param.size for param in params], np.int64)
        self.present: list[bool] = []
        #: The places of the arrays that have a gradient.
        self.places: Any = slice(0)
        columns["param"], columns["param_dtype"] = memory_of(params), numbers_of(params)
        columns["dtype"] = np.where(columns["param_dtype"] == DOUBLE, DOUBLE, SINGLE)
        columns["is_stored"] = columns["param_dtype"] != columns["dtype"]
        for k, places, arrays in slot_columns(slots):
            if k >= lib.FO_MAX_SLOTS:
                raise ValueError(
                    f'slot_names: expected at most {lib.FO_MAX_SLOTS} slots for compiled steps; use backend="numpy"'
                )
            columns["slots"][places, k] = memory_of(arrays)
            columns["slot_dtypes"][places, k] = numbers = numbers_of(arrays)
            columns["is_stored"][places] |= numbers != columns["dtype"][places]
        if extras is not None:
            set_extras(columns, extras)
        self.columns = columns
        self.own_rules: dict[Rule, OwnRule] = {}
        self.make_hyper_rows(1)
        self.readings = ffi.new("fo_reading[]", count)
        self.read = np.frombuffer(ffi.buffer(self.readings), dtype=READING)

    @cached_property
    def greatest(self) -> npt.NDArray[np.float64]:
        single, double = (float(np.finfo(dtype).max) for dtype in (np.float32, np.float64))
        greatest: npt.NDArray[np.float64] = np.where(self.columns["dtype"] == DOUBLE, double, single)
        return greatest

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        present = [grad is not None for grad in grads]
        if present != self.present:
            self.present = []  # after an interrupt all of this is done again
            # An array without a gradient has no chunks, so that threads pass it by.
            self.partials = ffi.new("fo_reading[]", self.cut(self.sizes * np.array(present)))
            self.places = slice(None) if all(present) else np.flatnonzero(present)
            self.present = present
        self.point_to(grads)
        self.grad_dtypes = [None if grad is None else grad.dtype for grad in grads]
        self.dtype_objects = uintptrs(addresses_of(self.grad_dtypes))
        self.columns["grad_dtype"][self.places] = numbers_of([grad for grad in grads if grad is not None])

    def cut(self, lengths: npt.NDArray[np.int64]) -> int:
        """Cut the first so many elements of each array into chunks; return how many there are in all."""
        self.columns["length"] = lengths
        chunks = -(-lengths // lib.FO_CHUNK)
        self.columns["first_chunk"] = np.cumsum(chunks) - chunks
        return int(chunks.sum())

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not ndarrays.has_known_ndarrays:
            shapes = [param.shape for param in self.owners[0]]
            if not are_like(grads, self.grad_dtypes, shapes, are_written):
                return False
            self.point_to(grads)
            return True
        flags = C_ORDER | WRITEABLE if are_written else C_ORDER
        expected = pointers_to(grads), self.param_objects, self.dtype_objects
        if not lib.fo_find_memory(*expected, self.count, id(np.ndarray), flags, self.grads):
            return False
        self.grad_owners = grads
        return True

    def point_to(self, grads: Sequence[Array | None]) -> None:
        self.memory_of_grads[:] = 0
        self.memory_of_grads[self.places] = memory_of([grad for grad in grads if grad is not None])
        self.grad_owners = grads

    def forget_grads(self) -> None:
        self.grad_owners = ()

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return self.memory_of_grads

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
        sources = SOURCES[left], SOURCES[right]
        lib.fo_sum_products(*read, *sources, count_nonfinite, *into, threads.get_num_threads())
        if self.reduction is not None:
            chunks = np.frombuffer(ffi.buffer(self.partials), dtype=READING)
            sums, nonfinite = self.reduction(self.present, chunks["sum"], chunks["nonfinite"])
            if count_nonfinite:
                self.nonfinite = nonfinite
            return sums
        if count_nonfinite:
            self.nonfinite = self.read["nonfinite"].copy()
        found: npt.NDArray[np.float64] = self.read["sum"].copy()
        return found

    def set_hyper_rows(self, hyper_rows: Sequence[HyperRow]) -> None:
        if len(hyper_rows) * ROW.size > len(self.hyper_memory):
            self.make_hyper_rows(len(hyper_rows))
        for k, hyper in enumerate(hyper_rows):
            rule, scale, clip_value, global_clip, l2, decay, scalars, mean, l1, *finish = hyper
            which = (RULES[rule], 0) if rule in RULES else (0, self.own_rule(rule, type(scalars)).address)
            before = scale, mean, clip_value, global_clip, l2, l1, decay
            fill = NO_SCALARS[len(scalars) :]
            ROW.pack_into(self.hyper_memory, k * ROW.size, *before, *scalars, *fill, *finish, *which)

    def own_rule(self, rule: Rule, scalars: type) -> OwnRule:
        """Return a rule that is not one of fastopt's, compiled for the instruction set in use.

        Raises
        ------
        TypeError, ValueError
            If it can't be.
        """
        own, isa = self.own_rules.get(rule), lib.fo_isa_in_use()
        if own is None or (own.scalars, own.isa) != (scalars, isa):
            own = self.own_rules[rule] = compiled(rule, scalars, frozenset(self.columns["dtype"].tolist()), isa)
        return own

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


def set_extras(columns: Any, extras: Sequence[ArrayExtras]) -> None:
    """Write the arrays' extras into their rows of the table."""
    for name in ("average", "accumulated", "copy", "lower", "upper"):
        found = {i: array for i, array in enumerate(map(attrgetter(name), extras)) if array is not None}
        if found:
            columns[name][list(found)] = memory_of(list(found.values()))
            if name == "copy":
                columns["copy_dtype"][list(found)] = numbers_of(list(found.values()))
    for k in range(max(len(each.scales) for each in extras)):
        scaled = {i: its for i, each in enumerate(extras) for its in each.scales[k : k + 1] if its is not None}
        if scaled:
            places, codecs = list(scaled), [codec for codec, _ in scaled.values()]
            columns["scales"][places, k] = memory_of([scales for _, scales in scaled.values()])
            columns["slot_dtypes"][places, k] = [CODECS[codec] for codec in codecs]


def numbers_of(arrays: Sequence[Array]) -> npt.NDArray[np.int32]:
    """Return the number of each array's dtype."""
    if isinstance(arrays, Views):
        return np.full(len(arrays), number_of(arrays.dtype), np.int32)
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) == 1:
        return np.full(len(arrays), number_of(dtypes.pop()), np.int32)
    return np.array([number_of(array.dtype) for array in arrays], np.int32)
