"""Adafactor's directions and rates on a GPU: what fastopt/optimizers/adafactor.py computes, with its bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from ...arithmetic.rules import DescendScalars, descend
from ..table import AdafactorScalars, HyperRow
from . import numba_cuda
from .arrays import DeviceArray, compute_dtype, in_memory_order, slot_like
from .axes import CHUNKS_A_BLOCK, THREADS, WORDS, Units
from .cuda_kernels import Options, Row, Stages, plain_kernel, regularized_grad, sources, stages_of, traced
from .numba_cuda import (
    CHUNK,
    ITEM_SIZES,
    LANES,
    ROW_HEAD,
    TRACED,
    Work,
    apply,
    named_by,
    number_like,
    offset_of,
    put,
    real,
    times,
    words,
)
from .table import CudaTable

#: The words (int64) beside an array's row of units: where their means are kept; where those of its columns are (0: it
#: has fewer than two axes), how many rows and columns a matrix has, and the first of its matrices among those of all.
BESIDE = 5


class Means:
    """The means of squares of some arrays of a table: of rows (``axis`` -1), or of columns (-2).

    In arrays of fewer than two axes each element is a row.
    """

    def __init__(self, table: CudaTable, slots: Sequence[Sequence[DeviceArray]], axis: int, stream: Any) -> None:
        numbers = [i for launch in table.launches for i in launch.indices.tolist()]
        ndims = {i: table.params[i].ndim for i in numbers}
        axes = {i: (ndim + axis,) if ndim > 1 else () for i, ndim in ndims.items() if ndim > 1 or axis == -1}
        self.units = Units(table, axes, stream)
        self.beside: list[Any] = []
        #: Where the rows of each matrix are among the chunks, and how many.
        self.spans: list[tuple[int, int]] = []
        for part in self.units.parts:
            beside = [self.beside_of(i, table.params[i].shape, slots[i], axis) for i in part.numbers]
            self.beside.append(numba_cuda.uploaded(np.array(beside, np.int64), None, stream))

    def beside_of(self, i: int, shape: tuple[int, ...], slots: Sequence[DeviceArray], axis: int) -> list[int]:
        if len(shape) < 2:
            return [slots[0].address, 0, 1, 1, 0]
        rows, columns = shape[-2:]
        first, first_matrix = self.units.first_chunks[i], len(self.spans)
        self.spans += [(first + k * rows, rows) for k in range(math.prod(shape[:-2]))]
        row_var, col_var = (slot.address for slot in slots)
        return [row_var if axis == -1 else col_var, col_var, rows, columns, first_matrix]

    def follow(
        self,
        table: CudaTable,
        hyper_rows: Sequence[HyperRow],
        numbers: Sequence[AdafactorScalars],
        guard: int,
        stream: Any,
    ) -> None:
        """Bring the means up to date; the new ones replace the first chunks too."""
        self.units.add_squares(table, hyper_rows, stream, "grad")
        partials = numba_cuda.address(self.units.partials)
        for part, beside in zip(self.units.parts, self.beside, strict=True):
            launch = table.launches[part.launch]
            dtype = compute_dtype(launch.dtypes.param)
            like, weight = numba_cuda.NUMPY_DTYPES[dtype](0), numbers[launch.row].weight
            where = *part.addresses(), beside.address, partials, guard
            args = like, ITEM_SIZES[dtype], float(weight), float(1.0 - weight), *where
            kernel = own_kernel(table.device, approach, dtype)
            numba_cuda.launch(kernel, part.blocks, CHUNKS_A_BLOCK, stream, *args)


class Factored:
    """Adafactor's step for the arrays of a table, whose only slot becomes the direction."""

    def __init__(self, table: CudaTable, slots: Sequence[Sequence[DeviceArray]]) -> None:
        """``slots``: of each array ``row_var`` and ``col_var``, or ``variance``."""
        self.slots = slots
        table.slots = [[in_memory_order(slot_like(p, 0.0, compute_dtype(p.dtype)))] for p in table.params]
        self.planned: Any = None

    def step(self, table: CudaTable, hyper_rows: Sequence[HyperRow], numbers: Sequence[AdafactorScalars]) -> None:
        with table.in_stream() as stream:
            if table.planned is not self.planned:
                self.lay_out(table, stream)
            guard = numba_cuda.address(table.guards) if table.is_guarded else 0
            for means in (self.rows, self.columns):
                means.follow(table, hyper_rows, numbers, guard, stream)
            if self.rows.spans:
                sums = self.rows.units.partials, self.matrices
                args = self.spans.address, *map(numba_cuda.address, sums)
                kernel = plain_kernel(table.device, numba_cuda.sums)
                numba_cuda.launch(kernel, len(self.rows.spans), numba_cuda.THREADS, stream, *args)
            self.make_directions(table, hyper_rows, numbers, stream)
            table.add_squares(hyper_rows, stream, "param", table.param_sums)
            table.add_squares(hyper_rows, stream, 0)
            self.make_rates(table, numbers, stream)
        table.scaled = [("step_size",)] * len(hyper_rows)
        table.step([hyper._replace(rule=descend, scalars=DescendScalars(0.0)) for hyper in hyper_rows])

    def lay_out(self, table: CudaTable, stream: Any) -> None:
        self.rows, self.columns = (Means(table, self.slots, axis, stream) for axis in (-1, -2))
        self.matrices = numba_cuda.empty(len(self.rows.spans), "float64")
        if self.rows.spans:
            self.spans = numba_cuda.uploaded(np.array(self.rows.spans, np.int64), None, stream)
        self.planned = table.planned

    def make_directions(
        self, table: CudaTable, hyper_rows: Sequence[HyperRow], numbers: Sequence[AdafactorScalars], stream: Any
    ) -> None:
        matrices = numba_cuda.address(self.matrices)
        for part, beside in zip(self.rows.units.parts, self.rows.beside, strict=True):
            launch = table.launches[part.launch]
            hyper, dtype = hyper_rows[launch.row], compute_dtype(launch.dtypes.param)
            eps1 = numbers[launch.row].eps1
            eps1 = float(np.finfo(dtype).eps) if eps1 is None else eps1
            floor = numba_cuda.NUMPY_DTYPES[dtype](eps1 * eps1)
            options = table.options_of(launch, hyper, "grad")
            kernel = directions_kernel(table.device, options, launch.dtypes)
            where = *part.addresses(), beside.address, matrices
            args = table.work(launch, hyper), stages_of(hyper, dtype), floor, float(eps1), *where
            numba_cuda.launch(kernel, part.blocks, THREADS, stream, *args)

    def make_rates(self, table: CudaTable, numbers: Sequence[AdafactorScalars], stream: Any) -> None:
        places = table.param_sums, table.sums, table.rates["float64"], table.rates["float32"]
        for launch in table.launches:
            _, _, eps2, rate, d = numbers[launch.row]
            count, options = len(launch.indices), (float(eps2), float(rate), float(d))
            where = launch.table.address, launch.table.array.shape[1], count
            args = *where, *options, *map(numba_cuda.address, places)
            blocks = -(-count // numba_cuda.THREADS)
            numba_cuda.launch(own_kernel(table.device, rates), blocks, numba_cuda.THREADS, stream, *args)


def direction_of(options: Options, dtypes: Row) -> Callable[..., Sequence[Any]]:
    """Return what makes the direction of an element from the means of its row, its column and its matrix."""
    nothing = dtypes.nothing()

    def direct(factors: Any, stages: Any, h: Any, place: Any, *values: Any) -> Sequence[Any]:
        g = regularized_grad(options, factors, stages, dtypes.like(values))
        of_row, of_column, of_matrix, floor = h
        v = np.divide(np.multiply(of_row, of_column), of_matrix)
        return dtypes.of(nothing._replace(slots=(g / np.sqrt(np.maximum(v, floor)),)))

    return direct


# The kernels.


def approach(
    like: float,
    item_size: int,
    weight: float,
    rest: float,
    rows: int,
    entries: int,
    beside: int,
    partials: int,
    guard: int,
) -> None:
    """Move each unit's mean towards that of this step, unless the guard is set: a thread for each first chunk."""
    entry = words(entries + 8 * cuda.blockIdx.x, 1)[0]
    _, _, units, size, first = words(rows + (entry >> 32) * (8 * WORDS), 5)
    unit = (entry & 0xFFFFFFFF) * CHUNKS_A_BLOCK + cuda.threadIdx.x
    if unit < units:
        total = 0.0
        for position in range(unit, units * ((size + CHUNK - 1) // CHUNK), units):
            total += real(total, partials + 8 * (first + position))
        at = words(beside + (entry >> 32) * (8 * BESIDE), 1)[0] + item_size * unit
        mean = number_like(like, times(rest, number_like(total, real(like, at))) + times(weight, total / size))
        if guard == 0 or words(guard, 1)[0] == 0:
            put(at, mean)
        put(partials + 8 * (first + unit), number_like(total, mean))


def directions_function(key: str) -> Callable[..., None]:
    """Return the kernel that makes all directions, of the units that are rows."""
    row_words, item_size = ROW_HEAD + len(TRACED[key].dtypes), ITEM_SIZES[TRACED[key].computed]

    def directions(
        work: Work, stages: Any, floor: float, eps1: float, rows: int, entries: int, beside: int, matrices: int
    ) -> None:
        entry = words(entries + 8 * cuda.blockIdx.x, 1)[0]
        table_row, _, units, size, _, _, is_side_by_side, steps, kept, added = words(
            rows + (entry >> 32) * (8 * WORDS), WORDS
        )
        of_rows, of_columns, row_count, columns, first_matrix = words(beside + (entry >> 32) * (8 * BESIDE), BESIDE)
        place, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
        if is_side_by_side != 0:
            place, lane = cuda.threadIdx.x % CHUNKS_A_BLOCK, cuda.threadIdx.x // CHUNKS_A_BLOCK
        position = (entry & 0xFFFFFFFF) * CHUNKS_A_BLOCK + place
        chunk = position // units
        unit = position - chunk * units
        if chunk * CHUNK < size:
            row = words(work.table + table_row * (8 * row_words), row_words)
            number = row[2] * item_size
            factors = (
                real(floor, work.clips + number),
                real(floor, work.global_clip),
                real(floor, work.rates + number),
            )
            begin = offset_of(unit, steps, kept)
            of_row, of_column, of_matrix = real(floor, of_rows + item_size * unit), 1.0, 1.0
            matrix = unit // row_count
            if of_columns != 0:
                of_matrix = real(0.0, matrices + 8 * (first_matrix + matrix)) / row_count
                if of_matrix < eps1:
                    of_matrix = eps1
            for i in range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, size), LANES):
                if of_columns != 0:
                    of_column = number_like(eps1, real(floor, of_columns + item_size * (matrix * columns + i)))
                h = (of_row, number_like(floor, of_column), number_like(floor, of_matrix), floor)
                apply(key, 1, work, row, begin + offset_of(i, steps + 16 * kept, added), factors, stages, h)

    return named_by(directions, key)


def rates(
    table: int,
    row_words: int,
    count: int,
    eps2: float,
    rate: float,
    d: float,
    param_sums: int,
    direction_sums: int,
    rates64: int,
    rates32: int,
) -> None:
    """Set the step size of each array of a launch."""
    i = cuda.blockIdx.x * numba_cuda.THREADS + cuda.threadIdx.x
    if i < count:
        size, _, number = words(table + 8 * i * row_words, 3)
        scale = math.sqrt(real(0.0, param_sums + 8 * number) / size)
        excess = math.sqrt(real(0.0, direction_sums + 8 * number) / size) / d
        step_size = (scale if scale > eps2 else eps2) * rate / (excess if excess > 1.0 else 1.0)
        put(rates64 + 8 * number, step_size)
        put(rates32 + 4 * number, number_like(np.float32(0.0), step_size))


def directions_key(options: Options, dtypes: Row) -> str:
    key = f"directions {dtypes} {options} {sources(direction_of)} {sources(regularized_grad)}"
    return traced(key, direction_of(options, dtypes), options, dtypes)


def directions_signature(dtype: str) -> Any:
    i64, f64, real_ = types.int64, types.float64, getattr(types, dtype)
    named = numba_cuda.named_type("int64", Work), numba_cuda.named_type(dtype, Stages)
    return types.void(*named, real_, f64, i64, i64, i64, i64)


def own_signature(kernel: Callable[..., None], dtype: str) -> Any:
    i64, f64 = types.int64, types.float64
    return {
        approach: types.void(getattr(types, dtype), i64, f64, f64, *[i64] * 5),
        rates: types.void(i64, i64, i64, f64, f64, f64, *[i64] * 4),
    }[kernel]


@cache
def directions_kernel(device: int, options: Options, dtypes: Row) -> Any:
    kernel = directions_function(directions_key(options, dtypes))
    return numba_cuda.compiled(kernel, directions_signature(compute_dtype(dtypes.param)), None)


@cache
def own_kernel(device: int, kernel: Callable[..., None], dtype: str = "float64") -> Any:
    return numba_cuda.compiled(kernel, own_signature(kernel, dtype), None)
