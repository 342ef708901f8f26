"""The NumPy backend: the rules of arithmetic/rules.py, block by block, with the bits of the native backend.

The stages around a rule and the rule itself are traced once into a list of NumPy calls (calls.py), which works in the
memory of the arrays and in a few buffers that are kept: what takes time is arithmetic, not new memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ...arithmetic import dither, halves, quantize, rules
from ...arithmetic.dither import PARAM_STREAM, random_bits
from ...arrays.dtypes import FLOAT64, Array, compute_dtype
from ...arrays.memory import address, are_like
from .. import threads
from ..table import ArrayExtras, HyperRow, Source
from .calls import Program
from .lanes import CHUNK, added, folded, rows_of_lanes
from .programs import (
    ACCUMULATED,
    GRAD,
    PARAM,
    ComputedRow,
    accumulate_program,
    computed_row,
    grad_program,
    step_program,
)
from .workers import buffers, results_of

#: From so many elements on a step has threads: before that, waking them takes longer than they save.
THREADED = 1 << 20

#: Bytes of a block of one array, on one thread and on several: little enough for the block's arrays to stay in the L2
#: (L3) cache, enough to make up for NumPy's calls (and for the waits for Python's lock between them).
BLOCK_BYTES, THREADED_BLOCK_BYTES = 1 << 18, 1 << 20

#: More would only wait for that lock.
MOST_THREADS = 8

#: Arrays of at most so many elements go through a pass together, many to a block; one chunk is also one partial sum.
SMALL = CHUNK

T = TypeVar("T")

#: Held while something is counted in an array that other threads may count in.
counting = Lock()


class Run(NamedTuple):
    """The elements of an array that are in a block."""

    array: int
    begin: int
    end: int


class Block:
    """What goes through a pass together: a run of one array, or small arrays of the same kind one after the other."""

    def __init__(self, table: NumpyTable, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.first = runs[0].array
        self.is_stored = table.is_stored[self.first]
        self.dtype = compute_dtype(table.params[self.first].dtype)
        self.sizes = [end - begin for _, begin, end in runs]
        self.size = sum(self.sizes)
        ends = np.cumsum(self.sizes).tolist()
        #: Where each run is among the block's elements.
        self.parts = [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]
        self.param = self.of(table.params)
        self.slots = [self.of(slot) for slot in table.slots if slot[self.first] is not None]
        self.average = self.of(table.averages)
        self.accumulated = self.of(table.accumulated)
        #: The number and size of the chunks of a sum, and the array that each chunk is of.
        if len(runs) == 1:
            whole, rest = divmod(self.size, CHUNK)
            self.chunks = [(count, size) for count, size in ((whole, CHUNK), (1, rest)) if count * size > 0]
            self.owners = np.full(whole + (rest > 0), self.first)
        else:
            self.chunks = [(len(list(equal)), size) for size, equal in groupby(self.sizes)]
            self.owners = np.array([run.array for run in runs])

    def of(self, arrays: Sequence[Any]) -> list[Array]:
        """Return the runs of these arrays; nothing where they are None."""
        return [arrays[i][begin:end] for i, begin, end in self.runs if arrays[i] is not None]

    def joined(self, views: Sequence[Array]) -> Array:
        """Return all elements in the dtype that is computed in: in their own memory where that can be."""
        if len(views) == 1 and views[0].dtype == self.dtype:
            return views[0]
        values = buffers.array(self.size, self.dtype)
        np.concatenate(views, out=values, casting="unsafe")
        return values

    def scatter(self, values: Array, views: Sequence[Array]) -> None:
        """Write back what :meth:`joined` returned."""
        if values is not views[0]:
            for view, part in zip(views, self.parts, strict=True):
                view[...] = values[part]


class NumpyTable:
    """The arrays of an optimizer, cut into blocks."""

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], extras: Sequence[ArrayExtras] | None = None
    ) -> None:
        self.params = [flat(param) for param in params]
        count = max(map(len, slots), default=0)
        #: By slot, then by array.
        self.slots = [[flat(its[k]) if k < len(its) else None for its in slots] for k in range(count)]
        extras = extras or [ArrayExtras()] * len(params)
        self.averages = [flat_or_none(each.average) for each in extras]
        self.accumulated = [flat_or_none(each.accumulated) for each in extras]
        self.copies = [flat_or_none(each.copy) for each in extras]
        self.scales = [each.scales for each in extras]
        self.is_stored = [
            any(array.dtype != compute_dtype(param.dtype) for array in (param, *array_slots))
            for param, array_slots in zip(params, slots, strict=True)
        ]
        self.grads: Sequence[Array | None] = [None] * len(params)
        self.row_numbers = np.zeros(len(params), np.int32)
        self.numbers = np.arange(len(params), dtype=np.int64)
        self.array_clip = np.ones(len(params))
        self.is_clipped = False
        self.nonfinite = np.zeros(len(params), np.int64)
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.present: list[bool] = []
        self.shapes = [param.shape for param in params]
        self.size = 0
        self.cut: list[Block] = []
        self.cut_for: tuple[bytes, int] | None = None

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.grads = [None if grad is None else flat(grad) for grad in grads]
        dtypes = [None if grad is None else grad.dtype for grad in grads]
        present = [grad is not None for grad in grads]
        if present != self.present or dtypes != self.grad_dtypes:
            self.grad_dtypes, self.present, self.cut_for = dtypes, present, None
            self.size = sum(grad.size for grad in grads if grad is not None)

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not are_like(grads, self.grad_dtypes, self.shapes, are_written):
            return False
        self.grads = [grad.reshape(-1) for grad in grads]
        return True

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.array([0 if grad is None else address(grad) for grad in self.grads], np.uintp)

    def is_current(self) -> bool:
        return True

    def threads(self) -> int:
        """Return how many threads a step has."""
        return min(threads.wanted(), MOST_THREADS) if self.size >= THREADED else 1

    def blocks(self) -> list[Block]:
        """Return the blocks of the arrays that have a gradient, cut anew where something of them has changed."""
        block_bytes = BLOCK_BYTES if self.threads() == 1 else THREADED_BLOCK_BYTES
        cut_for = self.row_numbers.tobytes(), block_bytes
        if cut_for != self.cut_for:
            self.cut, self.cut_for = [Block(self, runs) for runs in self.runs(block_bytes)], cut_for
        return self.cut

    def runs(self, block_bytes: int) -> Iterator[Sequence[Run]]:
        """Yield the runs of each block; the arrays of one block agree in hyperparameters and dtypes."""
        small = []
        for i, (param, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            if grad is None or param.size == 0:
                continue
            if param.size <= SMALL and not self.is_stored[i]:
                kind = int(self.row_numbers[i]), param.dtype.str, grad.dtype.name, self.averages[i] is None
                # The sizes: those that are equal are added up together (lane_sums).
                small.append((kind, param.size, i))
                continue
            for run in cut(i, param, block_bytes):
                yield [run]
        for _, members in groupby(sorted(small), key=lambda member: member[0]):
            runs: list[Run] = []
            room = 0
            for _, size, i in members:
                if size > room:
                    if runs:
                        yield runs
                    runs, room = [], block_bytes // self.params[i].itemsize
                runs.append(Run(i, 0, size))
                room -= size
            yield runs

    def for_blocks(self, function: Callable[[Block, ComputedRow], T], hyper_rows: Sequence[HyperRow]) -> list[T]:
        """Return what the function makes of each block and its row of hyperparameters."""
        blocks = self.blocks()
        made: dict[tuple[int, Any], ComputedRow] = {}
        items = []
        with np.errstate(all="ignore"):
            for block in blocks:
                key = int(self.row_numbers[block.first]), block.dtype
                if key not in made:
                    made[key] = computed_row(hyper_rows[key[0]], block.dtype)
                items.append((block, made[key]))
        return results_of(function, items, min(self.threads(), len(items)))

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.for_blocks(self.step_block, hyper_rows)

    def step_block(self, block: Block, row: ComputedRow) -> None:
        hyper, flags = row.hyper, row.flags
        clip = self.clip_of(block)
        program = step_program(hyper.rule, type(hyper.scalars), flags, clip is not None, bool(block.average))
        p = self.loaded(block, block.param, PARAM_STREAM)
        average = block.joined(block.average) if block.average else None
        values: list[Any] = [*row.inputs, p, None, None, clip, average]
        slots: list[Array] = []
        if flags.update:
            values[GRAD] = block.joined(block.of(self.grads))
            if flags.mean:
                values[ACCUMULATED] = block.joined(block.accumulated)
            used = range(len(rules.slots(hyper.rule)))
            slots = [self.loaded(block, block.slots[k], k) for k in used]
            values += slots
            values += row.scalars
        program.run(values + scratch(program, block))
        if flags.update:
            self.store(block, block.param, PARAM_STREAM, p, hyper)
            for k, slot in enumerate(slots):
                self.store(block, block.slots[k], k, slot, hyper)
        if flags.clear:
            if flags.mean:
                clear(block.accumulated)
            if hyper.zero_grads:
                clear(block.of(self.grads))
        if flags.finish:
            if average is not None:
                block.scatter(average, block.average)
            for (i, begin, end), part in zip(block.runs, block.parts, strict=True):
                copy = self.copies[i]
                if copy is not None:
                    halves.round_into(copy[begin:end], p[part])

    def clip_of(self, block: Block) -> Array | None:
        """Return the factors from clipping the norm of each array; None where all are 1."""
        if len(block.runs) == 1:
            factor = self.array_clip[block.first]
            return None if factor == 1 else np.array(factor, block.dtype)
        factors = self.array_clip[[run.array for run in block.runs]]
        return None if (factors == 1).all() else np.repeat(factors.astype(block.dtype), block.sizes)

    def loaded(self, block: Block, views: Sequence[Array], stream: int) -> Array:
        """Return the parameter, or the slot of this number, in the dtype that is computed in."""
        if not block.is_stored or views[0].dtype == block.dtype:
            return block.joined(views)
        scaled = self.scaled(block, stream)
        if scaled is None:
            return halves.to_float32(views[0])
        map, scales = scaled
        return quantize.dequantize(views[0], scales, map)

    def store(self, block: Block, views: Sequence[Array], stream: int, values: Array, hyper: HyperRow) -> None:
        """Write back what :meth:`loaded` returned, in the dtype of the memory."""
        if not block.is_stored or views[0].dtype == block.dtype:
            block.scatter(values, views)
            return
        random = random_bits(hyper.dither, int(self.numbers[block.first]), stream, block.runs[0].begin, block.size)
        scaled = self.scaled(block, stream)
        if scaled is None:
            halves.dither_into(views[0], values, random)
        else:
            map, scales = scaled
            views[0][...], scales[...] = quantize.quantize(values, map, random)

    def scaled(self, block: Block, stream: int) -> tuple[quantize.Map, Array] | None:
        """Return the map and the scales of a slot in 8 bits; None of what is not."""
        its = self.scales[block.first]
        scaled = its[stream] if stream < len(its) else None
        if scaled is None:
            return None
        map, scales = scaled
        _, begin, end = block.runs[0]
        return map, scales[begin // dither.SCALE_BLOCK : -(-end // dither.SCALE_BLOCK)]

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.for_blocks(self.accumulate_block, hyper_rows)

    def accumulate_block(self, block: Block, row: ComputedRow) -> None:
        program = accumulate_program(row.flags)
        accumulated = block.joined(block.accumulated)
        values: list[Any] = [*row.inputs, None, block.joined(block.of(self.grads)), accumulated]
        program.run(values + scratch(program, block))
        block.scatter(accumulated, block.accumulated)
        if row.hyper.zero_grads:
            clear(block.of(self.grads))

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        def read(block: Block, row: ComputedRow) -> Array:
            a = self.values_of(left, block, row, count_nonfinite)
            b = a if left == right else self.values_of(right, block, row)
            return lane_sums(block, a, b)

        if count_nonfinite:
            self.nonfinite[:] = 0
        lanes = self.for_blocks(read, hyper_rows)
        if not lanes:
            return np.zeros(len(self.params))
        # bincount adds in index order.
        owners = np.concatenate([block.owners for block in self.cut])
        with np.errstate(all="ignore"):
            return np.bincount(owners, folded(np.concatenate(lanes)), len(self.params)).astype(FLOAT64, copy=False)

    def values_of(self, source: Source, block: Block, row: ComputedRow, count_nonfinite: bool = False) -> Array:
        """Return a block's elements of something; count what is not finite in a gradient."""
        if isinstance(source, int):
            return block.joined(block.slots[source])
        if source == "param":
            return self.loaded(block, block.param, PARAM_STREAM)
        regularizes = source == "grad" and (row.flags.l2 or row.flags.l1)
        clip = self.clip_of(block)
        program = grad_program(row.flags, clip is not None, regularizes)
        values: list[Any] = [*row.inputs, None, block.joined(block.of(self.grads)), None, clip]
        if regularizes:
            values[PARAM] = self.loaded(block, block.param, PARAM_STREAM)
        if row.flags.mean:
            values[ACCUMULATED] = block.joined(block.accumulated)
        values += scratch(program, block)
        program.run(values)
        scaled, prepared = program.results
        if count_nonfinite:
            self.count_nonfinite(block, values[scaled])
        grad: Array = values[prepared]
        return grad

    def count_nonfinite(self, block: Block, values: Array) -> None:
        is_finite = np.isfinite(values, out=buffers.array(block.size, bool))
        if np.count_nonzero(is_finite) < block.size:
            for run, part in zip(block.runs, block.parts, strict=True):
                with counting:
                    self.nonfinite[run.array] += np.count_nonzero(~is_finite[part])

    def whole(self, i: int, size: int) -> Block:
        """Return array number ``i``, or a slot of this size, as one block."""
        return Block(self, [Run(i, 0, size)])

    def param_values(self, i: int) -> Array:
        """Return an array's parameter in the compute dtype."""
        block = self.whole(i, self.params[i].size)
        return self.loaded(block, block.param, PARAM_STREAM)

    def slot_values(self, i: int, k: int) -> Array:
        """Return slot number ``k`` of an array in the compute dtype."""
        block = self.whole(i, self.slots[k][i].size)  # type: ignore[union-attr]
        return self.loaded(block, block.slots[k], k)

    def write_slot(self, i: int, k: int, values: Array, row: HyperRow) -> None:
        """Write values into slot number ``k`` of an array that is stored in another dtype."""
        block = self.whole(i, values.size)
        self.store(block, block.slots[k], k, values, row)

    def full_gradient(self, i: int, hyper: HyperRow) -> Array:
        """Return a copy of an array's gradient, clipped and regularized."""
        param = self.params[i]
        elements = np.empty(param.size, compute_dtype(param.dtype))
        with np.errstate(all="ignore"):
            row = computed_row(hyper, elements.dtype)
            for run in cut(i, param, BLOCK_BYTES):
                buffers.reset()
                elements[run.begin : run.end] = self.values_of("grad", Block(self, [run]), row)
        return elements


