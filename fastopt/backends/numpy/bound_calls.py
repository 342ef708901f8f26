"""A pass over a block as stages of calls (calls.py), which are bound to its arrays once and made in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves, rules
from ...arithmetic.dither import PARAM_STREAM
from ...arrays.dtypes import FLOAT64, Array
from ..table import Source
from . import programs
from .blocks import Block
from .calls import Call, Program, Stage, stage_of_assignments, stage_of_calls
from .lanes import parts_of_rows, shape_of_rows, size_of_rows, values_of_rows
from .programs import ACCUMULATED, GRAD, Row
from .workers import Buffers

#: The gradients of a table, flat; None where an array has none.
Grads = Sequence[Array | None]

#: Elements of a sum that are added at once: few enough to stay in the L2 cache in double precision.
SUM_BLOCK = 1 << 17

#: In the place of a call on a gradient that is gone.
NOTHING: Call = partial(int)


class BoundCalls:
    """A pass over a block with the arrays and the buffers of one thread.

    Gradients are arrays of a step alone: they are put into the calls by :meth:`take`, and out of them by
    :meth:`forget`.

    Attributes
    ----------
    before, calls, after
        The stages and calls of the pass, in this order.
    """

    def __init__(self, block: Block, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> None:
        buffers.reset()
        self.block, self.row, self.clip, self.buffers = block, row, clip, buffers
        self.before: list[Stage] = []
        self.calls: list[Call] = []
        self.after: list[Stage] = []
        self.grads = list(block.grads(grads))
        #: Whether gradients are copied to a buffer, since they are not one run in the compute dtype; and the buffer.
        self.is_grad_copied = len(self.grads) > 1 or self.grads[0].dtype != block.dtype
        self.grad: Array | None = None
        #: The values of each program, and the calls that use the gradient's own memory.
        self.values: list[list[Any]] = []
        self.readers: list[tuple[int, Callable[..., Call], Callable[[Sequence[Any]], Sequence[Any]], list[Any]]] = []

    def stages(self) -> list[Stage]:
        return [*self.before, stage_of_calls(self.calls), *self.after]

    def take(self, grads: Grads) -> None:
        """Read these gradients, which are of the same dtypes as those before."""
        self.grads[:] = self.block.grads(grads)
        if not self.is_grad_copied:
            for values in self.values:
                values[GRAD] = self.grads[0]
            for k, bind, take, values in self.readers:
                self.calls[k] = bind(*take(values))

    def forget(self) -> None:
        """Keep no gradient alive."""
        self.grads.clear()
        if not self.is_grad_copied:
            for values in self.values:
                values[GRAD] = None
            for k, *_ in self.readers:
                self.calls[k] = NOTHING

    def open(self, views: Sequence[Array], stream: int | None = None, is_written: bool = True) -> Array:
        """Return these elements in the compute dtype: in their own memory if possible, else in a buffer.

        ``stream`` is that of a parameter or slot, which may be stored in another dtype.
        """
        block = self.block
        if len(views) == 1 and views[0].dtype == block.dtype:
            return views[0]
        values = self.buffers.array(block.size, block.dtype)
        if stream is not None and block.is_stored:
            self.before.append((load, [block], [values], [views], [stream]))
            written: Stage = store, [block], [values], [views], [stream], [self.row]
        else:
            parts = block.split(values)
            self.before.append(stage_of_assignments(parts, views))
            written = stage_of_assignments(views, parts)
        if is_written:
            self.after.append(written)
        return values

    def open_grad(self) -> Array:
        """Return the gradient in the compute dtype, in its own memory or in a buffer."""
        if not self.is_grad_copied:
            return self.grads[0]
        if self.grad is None:
            self.grad = self.buffers.array(self.block.size, self.block.dtype)
            self.before.append(stage_of_assignments(self.block.split(self.grad), self.grads))
        return self.grad

    def add(self, program: Program, values: list[Any]) -> None:
        """Add the calls of a program on these values, to which its literals and scratch arrays are added."""
        block, first = self.block, len(self.calls)
        values += program.further_arrays(block.dtype, partial(self.buffers.array, block.size))
        self.calls += program.bind(values)
        self.values.append(values)
        self.readers += [
            (first + k, bind, take, values) for k, (bind, take, places) in enumerate(program.calls) if GRAD in places
        ]


class BoundStep(BoundCalls):
    """A step of the rule, with the stages around it."""

    def __init__(self, block: Block, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> None:
        super().__init__(block, row, clip, buffers, grads)
        hyper = row.hyper
        has_lower, has_upper = map(bool, block.bounds)
        flags = row.flags._replace(lower_of_elements=has_lower, upper_of_elements=has_upper)
        has_average = bool(block.average) and flags.finish
        program = programs.step_program(hyper.rule, type(hyper.scalars), flags, clip is not None, has_average, row.ones)
        p = self.open(block.param, PARAM_STREAM, flags.update or (flags.finish and flags.bounds))
        values: list[Any] = [*row.inputs, p, None, None, clip, self.open(block.average) if has_average else None]
        values += [self.open(views, is_written=False) if views and flags.finish else None for views in block.bounds]
        if flags.update:
            values[GRAD] = self.open_grad()
            if flags.mean:
                values[ACCUMULATED] = self.open(block.accumulated, is_written=False)
            values += [self.open(block.slots[k], k) for k in range(len(rules.slots(hyper.rule)))]
            values += row.scalars
        self.add(program, values)
        if flags.clear and flags.mean:
            self.after.append(stage_of_assignments(block.accumulated, repeat(0)))
        if flags.clear and flags.zero_grads:
            self.after.append(stage_of_assignments(self.grads, repeat(0)))
        if flags.finish:
            copies, parts = block.arrays.copies, zip(block.members, block.split(p), strict=True)
            self.after.append(
                (halves.round_into, block.views(copies), [part for i, part in parts if copies[i] is not None])
            )


class BoundAccumulation(BoundCalls):
    """The addition of scaled gradients to those before them."""

    def __init__(self, block: Block, row: Row, clip: Array | None, buffers: Buffers, grads: Grads) -> None:
        super().__init__(block, row, clip, buffers, grads)
        accumulated = self.open(block.accumulated)
        self.add(programs.accumulate_program(row.flags), [*row.inputs, None, self.open_grad(), accumulated])
        if row.flags.zero_grads:
            self.after.append(stage_of_assignments(self.grads, repeat(0)))


class BoundGrad(BoundCalls):
    """The reading of gradients that are scaled, clipped and, for the source "grad", regularized."""

    def add_grad(self, source: Source) -> tuple[list[Any], int, int]:
        """Add a source's program; return its values, and the places of the scaled and of the prepared gradient."""
        block, row = self.block, self.row
        regularizes = source == "grad" and (row.flags.l2 or row.flags.l1)
        program = programs.grad_program(row.flags, self.clip is not None, regularizes)
        p = self.open(block.param, PARAM_STREAM, is_written=False) if regularizes else None
        accumulated = self.open(block.accumulated, is_written=False) if row.flags.mean else None
        values = [*row.inputs, p, self.open_grad(), accumulated, self.clip]
        self.add(program, values)
        scaled, prepared = program.results
        return values, scaled, prepared


