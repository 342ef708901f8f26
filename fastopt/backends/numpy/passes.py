"""A pass over all blocks of a table: which blocks there are, and their bound calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic.pipeline import StageFlags
from ...arrays.dtypes import FLOAT64, Array
from .. import threads
from ..interrupts import uninterrupted
from ..table import LANES, HyperRow, Source
from . import programs
from .blocks import Block, TableArrays, cut_table
from .bound_calls import BoundAccumulation, BoundCalls, BoundStep, BoundSum, Grads
from .calls import Stage, run_stages
from .lanes import fold_lanes
from .programs import Row
from .workers import Buffers, map_threaded

#: A thread is worth waking for so many elements times calls, some 400 microseconds of work: with less, the waits for
#: Python's lock between short calls take what the second core gives.
WORK_OF_A_THREAD = 1 << 22

#: More threads would only wait for Python's lock.
MAX_THREADS = 8

#: Bytes of a block of one array: few enough for a block's arrays to stay in the L3 cache, enough to make up for NumPy's
#: calls. Several threads share out blocks that are smaller, if need be.
LEAST_BLOCK_BYTES, BLOCK_BYTES = 1 << 16, 1 << 20

#: Each thread should have so many blocks, so that one that is late leaves its share to the others.
BLOCKS_OF_A_THREAD = 3


class Pass:
    """A pass over the blocks of a table. It stays bound to their arrays from step to step.

    Parameters
    ----------
    arrays : TableArrays
        The table's.
    buffers : list of Buffers
        For each thread those that all passes of the table share.
    """

    def __init__(self, arrays: TableArrays, buffers: list[Buffers]) -> None:
        self.arrays, self.buffers, self.arrays_are_plain = arrays, buffers, arrays.are_plain
        self.blocks: list[Block] = []
        self.rows: dict[tuple[int, Any], Row] = {}
        self.row_of_block: list[Row] = []
        #: The factors that clip each block, if any do.
        self.clips: list[Array] | None = None
        self.threads = 1
        #: By thread, then by block.
        self.bound: list[list[BoundCalls | None]] = []
        #: The stages of all blocks, on one thread.
        self.stages: list[Stage] | None = None
        #: All that the cut into blocks depends on. None during a run: after an interrupt, all is made again.
        self.key: Any = None
        self.next_key: Any = None

    def bind(self, k: int, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> BoundCalls:
        """Bind block number ``k``."""
        raise NotImplementedError

    def calls_per_element(self, hyper: HyperRow) -> int:
        """Return about how many calls each element takes part in."""
        return 4

    def prepare(
        self,
        hyper_rows: Sequence[HyperRow],
        row_numbers: npt.NDArray[np.int32],
        grads: Grads,
        kinds: int,
        array_clip: npt.NDArray[np.float64] | None,
    ) -> None:
        """Bring blocks and rows up to date. ``kinds`` numbers the sets of arrays with a gradient, and its dtypes."""
        rules = [(hyper.rule, type(hyper.scalars)) for hyper in hyper_rows]
        last, self.next_key = self.key, (row_numbers.tobytes(), kinds, threads.get_num_threads(), rules)
        self.key = None
        has_changed = last != self.next_key
        if has_changed:
            self.cut(hyper_rows, row_numbers, grads)
        for (number, _), row in self.rows.items():
            has_changed |= row.take(hyper_rows[number])
        if has_changed or (array_clip is None) != (self.clips is None):
            self.bound, self.stages = [[None] * len(self.blocks) for _ in range(self.threads)], None
            self.clips = None if array_clip is None else [block.clip_factors(array_clip) for block in self.blocks]
        elif self.clips is not None and array_clip is not None:
            for block, clip in zip(self.blocks, self.clips, strict=True):
                clip[...] = block.clip_factors(array_clip)

    def cut(self, hyper_rows: Sequence[HyperRow], row_numbers: npt.NDArray[np.int32], grads: Grads) -> None:
        """Decide on the number of threads, and cut the arrays that have a gradient into blocks."""
        present = [(i, grad) for i, grad in enumerate(grads) if grad is not None]
        size = sum(grad.size for _, grad in present)
        work = size * self.calls_per_element(hyper_rows[row_numbers[present[0][0]]]) if present else 0
        count = min(threads.get_num_threads(), MAX_THREADS, max(1, work // WORK_OF_A_THREAD))
        block_bytes = BLOCK_BYTES
        if count > 1:
            share = sum(self.arrays.params[i].nbytes for i, _ in present) // (count * BLOCKS_OF_A_THREAD)
            block_bytes = max(LEAST_BLOCK_BYTES, min(BLOCK_BYTES, share))
        self.blocks = list(cut_table(self.arrays, grads, row_numbers, block_bytes))
        self.rows = {}
        self.row_of_block = []
        for block in self.blocks:
            key = int(row_numbers[block.first]), block.dtype
            if key not in self.rows:
                self.rows[key] = Row(hyper_rows[key[0]], block.dtype)
            self.row_of_block.append(self.rows[key])
        self.threads = max(1, min(count, len(self.blocks)))

    def bound_to(self, thread: int, k: int, grads: Grads) -> BoundCalls:
        """Return block number ``k`` bound to a thread's buffers and to these gradients."""
        bound = self.bound[thread][k]
        if bound is None:
            clip = None if self.clips is None else self.clips[k]
            bound = self.bound[thread][k] = self.bind(k, self.row_of_block[k], clip, self.buffers[thread], grads)
        bound.take(grads)
        return bound

    def run(self, grads: Grads, count: Sequence[Stage] = ()) -> None:
        """Run the pass and then the calls that count it. If there are any, Ctrl-C waits for the last one."""
        if self.threads > 1:
            run, is_one_call = partial(self.run_on_threads, grads, count), False
        else:
            bound = [self.bound_to(0, k, grads) for k in range(len(self.blocks))]
            if self.stages is None:
                self.stages = list(chain.from_iterable(each.stages() for each in bound))
            run, is_one_call = partial(run_stages, chain(self.stages, count)), self.arrays_are_plain
        try:
            if is_one_call or not count:
                run()
            else:
                uninterrupted(run)
        finally:
            for thread in self.bound:
                for each in filter(None, thread):
                    each.forget()
        self.key = self.next_key

    def run_on_threads(self, grads: Grads, count: Sequence[Stage]) -> None:
        def run_block(thread: int, k: int) -> None:
            run_stages(self.bound_to(thread, k, grads).stages())

        map_threaded(run_block, range(len(self.blocks)), self.threads)
        run_stages(count)


