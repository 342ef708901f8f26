"""The exchange of gradients: each rank gets what the others have of its slices, and adds it in rank order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array, compute_dtype
from ..backends.backend import Backend
from ..backends.packing import PackedArrays, Rows
from .layout import Bucket
from .ranks import Ranks

#: How many pieces are on their way at a time; each has memory of its own.
LANES = 3


class Piece(NamedTuple):
    """Elements of a bucket that are exchanged at once: from ``begins[r]`` on ``counts[r]`` elements for rank ``r``."""

    begins: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.counts)


def pieces_of(bucket: Bucket, most: int) -> list[Piece]:
    """Return pieces of a bucket of about ``most`` elements at most, none of an empty bucket."""
    longest, length = max(bucket.counts), bucket.piece_length(most)
    pieces = []
    for first in range(0, longest, max(length, 1)):
        counts = tuple(min(max(its - first, 0), length) for its in bucket.counts)
        pieces.append(
            Piece(tuple(cut + min(first, its) for cut, its in zip(bucket.cuts, bucket.counts, strict=False)), counts)
        )
    return pieces


class Route(NamedTuple):
    """How many elements of a piece a rank sends to each one and gets from each one; its own part stays where it is.

    From ``begin`` on its own part has ``length`` elements, and is added with those that it gets into ``sums``. The
    others' parts lie in the ``spans`` of the bucket's vector.
    """

    send_counts: list[int]
    recv_counts: list[int]
    spans: list[tuple[int, int]]
    begin: int
    length: int
    sums: Array


def route_of(bucket: Bucket, piece: Piece, rank: int, sums: Array) -> Route:
    """Return the route of a piece of a bucket; ``sums`` are those of the rank's elements of the bucket."""
    begin, length = piece.begins[rank], piece.counts[rank]
    send_counts, recv_counts = list(piece.counts), [length] * len(piece.counts)
    send_counts[rank] = recv_counts[rank] = 0
    spans: list[tuple[int, int]] = []
    for first, count in zip(piece.begins, send_counts, strict=True):
        if spans and spans[-1][1] == first:
            spans[-1] = spans[-1][0], first + count
        elif count > 0:
            spans.append((first, first + count))
    place = begin - bucket.cuts[rank]
    return Route(send_counts, recv_counts, spans, begin, length, sums[place : place + length])


