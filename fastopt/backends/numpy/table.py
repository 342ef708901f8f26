"""The NumPy backend's table: the rules of arithmetic/rules.py, block by block, with the bits of the native backend.

The stages and the rule are traced once into a list of NumPy calls (calls.py). The calls work in the memory of the
arrays and in a few buffers that are used again, so that the time goes into arithmetic and not into new memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from _cffi_backend import FFI

from ...arithmetic.dither import PARAM_STREAM
from ...arrays.dtypes import Array, compute_dtype
from ...arrays.memory import are_like
from ..table import ArrayExtras, HyperRow, Reduction, Source
from .blocks import Block, Run, TableArrays, cut_array
from .bound_calls import BoundGrad
from .calls import Stage, run_stages, stage_of_assignments
from .passes import BLOCK_BYTES, MAX_THREADS, AccumulationPass, Pass, StepPass, SumPass
from .programs import Row
from .workers import Buffers

ffi = FFI()


class NumpyTable:
    """The arrays of an optimizer, cut into blocks."""

    def __init__(
        self,
        params: Sequence[Array],
        slots: Sequence[Sequence[Array]],
        extras: Sequence[ArrayExtras] | None = None,
        counts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Calls with ``is_counted`` update ``counts``, which have the shape (2, 1 + arrays)."""
        extras = extras or [ArrayExtras()] * len(params)
        self.indices = np.arange(len(params), dtype=np.int64)
        self.first_blocks = np.zeros(len(params), np.int64)
        self.arrays = TableArrays(
            [flat(param) for param in params],
            [
                [flat(each[k]) if k < len(each) else None for each in slots]
                for k in range(max(map(len, slots), default=0))
            ],
            [flat_or_none(each.average) for each in extras],
            [flat_or_none(each.accumulated) for each in extras],
            [flat_or_none(each.copy) for each in extras],
            [flat_or_none(each.lower) for each in extras],
            [flat_or_none(each.upper) for each in extras],
            [each.scales for each in extras],
            self.indices,
            self.first_blocks,
            [
                any(array.dtype != compute_dtype(param.dtype) for array in (param, *array_slots))
                for param, array_slots in zip(params, slots, strict=True)
            ],
        )
        self.grads: Sequence[Array | None] = [None] * len(params)
        self.row_numbers = np.zeros(len(params), np.int32)
        self.array_clip = np.ones(len(params))
        self.is_clipped = False
        self.nonfinite = np.zeros(len(params), np.int64)
        self.reduction: Reduction | None = None
        self.grad_dtypes: list[np.dtype[Any] | None] = []
        self.present: list[bool] = []
        self.shapes = [param.shape for param in params]
        self.are_flat = all(param.ndim == 1 for param in params)
        #: Another number for gradients of other arrays or dtypes.
        self.kinds = 0
        self.counts = counts
        #: The calls that count a step, and those that count a call that accumulates.
        self.step_count, self.call_count = count_stages(counts, [True] * len(params))
        self.addresses = ffi.new("void *[]", len(params))
        self.unclipped = self.array_clip.tobytes()
        self.buffers = [Buffers() for _ in range(MAX_THREADS)]
        #: That of most steps, and that of a step in which tiny numbers are flushed.
        self.step_passes = [StepPass(self.arrays, self.buffers) for _ in range(2)]
        self.accumulation_pass = AccumulationPass(self.arrays, self.buffers)
        #: By their sources, and whether they count elements that are not finite.
        self.sum_passes: dict[tuple[Source, Source, bool], SumPass] = {}

    @cached_property
    def greatest(self) -> npt.NDArray[np.float64]:
        return np.array([np.finfo(compute_dtype(param.dtype)).max for param in self.arrays.params], np.float64)

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.grads = [flat_or_none(grad) for grad in grads]
        dtypes = [None if grad is None else grad.dtype for grad in grads]
        present = [grad is not None for grad in grads]  # compared too, since the dtype float64 equals None
        if present != self.present or dtypes != self.grad_dtypes:
            self.present = []  # after an interrupt all of this is done again
            self.kinds += 1
            self.step_count, self.call_count = count_stages(self.counts, present)
            self.grad_dtypes, self.present = dtypes, present

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not are_like(grads, self.grad_dtypes, self.shapes, are_written):
            return False
        self.grads = grads if self.are_flat else list(map(np.ndarray.ravel, grads))
        return True

    def forget_grads(self) -> None:
        self.grads = [None] * len(self.shapes)

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        # Several times as fast as __array_interface__.
        buffers = [ffi.NULL if grad is None else ffi.from_buffer(grad) for grad in self.grads]
        self.addresses[0 : len(buffers)] = buffers
        return np.frombuffer(ffi.buffer(self.addresses), np.uintp)

    def is_current(self) -> bool:
        return True

    def step(self, hyper_rows: Sequence[HyperRow], is_counted: bool = False) -> None:
        step_pass = self.step_passes[any(row.flush for row in hyper_rows)]
        self.run(step_pass, hyper_rows, self.step_count if is_counted else ())

    def accumulate(self, hyper_rows: Sequence[HyperRow], is_counted: bool = False) -> None:
        self.run(self.accumulation_pass, hyper_rows, self.call_count if is_counted else ())

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        summing = self.sum_passes.get((left, right, count_nonfinite))
        if summing is None:
            summing = SumPass(self.arrays, self.buffers, left, right, count_nonfinite)
            self.sum_passes[left, right, count_nonfinite] = summing
        self.run(summing, hyper_rows)
        if self.reduction is not None:
            sums, nonfinite = self.reduction(self.present, summing.chunk_sums(), summing.nonfinite)
            if count_nonfinite:
                self.nonfinite = nonfinite
            return sums
        if count_nonfinite:
            self.nonfinite[:] = summing.nonfinite_of(len(self.shapes))
        return summing.result(len(self.shapes))

    def run(self, each: Pass, hyper_rows: Sequence[HyperRow], count: Sequence[Stage] = ()) -> None:
        array_clip = None if self.array_clip.tobytes() == self.unclipped else self.array_clip
        with np.errstate(all="ignore"):
            each.prepare(hyper_rows, self.row_numbers, self.grads, self.kinds, array_clip)
            each.run(self.grads, count)

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
            row = Row(hyper, elements.dtype)
            for run in cut_array(i, param, BLOCK_BYTES):
                block = Block(self.arrays, [run])
                clip = None if self.array_clip[i] == 1 else block.clip_factors(self.array_clip)
                bound = BoundGrad(block, row, clip, self.buffers[0], self.grads)
                values, _, prepared = bound.add_grad("grad")
                run_stages(bound.stages())
                elements[run.begin : run.end] = values[prepared]
        return elements


def count_stages(
    counts: npt.NDArray[np.int64] | None, present: Sequence[bool]
) -> tuple[Sequence[Stage], Sequence[Stage]]:
    """Return the calls that count a step, and those that count a call that accumulates, as csrc/fastopt.h says."""
    if counts is None:
        return (), ()
    increments = np.array([1, *present])
    step, call = ((np.add, [row], [increments], [row]) for row in counts)
    return (step, stage_of_assignments([counts[1]], [0])), (call,)


def flat(array: Array) -> Array:
    """Return a C-contiguous array as one dimension, without a copy."""
    return array.view(np.ndarray).reshape(-1)


def flat_or_none(array: Array | None) -> Array | None:
    return None if array is None else flat(array)
