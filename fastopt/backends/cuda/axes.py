"""Sums of squares over axes of arrays on a GPU, in the order of lanes.py; max-norm regularisation, which needs them.

A unit is what one sum is of: the elements at one place of the axes that are kept. All units of the arrays of a launch
are added at once, by LANES threads for each chunk of a unit. Threads beside each other read what lies side by side: the
elements of a unit, or those of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import cuda
from numba.cuda import types

from ..table import HyperRow, Source
from . import numba_cuda
from .arrays import DeviceArray, compute_dtype
from .cuda_kernels import Options, Row, Stages, products_key, stages_of
from .numba_cuda import (
    CHUNK,
    ITEM_SIZES,
    LANES,
    ROW_HEAD,
    TRACED,
    Work,
    named_by,
    offset_of,
    product,
    put,
    real,
    times,
    words,
)

if TYPE_CHECKING:
    from .table import CudaTable

#: Chunks of units that a block of threads adds, and its threads.
CHUNKS_A_BLOCK = numba_cuda.CHUNKS_A_BLOCK
THREADS = CHUNKS_A_BLOCK * LANES

#: The words (int64) of an array's row: its place in its launch's table; its parameter's address; how many units it has,
#: of how many elements; the first of its chunks and of its units among those of all arrays; whether units lie side by
#: side; where the lengths and steps of its axes are, how many of those that are kept, and of those behind, the others.
WORDS = 10


class Part(NamedTuple):
    """The units of a launch. An entry (row << 32 | block) says what a block of threads works on."""

    launch: int
    numbers: list[int]
    steps: Any
    rows: Any
    entries: Any
    blocks: int

    def addresses(self) -> tuple[int, int]:
        return self.rows.address, self.entries.address


class Units:
    """The units of some arrays of a table, and their sums."""

    def __init__(self, table: CudaTable, axes: Mapping[int, tuple[int, ...]], stream: Any) -> None:
        """``axes``: for the number of an array the axes that are added, ascending."""
        self.parts: list[Part] = []
        #: For the number of an array the first of its chunks, and how many chunks and units there are in all.
        self.first_chunks: dict[int, int] = {}
        self.chunks = self.count = 0
        for k, launch in enumerate(table.launches):
            places = [(place, i) for place, i in enumerate(launch.indices.tolist()) if i in axes]
            if places:
                self.parts.append(self.part(k, places, table.params, axes, stream))
        self.partials = numba_cuda.empty(self.chunks, "float64")

    def part(
        self,
        launch: int,
        places: Sequence[tuple[int, int]],
        params: Sequence[DeviceArray],
        axes: Mapping[int, tuple[int, ...]],
        stream: Any,
    ) -> Part:
        rows: list[list[int]] = []
        entries: list[Any] = []
        steps: list[tuple[int, int]] = []
        for place, i in places:
            kept, added = steps_of(params[i], axes[i])
            count, size = (math.prod(length for length, _ in each) for each in (kept, added))
            chunks = count * -(-size // CHUNK)
            self.first_chunks[i] = self.chunks
            is_side_by_side = kept[0][1] == 1
            entries.append(len(rows) << 32 | np.arange(-(-chunks // CHUNKS_A_BLOCK)))
            numbers = place, params[i].address, count, size, self.chunks, self.count, is_side_by_side
            rows.append([*numbers, 16 * len(steps), len(kept), len(added)])
            steps += kept + added
            self.chunks, self.count = self.chunks + chunks, self.count + count
        steps_there = numba_cuda.uploaded(np.array(steps, np.int64), None, stream)
        words_of_rows = np.array(rows, np.int64)
        words_of_rows[:, 7] += steps_there.address
        all_entries = np.concatenate(entries)
        rows_there = numba_cuda.uploaded(words_of_rows, None, stream)
        entries_there = numba_cuda.uploaded(all_entries, None, stream)
        return Part(launch, [i for _, i in places], steps_there, rows_there, entries_there, len(all_entries))

    def add_squares(
        self, table: CudaTable, hyper_rows: Sequence[HyperRow], stream: Any, source: Source = "param"
    ) -> None:
        """Put the sums of a source's squares into ``partials``: for each array chunk by chunk, of all units."""
        for part in self.parts:
            launch = table.launches[part.launch]
            hyper = hyper_rows[launch.row]
            options = table.options_of(launch, hyper, source)
            kernel = squares_kernel(table.device, source, options, launch.dtypes)
            work, stages = table.work(launch, hyper), stages_of(hyper, compute_dtype(launch.dtypes.param))
            args = work, stages, *part.addresses(), numba_cuda.address(self.partials)
            numba_cuda.launch(kernel, part.blocks, THREADS, stream, *args)


