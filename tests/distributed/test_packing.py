"""Buckets of many small arrays: one vector, one exchange, one gather."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_ranks import on_ranks

import fastopt
from fastopt.backends.choosing import native_missing
from fastopt.distributed import Sharded, requests
from fastopt.distributed.exchange import pieces_of
from fastopt.distributed.layout import Form, buckets_of

FLOAT32 = np.dtype(np.float32)


@given(
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=5),
    ranks=st.integers(1, 5),
    most=st.integers(1, 30_000),
)
@settings(max_examples=60, deadline=None)
def test_pieces_cover_each_slice_once(sizes: list[int], ranks: int, most: int) -> None:
    (bucket,) = buckets_of([Form(size, FLOAT32, True) for size in sizes], ranks, 2**40)
    pieces = pieces_of(bucket, most)
    for rank in range(ranks):
        place = bucket.cuts[rank]
        for piece in pieces:
            assert piece.counts[rank] == 0 or piece.begins[rank] == place
            assert piece.begins[rank] + piece.counts[rank] <= bucket.size
            place += piece.counts[rank]
        assert place == bucket.cuts[rank + 1]


def counted(comm: Any, count: int) -> tuple[list[int], bool]:
    """Return how many exchanges a step of this many arrays begins, how many persistent ones, whether it is right."""
    arrays, other = ([np.ones((7, 11), "f4") for _ in range(count)] for _ in range(2))
    opt = Sharded(fastopt.AdamW, arrays, comm)
    plain = fastopt.AdamW(other)
    begun = [0, 0]

    def counting(k: int, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            begun[k] += 1
            return function(*arguments)

        return call

    rng = np.random.default_rng(0)
    grads = [rng.normal(size=(7, 11)).astype("f4") for _ in range(count)]
    opt.step(grads)
    opt.gradients.ranks.start_all_to_all = counting(0, opt.gradients.ranks.start_all_to_all)  # type: ignore[method-assign]
    opt.ranks.start = counting(1, opt.ranks.start)  # type: ignore[method-assign]
    opt.step(grads)
    for _ in range(2):
        plain.step([sum([grad] * (comm.size - 1), grad) for grad in grads])
    return begun, all(a.tobytes() == b.tobytes() for a, b in zip(arrays, other, strict=True))


@pytest.mark.parametrize("count", [2, 300])
def test_small_arrays_are_exchanged_and_gathered_once(count: int) -> None:
    # The persistent ones: the meeting, which carries gradients of up to 64 KiB, and the gather.
    assert on_ranks(2, counted, count) == [([int(count > 200), 2], True)] * 2


def address_of_what_is_sent(comm: Any) -> list[bool]:
    """Return whether gradients of arrays alone in a bucket are sent, and parameters gathered, where they are."""
    param, grad, sent = np.ones(20_000, "f4"), np.ones(20_000, "f4"), []
    opt = Sharded(fastopt.SGD, [param], comm)
    exchange, start = opt.gradients.ranks.start_all_to_all, opt.ranks.start
    opt.gradients.ranks.start_all_to_all = lambda *a: (sent.append(a[0]), exchange(*a))[1]  # type: ignore[method-assign]
    opt.ranks.start = lambda request: (sent.append(request.send), start(request))[1]  # type: ignore[method-assign]
    opt.step([grad])
    are_sent = [any(np.shares_memory(array, its) for its in sent) for array in (grad, param)]
    return [*are_sent, opt.gather.nbytes == 0]


def test_large_arrays_are_not_copied() -> None:
    assert on_ranks(2, address_of_what_is_sent) == [[True] * 3] * 2


def persistent_requests(comm: Any) -> list[int]:
    """Return how many more of MPI's persistent requests there are after each new group, which is a bucket."""
    opt = Sharded(fastopt.SGD, [np.ones(5), np.ones(6)], comm)
    before, found = len(requests.PERSISTENT), []
    for _ in range(3):
        opt.add_param_group({"params": [np.ones(3)]})
        found.append(len(requests.PERSISTENT) - before)
    opt.step([np.ones(array.size) for array in opt.whole.arrays])
    return found


def test_requests_for_other_buckets_are_freed() -> None:
    assert on_ranks(2, persistent_requests) == [[1, 2, 3]] * 2


def test_an_empty_bucket_has_no_pieces() -> None:
    (bucket,) = buckets_of([Form(0, FLOAT32, True)], 3, 100)
    assert pieces_of(bucket, 10) == []


def stepped(comm: Any, backend: str) -> bytes:
    arrays = [np.ones(9000, "f4"), np.ones((3, 3), "f4"), np.ones((2, 2), "f4")]
    opt = Sharded(fastopt.AdamW, arrays, comm, exact=True, backend=backend, bucket_bytes=2**14, wire_dtype="float16")
    rng = np.random.default_rng(comm.rank)
    opt.step([[rng.normal(size=array.shape).astype("f4") for array in arrays] for _ in range(2)])
    return b"".join(array.tobytes() for array in arrays)


def test_backends_have_the_same_bits() -> None:
    if native_missing():
        pytest.skip("needs the native backend")
    assert on_ranks(2, stepped, "numpy") == on_ranks(2, stepped, "native")
