"""The kernels of sums, over arrays and over units; and those that use units: limits of norms, Adafactor's means.

A chunk has LANES running sums, which are folded in halves; chunks are added in index order, as in every backend. A unit
is the elements that one sum adds up: those at one place of the axes that are not added. Neighbouring threads read
neighbouring memory: the elements of a unit, or those of several units.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import cuda
from numba.cuda import types

from ...arithmetic.pipeline import StageScalars
from ..table import Source
from .compiling import F64, I64, WORK, Definition, kernel, launch_bounds, real_type, tuple_type
from .device_code import (
    apply,
    block_in,
    device_function,
    entry_at,
    factors_of,
    is_set,
    number_like,
    offset_of,
    product,
    put,
    real,
    row_at,
    row_in,
    set_both,
    times,
    words,
)
from .elements import KernelOptions, direction_of, product_of, register
from .layout import (
    CHUNK,
    CHUNKS_PER_BLOCK,
    FIRST_CHUNK,
    ITEM_SIZES,
    LANES,
    LENGTH,
    SUM_TILE,
    THREADS,
    ArrayLayout,
    Work,
)

#: Threads of a block that adds squares of units.
UNIT_THREADS = CHUNKS_PER_BLOCK * LANES


class UnitRow(NamedTuple):
    """The words (int64) of an array's row."""

    #: Its place in the table of its launch.
    place: int
    param: int
    #: How many units it has, and of how many elements.
    units: int
    size: int
    #: The first of its chunks, and of its units, among those of all arrays.
    first_chunk: int
    first_unit: int
    is_side_by_side: int
    #: The address of the lengths and steps of its axes; how many of them count units, and how many elements of a unit.
    steps: int
    unit_axes: int
    sum_axes: int


class MeanRow(NamedTuple):
    """The words (int64) beside an array's UnitRow, for Adafactor."""

    means: int
    #: The address of the means of its columns; 0: it has fewer than two axes.
    column_means: int
    #: The numbers of rows and columns of each matrix.
    rows: int
    columns: int
    #: The first of its matrices among those of all arrays.
    first_matrix: int


UNIT_WORDS, MEAN_WORDS = len(UnitRow._fields), len(MeanRow._fields)


class UnitChunk(NamedTuple):
    """The part of a unit that a thread works on: every LANES-th element of a chunk."""

    place: int
    lane: int
    position: int
    chunk: int
    unit: int


# Parts of kernels.


@device_function
def unit_row(rows: int, array: int) -> UnitRow:
    return UnitRow(*words(rows + array * (8 * UNIT_WORDS), UNIT_WORDS))


@device_function
def unit_chunk(row: UnitRow, block: int) -> UnitChunk:
    place, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    if row.is_side_by_side != 0:
        place, lane = cuda.threadIdx.x % CHUNKS_PER_BLOCK, cuda.threadIdx.x // CHUNKS_PER_BLOCK
    position = block * CHUNKS_PER_BLOCK + place
    chunk = position // row.units
    return UnitChunk(place, lane, position, chunk, position - chunk * row.units)


@device_function
def first_of(row: UnitRow, unit: int) -> int:
    """Return the index of a unit's first element."""
    return offset_of(unit, row.steps, row.unit_axes)


@device_function
def offset_in_unit(row: UnitRow, i: int) -> int:
    """Return how far the element of this number lies behind the first of its unit."""
    return offset_of(i, row.steps + 16 * row.unit_axes, row.sum_axes)


@device_function
def lane_of_chunk(chunk: int, lane: int, size: int) -> Any:
    """Return the numbers of the elements that a lane of a chunk adds."""
    return range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, size), LANES)


