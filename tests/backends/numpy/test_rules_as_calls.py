"""What NumPy calls are made of a function: the same numbers, in the memory of the inputs and few arrays more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from fastopt import rules
from fastopt.backends.numpy.calls import Program, run_stages, stage_of_calls

EXAMPLES: dict[str, tuple[Callable[..., Sequence[Any]], list[int | None], int]] = {
    "in place": (lambda a, b, c: [a - b * c], [0], 1),
    "nothing to do": (lambda a, b, c: [a, b], [0, None], 0),
    "another's value": (lambda a, b, c: [b], [0], 0),
    "exchanged": (lambda a, b, c: [b, a], [0, 1], 1),
    "one value for two": (lambda a, b, c: [a * b] * 2, [0, 2], 0),
    "its memory is still read": (lambda a, b, c: [a * b, b + a], [0, 1], 1),
    "chosen": (lambda a, b, c: [rules.where(a > b, c, rules.where(a < c, b, a))], [0], 3),
    "chosen where equal": (lambda a, b, c: [rules.where(a >= b, c, a), rules.where(c != b, b, c)], [0, 1], 3),
    "conditions": (lambda a, b, c: [rules.where((a > b) & ~(a < c) | (b > c), a, b)], [0], 5),
    "of conditions": (lambda a, b, c: [rules.where(rules.where(a > b, a > c, b > c), a, b)], [0], 5),
    "not a number": (lambda a, b, c: [rules.where(np.isnan(a), b, c)], [0], 1),
    "anywhere": (lambda a, b, c: [a + b, (a + b) * c, c], [None, None, None], 3),
    "literals": (lambda a, b, c: [0.1 * a - 3, rules.where(b > 0.5, 1 / 3, b)], [0, 1], 2),
    "functions": (lambda a, b, c: [rules.maximum(-a, b), rules.minimum(rules.sqrt(rules.absolute(b)), c)], [0, 1], 1),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("function", "targets", "scratch"), EXAMPLES.values(), ids=list(EXAMPLES))
def test_same_numbers(function: Any, targets: list[int | None], scratch: int, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=50).astype(dtype) for _ in range(3)]
    expected = [value.copy() for value in function(*inputs)]
    before = [array.copy() for array in inputs]
    program = Program(function, 3, targets)
    assert len(program.scratch) <= scratch
    arrays = inputs + program.further_arrays(np.dtype(dtype), partial(np.empty, 50))
    run_stages([stage_of_calls(program.bind(arrays))])
    for place, target, value in zip(program.results, targets, expected, strict=True):
        assert target in (None, place)
        assert arrays[place].tobytes() == value.tobytes()
    for i in set(range(3)) - set(targets):
        assert arrays[i].tobytes() == before[i].tobytes()


@pytest.mark.parametrize(
    "function", [lambda a: [a * [2.0]], lambda a: [np.add.reduce(a)], lambda a: [np.concatenate([a, a])]]
)
def test_what_is_no_elementwise_arithmetic_is_told(function: Any) -> None:
    with pytest.raises(TypeError, match=r"test_rules_as_calls\.py:\d+: .*expected "):
        Program(function, 1, [0])


def test_arithmetic_of_scalars_is_done_once() -> None:
    """Their results are arrays of shape (), also where one is a result of the function too."""

    def function(a: Any, b: Any, s: Any, t: Any) -> list[Any]:
        weight = 1 - s * t
        return [a * weight + rules.where(weight > s, 0.3, b), weight]

    inputs = [np.arange(3.0), np.ones(3), np.array(0.1), np.array(0.7)]
    expected, weight = function(*inputs)
    program = Program(function, 4, [0, 1], scalars=[2, 3])
    assert [is_scalar for _, is_scalar in program.scratch].count(False) <= 1
    arrays = inputs + program.further_arrays(np.dtype(float), partial(np.empty, 3))
    run_stages([stage_of_calls(program.bind(arrays))])
    assert inputs[0].tobytes() == expected.tobytes()
    assert inputs[1].tolist() == [weight] * 3


def test_products_with_one_are_left_out() -> None:
    def function(a: Any, b: Any, one: Any) -> list[Any]:
        return [one * a + b * one, a * b]

    a, b, one = np.array([2.0, -0.0]), np.array([3.0, 5.0]), np.array(1.0)
    program = Program(function, 3, [0, 1], ones=[2])
    assert len(program.calls) == len(Program(function, 3, [0, 1]).calls) - 2
    arrays = [a, b, one, *program.further_arrays(a.dtype, partial(np.empty, 2))]
    run_stages([stage_of_calls(program.bind(arrays))])
    assert (a.tolist(), b.tolist()) == ([5.0, 5.0], [6.0, -0.0])