class BoundSum(BoundGrad):
    """The running sums of the products of two sources.

    Parameters
    ----------
    left, right : Source
        The sources; only the left one is counted.
    sums : array
        Gets the running sums of each chunk.
    nonfinite : array, optional
        Of the length of ``sums``; those of a run add up to how many elements of its scaled gradient are not finite.
    """

    def __init__(
        self,
        block: Block,
        row: Row,
        clip: Array | None,
        buffers: Buffers,
        grads: Grads,
        left: Source,
        right: Source,
        sums: Array,
        nonfinite: npt.NDArray[np.int64] | None,
    ) -> None:
        super().__init__(block, row, clip, buffers, grads)
        #: The columns that have parts of the gradient's own memory, and what makes them of it.
        self.columns: list[tuple[list[Array], list[Any], Callable[[Array], list[Array]]]] = []
        sources = [self.source(source) for source in dict.fromkeys((left, right))]
        length = max(size_of_rows(shape) for shape in pieces(block))
        memory = [buffers.array(length, FLOAT64) for _ in sources]
        if nonfinite is not None:
            values, scaled, _ = sources[0]
            is_finite = buffers.array(block.size, bool)
            self.after.append(
                (count_nonfinite, [block], self.column(values, scaled, as_list), [is_finite], [nonfinite])
            )
        begin = first = 0
        for count, size in pieces(block):
            end = begin + count * size
            rows = [each[: size_of_rows((count, size))] for each in memory]
            for each, (values, _, prepared) in zip(rows, sources, strict=True):
                chunks = partial(chunks_of, begin=begin, count=count, size=size)
                self.after.append(
                    stage_of_assignments(parts_of_rows(each, count, size), self.column(values, prepared, chunks))
                )
            # NumPy adds in index order along any axis but the last.
            by_row = rows[0].reshape(shape_of_rows((count, size))[0], -1)
            into = sums[first : first + count].reshape(-1)
            multiply = partial(np.multiply, rows[0], rows[-1], rows[0])
            self.after.append(stage_of_calls([multiply, partial(np.add.reduce, by_row, 0, None, into)]))
            begin, first = end, first + count

    def source(self, source: Source) -> tuple[list[Any], int, int]:
        """Return values, the place of the scaled gradient among them, and that of the source."""
        if isinstance(source, int):
            return [self.open(self.block.slots[source], is_written=False)], 0, 0
        if source == "param":
            return [self.open(self.block.param, PARAM_STREAM, is_written=False)], 0, 0
        if isinstance(source, tuple):
            kind, k = source
            values = [self.open(self.block.slots[k], is_written=False)]
            if kind == "distance":
                values.append(self.open(self.block.param, PARAM_STREAM, is_written=False))
            result = self.buffers.array(self.block.size, self.block.dtype)
            self.calls.append(partial(np.subtract if kind == "distance" else np.sign, *values, result))
            return [result], 0, 0
        return self.add_grad(source)

    def column(self, values: list[Any], place: int, make: Callable[[Array], list[Array]]) -> list[Array]:
        """Return a column made of one of the values; it is made again if that is the gradient itself."""
        column = make(values[place])
        if place == GRAD and not self.is_grad_copied:
            self.columns.append((column, values, make))
        return column

    def take(self, grads: Grads) -> None:
        super().take(grads)
        for column, values, make in self.columns:
            column[:] = make(values[GRAD])

    def forget(self) -> None:
        super().forget()
        for column, _, _ in self.columns:
            column.clear()


def pieces(block: Block) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a block that are added at once, as (count, size)."""
    for count, size in block.chunks:
        most = max(1, SUM_BLOCK // size)
        for begin in range(0, count, most):
            yield min(most, count - begin), size


def chunks_of(values: Array, begin: int, count: int, size: int) -> list[Array]:
    """Return the elements that go into the rows of these chunks."""
    return values_of_rows(values[begin : begin + count * size].reshape(count, size))


def as_list(values: Array) -> list[Array]:
    return [values]


def load(block: Block, values: Array, views: Sequence[Array], stream: int) -> None:
    values[...] = block.load(views, stream)


def store(block: Block, values: Array, views: Sequence[Array], stream: int, row: Row) -> None:
    block.store(views, stream, values, row.hyper)


def count_nonfinite(block: Block, values: Array, is_finite: Array, counts: npt.NDArray[np.int64]) -> None:
    """Write how many elements are infinite or NaN to the place of the first chunk of each run."""
    np.isfinite(values, out=is_finite)
    counts[:] = 0
    if np.count_nonzero(is_finite) < block.size:
        # A run among others is one chunk.
        counts[: len(block.runs)] = [part.size - np.count_nonzero(part) for part in block.split(is_finite)]
