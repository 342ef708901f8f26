"""The slices of the parameters: which rank owns which elements."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.table import CHUNK

#: An array that can be cut is a bucket alone if each rank's part of it has this many bytes: then a message of its own
#: takes less time than to copy it into a vector and back.
LEAST_ALONE = 1 << 19


class Form(NamedTuple):
    """The form of an array, as far as its slices depend on it."""

    size: int
    dtype: np.dtype[Any]
    #: Whether it can be cut; else one rank owns all of it.
    is_cut: bool


class Bucket(NamedTuple):
    """Arrays of one dtype, in rising numbers, which are exchanged together: one after the other they are a vector.

    ``starts`` has the place in the vector where each array begins, and its length. Rank ``r`` owns the elements from
    ``cuts[r]`` to ``cuts[r + 1]``.
    """

    numbers: tuple[int, ...]
    dtype: np.dtype[Any]
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.starts[-1]

    @property
    def counts(self) -> list[int]:
        """How many elements each rank owns."""
        return [end - begin for begin, end in pairwise(self.cuts)]

    def piece_length(self, most: int) -> int:
        """Return how many elements a rank gets at most of a piece, if the bucket is exchanged in pieces of ``most``."""
        return -(-max(self.counts) // max(-(-self.size // max(most, 1)), 1))

    def ends_of(self, i: int) -> tuple[int, int]:
        """Return where array number ``i`` begins and ends in the vector."""
        k = bisect_left(self.numbers, i)
        return self.starts[k], self.starts[k + 1]

    def slice_of(self, i: int, rank: int) -> tuple[int, int]:
        """Return where the part of array number ``i`` that a rank owns begins and ends in the array."""
        start, end = self.ends_of(i)
        first, last = self.cuts[rank], self.cuts[rank + 1]
        begin = min(max(first, start), end) - start
        return begin, max(min(last, end) - start, begin)


def cuts_of(bucket: Bucket, i: int) -> npt.NDArray[np.int64]:
    """Return where the parts of array number ``i`` of a bucket begin, and where the last one ends."""
    start, end = bucket.ends_of(i)
    return np.clip(np.array(bucket.cuts, np.int64), start, end) - start


def buckets_of(forms: Sequence[Form], ranks: int, bucket_bytes: int, before: Sequence[Bucket] = ()) -> list[Bucket]:
    """Return the buckets of arrays of these forms, which are numbered on from those of the buckets ``before``.

    A bucket has at most ``bucket_bytes``, or is a single array. Ranks that own less so far get more of the next one.
    """
    first = sum(len(bucket.numbers) for bucket in before)
    loads = [sum(bucket.counts[rank] for bucket in before) for rank in range(ranks)]
    buckets: list[Bucket] = []
    for members in share_out(forms, ranks, bucket_bytes):
        bucket = bucket_of([forms[k] for k in members], tuple(first + k for k in members), loads)
        loads = [load + count for load, count in zip(loads, bucket.counts, strict=True)]
        buckets.append(bucket)
    return buckets


def share_out(forms: Sequence[Form], ranks: int, bucket_bytes: int) -> list[list[int]]:
    """Return the places of the forms of each bucket; buckets are in the order of their first arrays."""
    buckets: list[list[int]] = []
    #: The last bucket of each dtype, and its bytes.
    filled: dict[np.dtype[Any], tuple[list[int], int]] = {}
    for k, form in enumerate(forms):
        size = form.size * form.dtype.itemsize
        is_alone = size > bucket_bytes or (form.is_cut and size >= ranks * LEAST_ALONE)
        bucket, its_size = filled.get(form.dtype, ([], 0))
        if is_alone or its_size + size > bucket_bytes:
            bucket, its_size = [], 0
        if not bucket:
            buckets.append(bucket)
        bucket.append(k)
        if not is_alone:
            filled[form.dtype] = bucket, its_size + size
    return buckets


def bucket_of_each(buckets: Sequence[Bucket]) -> dict[int, Bucket]:
    """Return the bucket of each array, in the order of their numbers."""
    found = {i: bucket for bucket in buckets for i in bucket.numbers}
    return {i: found[i] for i in sorted(found)}


def bucket_of(forms: Sequence[Form], numbers: tuple[int, ...], loads: Sequence[int]) -> Bucket:
    """Return the bucket of these arrays, cut where the ranks' loads become as equal as the places for cuts allow."""
    starts = (0, *accumulate(form.size for form in forms))
    ranks, all_of_it = len(loads), sum(loads) + starts[-1]
    # The elements that each rank lacks, times the number of ranks.
    lacks = [max(all_of_it - ranks * load, 0) for load in loads]
    cuts = [0]
    for part in list(accumulate(lacks))[:-1]:
        cuts.append(max(cuts[-1], nearest_cut(forms, starts, starts[-1] * part // max(sum(lacks), 1))))
    return Bucket(numbers, forms[0].dtype, starts, (*cuts, starts[-1]))


def nearest_cut(forms: Sequence[Form], starts: Sequence[int], place: int) -> int:
    """Return the place for a cut that is nearest: where an array ends, or a multiple of CHUNK behind its beginning."""
    k = min(bisect_right(starts, place), len(forms)) - 1
    start, size = starts[k], forms[k].size
    step = CHUNK if forms[k].is_cut else max(size, 1)
    before = (place - start) // step * step
    after = min(before + step, size)
    return start + (before if place - start - before < after - (place - start) else after)
