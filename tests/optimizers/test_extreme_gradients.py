"""Gradients that become 0 for good, tiny and huge ones: numbers stay finite, with the same bits on both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, MATRIX_CASES, Case, every_dtype, everything, needs_native

import fastopt
from fastopt.backends.native import library as native

all_cases = pytest.mark.parametrize("case", [*CASES, *MATRIX_CASES], ids=str)

#: Squares of a gradient of 1e30 are no numbers of float32. These optimizers subtract or divide what comes from squares.
COMBINES_SQUARES = ("RMSprop-centered", "Yogi", "Adafactor")

#: The sizes of gradients, by dtype. The last one's square is infinite.
SIZES = {
    np.float32: (1e-45, 1e-42, 1e-38, 1e-30, 1e-20, 1e18, 1e30),
    np.float64: (5e-324, 1e-320, 1e-300, 1e-160, 1e-38, 1e30, 1e140, 1e200),
}


def start(case: Case, dtype: Any) -> list[Any]:
    rng = np.random.default_rng(3)
    shapes = [(4, 6)] if case in MATRIX_CASES else [(4, 6), (5,)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def gradients(params: list[Any], size: float, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=param.shape) * size).astype(param.dtype) for param in params]


def check_finite(params: list[Any], opt: fastopt.Optimizer) -> None:
    for param in params:
        assert np.isfinite(param).all()
    for name, slots in opt.state.items():
        for slot, array in slots.items():
            assert np.isfinite(array).all(), (name, slot)


def stepped(case: Case, dtype: Any, zeros: int, backend: str) -> tuple[list[Any], fastopt.Optimizer]:
    """Return the result of ten steps, and of so many with gradients of 0."""
    params = start(case, dtype)
    opt = case.build(params, backend=backend)
    for k in range(10):
        opt.step(gradients(params, 1.0, k))
    nothing = [np.zeros_like(param) for param in params]
    for _ in range(zeros):
        opt.step(nothing)
    return params, opt


@needs_native
@pytest.mark.by_turns("case")
@pytest.mark.parametrize("zeros", [100, pytest.param(3000, marks=pytest.mark.long)])
@every_dtype
@all_cases
def test_gradients_that_stay_0(case: Case, dtype: Any, zeros: int) -> None:
    params, opt = stepped(case, dtype, zeros, "native")
    check_finite(params, opt)
    copies = [param.copy() for param in params]
    other = case.build(copies, backend="numpy")
    other.load_state_dict(opt.state_dict())
    nothing = [np.zeros_like(param) for param in params]
    for _ in range(3):
        opt.step(nothing)
        other.step(nothing)
    assert everything(copies, other) == everything(params, opt)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (fastopt.LAMB, {"eps": 1.0}),
        (fastopt.LARS, {"trust_coefficient": 1.0}),
        (fastopt.LARS, {"trust_coefficient": 1.0, "nesterov": True}),
    ],
)
@pytest.mark.parametrize(("dtype", "weight", "size"), [(np.float32, 3.0, 1e-44), (np.float64, 1e150, 1e-161)])
def test_a_rate_that_would_be_infinite(
    optimizer: type[fastopt.Optimizer], options: dict[str, Any], dtype: Any, weight: float, size: float
) -> None:
    """An infinite rate times an element that is 0 would be NaN."""
    told = []
    for backend in ("numpy", "native") if native.missing is None else ("numpy",):
        param = np.full(3, weight, dtype)
        opt = optimizer(param, lr=0.1, backend=backend, **options)
        for _ in range(2):
            opt.step(np.array([0.0, size, -size], dtype))
        check_finite([param], opt)
        assert opt.state["0"]["trust_ratio"] > 0.1 * np.finfo(dtype).max
        assert param[0] == weight
        told.append(everything([param], opt))
    assert told == [told[0]] * len(told)


@needs_native
@pytest.mark.by_turns("case")
@pytest.mark.parametrize(("dtype", "size"), [(dtype, size) for dtype in DTYPES for size in SIZES[dtype]])
@all_cases
def test_tiny_and_huge_gradients(case: Case, dtype: Any, size: float) -> None:
    told = []
    for backend in ("native", "numpy"):
        params = start(case, dtype)
        opt = case.build(params, backend=backend)
        for k in range(10):
            opt.step(gradients(params, size, k))
            opt.step(gradients(params, 0.0, k))
        if size != SIZES[dtype][-1]:
            check_finite(params, opt)
        elif not str(case).startswith(COMBINES_SQUARES):
            assert all(np.isfinite(param).all() for param in params)
        told.append(everything(params, opt))
    assert told[0] == told[1]


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
@every_dtype
def test_adafactors_eps_whose_square_is_0(shape: tuple[int, ...], dtype: Any) -> None:
    """The paper's is 1e-30; an array without a gradient so far would be 0 / 0."""
    param = np.ones(shape, dtype)
    opt = fastopt.Adafactor(param, eps=(1e-30 if dtype is np.float32 else 1e-200, 1e-3))
    for size in (0.0, 1e-40, 1.0):
        opt.step(np.full(shape, size, dtype))
        check_finite([param], opt)
    assert (param < 1).all()


@every_dtype
@all_cases
@pytest.mark.by_turns("case")
def test_huge_step_counts(case: Case, dtype: Any) -> None:
    """Bias corrections, averages' weights and sums of weights after a billion steps."""
    options = {} if "ema_decay" in case.optimizer.refused else {"ema_decay": 0.999, "ema_bias_correction": True}
    for count in (10**9, 2**53, 2**62):
        params = start(case, dtype)
        opt = case.build(params, **options)
        opt.step(gradients(params, 1.0, 0))
        for slots in opt.state.values():
            slots["step"][...] = count
        for k in range(3):
            opt.step(gradients(params, 1.0, k))
        check_finite(params, opt)
