"""The parameters after a step: each rank gets the slices of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.dtypes import Array
from .layout import Bucket
from .ranks import Ranks


def gather(ranks: Ranks, buckets: Sequence[Bucket], vectors: Sequence[Array]) -> None:
    """Write the slices of the other ranks into these vectors, one for each array."""
    pending = []
    for bucket in buckets:
        members = [vectors[i] for i in bucket.numbers]
        vector: Array = members[0] if len(members) == 1 else np.concatenate(members)
        pending.append((bucket, members, vector, ranks.start_all_gather(vector, bucket.counts)))
    for bucket, members, vector, request in pending:
        ranks.wait([request])
        if len(members) > 1:
            for k, member in enumerate(members):
                member[...] = vector[bucket.starts[k] : bucket.starts[k + 1]]
