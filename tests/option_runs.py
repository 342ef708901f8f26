"""Runs with the options around the rule, for the tests of what a step does besides the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, STORAGE, Case, built, needs_native, raw, taken_by

import fastopt
from fastopt.core.whole_arrays import ArrayOptimizer

pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")

#: Lengths around the blocks, and above the least of 8-bit slots.
LENGTHS: list[Any] = [0, 1, 127, 1025, 4095, 4096, 5000, 16385, (67, 15)]

ALL = [*CASES, *MATRIX_CASES]

every_case = pytest.mark.parametrize("case", ALL, ids=str)

#: Enough of the rows for what does not depend on the rule, and one of each optimizer whose step is not one pass.
SOME = [case for case in CASES if case.optimizer in (fastopt.Adam, fastopt.AdamW)][-4:]

EACH = [SOME[0], *{case.optimizer: case for case in ALL if issubclass(case.optimizer, ArrayOptimizer)}.values()]


def taken(options: dict[str, dict[str, Any]], cases: list[Case] = ALL) -> Any:
    """Return the cases with what they take of each row of options."""
    return pytest.mark.parametrize(
        ("case", "options"),
        [
            pytest.param(case, taken_by(case, row), id=f"{case}-{name}")
            for case in cases
            for name, row in options.items()
            if taken_by(case, row)
        ],
    )


def shape_of(case: Case, length: Any) -> tuple[int, ...]:
    """Return a shape of about so many elements that an optimizer takes, or the shape itself."""
    if isinstance(length, tuple):
        return length
    return (-(-length // 4), 4) if case in MATRIX_CASES else (length,)


every_storage = pytest.mark.parametrize("options", STORAGE.values(), ids=STORAGE)

every_backend = pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])


def all_bytes(opt: fastopt.Optimizer, *more: Any) -> list[bytes]:
    slots = [array for slots in opt.state.values() for array in slots.values()]
    copies = [array for array in opt.parts.parameters.copies if array is not None]
    counters = repr((opt.step_count, opt.accumulated_calls)).encode()
    return [*(raw(array) for array in (*opt.parts.parameters.arrays, *slots, *copies, *more)), counters]


def run(
    case: Case, dtype: Any, options: dict[str, Any], backend: str, special: bool = False, lengths: Any = LENGTHS
) -> list[bytes]:
    """Return the bytes of everything after a few steps, some of them with an array skipped or something infinite."""
    rng = np.random.default_rng(11)
    shapes = [shape_of(case, length) for length in lengths]
    opt = built(case, [rng.normal(size=shape).astype(dtype) for shape in shapes], options, backend=backend)
    told = []
    for step in range(5):
        grads: list[Any] = [rng.normal(size=shape).astype(dtype) for shape in shapes]
        if special or (step == 3 and options.get("nonfinite") == "skip"):
            for grad in grads[1:]:
                grad.reshape(-1)[rng.integers(grad.size, size=3)] = [np.inf, np.nan, -np.inf]
        if step == 2 and "skip_above" in options:
            grads[-1] *= 1e4
        given = [None if step in (1, 2) and i == len(grads) // 2 else grad for i, grad in enumerate(grads)]
        info = opt.step(given)
        told.append((*info, info.lrs, info.norms, info.skipped))
        told.append(b"".join(raw(grad) for grad in grads))
    return [*all_bytes(opt), repr(told).encode()]
