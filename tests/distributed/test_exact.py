"""exact=True: the bits of accumulate_steps in one process, for every number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from sharded_runs import differences

import fastopt
from fastopt.distributed import RankError, Sharded

SHAPES: list[Any] = [(5000,), (67, 15), (), (0,), (3, 5, 300), (16385,)]
#: The number of micro-batches of a step on all ranks together; ranks that don't divide it have another one.
TOGETHER = 12

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"grad_scale": 3.7},
    "dynamic": {"grad_scale": 1000.0, "nonfinite": "skip"},
    "maximize": {"maximize": True, "clip_value": 0.3},
    "clip_norm": {"clip_norm": 0.5, "grad_scale": 0.1},
    "clip_global_norm": {"clip_global_norm": 0.7, "grad_scale": 1 / 3},
    "ema": {"ema_decay": 0.9, "ema_bias_correction": True},
    "raise": {"nonfinite": "raise", "l1": 0.01, "weight_decay": 0.1},
}


def options_of(name: str) -> dict[str, Any]:
    options = dict(OPTIONS[name])
    if name == "dynamic":
        options["grad_scale"] = fastopt.DynamicLossScale(1000.0, growth_factor=1.7, growth_interval=2)
    return options


def micro_batch(number: int, grad_dtype: Any) -> list[Any]:
    """Return the gradients of a micro-batch: -0.0 among them, and None that comes and goes."""
    rng = np.random.default_rng(number)
    grads: list[Any] = [np.asarray(rng.normal(size=shape)).astype(grad_dtype) for shape in SHAPES]
    grads[0][::3] = -0.0
    if number % 3 == 1:
        grads[1] = None
    if number % TOGETHER != 5:
        grads[2] = None
    if number // TOGETHER == 1:
        grads[4] = None
    return grads


def params(dtype: Any) -> list[Any]:
    rng = np.random.default_rng(1)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


def wrong(comm: Any, optimizer: str, name: str, dtype: Any, grad_dtype: Any) -> list[str]:
    """Return what differs after each of three steps."""
    cls = getattr(fastopt, optimizer)
    plain = cls(params(dtype), accumulate_steps=TOGETHER, **options_of(name))
    opt = Sharded(cls, params(dtype), comm, exact=True, bucket_bytes=2**14, **options_of(name))
    found = []
    for step in range(3):
        grads = [micro_batch(step * TOGETHER + k, grad_dtype) for k in range(TOGETHER)]
        for each in grads:
            expected = plain.step(each)
        info = opt.step(grads[comm.rank :: comm.size])
        facts = [[*each, each.lrs, each.norms] for each in (expected, info)]
        if repr(facts[0]) != repr(facts[1]):
            found.append(f"step {step}: {facts[1]} instead of {facts[0]}")
        found += [f"step {step}: {each}" for each in differences(opt, plain, ("accumulated", "accumulated_calls"))]
    return found


def all_wrong(comm: Any, rows: Sequence[tuple[Any, ...]]) -> list[str]:
    return [f"{row}: {its[:4]}" for row in rows if (its := wrong(comm, *row))]


ROWS = [
    *(("AdamW", name, "f4", "f4") for name in OPTIONS),
    ("AdamW", "scaled", "f4", "f8"),
    ("AdamW", "clip_global_norm", "f8", "f4"),
    ("AdamW", "dynamic", "f2", "f2"),
    ("SGD", "scaled", "f2", "f4"),
    ("LAMB", "scaled", "f4", "f4"),
    ("Prodigy", "clip_norm", "f8", "f8"),
]


@pytest.mark.parametrize(("size", "rows"), [(1, ROWS[::5]), (2, ROWS), (3, ROWS[1::5]), (4, ROWS[::2])])
def test_bits_of_accumulate_steps(size: int, rows: Any) -> None:
    assert on_ranks(size, all_wrong, rows) == [[]] * size


def one_micro_batch(comm: Any) -> list[str]:
    """Return what differs from plain steps, which do not add to zero: -0.0 stays."""
    arrays, others = params("f4"), params("f4")
    for each in (arrays, others):
        each[0][::3] = -0.0  # minus a gradient of -0.0 it is 0.0, minus one of 0.0 it is -0.0
    plain = fastopt.SGD(others, grad_scale=3.7)
    opt = Sharded(fastopt.SGD, arrays, comm, exact=True, grad_scale=3.7)
    plain.step(micro_batch(0, "f4"))
    opt.step([micro_batch(0, "f4")])
    return differences(opt, plain)


def test_one_micro_batch_is_a_plain_step() -> None:
    assert on_ranks(1, one_micro_batch) == [[]]


def texts_of_errors(comm: Any, counts: Sequence[Sequence[int]]) -> list[Any]:
    """Return the error of each step, if it has one; ``counts`` has the numbers of micro-batches by step and rank."""
    opt = Sharded(fastopt.AdamW, params("f4"), comm, exact=True)
    found: list[Any] = []
    for step in counts:
        before = [array.copy() for array in opt.whole.arrays]
        try:
            opt.step([micro_batch(0, "f4")] * step[comm.rank])
            found.append(opt.step_count)
        except (ValueError, TypeError, RankError) as error:
            assert all(map(np.array_equal, before, opt.whole.arrays))
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_counts_must_be_equal_on_all_ranks() -> None:
    found = on_ranks(3, texts_of_errors, [(2, 3, 2), (2, 2, 2), (2, 2, 1), (2, 2, 2)])
    assert found[0] == found[1] == found[2]
    first, after_first, second, after_second = found[0]
    assert first.startswith(
        "ValueError: the ranks differ: the number of micro-batches is 2 on ranks 0 and 2, 3 on rank 1"
    )
    assert second.startswith(
        "ValueError: the ranks differ: the number of micro-batches is 2 on ranks 0 and 1, 1 on rank 2"
    )
    assert (after_first, after_second) == (1, 2)


def test_counts_must_be_equal_in_all_steps() -> None:
    found = on_ranks(2, texts_of_errors, [(2, 2), (1, 1), (3, 3), (2, 2)])
    assert found[0] == found[1]
    text = "ValueError: step: expected as many micro-batches on each rank: 2, as in the steps before; got {} on each"
    assert [found[0][1].split(";")[0:2], found[0][3]] == [text.format(1).split(";"), 2]
    assert found[0][2].startswith(text.format(3))


def test_a_step_needs_a_list_of_micro_batches() -> None:
    found = on_ranks(2, texts_of_errors, [(0, 2), (2, 2)])
    assert found[0][0].startswith("TypeError: step: expected a list of the gradients of this rank's micro-batches")
    assert found[1][0].startswith("RankError: rank 0 raised TypeError: step: expected a list")
    assert found[0][1] == found[1][1] == 1


def skipped(comm: Any) -> list[Any]:
    """Return what a bad micro-batch of the last rank does to a step."""
    opt = Sharded(fastopt.AdamW, params("f4"), comm, exact=True, nonfinite="skip")
    good, bad = micro_batch(0, "f4"), micro_batch(1, "f4")
    bad[0][-1] = np.nan
    before = [array.copy() for array in opt.whole.arrays]
    info = opt.step([good, bad if comm.rank == comm.size - 1 else good])
    return [
        info.applied,
        info.skipped,
        all(map(np.array_equal, before, opt.whole.arrays)),
        opt.step([good] * 2).applied,
    ]


def test_a_bad_micro_batch_skips_the_step_on_all_ranks() -> None:
    assert on_ranks(3, skipped) == [[False, "nonfinite", True, True]] * 3


def test_accumulate_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="not with exact=True"):
        Sharded(fastopt.AdamW, params("f4"), world(), exact=True, accumulate_steps=2)


def world() -> Any:
    return pytest.importorskip("mpi4py.MPI").COMM_SELF
