"""Every optimizer and every option in slices: the bits of one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, OPTIONS, STORAGE, Case, built, raw, taken_by
from on_ranks import on_ranks
from sharded_runs import differences, summed

from fastopt.distributed import Sharded

pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")

SHAPES: list[Any] = [(5000,), (0,), (1,), (67, 15), (), (16385,), (3, 5, 300), (4096,)]
MATRICES: list[Any] = [(70, 80), (0, 3), (67, 15), (9, 9)]

ALL = [*CASES, *MATRIX_CASES]

ROWS = {"none": {}, **OPTIONS, **STORAGE}


def chosen() -> list[tuple[int, str]]:
    """Return every case without and with a row of options, by turns, and two cases with all rows."""
    pairs = []
    for i, case in enumerate(ALL):
        names = [name for name, row in ROWS.items() if taken_by(case, row)]
        some = names if str(case) in ("AdamW", "LAMB") else [names[i % len(names)]]
        pairs += [(i, name) for name in ("none", *some)]
    return pairs


def sharded(comm: Any, case: Case, **more: Any) -> Case:
    """Return a case that builds sharded optimizers."""

    def build(params: Any, **options: Any) -> Any:
        return Sharded(case.optimizer, params, comm, bucket_bytes=2**15, **more, **options)

    return case._replace(optimizer=build)  # type: ignore[arg-type]


def wrong(comm: Any, case: Case, dtype: Any, options: dict[str, Any]) -> list[str]:
    """Return what differs between one process and these ranks, in some steps with gradients that come and go."""
    rng = np.random.default_rng(6)
    shapes = MATRICES if case in MATRIX_CASES else SHAPES
    start = [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in shapes]
    grad_dtype = options.get("params", dtype)
    plain, opt = built(case, start, options), built(sharded(comm, case), start, options)
    found = []
    for step in range(4):
        of_ranks: list[list[Any]] = [
            [np.array(rng.normal(size=shape)).astype(grad_dtype) for shape in shapes] for _ in range(comm.size)
        ]
        for rank, grads in enumerate(of_ranks):
            if step == 2 and options.get("nonfinite") == "skip" and rank == comm.size - 1:
                grads[0][:1] = np.nan
            elif step == 3 and "skip_above" in options:
                grads[0] *= 1e4
            if step == 1:
                grads[0] = None
            if step == 3 and rank:
                grads[-1] = None
        expected, info = plain.step(summed(of_ranks)), opt.step(of_ranks[comm.rank])
        facts = [[*each, each.lrs, each.norms, each.skipped] for each in (expected, info)]
        if repr(facts[0]) != repr(facts[1]):
            found.append(f"step {step}: {facts[1]} instead of {facts[0]}")
        if options.get("zero_grads") and any(
            raw(grad).strip(b"\0") for grad in of_ranks[comm.rank] if grad is not None
        ):
            found.append(f"step {step}: gradients are not cleared")
    return found + differences(opt, plain)


def run_all(comm: Any, pairs: list[tuple[int, str]], dtype: Any) -> list[str]:
    """Return the rows of options with which a case differs, and how."""
    found = []
    for i, name in pairs:
        if name in STORAGE and dtype != np.float32:
            continue
        try:
            its = wrong(comm, ALL[i], dtype, taken_by(ALL[i], ROWS[name]))
        except Exception as error:
            raise AssertionError(f"{ALL[i]}, {name}") from error
        found += [f"{ALL[i]}, {name}: {its[:4]}"] * bool(its)
    return found


@pytest.mark.parametrize(
    ("size", "dtype", "turn"),
    [
        *((2, np.float32, 1), (2, np.float64, 6), (1, np.float32, 9), (4, np.float32, 4)),
        pytest.param(4, np.float32, 1, marks=pytest.mark.exhaustive),
    ],
)
def test_bits_of_one_process(size: int, dtype: Any, turn: int) -> None:
    assert on_ranks(size, run_all, chosen()[::turn], dtype) == [[]] * size
