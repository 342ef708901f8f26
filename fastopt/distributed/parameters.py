"""The parameters after a step: each rank gets the slices of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.dtypes import Array
from ..backends.backend import Backend
from ..backends.packing import PackedArrays
from .layout import Bucket
from .ranks import PersistentRequest, Ranks

#: How many buckets of several arrays are on their way at a time; each has memory of its own.
LANES = 2


class Member(NamedTuple):
    """A bucket, its arrays as one vector, and the exchange that gathers them in the memory of a lane."""

    bucket: Bucket
    packed: PackedArrays
    lane: int
    exchange: PersistentRequest
    #: Where the elements of this rank begin, and their place in the lane; and those of the other ranks.
    own: tuple[int, Array]
    others: list[tuple[int, Array]]


class Gather:
    """Gathers the slices of parameters, in the memory of arrays that are alone in a bucket, else through a vector.

    Parameters
    ----------
    vectors : sequence of array
        The parameters, each as a vector.
    """

    def __init__(self, ranks: Ranks, backend: Backend, buckets: Sequence[Bucket], vectors: Sequence[Array]) -> None:
        self.ranks = ranks
        self.of_one: list[Member] = []
        self.of_several: list[Member] = []
        self.memory: list[Array] = []
        if ranks.size == 1:
            return
        sizes = [bucket.size * bucket.dtype.itemsize for bucket in buckets if len(bucket.numbers) > 1]
        self.memory = [np.empty(max(sizes), np.uint8) for _ in range(min(LANES, len(sizes)))]
        for bucket in buckets:
            arrays, lane = [vectors[i] for i in bucket.numbers], len(self.of_several) % LANES
            members, vector = self.of_one, arrays[0]
            if len(arrays) > 1:
                members = self.of_several
                vector = self.memory[lane][: bucket.size * bucket.dtype.itemsize].view(bucket.dtype)
            packed = backend.packing(np.array(bucket.starts, np.int64)).of(arrays)
            begin, end = bucket.cuts[ranks.rank : ranks.rank + 2]
            exchange = ranks.prepare_all_gather(vector, bucket.counts)
            others = [(first, vector[first:last]) for first, last in ((0, begin), (end, bucket.size)) if last > first]
            members.append(Member(bucket, packed, lane, exchange, (begin, vector[begin:end]), others))

    @property
    def nbytes(self) -> int:
        """How many bytes its memory has."""
        return sum(memory.size for memory in self.memory)

    def run(self, present: Sequence[bool]) -> None:
        """Gather the buckets that have one of these arrays. Collective."""
        of_one, of_several = self.of_one, self.of_several
        if not all(present):
            of_one, of_several = (
                [each for each in members if any(present[i] for i in each.bucket.numbers)]
                for members in (of_one, of_several)
            )
        for each in of_one:
            self.ranks.settle(each.exchange)
            self.ranks.start(each.exchange)
        begun: deque[Member] = deque()
        for each in of_several:
            while any(other.lane == each.lane for other in begun):
                self.unpack(begun.popleft())
            self.ranks.settle(each.exchange)
            each.packed.pack(*each.own)
            self.ranks.start(each.exchange)
            begun.append(each)
        for each in begun:
            self.unpack(each)
        self.ranks.wait([each.exchange for each in of_one])

    def unpack(self, member: Member) -> None:
        self.ranks.wait([member.exchange])
        for begin, values in member.others:
            member.packed.unpack(begin, values)
