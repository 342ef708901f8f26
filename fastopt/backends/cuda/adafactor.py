"""Adafactor's directions and rates on a GPU, with the bits of fastopt/optimizers/adafactor.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arithmetic.rules import DescendScalars, descend
from ..table import AdafactorScalars, HyperRow, adafactor_floors
from .arrays import DeviceArray, in_memory_order, slot_like
from .compiling import compiled
from .kernels import rates
from .launches import launch
from .layout import CHUNKS_PER_BLOCK, ITEM_SIZES, NUMPY_DTYPES, THREADS, compute_dtype
from .memory import Upload, empty, upload
from .sum_kernels import MEAN_WORDS, UNIT_THREADS, MeanRow, directions_kernel, means_kernel, sums
from .table import CudaTable, stage_scalars
from .unit_sums import UnitSums


class Means:
    """The means of squares of some arrays of a table: of rows (``axis`` -1), or of columns (-2).

    In arrays of fewer than two axes each element is a row.
    """

    def __init__(self, table: CudaTable, slots: Sequence[Sequence[DeviceArray]], axis: int, stream: Any) -> None:
        numbers = [i for each in table.plan.launches for i in each.indices.tolist()]
        ndims = {i: table.params[i].ndim for i in numbers}
        axes = {i: (ndim + axis,) if ndim > 1 else () for i, ndim in ndims.items() if ndim > 1 or axis == -1}
        self.units = UnitSums(table, axes, stream)
        #: For each part of the units its rows of words.
        self.rows: list[Upload] = []
        #: For each matrix the first of its rows' chunks, and how many rows it has.
        self.spans: list[tuple[int, int]] = []
        for part in self.units.parts:
            rows = [self.mean_row(i, table.params[i].shape, slots[i], axis) for i in part.numbers]
            self.rows.append(upload(np.array(rows, np.int64).reshape(-1, MEAN_WORDS), None, stream))

    def mean_row(self, i: int, shape: tuple[int, ...], slots: Sequence[DeviceArray], axis: int) -> MeanRow:
        if len(shape) < 2:
            return MeanRow(slots[0].address, 0, 1, 1, 0)
        rows, columns = shape[-2:]
        first, first_matrix = self.units.first_chunks[i], len(self.spans)
        self.spans += [(first + k * rows, rows) for k in range(math.prod(shape[:-2]))]
        row_var, col_var = (slot.address for slot in slots)
        return MeanRow(row_var if axis == -1 else col_var, col_var, rows, columns, first_matrix)

    def update(
        self, table: CudaTable, hyper_rows: Sequence[HyperRow], scalars: Sequence[AdafactorScalars], stream: Any
    ) -> None:
        """Move the means towards those of this step; the new ones replace the sums of the first chunks too."""
        self.units.add_squares(table, hyper_rows, stream, "grad")
        for part, rows in zip(self.units.parts, self.rows, strict=True):
            each = table.plan.launches[part.launch]
            weight = float(scalars[each.row].weight)
            numbers = NUMPY_DTYPES[each.dtype](0), ITEM_SIZES[each.dtype], weight, 1.0 - weight
            places = part.rows, part.entries, rows, self.units.partials, table.next.guard
            kernel = compiled(table.device, means_kernel, each.dtype)
            launch(kernel, part.blocks, CHUNKS_PER_BLOCK, stream, *numbers, *places)


class Factored:
    """Adafactor's step for the arrays of a table, whose only slot becomes the direction."""

    def __init__(self, table: CudaTable, slots: Sequence[Sequence[DeviceArray]]) -> None:
        """``slots``: of each array ``row_var`` and ``col_var``, or ``variance``."""
        self.slots = slots
        table.plan.slots = [[in_memory_order(slot_like(p, 0.0, compute_dtype(p.dtype)))] for p in table.params]
        #: The launches that the means are laid out for.
        self.key: Any = None

    def step(self, table: CudaTable, hyper_rows: Sequence[HyperRow], scalars: Sequence[AdafactorScalars]) -> None:
        with table.in_stream() as stream:
            if table.plan.key is not self.key:
                self.lay_out(table, stream)
            for means in (self.rows, self.columns):
                means.update(table, hyper_rows, scalars, stream)
            if self.rows.spans:
                blocks, places = len(self.rows.spans), (self.spans, self.rows.units.partials, self.matrices)
                launch(compiled(table.device, sums), blocks, THREADS, stream, *places)
            self.make_directions(table, hyper_rows, scalars, stream)
            table.add_squares(hyper_rows, stream, "param", self.param_sums)
            table.add_squares(hyper_rows, stream, 0)
            self.make_rates(table, scalars, stream)
        table.next = table.next._replace(rates=[("step_size",)] * len(hyper_rows))
        table.step([hyper._replace(rule=descend, scalars=DescendScalars(0.0)) for hyper in hyper_rows])

    def lay_out(self, table: CudaTable, stream: Any) -> None:
        self.rows, self.columns = (Means(table, self.slots, axis, stream) for axis in (-1, -2))
        self.matrices = empty(len(self.rows.spans), "float64")
        self.param_sums = empty(table.count, "float64")
        if self.rows.spans:
            self.spans = upload(np.array(self.rows.spans, np.int64), None, stream)
        self.key = table.plan.key

    def make_directions(
        self, table: CudaTable, hyper_rows: Sequence[HyperRow], scalars: Sequence[AdafactorScalars], stream: Any
    ) -> None:
        for part, rows in zip(self.rows.units.parts, self.rows.rows, strict=True):
            each = table.plan.launches[part.launch]
            hyper, dtype = hyper_rows[each.row], NUMPY_DTYPES[each.dtype]
            least_mean, least = adafactor_floors(scalars[each.row].eps1, dtype)
            kernel = compiled(table.device, directions_kernel, table.source_options(each, hyper, "grad"), each.dtypes)
            numbers = table.work(each, hyper), stage_scalars(hyper, each.dtype), dtype(least), least_mean
            places = part.rows, part.entries, rows, self.matrices
            launch(kernel, part.blocks, UNIT_THREADS, stream, *numbers, *places)

    def make_rates(self, table: CudaTable, scalars: Sequence[AdafactorScalars], stream: Any) -> None:
        places = self.param_sums, table.sums, table.rates["float64"], table.rates["float32"]
        for each in table.plan.launches:
            _, _, eps2, rate, d = scalars[each.row]
            count, numbers = len(each.indices), (float(eps2), float(rate), float(d))
            kernel, blocks = compiled(table.device, rates), -(-count // THREADS)
            launch(kernel, blocks, THREADS, stream, each.table, each.row_words, count, *numbers, *places)
