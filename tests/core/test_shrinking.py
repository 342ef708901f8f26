"""l1, prox_l1 and max_weight_norm: what shrinks parameters, and the sums over axes that it needs."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, ISAS, MATRIX_CASES, Case, every_dtype, needs_native
from option_runs import EACH, every_backend

import fastopt
from fastopt.backends.choosing import host_backend
from fastopt.backends.native import library as native
from fastopt.backends.numpy.axis_sums import sum_squares
from fastopt.core import max_weight_norm

pytestmark = pytest.mark.usefixtures("restored")


def test_prox_l1_makes_exact_zeros_and_l1_does_not() -> None:
    theta = np.linspace(-1, 1, 41)
    fastopt.SGD(theta, lr=0.1, prox_l1=1.0).step(np.zeros(41))
    np.testing.assert_allclose(
        theta, np.sign(np.linspace(-1, 1, 41)) * np.maximum(np.abs(np.linspace(-1, 1, 41)) - 0.1, 0)
    )
    assert (theta == 0).sum() >= 3


@needs_native
@pytest.mark.parametrize("backend", ["numpy", *(["native"] if ISAS else [])])
def test_nothing_shrinks_by_a_negative_rate(backend: str) -> None:
    """SWATS may find one."""
    theta = np.float32([1.0, -1.0, 0.01])
    opt = fastopt.SWATS(theta, prox_l1=0.5, backend=backend)
    opt.state["0"]["switch_step"][...], opt.state["0"]["sgd_lr"][...] = 1, -0.1
    opt.step(np.zeros(3, np.float32))
    assert theta.tolist() == np.float32([1.0, -1.0, 0.01]).tolist()


def test_prox_l1_that_rounds_to_0() -> None:
    """The sign of a zero is the same on both backends."""
    results = []
    for backend in ("native", "numpy"):
        theta = np.tile(np.float32([-0.0, 0.0, 1.0]), 50)
        fastopt.SGD(theta, lr=0.1, momentum=0.9, prox_l1=1e-60, backend=backend).step(np.zeros(150, np.float32))
        results.append(theta.tobytes())
    assert results[0] == results[1]


def slow_sum_squares(array: Any, axes: tuple[int, ...]) -> Any:
    """One element after the other, in the order that csrc/axis_sums_template.h has."""
    others = [axis for axis in range(array.ndim) if axis not in axes]
    sums = np.zeros([array.shape[axis] for axis in others])
    units = array.transpose(*others, *axes).reshape(*sums.shape, math.prod(array.shape[axis] for axis in axes))
    for place in np.ndindex(sums.shape):
        squares = (units[place].astype(np.float64) ** 2).tolist()
        for begin in range(0, len(squares), 4096):
            lanes = [0.0] * 16
            for i, square in enumerate(squares[begin : begin + 4096]):
                lanes[i % 16] += square
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
            sums[place] += lanes[0]
    return np.expand_dims(sums, axes)


AXES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 7), (0,)),
    ((5, 7), (1,)),
    ((5, 7), (0, 1)),
    ((5, 7), ()),
    ((8195, 3), (0,)),
    ((3, 8195), (1,)),
    ((17, 260), (0,)),
    ((260, 17), (1,)),
    ((2, 4097, 3), (1,)),
    ((3, 4, 5, 6), (1, 2, 3)),
    ((3, 4, 5, 6), (0, 2)),
    ((3, 4, 5, 6), (1, 3)),
    ((3, 0), (0,)),
    ((3, 0), (1,)),
    ((3300, 40), (1,)),
    ((1100, 300), (0,)),
]


@every_backend
@every_dtype
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("shape", "axes"), AXES)
def test_sums_over_axes(shape: tuple[int, ...], axes: tuple[int, ...], order: Any, dtype: Any, backend: str) -> None:
    """In the same order whatever the layout, on every backend and instruction set."""
    array = np.array(np.random.default_rng(3).normal(size=shape).astype(dtype), order=order)
    expected = slow_sum_squares(array, axes)
    for isa in ISAS if backend == "native" else [None]:
        if isa is not None:
            native.use_isa(isa)
        found = sum_squares(array, axes, host_backend(backend).add_runs)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)


@every_backend
@every_dtype
@pytest.mark.parametrize("case", [case for case in EACH if "max_weight_norm" not in case.optimizer.refused], ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1)])
def test_max_weight_norm(backend: str, case: Case, dtype: Any, axis: Any) -> None:
    """Units above the limit come down to it, others stay; averages and copies see what came of it."""
    rng = np.random.default_rng(8)
    start = {"W": rng.normal(size=(6, 4)).astype(dtype)}
    if case not in MATRIX_CASES:
        start["b"] = np.full(4, 9, dtype)
    params, plain = copy.deepcopy(start), copy.deepcopy(start)
    opt = case.build(params, max_weight_norm=2.2, max_weight_norm_axis=axis, ema_decay=0.0, backend=backend)
    reference = case.build(plain, backend=backend)
    for _ in range(3):
        grads = {name: rng.normal(size=param.shape).astype(dtype) for name, param in params.items()}
        opt.step(grads)
        reference.step(grads)
        norms = np.sqrt(slow_sum_squares(plain["W"], max_weight_norm.axes_of("W", 2, axis)))
        plain["W"] *= np.where(norms > 2.2, 2.2 / norms, 1).astype(dtype)
        for name in params:
            np.testing.assert_array_equal(params[name], plain[name])
            np.testing.assert_array_equal(opt.ema[name], plain[name])
    with pytest.raises(ValueError, match="max_weight_norm_axis"):
        case.build(params, max_weight_norm=1.0, max_weight_norm_axis=2).step(grads)


@every_backend
def test_average_of_a_bfloat16_bias_beside_held_norms(backend: str) -> None:
    """What has no units is averaged after them all the same, from memory of another dtype."""
    params = [np.full((3, 2), 5, np.float32), np.ones(300, BFLOAT16)]
    opt = fastopt.SGD(params, lr=0.5, max_weight_norm=1.0, ema_decay=0.0, stochastic_rounding=True, backend=backend)
    opt.step([np.ones((3, 2)), np.ones(300)])
    np.testing.assert_array_equal(opt.ema[1], np.full(300, 0.5, np.float32))
    np.testing.assert_array_equal(opt.ema[0], params[0])