@device_function
def unit_total(row: UnitRow, unit: int, partials: int) -> float:
    """Return the sum of a unit: its chunks' sums, added in index order."""
    total = 0.0
    for position in range(unit, row.units * ((row.size + CHUNK - 1) // CHUNK), row.units):
        total += real(total, partials + 8 * (row.first_chunk + position))
    return total


@device_function
def fold_lanes(place: int, lane: int, totals: Any, counts: Any) -> None:
    """Fold the running sums of a chunk in halves, as csrc/pipeline_template.h does, and the counts if there are any."""
    half = LANES >> 1
    while half > 0:
        if lane < half:
            totals[place, lane] += totals[place, lane + half]
            if counts is not None:
                counts[place, lane] += counts[place, lane + half]
        cuda.syncthreads()
        half >>= 1


# The kernels over arrays.


def product_key(left: Source, right: Source, options: KernelOptions, layout: ArrayLayout) -> str:
    key = f"{left} times {right} {layout} {options}"
    return register(key, product_of(left, right, options, layout), layout)


def products_kernel(left: Source, right: Source, options: KernelOptions, layout: ArrayLayout) -> Definition:
    """Return the kernel of a chunk's sum of products: LANES running sums, folded in halves (csrc/pipeline_template.h).

    It also counts the elements that are not finite, if the function returns a third number.
    """
    key, dtype, row_words = product_key(left, right, options, layout), layout.compute_dtype, layout.row_words
    item_size = ITEM_SIZES[dtype]

    @kernel(WORK, I64, tuple_type(dtype, StageScalars), I64, I64, key=key, bounds=launch_bounds(dtype))
    def products(work: Work, count: int, scalars: Any, partials: int, partial_counts: int) -> None:
        folded = cuda.shared.array((CHUNKS_PER_BLOCK, LANES), types.float64)
        counts = cuda.shared.array((CHUNKS_PER_BLOCK, LANES), types.int64)
        lane, place = cuda.threadIdx.x, cuda.threadIdx.y
        position = cuda.blockIdx.x * CHUNKS_PER_BLOCK + place
        total, nonfinite, target = 0.0, 0, 0
        if position < count:
            entry = entry_at(work.chunks, position)
            chunk = block_in(entry)
            row = row_at(work.table, row_in(entry), row_words)
            target = 8 * (row[FIRST_CHUNK] + chunk)
            factors = factors_of(work, scalars.grad_scale, row, item_size)
            for i in lane_of_chunk(chunk, lane, row[LENGTH]):
                number, is_bad = product(key, work, row, i, factors, scalars)
                total += number
                nonfinite += is_bad
        folded[place, lane] = total
        counts[place, lane] = nonfinite
        cuda.syncthreads()
        fold_lanes(place, lane, folded, counts)
        if lane == 0 and position < count:
            put(partials + target, folded[place, 0])
            put(partial_counts + target, float(counts[place, 0]))

    return products


@kernel(I64, I64, I64)
def sums(spans: int, partials: int, sums: int) -> None:
    """Add each array's partial sums in index order, as every backend does: one block for each array."""
    tile = cuda.shared.array(SUM_TILE, types.float64)
    first, count = words(spans + 16 * cuda.blockIdx.x, 2)
    total = 0.0
    for begin in range(0, count, SUM_TILE):
        size = min(SUM_TILE, count - begin)
        for i in range(cuda.threadIdx.x, size, THREADS):
            tile[i] = real(total, partials + 8 * (first + begin + i))
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for i in range(size):
                total += tile[i]
        cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        put(sums + 8 * cuda.blockIdx.x, total)


# The kernels over units.


def squares_kernel(source: Source, options: KernelOptions, layout: ArrayLayout) -> Definition:
    """Return the kernel of the chunks' sums of squares: running sums, folded in halves, as lanes.py does."""
    key, dtype, row_words = product_key(source, source, options, layout), layout.compute_dtype, layout.row_words
    item_size = ITEM_SIZES[dtype]

    @kernel(WORK, tuple_type(dtype, StageScalars), I64, I64, I64, key=key)
    def unit_squares(work: Work, scalars: Any, rows: int, entries: int, partials: int) -> None:
        folded = cuda.shared.array((CHUNKS_PER_BLOCK, LANES), types.float64)
        entry = entry_at(entries, cuda.blockIdx.x)
        unit_of = unit_row(rows, row_in(entry))
        part = unit_chunk(unit_of, block_in(entry))
        begin = first_of(unit_of, part.unit)
        row = row_at(work.table, unit_of.place, row_words)
        factors = factors_of(work, scalars.grad_scale, row, item_size)
        total = 0.0
        for i in lane_of_chunk(part.chunk, part.lane, unit_of.size):
            index = begin + offset_in_unit(unit_of, i)
            total += product(key, work, row, index, factors, scalars)[0]
        folded[part.place, part.lane] = total
        cuda.syncthreads()
        fold_lanes(part.place, part.lane, folded, None)
        if part.lane == 0 and part.chunk * CHUNK < unit_of.size:
            put(partials + 8 * (unit_of.first_chunk + part.position), folded[part.place, 0])

    return unit_squares


@kernel(*[I64] * 6)
def norm_factors(rows: int, entries: int, partials: int, limits: int, factors64: int, factors32: int) -> None:
    """Set each unit's factor, 1 or limit / norm, in both dtypes: a thread for each of the first chunks of units."""
    entry = entry_at(entries, cuda.blockIdx.x)
    row = unit_row(rows, row_in(entry))
    unit = block_in(entry) * CHUNKS_PER_BLOCK + cuda.threadIdx.x
    if unit < row.units:
        norm, limit, factor = math.sqrt(unit_total(row, unit, partials)), real(0.0, limits + 8 * row_in(entry)), 1.0
        if norm > limit:
            factor = limit / norm
        set_both(factors64, factors32, row.first_unit + unit, factor)


def shrink_kernel(dtype: str) -> Definition:
    @kernel(real_type(dtype), *[I64] * 5, key=dtype)
    def shrink(like: float, item_size: int, rows: int, entries: int, factors: int, guard: int) -> None:
        """Multiply each unit by its factor, unless the guard is set; ``like`` is of their dtype."""
        if is_set(guard):
            return
        entry = entry_at(entries, cuda.blockIdx.x)
        row = unit_row(rows, row_in(entry))
        part = unit_chunk(row, block_in(entry))
        if part.chunk * CHUNK < row.size:
            factor = real(like, factors + item_size * (row.first_unit + part.unit))
            if factor != 1.0:
                begin = first_of(row, part.unit)
                for i in lane_of_chunk(part.chunk, part.lane, row.size):
                    at = row.param + item_size * (begin + offset_in_unit(row, i))
                    put(at, times(real(like, at), factor))

    return shrink


def means_kernel(dtype: str) -> Definition:
    @kernel(real_type(dtype), I64, F64, F64, *[I64] * 5, key=dtype)
    def approach(
        like: float,
        item_size: int,
        weight: float,
        rest: float,
        rows: int,
        entries: int,
        mean_rows: int,
        partials: int,
        guard: int,
    ) -> None:
        """Move each unit's mean towards that of this step, unless the guard is set: a thread for each first chunk.

        The new means replace the first chunks' sums too.
        """
        entry = entry_at(entries, cuda.blockIdx.x)
        row = unit_row(rows, row_in(entry))
        unit = block_in(entry) * CHUNKS_PER_BLOCK + cuda.threadIdx.x
        if unit < row.units:
            total = unit_total(row, unit, partials)
            at = words(mean_rows + row_in(entry) * (8 * MEAN_WORDS), 1)[0] + item_size * unit
            mean = number_like(like, times(rest, number_like(total, real(like, at))) + times(weight, total / row.size))
            if not is_set(guard):
                put(at, mean)
            put(partials + 8 * (row.first_chunk + unit), number_like(total, mean))

    return approach


def directions_kernel(options: KernelOptions, layout: ArrayLayout) -> Definition:
    """Return the kernel that makes all of Adafactor's directions, of the units that are rows."""
    key = register(f"directions {layout} {options}", direction_of(options, layout), layout)
    dtype, row_words, item_size = layout.compute_dtype, layout.row_words, ITEM_SIZES[layout.compute_dtype]

    @kernel(WORK, tuple_type(dtype, StageScalars), real_type(dtype), F64, *[I64] * 4, key=key)
    def directions(
        work: Work, scalars: Any, floor: float, eps1: float, rows: int, entries: int, mean_rows: int, matrices: int
    ) -> None:
        entry = entry_at(entries, cuda.blockIdx.x)
        unit_of = unit_row(rows, row_in(entry))
        means = MeanRow(*words(mean_rows + row_in(entry) * (8 * MEAN_WORDS), MEAN_WORDS))
        part = unit_chunk(unit_of, block_in(entry))
        if part.chunk * CHUNK < unit_of.size:
            row = row_at(work.table, unit_of.place, row_words)
            factors = factors_of(work, floor, row, item_size)
            begin = first_of(unit_of, part.unit)
            of_row, of_column, of_matrix = real(floor, means.means + item_size * part.unit), 1.0, 1.0
            matrix = part.unit // means.rows
            if means.column_means != 0:
                of_matrix = real(0.0, matrices + 8 * (means.first_matrix + matrix)) / means.rows
                if of_matrix < eps1:
                    of_matrix = eps1
            for i in lane_of_chunk(part.chunk, part.lane, unit_of.size):
                if means.column_means != 0:
                    of_column = number_like(
                        eps1, real(floor, means.column_means + item_size * (matrix * means.columns + i))
                    )
                h = (of_row, number_like(floor, of_column), number_like(floor, of_matrix), floor)
                index = begin + offset_in_unit(unit_of, i)
                apply(key, 1, work, row, index, factors, scalars, h)

    return directions
