"""Gradients of small arrays: the first message of a step's meeting carries them."""

from __future__ import annotations

from collections.abc import Sequence

from ..arrays.dtypes import Array
from ..backends.packing import FROM_ROW, PackedArrays, Rows
from .exchange import BucketOfGradients
from .ranks import Ranks

#: The most bytes of gradients that are carried. More are exchanged after the meeting, piece by piece.
MOST = 1 << 16


class GradientPayload:
    """The gradients of a bucket, and the sums over all ranks of this rank's slice.

    Parameters
    ----------
    ranks : Ranks
        Those that meet; their messages carry the gradients from now on.
    bucket : BucketOfGradients
        The only bucket.
    """

    def __init__(self, ranks: Ranks, bucket: BucketOfGradients) -> None:
        self.ranks, self.bucket = ranks, bucket
        message = ranks.carry([count * bucket.wire.itemsize for count in bucket.bucket.counts])
        self.begin = bucket.bucket.cuts[ranks.rank]
        others = [rank for rank in range(ranks.size) if rank != ranks.rank and message.payloads_to[rank].size]
        #: For each other rank the place in the bucket where its part begins, and the part.
        self.parts = [(bucket.bucket.cuts[rank], message.payloads_to[rank].view(bucket.wire)) for rank in others]
        vectors: list[Array | None] = [vector.view(bucket.wire) for vector in message.payloads_from]
        vectors[ranks.rank] = None
        self.rows = Rows(vectors, bucket.wire, 1.0, FROM_ROW)
        self.packed: PackedArrays | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes the messages carry."""
        rows = [row for row in self.rows.vectors if row is not None]
        return sum(vector.nbytes for vector in [*(part for _, part in self.parts), *rows])

    def pack(self, arrays: Sequence[Array | None]) -> None:
        """Write the gradients into the message."""
        self.ranks.settle()
        self.packed = self.bucket.packing.of(arrays)
        for begin, part in self.parts:
            self.packed.pack(begin, part)

    def add(self) -> None:
        """Add the gradients of all ranks, after they have met: in rank order."""
        bucket, packed = self.bucket, self.packed
        if packed is not None and bucket.sums.size:
            packed.accumulate(self.begin, self.rows, bucket.sums)

    def forget(self) -> None:
        """Forget the arrays: no gradient outlives its step here."""
        self.packed = None


def gradient_payload(ranks: Ranks, buckets: Sequence[BucketOfGradients], exact: bool) -> GradientPayload | None:
    """Return the gradients of these buckets if the meetings carry them from now on. Collective."""
    if ranks.size > 1 and not exact and can_carry([bucket.bucket.size * bucket.wire.itemsize for bucket in buckets]):
        return GradientPayload(ranks, buckets[0])
    ranks.carry([0] * ranks.size)  # it may have carried others
    return None


def can_carry(sizes: Sequence[int]) -> bool:
    """Return whether a message can carry the gradients of buckets of these bytes."""
    return len(sizes) == 1 and sizes[0] <= MOST
