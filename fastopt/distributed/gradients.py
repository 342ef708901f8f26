"""The gradients of all ranks, added in rank order by the owner of each slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays.dtypes import Array, compute_dtype
from ..backends import norms
from .layout import Bucket
from .ranks import Ranks


class BucketOfGradients:
    """The gradients of a bucket: a vector to send, the slices of it that all ranks send here, and their sum."""

    def __init__(self, ranks: Ranks, bucket: Bucket) -> None:
        self.ranks, self.bucket = ranks, bucket
        self.dtype = compute_dtype(bucket.dtype)
        own = bucket.counts[ranks.rank]
        self.send: Array = np.zeros(bucket.size, self.dtype)
        self.recv: Array = np.empty((ranks.size, own), self.dtype)
        self.sums: Array = np.zeros(own, self.dtype)
        self.order, self.firsts = np.arange(ranks.size), np.zeros(1, np.int64)

    def pack(self, leaves: Sequence[Any]) -> None:
        """Write the gradients into the vector, zeros for None."""
        starts = self.bucket.starts
        for k, i in enumerate(self.bucket.numbers):
            part = self.send[starts[k] : starts[k + 1]]
            part[...] = 0 if leaves[i] is None else leaves[i].reshape(-1)

    def start(self) -> Any:
        counts = self.bucket.counts
        return self.ranks.start_all_to_all(
            self.send, counts, self.recv.reshape(-1), [counts[self.ranks.rank]] * self.ranks.size
        )

    def add(self) -> None:
        self.sums[...] = norms.add_rows(self.recv, self.order, self.firsts)[0] if self.sums.size else 0

    def slice_of(self, i: int) -> Array:
        """Return the sum of the part of array number ``i`` that this rank owns."""
        rank, bucket = self.ranks.rank, self.bucket
        begin, end = bucket.slice_of(i, rank)
        first = bucket.starts[i - bucket.numbers.start] + begin - bucket.cuts[rank]
        return self.sums[first : first + end - begin] if end > begin else self.sums[:0]


def add_in_rank_order(ranks: Ranks, buckets: Sequence[BucketOfGradients], leaves: Sequence[Any]) -> None:
    """Exchange the gradients of all buckets, and add them."""
    requests = []
    for bucket in buckets:
        bucket.pack(leaves)
        requests.append(bucket.start())
    for bucket, request in zip(buckets, requests, strict=True):
        ranks.wait([request])
        bucket.add()
