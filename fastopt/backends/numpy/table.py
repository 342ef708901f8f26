"""The NumPy backend's table: the rules of arithmetic/rules.py, block by block, with the bits of the native backend.

The stages and the rule are traced once into a list of NumPy calls (calls.py). The calls work in the memory of the
arrays and in a few buffers that are used again, so that the time goes into arithmetic and not into new memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves, rules
from ...arithmetic.dither import PARAM_STREAM
from ...arrays.dtypes import FLOAT64, Array, compute_dtype
from ...arrays.memory import address, are_like
from .. import threads
from ..table import ArrayExtras, HyperRow, Source
from . import programs
from .blocks import Block, Run, TableArrays, cut_array, cut_table
from .lanes import fold_lanes
from .programs import ACCUMULATED, GRAD, PARAM, ComputedRow, computed_row
from .workers import buffers, map_threaded

#: Steps of fewer elements run on one thread: waking others would take longer than they save.
MIN_SIZE_FOR_THREADS = 1 << 20

#: Bytes of a block of one array, on one thread and on several. A block is small enough for its arrays to stay in the L2
#: (L3) cache, and large enough to make up for NumPy's calls (and for the waits for Python's lock between them).
BLOCK_BYTES, THREADED_BLOCK_BYTES = 1 << 18, 1 << 20

#: More threads would only wait for that lock.
MAX_THREADS = 8

T = TypeVar("T")

#: Guards ``nonfinite``, in which several threads may count.
count_lock = Lock()


class NumpyTable:
    """The arrays of an optimizer, cut into blocks."""

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], extras: Sequence[ArrayExtras] | None = None
    ) -> None:
        extras = extras or [ArrayExtras()] * len(params)
        self.indices = np.arange(len(params), dtype=np.int64)
        self.arrays = TableArrays(
            [flat(param) for param in params],
            [
                [flat(each[k]) if k < len(each) else None for each in slots]
                for k in range(max(map(len, slots), default=0))
            ],
            [flat_or_none(each.average) for each in extras],
            [flat_or_none(each.accumulated) for each in extras],
            [each.scales for each in extras],
            self.indices,
            [
                any(array.dtype != compute_dtype(param.dtype) for array in (param, *array_slots))
                for param, array_slots in zip(params, slots, strict=True)
            ],
        )
        self.copies = [flat_or_none(each.copy) for each in extras]
        self.grads: Sequence[Array | None] = [None] * len(params)
        self.row_numbers = np.zeros(len(params), np.int32)
        self.array_clip = np.ones(len(params))
        self.is_clipped = False
        self.nonfinite = np.zeros(len(params), np.int64)
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.present: list[bool] = []
        self.shapes = [param.shape for param in params]
        self.size = 0
        self.blocks: list[Block] = []
        #: The row numbers and the block size that ``blocks`` were cut for.
        self.blocks_key: tuple[bytes, int] | None = None

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.grads = [flat_or_none(grad) for grad in grads]
        dtypes = [None if grad is None else grad.dtype for grad in grads]
        present = [grad is not None for grad in grads]  # compared too, since the dtype float64 equals None
        if present != self.present or dtypes != self.grad_dtypes:
            self.grad_dtypes, self.present, self.blocks_key = dtypes, present, None
            self.size = sum(grad.size for grad in grads if grad is not None)

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not are_like(grads, self.grad_dtypes, self.shapes, are_written):
            return False
        self.grads = [grad.reshape(-1) for grad in grads]
        return True

    def forget_grads(self) -> None:
        self.grads = [None] * len(self.shapes)

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.array([0 if grad is None else address(grad) for grad in self.grads], np.uintp)

    def is_current(self) -> bool:
        return True

    def threads(self) -> int:
        """Return how many threads a step has."""
        return min(threads.get_num_threads(), MAX_THREADS) if self.size >= MIN_SIZE_FOR_THREADS else 1

    def cut(self) -> None:
        """Cut the arrays that have a gradient into blocks, again if rows, gradients or threads changed."""
        block_bytes = BLOCK_BYTES if self.threads() == 1 else THREADED_BLOCK_BYTES
        key = self.row_numbers.tobytes(), block_bytes
        if key != self.blocks_key:
            self.blocks = list(cut_table(self.arrays, self.grads, self.row_numbers, block_bytes))
            self.blocks_key = key

    def map_blocks(self, function: Callable[[Block, ComputedRow], T], hyper_rows: Sequence[HyperRow]) -> list[T]:
        """Apply the function to each block and its row of hyperparameters; return the results in order."""
        self.cut()
        rows: dict[tuple[int, Any], ComputedRow] = {}
        items = []
        with np.errstate(all="ignore"):
            for block in self.blocks:
                key = int(self.row_numbers[block.first]), block.dtype
                if key not in rows:
                    rows[key] = computed_row(hyper_rows[key[0]], block.dtype)
                items.append((block, rows[key]))
        return map_threaded(function, items, min(self.threads(), len(items)))

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.map_blocks(self.step_block, hyper_rows)

    def step_block(self, block: Block, row: ComputedRow) -> None:
        hyper, flags = row.hyper, row.flags
        clip = block.clip_factors(self.array_clip)
        program = programs.step_program(hyper.rule, type(hyper.scalars), flags, clip is not None, bool(block.average))
        p = block.load(block.param, PARAM_STREAM)
        average = block.join(block.average) if block.average else None
        values: list[Any] = [*row.inputs, p, None, None, clip, average]
        slots: list[Array] = []
        if flags.update:
            values[GRAD] = block.join(block.views(self.grads))
            if flags.mean:
                values[ACCUMULATED] = block.join(block.accumulated)
            slots = [block.load(block.slots[k], k) for k in range(len(rules.slots(hyper.rule)))]
            values += slots
            values += row.scalars
        program.run(values + block.scratch(program))
        if flags.update:
            block.store(block.param, PARAM_STREAM, p, hyper)
            for k, slot in enumerate(slots):
                block.store(block.slots[k], k, slot, hyper)
        if flags.clear:
            if flags.mean:
                clear(block.accumulated)
            if hyper.zero_grads:
                clear(block.views(self.grads))
        if flags.finish:
            if average is not None:
                block.scatter(average, block.average)
            for (i, begin, end), part in zip(block.runs, block.parts, strict=True):
                copy = self.copies[i]
                if copy is not None:
                    halves.round_into(copy[begin:end], p[part])

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.map_blocks(self.accumulate_block, hyper_rows)

    def accumulate_block(self, block: Block, row: ComputedRow) -> None:
        program = programs.accumulate_program(row.flags)
        accumulated = block.join(block.accumulated)
        values: list[Any] = [*row.inputs, None, block.join(block.views(self.grads)), accumulated]
        program.run(values + block.scratch(program))
        block.scatter(accumulated, block.accumulated)
        if row.hyper.zero_grads:
            clear(block.views(self.grads))

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        def sum_block(block: Block, row: ComputedRow) -> Array:
            a = self.values_of(left, block, row, count_nonfinite)
            b = a if left == right else self.values_of(right, block, row)
            return block.lane_sums(a, b)

        if count_nonfinite:
            self.nonfinite[:] = 0
        count = len(self.shapes)
        lanes = self.map_blocks(sum_block, hyper_rows)
        if not lanes:
            return np.zeros(count)
        # bincount adds in index order.
        owners = np.concatenate([block.owners for block in self.blocks])
        with np.errstate(all="ignore"):
            return np.bincount(owners, fold_lanes(np.concatenate(lanes)), count).astype(FLOAT64, copy=False)

    def values_of(self, source: Source, block: Block, row: ComputedRow, count_nonfinite: bool = False) -> Array:
        """Return a block's elements of a source; if asked, count the elements of a gradient that are not finite."""
        if isinstance(source, int):
            return block.join(block.slots[source])
        if source == "param":
            return block.load(block.param, PARAM_STREAM)
        regularizes = source == "grad" and (row.flags.l2 or row.flags.l1)
        clip = block.clip_factors(self.array_clip)
        program = programs.grad_program(row.flags, clip is not None, regularizes)
        values: list[Any] = [*row.inputs, None, block.join(block.views(self.grads)), None, clip]
        if regularizes:
            values[PARAM] = block.load(block.param, PARAM_STREAM)
        if row.flags.mean:
            values[ACCUMULATED] = block.join(block.accumulated)
        values += block.scratch(program)
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
                with count_lock:
                    self.nonfinite[run.array] += np.count_nonzero(~is_finite[part])

    def whole(self, i: int, size: int) -> Block:
        """Return array number ``i``, or a slot of this size, as one block."""
        return Block(self.arrays, [Run(i, 0, size)])

    def param_values(self, i: int) -> Array:
        """Return an array's parameter in the compute dtype."""
        block = self.whole(i, self.arrays.params[i].size)
        return block.load(block.param, PARAM_STREAM)

    def slot_values(self, i: int, k: int) -> Array:
        """Return slot number ``k`` of an array in the compute dtype."""
        block = self.whole(i, self.arrays.slots[k][i].size)  # type: ignore[union-attr]
        return block.load(block.slots[k], k)

    def write_slot(self, i: int, k: int, values: Array, row: HyperRow) -> None:
        """Write values into slot number ``k`` of an array that is stored in another dtype."""
        block = self.whole(i, values.size)
        block.store(block.slots[k], k, values, row)

    def full_gradient(self, i: int, hyper: HyperRow) -> Array:
        """Return a copy of an array's gradient, clipped and regularized."""
        param = self.arrays.params[i]
        elements = np.empty(param.size, compute_dtype(param.dtype))
        with np.errstate(all="ignore"):
            row = computed_row(hyper, elements.dtype)
            for run in cut_array(i, param, BLOCK_BYTES):
                buffers.reset()
                elements[run.begin : run.end] = self.values_of("grad", Block(self.arrays, [run]), row)
        return elements


def flat(array: Array) -> Array:
    """Return a C-contiguous array as one dimension, without a copy."""
    return array.view(np.ndarray).reshape(-1)


def flat_or_none(array: Array | None) -> Array | None:
    return None if array is None else flat(array)


def clear(views: Sequence[Array]) -> None:
    for view in views:
        view[...] = 0
