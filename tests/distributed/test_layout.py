"""The slices of the parameters: every element has one owner, and the ranks own about the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastopt.backends.table import CHUNK
from fastopt.distributed.layout import LEAST_ALONE, Bucket, Form, bucket_of_each, buckets_of

SIZES = st.one_of(st.integers(0, 9), st.integers(0, 40_000), st.sampled_from([CHUNK, 4 * CHUNK]))
FORMS = st.lists(
    st.builds(Form, SIZES, st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]), st.booleans()),
    min_size=1,
    max_size=12,
)
RANKS = st.integers(1, 7)
BYTES = st.sampled_from([1, 2**14, 2**18])


def loads_of(buckets: list[Bucket], ranks: int) -> list[int]:
    return [sum(bucket.counts[rank] for bucket in buckets) for rank in range(ranks)]


@settings(deadline=None)
@given(FORMS, RANKS, BYTES)
def test_every_element_has_one_owner(forms: list[Form], ranks: int, bucket_bytes: int) -> None:
    buckets = buckets_of(forms, ranks, bucket_bytes)
    assert list(bucket_of_each(buckets)) == list(range(len(forms)))
    assert sum(len(bucket.numbers) for bucket in buckets) == len(forms)
    for bucket in buckets:
        assert bucket.cuts[0] == 0
        assert bucket.cuts[-1] == bucket.size == sum(forms[i].size for i in bucket.numbers)
        for i in bucket.numbers:
            ends = [bucket.slice_of(i, rank) for rank in range(ranks)]
            owned = [k for begin, end in ends for k in (begin, end) if end > begin]
            assert owned[:1] + owned[-1:] == ([0, forms[i].size] if forms[i].size else [])
            assert owned[1:-1:2] == owned[2:-1:2]


@settings(deadline=None)
@given(FORMS, RANKS, BYTES)
def test_cuts_are_between_chunks(forms: list[Form], ranks: int, bucket_bytes: int) -> None:
    for bucket in buckets_of(forms, ranks, bucket_bytes):
        for i in bucket.numbers:
            begins = [begin for begin, end in (bucket.slice_of(i, rank) for rank in range(ranks)) if end > begin]
            assert all(begin % CHUNK == 0 for begin in begins)
            assert forms[i].is_cut or len(begins) <= 1


@settings(deadline=None)
@given(FORMS, RANKS, BYTES)
def test_buckets_have_one_dtype_and_at_most_so_many_bytes(forms: list[Form], ranks: int, bucket_bytes: int) -> None:
    for bucket in buckets_of(forms, ranks, bucket_bytes):
        assert {forms[i].dtype for i in bucket.numbers} == {bucket.dtype}
        assert len(bucket.numbers) == 1 or bucket.size * bucket.dtype.itemsize <= bucket_bytes


@settings(deadline=None)
@given(FORMS, RANKS)
def test_loads_of_slices_are_equal_but_for_chunks(forms: list[Form], ranks: int) -> None:
    forms = [form._replace(is_cut=True) for form in forms]
    loads = loads_of(buckets_of(forms, ranks, 2**16), ranks)
    assert max(loads) - min(loads) <= 4 * CHUNK


def test_loads_of_whole_arrays_are_balanced() -> None:
    forms = [Form(size, np.dtype(np.float32), False) for size in [90_000, 80_000, 70_000, 60_000] * 4]
    for bucket_bytes in (1, 2**20, 2**30):
        loads = loads_of(buckets_of(forms, 4, bucket_bytes), 4)
        assert max(loads) - min(loads) <= 90_000


def numbers_of(sizes: list[int], ranks: int, bucket_bytes: int, is_cut: bool = True) -> list[tuple[int, ...]]:
    forms = [Form(size // 4, np.dtype(np.float32), is_cut) for size in sizes]
    return [bucket.numbers for bucket in buckets_of(forms, ranks, bucket_bytes)]


@pytest.mark.parametrize("ranks", [2, 8])
def test_large_arrays_are_alone_and_the_others_together(ranks: int) -> None:
    large, small = ranks * LEAST_ALONE, 400
    sizes = [large, small, large - 4, large, small, 2 * large, small]
    assert numbers_of(sizes, ranks, 100 * large) == [(0,), (1, 2, 4, 6), (3,), (5,)]
    # An array that is not cut has one owner: it travels with those of the others.
    assert numbers_of(sizes, ranks, 100 * large, is_cut=False) == [tuple(range(7))]
    assert numbers_of(sizes, ranks, large // 2) == [(0,), (1, 4, 6), (2,), (3,), (5,)]


def test_a_bucket_that_is_full_is_followed_by_another_one() -> None:
    assert numbers_of([400, 400, 800, 400, 400], 4, 1200) == [(0, 1), (2, 3), (4,)]


def test_later_arrays_go_on_from_the_loads() -> None:
    first = buckets_of([Form(50_000, np.dtype(np.float32), False)], 4, 2**20)
    later = buckets_of([Form(150_000, np.dtype(np.float32), True)], 4, 2**20, first)
    assert later[0].numbers == (1,)
    assert max(loads_of([*first, *later], 4)) - min(loads_of([*first, *later], 4)) <= CHUNK
