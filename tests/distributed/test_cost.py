"""The cost of a sharded step: its figures by hand, and those counted in steps that ranks make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.distributed import cost

#: 16 chunks of 4,096 elements, 4 of them for each of 4 ranks.
SIZE = 65536
SPEED: dict[str, Any] = {"bandwidth": 1e9, "latency": 1e-6, "memory_bandwidth": 1e10}


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-12)


def test_costs_by_hand() -> None:
    found = cost(SIZE, fastopt.AdamW, 4, **SPEED).sharded
    three_quarters = 196608
    # The meeting before the step: a message of 32 numbers, to 3 ranks.
    assert found.bytes_sent == found.bytes_received == 2 * three_quarters + 3 * 32 * 8
    # To each other rank, log2(4) in the gather of 256 KiB, and log2(4) for the header.
    assert found.messages == 3 + 2 + 2
    assert found.seconds.exchange == close(3e-6 + 196608e-9)
    assert found.seconds.gather == close(2e-6 + 196608e-9)
    assert found.seconds.meeting == close(2e-6 + 768e-9)
    # p, m and v of a quarter are read and written, and the sum of the gradients read.
    assert found.seconds.step == close((65536 * 7 + 2 * 8) / 1e10)
    assert found.memory.parameters == found.memory.gradients == 262144
    assert found.memory.state == 2 * 65536 + 8
    assert found.seconds.total == close(sum(found.seconds))
    assert found.memory.total == sum(found.memory)


def test_costs_of_the_home_made_loop_by_hand() -> None:
    found = cost(SIZE, fastopt.AdamW, 4, **SPEED).all_reduce
    assert found.bytes_sent == found.bytes_received == 2 * 196608
    assert found.messages == 2 * 2
    assert found.seconds.exchange == close(4e-6 + 2 * 196608e-9)
    assert found.seconds.sums == close(3 * 196608 / 1e10)
    assert found.seconds.step == close((262144 * 7 + 2 * 8) / 1e10)
    assert (found.seconds.gather, found.seconds.meeting) == (0, 0)
    assert found.memory == (262144, 262144, 2 * 262144 + 8, 0)


def test_a_ring_where_the_gather_is_long() -> None:
    """So that each rank sends to its neighbour alone, as often as there are others."""
    assert cost(1 << 20, fastopt.SGD, 8).sharded.messages == 7 + 7 + 3
    assert cost(1 << 15, fastopt.SGD, 8).sharded.messages == 7 + 3 + 3


def test_a_meeting_carries_gradients_of_up_to_64_kib() -> None:
    carried, other = cost(1 << 14, fastopt.SGD, 8), cost((1 << 14) + 1, fastopt.SGD, 8)
    assert (carried.sharded.messages, other.sharded.messages) == (7 + 3, 7 + 3 + 3)
    assert carried.sharded.seconds.meeting < 1e-6 < other.sharded.seconds.meeting
    several = cost(1 << 14, fastopt.SGD, 8, micro_batches=2), cost(1 << 15, fastopt.SGD, 8, wire_dtype="float16")
    assert [each.sharded.messages for each in several] == [2 * 7 + 3 + 3, 7 + 3]


def test_each_bucket_has_its_messages() -> None:
    many = cost([1 << 20] * 4, fastopt.SGD, 8, bucket_bytes=1 << 22)
    assert many.sharded.messages == 4 * (7 + 7) + 3
    assert many.all_reduce.messages == 4 * 2 * 3


def test_half_precision_on_the_wire() -> None:
    wide, narrow = (cost(SIZE, fastopt.AdamW, 4, wire_dtype=name) for name in (None, "float16"))
    assert wide.sharded.bytes_sent - narrow.sharded.bytes_sent == 196608 // 2
    assert narrow.all_reduce.bytes_sent == 196608


def test_micro_batches_are_sent_one_by_one() -> None:
    one, three = (cost(SIZE, fastopt.AdamW, 4, micro_batches=count) for count in (1, 3))
    assert three.sharded.bytes_sent - one.sharded.bytes_sent == 2 * 196608
    assert three.sharded.seconds.exchange == close(3 * one.sharded.seconds.exchange)
    assert three.all_reduce == one.all_reduce


def test_a_norm_needs_the_sums_of_all_chunks() -> None:
    plain, clipped = (cost(SIZE, fastopt.AdamW, 4, clip_global_norm=norm).sharded for norm in (None, 1.0))
    assert clipped.bytes_sent - plain.bytes_sent == 3 * 4 * 16
    assert clipped.bytes_received - plain.bytes_received == 12 * 16
    assert clipped.messages - plain.messages == 2
    assert clipped.seconds.step > plain.seconds.step


def test_one_rank_exchanges_nothing() -> None:
    found = cost(SIZE, fastopt.AdamW, 1).sharded
    assert (found.bytes_sent, found.bytes_received, found.messages) == (0, 0, 0)
    assert (found.seconds.exchange, found.seconds.gather, found.seconds.meeting) == (0, 0, 0)


def test_masters_averages_and_slots_of_few_bits_count() -> None:
    half = cost({"W": np.zeros(SIZE, np.float16)}, fastopt.AdamW, 4, ema_decay=0.9).sharded.memory
    assert (half.parameters, half.state) == (2 * SIZE, (4 + 4 + 4 + 4) * SIZE // 4 + 8)
    few = cost(SIZE, fastopt.AdamW, 4, state_dtype="uint8").sharded.memory.state
    assert few < cost(SIZE, fastopt.AdamW, 4).sharded.memory.state / 3


def test_the_rank_that_owns_the_most_is_the_default() -> None:
    each = [cost([3 * 4096, 10], fastopt.AdamW, 4, rank=rank).sharded.memory.state for rank in range(4)]
    assert cost([3 * 4096, 10], fastopt.AdamW, 4).sharded.memory.state == max(each) > min(each)


def test_parameters_that_nobody_has_room_for() -> None:
    """Only shapes and dtypes are read, and 1,024 ranks are asked of none."""
    weight = np.broadcast_to(np.float32(0), (1 << 20, 1 << 18))
    found = cost({"W": weight, "bias": None}, fastopt.AdamW, 1024)
    assert found.sharded.memory.state == 2 * weight.nbytes // 1024 + 8
    assert found.all_reduce.memory.state == 2 * weight.nbytes + 8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ranks": 0}, ValueError, "ranks=0: expected a whole number of at least 1"),
        ({"rank": 4}, ValueError, "rank=4: expected a rank from 0 to 3, since ranks=4"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth=0.0: expected a finite number above 0"),
        ({"latency": -1e-6}, ValueError, "latency=-1e-06: expected a finite number of at least 0"),
        ({"wire_dtype": "float64"}, ValueError, "wire_dtype='float64': expected one of None, 'float16', 'bfloat16'"),
        ({"params": -1}, ValueError, "params: '0' is -1; expected a number of elements of at least 0"),
        ({"params": {}}, ValueError, "params: there is no array in this structure; give at least one"),
        ({"params": {"W": "x"}}, TypeError, "params: 'W' is of type str; expected an array or a number of elements"),
        ({"optimizer": "AdamW"}, TypeError, "optimizer: expected a class of fastopt, such as fastopt.AdamW, got"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]=1.0: expected"),
        ({"momentum": 0.9}, TypeError, "unexpected keyword argument 'momentum'"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cost(**{"params": SIZE, "optimizer": fastopt.AdamW, "ranks": 4, **arguments})