class StepPass(Pass):
    def bind(self, k: int, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> BoundCalls:
        return BoundStep(self.blocks[k], row, clip, buffers, grads)

    def calls_per_element(self, hyper: HyperRow) -> int:
        return len(programs.step_program(hyper.rule, type(hyper.scalars), StageFlags(), False, False, ()).calls)


class AccumulationPass(Pass):
    def bind(self, k: int, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> BoundCalls:
        return BoundAccumulation(self.blocks[k], row, clip, buffers, grads)


class SumPass(Pass):
    """A pass that adds the products of two sources; :class:`BoundSum` describes the parameters."""

    def __init__(
        self,
        arrays: TableArrays,
        buffers: list[Buffers],
        left: Source,
        right: Source,
        counts_nonfinite: bool,
    ) -> None:
        super().__init__(arrays, buffers)
        self.left, self.right, self.counts_nonfinite = left, right, counts_nonfinite
        #: The running sums of all chunks, and how many elements are not finite: no block writes those of another one.
        self.sums, self.nonfinite = np.empty((0, LANES)), np.zeros(0, np.int64)
        #: The array of each chunk, and how many chunks the blocks up to each have.
        self.owners: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self.ends: list[int] = []

    def cut(self, hyper_rows: Sequence[HyperRow], row_numbers: npt.NDArray[np.int32], grads: Grads) -> None:
        super().cut(hyper_rows, row_numbers, grads)
        self.owners = np.concatenate([block.owners for block in self.blocks] or [self.owners[:0]])
        self.ends = np.cumsum([block.owners.size for block in self.blocks]).tolist()
        self.sums, self.nonfinite = np.empty((self.owners.size, LANES)), np.zeros(self.owners.size, np.int64)

    def bind(self, k: int, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> BoundCalls:
        block, end = self.blocks[k], self.ends[k]
        chunks = slice(end - block.owners.size, end)
        nonfinite = self.nonfinite[chunks] if self.counts_nonfinite else None
        return BoundSum(block, row, clip, buffers, grads, self.left, self.right, self.sums[chunks], nonfinite)

    def result(self, count: int) -> npt.NDArray[np.float64]:
        """Return the sum of each of this many arrays."""
        with np.errstate(all="ignore"):
            # bincount adds in index order.
            found: npt.NDArray[Any] = np.bincount(self.owners, self.chunk_sums(), count)
        return found.astype(FLOAT64, copy=False)

    def chunk_sums(self) -> npt.NDArray[np.float64]:
        """Return the sum of each chunk."""
        with np.errstate(all="ignore"):
            return fold_lanes(self.sums)

    def nonfinite_of(self, count: int) -> npt.NDArray[np.int64]:
        """Return how many elements of each of this many arrays are not finite."""
        return np.bincount(self.owners, self.nonfinite, count).astype(np.int64)
