"""exact=True: the bits of accumulate_steps in one process, for every number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from sharded_runs import differences

import fastopt
from fastopt.distributed import Sharded

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
    "ema": {"ema_decay": 0.9, "ema_start": "zero"},
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
    """Return what differs after each of four steps."""
    cls = getattr(fastopt, optimizer)
    plain = cls(params(dtype), accumulate_steps=TOGETHER, **options_of(name))
    opt = Sharded(cls, params(dtype), comm, exact=True, bucket_bytes=2**14, **options_of(name))
    found = []
    for step in range(4):
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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_bits_of_accumulate_steps(size: int) -> None:
    assert on_ranks(size, all_wrong, ROWS[size % 2 :: 2] if size in (1, 3) else ROWS, timeout=60) == [[]] * size
