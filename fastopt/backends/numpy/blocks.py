"""Blocks: the pieces of a table that go through a pass one at a time, small enough to stay in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves, quantize
from ...arithmetic.dither import SCALE_BLOCK, random_bits
from ...arrays.dtypes import Array, compute_dtype
from ..table import CHUNK, HyperRow

#: Arrays of at most this many elements share a block. Each is then one chunk, so that its partial sum is its sum.
SMALL_SIZE = CHUNK


class TableArrays(NamedTuple):
    """The arrays of a table, flat; None where an array lacks one."""

    params: list[Array]
    #: By slot, then by array.
    slots: list[list[Array | None]]
    averages: list[Array | None]
    accumulated: list[Array | None]
    copies: list[Array | None]
    lowers: list[Array | None]
    uppers: list[Array | None]
    #: For each array, the codec and scales of each slot in 8 bits.
    scales: list[Sequence[tuple[quantize.Map, Array] | None]]
    #: The index of each array in the optimizer, which selects its random numbers.
    indices: npt.NDArray[np.int64]
    #: How many blocks of each array are before it, if it is a slice.
    first_blocks: npt.NDArray[np.int64]
    #: Whether an array or one of its slots is stored in another dtype than the compute dtype.
    is_stored: list[bool]

    @property
    def are_plain(self) -> bool:
        """Whether all arrays are in their compute dtype and none has a copy."""
        return not any(self.is_stored) and all(copy is None for copy in self.copies)


class Run(NamedTuple):
    """The elements of an array that are in a block."""

    array: int
    begin: int
    end: int


class Block:
    """A run of one array, or several small arrays of the same kind, one after the other."""

    def __init__(self, arrays: TableArrays, runs: Sequence[Run]) -> None:
        self.arrays, self.runs = arrays, runs
        self.first = runs[0].array
        self.is_stored = arrays.is_stored[self.first]
        self.dtype = compute_dtype(arrays.params[self.first].dtype)
        self.sizes = [end - begin for _, begin, end in runs]
        self.size = sum(self.sizes)
        ends = np.cumsum(self.sizes).tolist()
        #: The place of each run among the block's elements.
        self.parts = [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]
        #: The arrays of the runs, and whether each is in the block from end to end.
        self.members = [run.array for run in runs]
        self.has_whole_arrays = all(run.end - run.begin == arrays.params[run.array].size for run in runs)
        self.param = self.views(arrays.params)
        self.slots = [self.views(slot) for slot in arrays.slots if slot[self.first] is not None]
        self.average = self.views(arrays.averages)
        self.accumulated = self.views(arrays.accumulated)
        #: The least and the greatest value of each element.
        self.bounds = self.views(arrays.lowers), self.views(arrays.uppers)
        #: The chunks of a sum, as pairs (count, size); and for each chunk the number of its array.
        if len(runs) == 1:
            whole, rest = divmod(self.size, CHUNK)
            self.chunks = [(count, size) for count, size in ((whole, CHUNK), (1, rest)) if count * size > 0]
            self.owners = np.full(whole + (rest > 0), self.first)
        else:
            self.chunks = [(len(list(equal)), size) for size, equal in groupby(self.sizes)]
            self.owners = np.array(self.members)

    def views(self, arrays: Sequence[Any]) -> list[Array]:
        """Return the runs of these arrays; nothing where they are None."""
        if self.has_whole_arrays:
            return [arrays[i] for i in self.members if arrays[i] is not None]
        return [arrays[i][begin:end] for i, begin, end in self.runs if arrays[i] is not None]

    def grads(self, grads: Sequence[Array | None]) -> Sequence[Array]:
        """Return the runs of the gradients, which all arrays of a block have."""
        if self.has_whole_arrays and len(self.members) > 1:
            taken: Sequence[Any] = itemgetter(*self.members)(grads)
            return taken
        return self.views(grads)

    def split(self, values: Array) -> list[Array]:
        """Return the part of each run in an array of the block's elements."""
        return [values[part] for part in self.parts]

    def load(self, views: Sequence[Array], stream: int) -> Array:
        """Return the parameter (PARAM_STREAM) or slot number ``stream`` of one array in the compute dtype."""
        if views[0].dtype == self.dtype:
            return views[0]
        found = self.codec_and_scales(stream)
        if found is None:
            return halves.to_float32(views[0])
        codec, scales = found
        return quantize.dequantize(views[0], scales, codec)

    def store(self, views: Sequence[Array], stream: int, values: Array, hyper: HyperRow) -> None:
        """Write the values of a parameter or slot that is stored in another dtype."""
        index, first_block = int(self.arrays.indices[self.first]), int(self.arrays.first_blocks[self.first])
        begin = self.runs[0].begin + first_block * SCALE_BLOCK
        random = random_bits(hyper.dither, index, stream, begin, self.size)
        found = self.codec_and_scales(stream)
        if found is None:
            halves.dither_into(views[0], values, random)
        else:
            codec, scales = found
            views[0][...], scales[...] = quantize.quantize(values, codec, random)

    def codec_and_scales(self, stream: int) -> tuple[quantize.Map, Array] | None:
        """Return the codec of a slot in 8 bits and the scales of its run; None if it is not in 8 bits."""
        of_slots = self.arrays.scales[self.first]
        found = of_slots[stream] if stream < len(of_slots) else None
        if found is None:
            return None
        codec, scales = found
        _, begin, end = self.runs[0]
        return codec, scales[begin // SCALE_BLOCK : -(-end // SCALE_BLOCK)]

    def clip_factors(self, array_clip: npt.NDArray[np.float64]) -> Array:
        """Return the factors that clip the norm of each array, spread over its elements."""
        if len(self.runs) == 1:
            return np.array(array_clip[self.first], self.dtype)
        return np.repeat(array_clip[self.members].astype(self.dtype), self.sizes)


def cut_table(
    arrays: TableArrays, grads: Sequence[Array | None], row_numbers: npt.NDArray[np.int32], block_bytes: int
) -> Iterator[Block]:
    """Yield the blocks of the arrays with a gradient; the arrays of a block agree in hyperparameters and dtypes."""
    small = []
    for i, (param, grad) in enumerate(zip(arrays.params, grads, strict=True)):
        if grad is None or param.size == 0:
            continue
        if param.size <= SMALL_SIZE and not arrays.is_stored[i]:
            extras = arrays.averages[i] is None, arrays.lowers[i] is None, arrays.uppers[i] is None
            kind = int(row_numbers[i]), param.dtype.str, grad.dtype.name, *extras
            # Sorted by size too, since lane_sums adds up chunks of equal size together.
            small.append((kind, param.size, i))
            continue
        for run in cut_array(i, param, block_bytes):
            yield Block(arrays, [run])
    for _, members in groupby(sorted(small), key=lambda member: member[0]):
        runs: list[Run] = []
        room = 0
        for _, size, i in members:
            if size > room:
                if runs:
                    yield Block(arrays, runs)
                runs, room = [], block_bytes // arrays.params[i].itemsize
            runs.append(Run(i, 0, size))
            room -= size
        yield Block(arrays, runs)


def cut_array(i: int, param: Array, block_bytes: int) -> Iterator[Run]:
    """Yield the runs of an array that shares no block: about equal in length, and whole chunks but for the last."""
    blocks = -(-param.nbytes // block_bytes) or 1
    length = -(-param.size // (blocks * CHUNK)) * CHUNK
    for begin in range(0, param.size, length or 1):
        yield Run(i, begin, min(begin + length, param.size))
