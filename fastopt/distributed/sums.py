"""Sums over whole arrays, from those of each rank's chunks, with the bits of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.table import CHUNK
from .ranks import Ranks


class Chunks(NamedTuple):
    """The chunks of the arrays that have a gradient, of all ranks: those of rank 0 first."""

    present: Sequence[bool]
    #: How many numbers each rank has, two for each chunk.
    counts: list[int]
    #: The place of this rank's first chunk.
    first: int
    #: The array of each chunk.
    owners: npt.NDArray[np.intp]


class SumsOfRanks:
    """The reduction of a table (see ``Table.reduction``) whose arrays are slices.

    ``lengths`` has the length of each array's slice on each rank.
    """

    def __init__(self, ranks: Ranks, lengths: npt.NDArray[np.int64]) -> None:
        self.ranks = ranks
        self.counts = -(-lengths // CHUNK)
        self.chunks = self.chunks_of([])

    def chunks_of(self, present: Sequence[bool]) -> Chunks:
        """Return the chunks of the arrays that are present."""
        counts = np.where(present, self.counts, 0) if present else np.zeros_like(self.counts)
        owners = np.repeat(np.tile(np.arange(counts.shape[1]), self.ranks.size), counts.reshape(-1))
        first = int(counts[: self.ranks.rank].sum())
        return Chunks(present, (2 * counts.sum(axis=1)).tolist(), first, owners)

    def __call__(
        self, present: Sequence[bool], sums: npt.NDArray[np.float64], nonfinite: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        if self.chunks.present != present:
            self.chunks = self.chunks_of(present)
        _, counts, first, owners = self.chunks
        everyone = np.empty((owners.size, 2))
        own = everyone[first : first + sums.size]
        own[:, 0], own[:, 1] = sums, nonfinite
        self.ranks.wait([self.ranks.start_all_gather(everyone.reshape(-1), counts)])
        arrays = self.counts.shape[1]
        # Ranks own the parts of an array in order, and bincount adds in order.
        with np.errstate(all="ignore"):
            totals, numbers = (np.bincount(owners, column, arrays) for column in everyone.T)
        return totals.astype(np.float64, copy=False), numbers.astype(np.int64)