class BucketOfGradients:
    """The gradients of a bucket on this rank: how they are sent, and the sums over all ranks of its slice.

    Parameters
    ----------
    rank : int
        The number of this rank.
    wire : dtype or None
        That of the numbers that are sent; None: the compute dtype, in which they are added.
    piece_bytes : int
        About how many bytes of parameters are exchanged at once.
    """

    def __init__(
        self, backend: Backend, bucket: Bucket, rank: int, wire: np.dtype[Any] | None, piece_bytes: int
    ) -> None:
        self.bucket, self.rank = bucket, rank
        self.dtype = compute_dtype(bucket.dtype)
        self.wire = self.dtype if wire is None else wire
        self.sums: Array = np.zeros(bucket.counts[rank], self.dtype)
        self.is_packed = len(bucket.numbers) > 1
        self.pieces = pieces_of(bucket, bucket.size if self.is_packed else piece_bytes // bucket.dtype.itemsize)
        self.packing = backend.packing(np.array(bucket.starts, np.int64))
        self.routes = [route_of(bucket, piece, rank, self.sums) for piece in self.pieces]

    def slice_of(self, i: int) -> Array:
        """Return the sums of the part of array number ``i`` that this rank owns."""
        begin, end = self.bucket.slice_of(i, self.rank)
        first = self.bucket.ends_of(i)[0] + begin - self.bucket.cuts[self.rank]
        return self.sums[first : first + end - begin] if end > begin else self.sums[:0]

    def send(self, k: int, packed: PackedArrays, lane: Lane) -> tuple[Array, Sequence[int] | None]:
        """Return a vector with the numbers of piece ``k`` for the other ranks, and where in it those for each begin.

        It is the gradient itself if that can be sent as it is; None: one after the other.
        """
        array = packed.arrays[0]
        if not self.is_packed and array is not None and array.dtype == self.wire:
            return array.reshape(-1), self.pieces[k].begins
        route = self.routes[k]
        vector = lane.vector(0, sum(route.send_counts), self.wire)
        place = 0
        for begin, end in route.spans:
            packed.pack(begin, vector[place : place + end - begin])
            place += end - begin
        return vector, None


class Lane:
    """The memory of a piece on its way: what is sent, and what is received. It is kept for the next ones."""

    def __init__(self) -> None:
        self.memory: list[Array] = [np.empty(0, np.uint8)] * 2

    def vector(self, which: int, size: int, dtype: np.dtype[Any]) -> Array:
        """Return memory to send (0) or receive (1)."""
        nbytes = size * dtype.itemsize
        if self.memory[which].size < nbytes:
            self.memory[which] = np.empty(nbytes, np.uint8)
        return self.memory[which][:nbytes].view(dtype)

    @property
    def nbytes(self) -> int:
        return sum(memory.size for memory in self.memory)


class Job(NamedTuple):
    """A piece of a bucket to exchange, with the arrays of the whole bucket."""

    bucket: BucketOfGradients
    piece: int
    packed: PackedArrays
    scale: float
    beginning: int


class Transfer(NamedTuple):
    """A job on its way."""

    job: Job
    lane: Lane
    received: Array
    request: Any


class Exchange:
    """Exchanges of gradients: they are begun in the same order on all ranks, and added in this order."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.free_lanes = [Lane() for _ in range(LANES)]
        self.lanes = tuple(self.free_lanes)
        self.jobs: deque[Job] = deque()
        self.transfers: deque[Transfer] = deque()
        #: How many pieces were begun since the last :meth:`finish` or :meth:`drop`, and how many may be.
        self.begun = 0
        self.most = math.inf

    @property
    def nbytes(self) -> int:
        """How many bytes its memory has now."""
        return sum(lane.nbytes for lane in self.lanes)

    def put(self, bucket: BucketOfGradients, arrays: Sequence[Array | None], scale: float, beginning: int) -> None:
        """Exchange a bucket after those before it: ``sums = (beginning + rank 0's * scale) + rank 1's * scale ...``.

        ``beginning`` is as in ``backends/packing.py``. The arrays stay as they are until :meth:`finish` returns.
        """
        packed = bucket.packing.of(arrays)
        self.jobs.extend(Job(bucket, k, packed, scale, beginning) for k in range(len(bucket.pieces)))
        self.poke()

    def poke(self) -> None:
        """Go on with what can go on without waiting."""
        while self.transfers and self.ranks.test([self.transfers[0].request]):
            self.add(self.transfers.popleft())
        while self.jobs and self.free_lanes and self.begun < self.most:
            self.transfers.append(self.start(self.jobs.popleft(), self.free_lanes.pop()))

    def finish(self) -> None:
        """Wait until all is exchanged and added."""
        while self.transfers or self.jobs:
            self.poke()
            self.wait()
        self.begun = 0

    def drop(self) -> None:
        """Finish the first ``most`` pieces, and forget the others; the sums mean nothing then."""
        while self.begun < self.most:
            self.poke()
            self.wait()
        self.jobs.clear()
        self.finish()
        self.most = math.inf

    def wait(self) -> None:
        """Wait for the first piece on its way."""
        if self.transfers:
            self.ranks.wait([self.transfers[0].request])

    def start(self, job: Job, lane: Lane) -> Transfer:
        self.begun += 1
        bucket, route = job.bucket, job.bucket.routes[job.piece]
        vector, begins = bucket.send(job.piece, job.packed, lane)
        recv = lane.vector(1, route.length * (self.ranks.size - 1), bucket.wire)
        request = self.ranks.start_all_to_all(vector, route.send_counts, recv, route.recv_counts, begins)
        return Transfer(job, lane, recv, request)

    def add(self, transfer: Transfer) -> None:
        job, received = transfer.job, transfer.received
        route, length = job.bucket.routes[job.piece], job.bucket.routes[job.piece].length
        if length > 0:
            vectors: list[Array | None] = [received[k : k + length] for k in range(0, received.size, length)]
            vectors.insert(self.ranks.rank, None)
            rows = Rows(vectors, job.bucket.wire, job.scale, job.beginning)
            job.packed.accumulate(route.begin, rows, route.sums)
        self.free_lanes.append(transfer.lane)
