"""The digest of a file of which each rank has a part of the content."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..checkpoint.metadata import BLOCK, digest_of, digests_of_blocks
from .ranks import Ranks

#: The bytes of a digest of a block, and of those that the ranks exchange at once.
DIGEST_BYTES = 32
BATCH_BYTES = 2**24


class Shares:
    """Which elements of the arrays of a file each rank has, and its own.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    cuts : mapping of int64 arrays of shape (ranks + 1,)
        For each array, by its key: where the ranks' parts of its elements begin, and where the last one ends; multiples
        of BLOCK.
    own : function
        Returns this rank's part of an array: contiguous, without axes but one.
    """

    def __init__(
        self, ranks: Ranks, cuts: Mapping[str, npt.NDArray[np.int64]], own: Callable[[str], npt.NDArray[Any]]
    ) -> None:
        self.ranks, self.cuts, self.own = ranks, cuts, own

    def digest(self, metadata: Mapping[str, str], forms: Mapping[str, Any]) -> str:
        """Return the digest of the file, on every rank. Each makes those of its own blocks."""
        digests = self.digests(sorted(self.cuts))
        return digest_of(metadata, forms, lambda key: next(digests))

    def digests(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the digests of the blocks of each of these arrays; all ranks ask for them together."""
        begin, blocks = 0, 0
        for end, key in enumerate(keys, start=1):
            blocks += math.ceil(self.cuts[key][-1] / BLOCK)
            if blocks * DIGEST_BYTES >= BATCH_BYTES or end == len(keys):
                yield from self.exchange(keys[begin:end])
                begin, blocks = end, 0

    def exchange(self, keys: Sequence[str]) -> list[bytes]:
        """Return the digests of the blocks of each of these arrays."""
        rank = self.ranks.rank
        # For each array and rank.
        sizes = DIGEST_BYTES * np.diff(-(-np.array([self.cuts[key] for key in keys]) // BLOCK), axis=1)
        counts = sizes.sum(axis=0)
        buffer = np.empty(int(counts.sum()), np.uint8)
        begin = int(counts[:rank].sum())
        own = b"".join(
            [digests_of_blocks(self.own(key)) for key, size in zip(keys, sizes[:, rank], strict=True) if size]
        )
        buffer[begin : begin + len(own)] = np.frombuffer(own, np.uint8)
        self.ranks.wait([self.ranks.start_all_gather(buffer, counts.tolist())])
        # Where the part of each rank of each array begins in the buffer.
        places = np.cumsum(counts) - counts + np.cumsum(sizes, axis=0) - sizes
        data = buffer.tobytes()
        return [
            b"".join([data[its_places[r] : its_places[r] + its_sizes[r]] for r in np.flatnonzero(its_sizes)])
            for its_places, its_sizes in zip(places, sizes, strict=True)
        ]


def even_cuts(sizes: Mapping[str, int], itemsizes: Mapping[str, int], ranks: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return cuts of arrays, one behind the other in a file, that give each rank about as many bytes."""
    total, position = sum(size * itemsizes[key] for key, size in sizes.items()), 0
    goals = np.array([total * rank // ranks for rank in range(ranks)] + [total], np.int64)
    cuts = {}
    for key, size in sizes.items():
        its = (goals - position) // itemsizes[key] // BLOCK * BLOCK
        its[-1] = size
        cuts[key] = np.clip(its, 0, size)
        position += size * itemsizes[key]
    return cuts


def move(ranks: Ranks, own: Array, cuts: npt.NDArray[np.int64], goal: npt.NDArray[np.int64]) -> tuple[Array, Any]:
    """Return this rank's part of an array with other cuts, and the request after which it is there."""
    rank = ranks.rank
    received = np.empty(int(goal[rank + 1] - goal[rank]), own.dtype)
    send_counts = np.diff(np.clip(goal, cuts[rank], cuts[rank + 1])).tolist()
    recv_counts = np.diff(np.clip(cuts, goal[rank], goal[rank + 1])).tolist()
    return received, ranks.start_all_to_all(np.ascontiguousarray(own), send_counts, received, recv_counts)
