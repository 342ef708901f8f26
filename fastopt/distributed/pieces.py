"""The entries of a sharded state as pieces of those of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic.dither import SCALE_BLOCK
from ..arrays.dtypes import FLOAT32, Array
from ..core import storage
from ..core.hooks import Hooks
from ..core.parameters import Parameters
from ..core.slots import AROUND
from .layout import Bucket, bucket_of_each, cuts_of
from .ranks import Ranks
from .slices import vector_of

#: The counts among the entries of an array's state.
COUNTS = ("step", "accumulated_calls")


class Piece(NamedTuple):
    """The part that a rank owns of an array that no rank needs to have.

    Attributes
    ----------
    shape, dtype
        Those of the whole array.
    order : {"C", "F"}
        Its order of memory in one process.
    cuts : int64 array of shape (ranks + 1,)
        Where the ranks' parts of its elements begin, and where the last one ends: in C order, or in its order of memory
        where the parts are joined in memory.
    elements : array
        The part of this rank: contiguous, without axes but one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    cuts: npt.NDArray[np.int64]
    elements: Array


class PiecesOfState:
    """How the entries of a sharded state lie in those of one process: see :class:`fastopt.core.fitting.Pieces`.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    hooks : Hooks
        The optimizer.
    whole : Parameters
        The arrays that the user gave.
    buckets : sequence of Bucket
        How they are shared out.
    are_cut : sequence of bool
        Which of them are cut; of the others, a rank has all.
    has_scales : bool
        Whether slots are stored in 8 bits, with scales.
    """

    def __init__(
        self,
        ranks: Ranks,
        hooks: Hooks,
        whole: Parameters,
        buckets: Sequence[Bucket],
        are_cut: Sequence[bool],
        has_scales: bool,
    ) -> None:
        self.ranks, self.hooks, self.whole, self.are_cut, self.has_scales = ranks, hooks, whole, are_cut, has_scales
        self.numbers = {name: i for i, name in enumerate(whole.names)}
        self.bucket_of = bucket_of_each(buckets)

    def is_number(self, slot: str) -> bool:
        """Return whether an entry is a count or a number of a whole array, which all ranks have."""
        return slot in COUNTS or slot in self.hooks.numbers

    def is_scale(self, slot: str, entry: Array) -> bool:
        """Return whether an entry has the scales of an 8-bit slot."""
        return self.has_scales and slot.endswith(storage.scale_name("")) and entry.dtype == FLOAT32

    def shape(self, name: str, slot: str, entry: Array) -> tuple[int, ...]:
        """Return the shape that an entry has in one process."""
        i = self.numbers[name]
        array = self.whole.arrays[i]
        if self.is_number(slot):
            return ()
        if self.is_scale(slot, entry):
            return (-(-array.size // SCALE_BLOCK),)
        return array.shape if self.are_cut[i] or slot in AROUND else self.hooks.slot_shape(slot, array)

    def piece(self, name: str, slot: str, entry: Array, saved: Any) -> Any:
        """Return the part of a saved entry that goes into an entry of this rank."""
        i = self.numbers[name]
        if self.is_number(slot):
            return saved
        if entry.size == 0:
            return np.empty(entry.shape, entry.dtype)
        if not self.are_cut[i]:
            return saved[tuple(map(slice, entry.shape))]
        begin = int(cuts_of(self.bucket_of[i], i)[self.ranks.rank])
        begin = begin // SCALE_BLOCK if self.is_scale(slot, entry) else begin
        return saved.reshape(-1)[begin : begin + entry.size]

    def of_param(self, name: str, part: Array) -> Piece:
        """Return this rank's part of a parameter as a piece."""
        return self.of_entry(name, "master", part)

    def of_entry(self, name: str, slot: str, entry: Array) -> Piece:
        """Return an entry of this rank as a piece; the first rank owns numbers and what all have."""
        i, shape = self.numbers[name], self.shape(name, slot, entry)
        array, cuts = self.whole.arrays[i], cuts_of(self.bucket_of[i], i)
        size = int(np.prod(shape, dtype=np.int64))
        if self.is_number(slot) or array.size == 0:
            cuts = np.full(self.ranks.size + 1, size)
            cuts[0] = 0
        elif self.is_scale(slot, entry):
            cuts = -(-cuts // SCALE_BLOCK)
        elif not self.are_cut[i]:
            cuts = (cuts > 0) * np.int64(size)
        order = "F" if shape == array.shape and not array.flags.c_contiguous and array.flags.f_contiguous else "C"
        begin, end = cuts[self.ranks.rank : self.ranks.rank + 2].tolist()
        elements = vector_of(entry) if end > begin else np.empty(0, entry.dtype)
        return Piece(shape, entry.dtype, order, cuts, elements)


def in_c_order(piece: Piece) -> Array:
    """Return the elements of a piece in C order: one of an array in Fortran order has all of it, or nothing."""
    if piece.order == "C" or not piece.elements.size:
        return piece.elements
    return np.ascontiguousarray(piece.elements.reshape(piece.shape, order="F")).reshape(-1)


def join(ranks: Ranks, pieces: Sequence[Piece]) -> list[Array]:
    """Return the arrays of which the ranks have these pieces, in their order of memory."""
    arrays, requests = [], []
    for piece in pieces:
        begin, end = piece.cuts[ranks.rank : ranks.rank + 2].tolist()
        buffer = np.empty(int(piece.cuts[-1]), piece.dtype)
        buffer[begin:end] = piece.elements
        requests.append(ranks.start_all_gather(buffer, np.diff(piece.cuts).tolist()))
        arrays.append(buffer.reshape(piece.shape, order="F" if piece.order == "F" else "C"))
    ranks.wait(requests)
    return arrays
