"""Sums over whole arrays, from those of each rank's chunks, with the bits of one process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..backends.table import CHUNK
from .ranks import Ranks


class SumsOfRanks:
    """The reduction of a table (see ``Table.reduction``) whose arrays are slices.

    ``lengths`` has the length of each array's slice on each rank.
    """

    def __init__(self, ranks: Ranks, lengths: npt.NDArray[np.int64]) -> None:
        self.ranks = ranks
        self.chunks = -(-lengths // CHUNK)

    def __call__(
        self, present: Sequence[bool], sums: npt.NDArray[np.float64], nonfinite: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        count = self.chunks.shape[1]
        chunks = self.chunks * np.array(present, bool)
        own = np.empty((sums.size, 2))
        own[:, 0], own[:, 1] = sums, nonfinite
        everyone = np.empty((int(chunks.sum()), 2))
        first = int(chunks[: self.ranks.rank].sum())
        everyone[first : first + sums.size] = own
        self.ranks.wait([self.ranks.start_all_gather(everyone.reshape(-1), (2 * chunks.sum(axis=1)).tolist())])
        # Ranks own the parts of an array in order, and bincount adds in order.
        owners = np.repeat(np.tile(np.arange(count), self.ranks.size), chunks.reshape(-1))
        with np.errstate(all="ignore"):
            totals, counts = (np.bincount(owners, column, count) for column in everyone.T)
        return totals.astype(np.float64, copy=False), counts.astype(np.int64)
