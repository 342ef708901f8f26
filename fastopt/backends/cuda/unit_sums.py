"""Sums of squares over axes of a table's arrays, in the order of lanes.py: all units of a launch are added at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..table import HyperRow, Source
from .arrays import DeviceArray
from .compiling import compiled
from .launches import launch
from .layout import CHUNK, CHUNKS_PER_BLOCK
from .memory import Upload, empty, upload
from .sum_kernels import UNIT_THREADS, UNIT_WORDS, UnitRow, squares_kernel
from .table import CudaTable, stage_scalars

STEPS = UnitRow._fields.index("steps")


class Part(NamedTuple):
    """The units of a launch. An entry (row << 32 | block) is the work of a block of threads."""

    launch: int
    numbers: list[int]
    steps: Upload
    rows: Upload
    entries: Upload
    blocks: int


class UnitSums:
    """The units of some arrays of a table, and their sums."""

    def __init__(self, table: CudaTable, axes: Mapping[int, tuple[int, ...]], stream: Any) -> None:
        """``axes``: for the number of an array the axes that are added, ascending."""
        self.parts: list[Part] = []
        #: For the number of an array the first of its chunks; how many chunks and units there are in all.
        self.first_chunks: dict[int, int] = {}
        self.chunks = self.count = 0
        for k, each in enumerate(table.plan.launches):
            places = [(place, i) for place, i in enumerate(each.indices.tolist()) if i in axes]
            if places:
                self.parts.append(self.part(k, places, table.params, axes, stream))
        self.partials = empty(self.chunks, "float64")

    def part(
        self,
        launch: int,
        places: Sequence[tuple[int, int]],
        params: Sequence[DeviceArray],
        axes: Mapping[int, tuple[int, ...]],
        stream: Any,
    ) -> Part:
        rows: list[UnitRow] = []
        entries: list[Any] = []
        steps: list[tuple[int, int]] = []
        for place, i in places:
            unit_axes, sum_axes = steps_of(params[i], axes[i])
            count, size = (math.prod(length for length, _ in each) for each in (unit_axes, sum_axes))
            chunks = count * -(-size // CHUNK)
            self.first_chunks[i] = self.chunks
            entries.append(len(rows) << 32 | np.arange(-(-chunks // CHUNKS_PER_BLOCK)))
            of_units = params[i].address, count, size, self.chunks, self.count
            rows.append(UnitRow(place, *of_units, unit_axes[0][1] == 1, 16 * len(steps), len(unit_axes), len(sum_axes)))
            steps += unit_axes + sum_axes
            self.chunks, self.count = self.chunks + chunks, self.count + count
        there = upload(np.array(steps, np.int64), None, stream)
        words = np.array(rows, np.int64).reshape(-1, UNIT_WORDS)
        words[:, STEPS] += there.address
        blocks = np.concatenate(entries)
        numbers = [i for _, i in places]
        return Part(launch, numbers, there, upload(words, None, stream), upload(blocks, None, stream), len(blocks))

    def add_squares(
        self, table: CudaTable, hyper_rows: Sequence[HyperRow], stream: Any, source: Source = "param"
    ) -> None:
        """Put the sums of a source's squares into ``partials``: for each array chunk by chunk, of all units."""
        for part in self.parts:
            each = table.plan.launches[part.launch]
            hyper = hyper_rows[each.row]
            kernel = compiled(
                table.device, squares_kernel, source, table.source_options(each, hyper, source), each.dtypes
            )
            numbers = table.work(each, hyper), stage_scalars(hyper, each.dtype)
            launch(kernel, part.blocks, UNIT_THREADS, stream, *numbers, part.rows, part.entries, self.partials)


def steps_of(array: DeviceArray, axes: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return lengths and steps of the axes that are not added, and of those that are; the last axis first."""
    by_step = range(array.ndim)[::-1] if array.flags.c_contiguous else range(array.ndim)
    strides = dict.fromkeys(by_step, 1)
    step = 1
    for axis in by_step:
        strides[axis] = step
        step *= array.shape[axis]
    unit_axes = [axis for axis in range(array.ndim)[::-1] if axis not in axes]
    return merge_axes(array.shape, strides, unit_axes), merge_axes(array.shape, strides, axes[::-1])


def merge_axes(shape: Sequence[int], strides: Mapping[int, int], axes: Sequence[int]) -> list[tuple[int, int]]:
    """Return lengths and steps of axes; two axes become one if the second goes on where the first ends."""
    found: list[tuple[int, int]] = []
    for axis in axes:
        length, step = shape[axis], strides[axis]
        if found and step == found[-1][0] * found[-1][1]:
            found[-1] = found[-1][0] * length, found[-1][1]
        elif length > 1:
            found.append((length, step))
    return found or [(1, 0)]
