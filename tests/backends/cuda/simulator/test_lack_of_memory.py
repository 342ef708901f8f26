"""A step that finds no memory on the device changes nothing, and the next one is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_arrays import SimulatedArray

import fastopt
from fastopt.backends.cuda import max_weight_norm, trust


def no_memory(*args: Any) -> Any:
    raise MemoryError("out of memory on the device")


GRAD = np.full((3, 40), 0.1, np.float32)

LIMITED = (
    fastopt.SGD,
    {"max_weight_norm": 0.5, "max_weight_norm_axis": 1},
    {"max_weight_norm_axis": 0},
    max_weight_norm,
)
TRUSTED = (fastopt.LAMB, {}, {}, trust)


@pytest.mark.parametrize(
    ("optimizer", "options", "change", "module"), [LIMITED, TRUSTED], ids=["max_weight_norm", "LAMB"]
)
def test_no_memory_for_a_step(
    optimizer: Any, options: dict[str, Any], change: dict[str, Any], module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, expected = np.ones((3, 40), np.float32), np.ones((3, 40), np.float32)
    opt = optimizer([SimulatedArray(values)], lr=0.1, **options)
    reference = optimizer([expected], lr=0.1, backend="numpy", **options)
    if change:
        opt.step([SimulatedArray(GRAD)])
        reference.step([GRAD])
        opt.param_groups[0].update(change)
        reference.param_groups[0].update(change)
    with monkeypatch.context() as patched:
        patched.setattr(module, "empty", no_memory)
        with pytest.raises(MemoryError):
            opt.step([SimulatedArray(GRAD)])
    # As the state is now: the rule's pass may have been made before memory ran out.
    expected[...] = values
    reference = optimizer([expected], lr=0.1, backend="numpy", **{**options, **change})
    reference.load_state_dict(opt.state_dict())
    for _ in range(2):
        opt.step([SimulatedArray(GRAD)])
        reference.step([GRAD])
    assert values.tobytes() == expected.tobytes()