class HeldNorms:
    """The units whose norms are held to limits."""

    def __init__(self, table: CudaTable, axes: Mapping[int, tuple[int, ...]], stream: Any) -> None:
        self.units = Units(table, axes, stream)
        self.factors = {dtype: numba_cuda.empty(self.units.count, dtype) for dtype in ("float64", "float32")}
        self.limits: list[Any] = [None] * len(self.units.parts)
        self.last_limits: Mapping[int, float] = {}

    def hold(self, table: CudaTable, hyper_rows: Sequence[HyperRow], limits: Mapping[int, float], stream: Any) -> None:
        """Multiply the units whose norm is above their array's limit by limit / norm, as core/max_norm.py does."""
        if limits != self.last_limits:
            for k, part in enumerate(self.units.parts):
                values = np.array([limits[i] for i in part.numbers])
                self.limits[k] = numba_cuda.uploaded(values, self.limits[k], stream)
            self.last_limits = dict(limits)
        self.units.add_squares(table, hyper_rows, stream)
        guard = numba_cuda.address(table.guards) if table.is_guarded else 0
        partials, factors64, factors32 = map(numba_cuda.address, (self.units.partials, *self.factors.values()))
        for part, part_limits in zip(self.units.parts, self.limits, strict=True):
            where, blocks = part.addresses(), part.blocks
            args = *where, partials, part_limits.address, factors64, factors32
            numba_cuda.launch(plain_kernel(table.device, norm_factors), blocks, CHUNKS_A_BLOCK, stream, *args)
            dtype = compute_dtype(table.launches[part.launch].dtypes.param)
            factors, like = numba_cuda.address(self.factors[dtype]), numba_cuda.NUMPY_DTYPES[dtype](0)
            kernel = plain_kernel(table.device, shrink, dtype)
            numba_cuda.launch(kernel, blocks, THREADS, stream, like, ITEM_SIZES[dtype], *where, factors, guard)


def steps_of(array: DeviceArray, axes: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return lengths and steps of the axes that are kept, and of these; of each the last axis first."""
    by_step = range(array.ndim)[::-1] if array.flags.c_contiguous else range(array.ndim)
    strides = dict.fromkeys(by_step, 1)
    step = 1
    for axis in by_step:
        strides[axis] = step
        step *= array.shape[axis]
    kept = [axis for axis in range(array.ndim)[::-1] if axis not in axes]
    return joined(array.shape, strides, kept), joined(array.shape, strides, axes[::-1])


def joined(shape: Sequence[int], strides: Mapping[int, int], axes: Sequence[int]) -> list[tuple[int, int]]:
    """Return lengths and steps of axes; those of which the next one goes on where the one before it ends are one."""
    found: list[tuple[int, int]] = []
    for axis in axes:
        length, step = shape[axis], strides[axis]
        if found and step == found[-1][0] * found[-1][1]:
            found[-1] = found[-1][0] * length, found[-1][1]
        elif length > 1:
            found.append((length, step))
    return found or [(1, 0)]


# The kernels.


def squares_function(key: str) -> Callable[..., None]:
    """Return the kernel of the chunks' sums of squares: running sums, folded in halves, as lanes.py does."""
    row_words, item_size = ROW_HEAD + len(TRACED[key].dtypes), ITEM_SIZES[TRACED[key].computed]

    def unit_squares(work: Work, stages: Any, rows: int, entries: int, partials: int) -> None:
        folded = cuda.shared.array((CHUNKS_A_BLOCK, LANES), types.float64)
        entry = words(entries + 8 * cuda.blockIdx.x, 1)[0]
        table_row, _, units, size, first, _, is_side_by_side, steps, kept, added = words(
            rows + (entry >> 32) * (8 * WORDS), WORDS
        )
        place, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
        if is_side_by_side != 0:
            place, lane = cuda.threadIdx.x % CHUNKS_A_BLOCK, cuda.threadIdx.x // CHUNKS_A_BLOCK
        position = (entry & 0xFFFFFFFF) * CHUNKS_A_BLOCK + place
        chunk = position // units
        begin = offset_of(position - chunk * units, steps, kept)
        row = words(work.table + table_row * (8 * row_words), row_words)
        like, number = stages.scale, row[2] * item_size
        factors = (real(like, work.clips + number), real(like, work.global_clip), real(like, work.rates + number))
        total = 0.0
        for i in range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, size), LANES):
            index = begin + offset_of(i, steps + 16 * kept, added)
            total += product(key, work, row, index, factors, stages)[0]
        folded[place, lane] = total
        cuda.syncthreads()
        half = LANES >> 1
        while half > 0:
            if lane < half:
                folded[place, lane] += folded[place, lane + half]
            cuda.syncthreads()
            half >>= 1
        if lane == 0 and chunk * CHUNK < size:
            put(partials + 8 * (first + position), folded[place, 0])

    return named_by(unit_squares, key)