def cut(i: int, param: Array, block_bytes: int) -> Iterator[Run]:
    """Yield the runs of an array that has blocks of its own: of about equal lengths, whole chunks."""
    blocks = -(-param.nbytes // block_bytes) or 1
    length = -(-param.size // (blocks * CHUNK)) * CHUNK
    for begin in range(0, param.size, length or 1):
        yield Run(i, begin, min(begin + length, param.size))


def scratch(program: Program, block: Block) -> list[Array]:
    """Return the arrays that a program asks for."""
    return [buffers.array(block.size, bool if is_bool else block.dtype) for is_bool in program.scratch]


def flat(array: Array) -> Array:
    """Return a C-contiguous array as one dimension, without a copy."""
    return array.view(np.ndarray).reshape(-1)


def flat_or_none(array: Array | None) -> Array | None:
    return None if array is None else flat(array)


def clear(views: Sequence[Array]) -> None:
    for view in views:
        view[...] = 0


def lane_sums(block: Block, a: Array, b: Array) -> Array:
    """Return the running sums of products of each chunk of a block."""
    sums = []
    begin = 0
    for count, size in block.chunks:
        end = begin + count * size
        left = rows_of_lanes(a[begin:end].reshape(count, size))
        right = left if a is b else rows_of_lanes(b[begin:end].reshape(count, size))
        np.multiply(left, right, out=left)
        sums.append(added(left))
        begin = end
    return np.concatenate(sums)
