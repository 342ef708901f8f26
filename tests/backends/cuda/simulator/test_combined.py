"""Several optimizers in one step, in the simulator: also those of whole arrays, each with a table of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import COMBINED_CASES, Case, bytes_of_run
from cuda_arrays import simulated_apart

OPTIONS: list[dict[str, Any]] = [
    {"clip_norm": 0.7, "clip_global_norm": 0.5},
    {},
    {"nonfinite": "skip", "zero_grads": True, "max_weight_norm": 0.8},
    {"accumulate_steps": 2, "ema_decay": 0.9},
]
RUNS = [(case, options) for case in COMBINED_CASES for options in OPTIONS]


@pytest.mark.parametrize(
    ("case", "options"),
    [pytest.param(*each, marks=() if k % 5 == 4 else pytest.mark.long) for k, each in enumerate(RUNS)],
    ids=str,
)
def test_combined_has_the_bits_of_the_numpy_backend(case: Case, options: dict[str, Any]) -> None:
    sizes = (5, 0, 9, 1, (5, 3))
    expected = bytes_of_run(case, np.float32, options, sizes)
    assert bytes_of_run(case, np.float32, options, sizes, simulated_apart) == expected