def norm_factors(rows: int, entries: int, partials: int, limits: int, factors64: int, factors32: int) -> None:
    """Set each unit's factor, 1 or limit / norm, in both dtypes: a thread for each of the first chunks of units."""
    entry = words(entries + 8 * cuda.blockIdx.x, 1)[0]
    row = entry >> 32
    _, _, units, size, first, first_unit = words(rows + row * (8 * WORDS), 6)
    unit = (entry & 0xFFFFFFFF) * CHUNKS_A_BLOCK + cuda.threadIdx.x
    if unit < units:
        total = 0.0
        for position in range(unit, units * ((size + CHUNK - 1) // CHUNK), units):
            total += real(total, partials + 8 * (first + position))
        norm, limit, factor = math.sqrt(total), real(total, limits + 8 * row), 1.0
        if norm > limit:
            factor = limit / norm
        put(factors64 + 8 * (first_unit + unit), factor)
        put(factors32 + 4 * (first_unit + unit), np.float32(factor))


def shrink(like: float, item_size: int, rows: int, entries: int, factors: int, guard: int) -> None:
    """Multiply each unit by its factor, unless the guard is set; ``like`` is of their dtype."""
    if guard != 0 and words(guard, 1)[0] != 0:
        return
    entry = words(entries + 8 * cuda.blockIdx.x, 1)[0]
    _, param, units, size, _, first_unit, is_side_by_side, steps, kept, added = words(
        rows + (entry >> 32) * (8 * WORDS), WORDS
    )
    place, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    if is_side_by_side != 0:
        place, lane = cuda.threadIdx.x % CHUNKS_A_BLOCK, cuda.threadIdx.x // CHUNKS_A_BLOCK
    position = (entry & 0xFFFFFFFF) * CHUNKS_A_BLOCK + place
    chunk = position // units
    unit = position - chunk * units
    if chunk * CHUNK < size:
        factor = real(like, factors + item_size * (first_unit + unit))
        if factor != 1.0:
            begin = offset_of(unit, steps, kept)
            for i in range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, size), LANES):
                at = param + item_size * (begin + offset_of(i, steps + 16 * kept, added))
                put(at, times(real(like, at), factor))


def squares_signature(dtype: str) -> Any:
    i64 = types.int64
    return types.void(numba_cuda.named_type("int64", Work), numba_cuda.named_type(dtype, Stages), i64, i64, i64)


def plain_signature(kernel: Callable[..., None], dtype: str) -> Any:
    i64 = types.int64
    return {
        norm_factors: types.void(*[i64] * 6),
        shrink: types.void(getattr(types, dtype), *[i64] * 5),
    }[kernel]


@cache
def squares_kernel(device: int, source: Source, options: Options, dtypes: Row) -> Any:
    dtype = compute_dtype(dtypes.param)
    kernel = squares_function(products_key(source, source, options, dtypes))
    return numba_cuda.compiled(kernel, squares_signature(dtype), None)


@cache
def plain_kernel(device: int, kernel: Callable[..., None], dtype: str = "float64") -> Any:
    return numba_cuda.compiled(kernel, plain_signature(kernel, dtype), None)
