"""The size of a state that nobody has made yet is that of the state which the first step makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, Case, taken_by

from fastopt.core.state_size import sample_of, state_bytes

ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")

#: The last one has more elements than the smallest array whose slots are stored in 8 bits.
SHAPES = [(3,), (0,), (2, 3, 4), (70, 90)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"ema_decay": 0.9, "accumulate_steps": 1},
    {"accumulate_steps": 2},
    {"state_dtype": "uint8"},
    {"state_dtype": "bfloat16", "ema_decay": 0.9},
    {"stochastic_rounding": True},
]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.by_turns("case")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_size_of_the_state(case: Case, options: dict[str, Any], dtype: Any) -> None:
    wanted = taken_by(case, options)
    if dtype is np.float64:
        wanted.pop("state_dtype", None)
    if dtype is not ml_dtypes.bfloat16:
        wanted.pop("stochastic_rounding", None)
    if dtype is not ml_dtypes.bfloat16:
        wanted.pop("stochastic_rounding", None)
    check(case, {**case.options, **wanted}, [np.zeros(shape, dtype) for shape in SHAPES])


@pytest.mark.parametrize("case", MATRIX_CASES, ids=str)
def test_size_of_the_state_of_matrices(case: Case) -> None:
    check(case, case.options, [np.zeros(shape, np.float32) for shape in [(3, 5), (70, 90)]])


def check(case: Case, options: dict[str, Any], params: list[Any]) -> None:
    stand_ins = [np.broadcast_to(np.zeros((), each.dtype), each.shape) for each in params]
    found = state_bytes(sample_of(case.optimizer, stand_ins, options), stand_ins)
    opt = case.optimizer(params, **options)
    opt.step([np.ones_like(each) for each in params])
    assert found == [sum(array.nbytes for array in slots.values()) for slots in opt.state.values()]
