"""The parameters after a step: each rank gets the slices of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array
from ..backends.backend import Backend
from ..backends.packing import Packed
from .layout import Bucket
from .ranks import Ranks

#: How many buckets of several arrays are on their way at a time; each has memory of its own.
LANES = 2


class Member(NamedTuple):
    """A bucket, the vectors of its arrays, and which of its elements each rank owns."""

    bucket: Bucket
    arrays: Sequence[Array]
    packed: Packed
    counts: list[int]
    begin: int
    end: int


class Gather:
    """Gathers the slices of parameters, in the memory of arrays that are alone in a bucket, else through a vector.

    Parameters
    ----------
    vectors : sequence of array
        The parameters, each as a vector.
    """

    def __init__(self, ranks: Ranks, backend: Backend, buckets: Sequence[Bucket], vectors: Sequence[Array]) -> None:
        self.ranks = ranks
        members = []
        for bucket in buckets:
            arrays = [vectors[i] for i in bucket.numbers]
            packed = backend.packing(np.array(bucket.starts, np.int64)).of(arrays)
            begin, end = bucket.cuts[ranks.rank : ranks.rank + 2]
            members.append(Member(bucket, arrays, packed, bucket.counts, begin, end))
        self.of_one = [member for member in members if len(member.arrays) == 1]
        self.of_several = [member for member in members if len(member.arrays) > 1]
        most = max((each.bucket.size * each.bucket.dtype.itemsize for each in self.of_several), default=0)
        lanes = min(LANES, len(self.of_several)) if ranks.size > 1 else 0
        self.memory = [np.empty(most, np.uint8) for _ in range(lanes)]

    @property
    def nbytes(self) -> int:
        """How many bytes its memory has."""
        return sum(memory.size for memory in self.memory)

    def run(self, present: Sequence[bool]) -> None:
        """Gather the buckets that have one of these arrays. Collective."""
        if self.ranks.size == 1:
            return
        of_one, of_several = self.of_one, self.of_several
        if not all(present):
            of_one, of_several = (
                [each for each in members if any(present[i] for i in each.bucket.numbers)]
                for members in (of_one, of_several)
            )
        requests = [self.ranks.start_all_gather(each.arrays[0], each.counts) for each in of_one]
        transfers: deque[tuple[Member, Array, Any]] = deque()
        for k, each in enumerate(of_several):
            if k >= len(self.memory):
                self.unpack(*transfers.popleft())
            transfers.append(self.start(each, self.memory[k % len(self.memory)]))
        while transfers:
            self.unpack(*transfers.popleft())
        self.ranks.wait(requests)

    def start(self, member: Member, memory: Array) -> tuple[Member, Array, Any]:
        bucket = member.bucket
        vector = memory[: bucket.size * bucket.dtype.itemsize].view(bucket.dtype)
        member.packed.pack(member.begin, vector[member.begin : member.end])
        return member, vector, self.ranks.start_all_gather(vector, member.counts)

    def unpack(self, member: Member, vector: Array, request: Any) -> None:
        self.ranks.wait([request])
        for begin, end in (0, member.begin), (member.end, member.bucket.size):
            if end > begin:
                member.packed.unpack(begin, vector[begin:end])
