"""The bytes and the memory that fastopt.distributed.cost computes are those of steps that ranks make."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from on_ranks import on_ranks

import fastopt
from fastopt.distributed import cost

#: Arrays that share a bucket, one that is cut, one of a single chunk, and an empty one.
SHAPES = [(300, 70), (70,), (0,), (17, 5), (90, 1000), (4096,)]
#: Arrays whose gradients the meeting brings.
SMALL = [(0,), (17, 5), (4096,), (70,)]


class Count(NamedTuple):
    """The bytes that a rank sent to others and received from them in a step, and its memory afterwards."""

    sent: int
    received: int
    state: int
    buffers: int


NAMES = ("start_all_to_all", "start_all_gather", "all_gather", "start")


class Counter:
    """Counts the payload of exchanges, in place of the methods of Ranks that begin them."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.sent = self.received = 0
        self.originals = {name: getattr(kind, name) for name in NAMES}

    def __enter__(self) -> Counter:
        counter, originals = self, self.originals

        def start_all_to_all(ranks: Any, send: Any, send_counts: Any, recv: Any, recv_counts: Any, *more: Any) -> Any:
            others = [rank for rank in range(ranks.size) if rank != ranks.rank]
            counter.sent += sum(send_counts[rank] for rank in others) * send.itemsize
            counter.received += sum(recv_counts[rank] for rank in others) * recv.itemsize
            return originals["start_all_to_all"](ranks, send, send_counts, recv, recv_counts, *more)

        def start_all_gather(ranks: Any, buffer: Any, counts: Any) -> Any:
            own = counts[ranks.rank]
            counter.sent += (ranks.size - 1) * own * buffer.itemsize
            counter.received += (sum(counts) - own) * buffer.itemsize
            return originals["start_all_gather"](ranks, buffer, counts)

        def all_gather(ranks: Any, values: Any) -> Any:
            counter.sent += (ranks.size - 1) * values.nbytes
            counter.received += (ranks.size - 1) * values.nbytes
            return originals["all_gather"](ranks, values)

        def start(ranks: Any, request: Any) -> Any:
            others = [rank for rank in range(ranks.size) if rank != ranks.rank]
            counter.sent += sum(request.send_counts[rank] for rank in others) * request.send.itemsize
            counter.received += sum(request.recv_counts[rank] for rank in others) * request.recv.itemsize
            return originals["start"](ranks, request)

        self.kind.all_gather, self.kind.start = all_gather, start
        self.kind.start_all_to_all, self.kind.start_all_gather = start_all_to_all, start_all_gather
        return self

    def __exit__(self, *_: Any) -> None:
        for name, method in self.originals.items():
            setattr(self.kind, name, method)


def count(comm: Any, shapes: Any, dtype: str, arguments: dict[str, Any], options: dict[str, Any]) -> tuple[int, ...]:
    """Return the numbers of a Count for the second step: the first one makes the state."""
    from fastopt.distributed import Sharded
    from fastopt.distributed.ranks import Ranks

    params = [np.ones(shape, dtype) for shape in shapes]
    micro_batches = arguments.pop("micro_batches", 0)
    opt = Sharded(fastopt.AdamW, params, comm, exact=micro_batches > 0, **arguments, **options)
    grads = [np.ones(shape, dtype) for shape in shapes]
    for _ in range(2):
        with Counter(Ranks) as counter:
            opt.step([grads] * micro_batches if micro_batches else grads)
    return counter.sent, counter.received, opt.state_bytes, opt.gradients.nbytes + opt.gather.nbytes


CASES = {
    "plain": ("float32", {}, {}),
    "small": ("float32", {}, {"clip_global_norm": 1.0}),
    "small buckets": ("float32", {"bucket_bytes": 50_000}, {}),
    "clipped": ("float32", {}, {"clip_global_norm": 1.0, "nonfinite": "skip"}),
    "half on the wire": ("float32", {"wire_dtype": "float16"}, {"ema_decay": 0.9}),
    "half": ("float16", {}, {}),
    "double": ("float64", {"bucket_bytes": 300_000}, {}),
    "few bits": ("float32", {}, {"state_dtype": "uint8"}),
    "micro-batches": ("float32", {"micro_batches": 2}, {}),
    "accumulated": ("float32", {}, {"accumulate_steps": 1, "amsgrad": True}),
}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_computed_bytes_are_those_counted(case: str, ranks: int) -> None:
    dtype, arguments, options = CASES[case]
    shapes = SMALL if case == "small" else SHAPES
    params = [np.ones(shape, dtype) for shape in shapes]
    for rank, numbers in enumerate(on_ranks(ranks, count, shapes, dtype, arguments, options)):
        counted = Count(*numbers)
        found = cost(params, fastopt.AdamW, ranks, rank=rank, **arguments, **options).sharded
        assert (found.bytes_sent, found.bytes_received) == (counted.sent, counted.received)
        assert found.memory.state == counted.state
        # As many exchanges are on their way at a time as happen to be.
        assert counted.buffers <= found.memory.buffers <= 3 * counted.buffers
