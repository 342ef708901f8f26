"""The slices of the parameters: which rank owns which elements."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..backends.table import CHUNK


class Form(NamedTuple):
    """The form of an array, as far as its slices depend on it."""

    size: int
    dtype: np.dtype[Any]
    #: Whether it can be cut; else one rank owns all of it.
    is_cut: bool


class Bucket(NamedTuple):
    """Consecutive arrays of one dtype, which are exchanged together: one after the other they are a vector.

    ``starts`` has the place in the vector where each array begins, and its length. Rank ``r`` owns the elements from
    ``cuts[r]`` to ``cuts[r + 1]``.
    """

    numbers: range
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

    def slice_of(self, i: int, rank: int) -> tuple[int, int]:
        """Return where the part of array number ``i`` that a rank owns begins and ends in the array."""
        start, end = self.starts[i - self.numbers.start], self.starts[i - self.numbers.start + 1]
        first, last = self.cuts[rank], self.cuts[rank + 1]
        begin = min(max(first, start), end) - start
        return begin, max(min(last, end) - start, begin)


def cuts_of(bucket: Bucket, i: int) -> npt.NDArray[np.int64]:
    """Return where the parts of array number ``i`` of a bucket begin, and where the last one ends."""
    start, end = bucket.starts[i - bucket.numbers.start], bucket.starts[i - bucket.numbers.start + 1]
    return np.clip(np.array(bucket.cuts, np.int64), start, end) - start


def buckets_of(forms: Sequence[Form], ranks: int, bucket_bytes: int, before: Sequence[Bucket] = ()) -> list[Bucket]:
    """Return the buckets of arrays of these forms, which are numbered on from those of the buckets ``before``.

    A bucket has at most ``bucket_bytes``, or is a single array. Ranks that own less so far get more of the next one.
    """
    buckets: list[Bucket] = []
    first = sum(len(bucket.numbers) for bucket in before)
    loads = [sum(bucket.counts[rank] for bucket in before) for rank in range(ranks)]
    begin = 0
    for end in range(1, len(forms) + 1):
        is_last = end == len(forms)
        if not is_last:
            members = forms[begin : end + 1]
            size = sum(form.size * form.dtype.itemsize for form in members)
            is_last = size > bucket_bytes or members[0].dtype != members[-1].dtype
        if is_last:
            bucket = bucket_of(forms[begin:end], range(first + begin, first + end), loads)
            loads = [load + count for load, count in zip(loads, bucket.counts, strict=True)]
            buckets.append(bucket)
            begin = end
    return buckets


def bucket_of(forms: Sequence[Form], numbers: range, loads: Sequence[int]) -> Bucket:
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
