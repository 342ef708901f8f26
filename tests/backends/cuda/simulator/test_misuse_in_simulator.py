"""A rule that asks for the value of an element, in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_arrays import SimulatedArray

import fastopt


def test_a_misused_rule_is_told_of_before_anything_changes() -> None:
    def misused(h: Any, p: Any, g: Any) -> Any:
        return (p - h.lr * g if g > p else p,)

    class Own(fastopt.SGD):
        def rule(self, group: Any) -> Any:
            return misused

    values = np.ones(3, np.float32)
    line = misused.__code__.co_firstlineno + 1
    with pytest.raises(TypeError, match=rf"^.*test_misuse_in_simulator\.py:{line}: .*use where\(condition, a, b\)"):
        Own(SimulatedArray(values), lr=0.5).step(SimulatedArray(np.full(3, 3, np.float32)))
    assert (values == 1).all()
