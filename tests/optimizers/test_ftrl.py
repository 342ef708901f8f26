"""FTRL: the numbers of Keras and of McMahan et al., exact zeros, and rates that it can't divide by."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import every_dtype, needs_native, shown

import fastopt
from fastopt.optimizers.ftrl import LEAST_RATE

START = [1.0, -2.0, 0.5, 3.0]
GRADS = [[0.5, -1.0, 0.0, 0.25], [-0.125, 2.0, 1.5, 0.0], [1.0, 0.5, -0.75, -4.0]]

L1, L2, SHRINKAGE = (f"{kind}_regularization_strength" for kind in ("l1", "l2", "l2_shrinkage"))

#: Options, and the parameters after each step, as Keras 3.15.1 (on JAX 0.10.2, floatx float64) gave them by
#: ``opt.apply([grad], [variable])`` of ``keras.optimizers.Ftrl(**options)``, with ``learning_rate`` for ``lr``.
KERAS: list[tuple[dict[str, Any], list[list[float]]]] = [
    (
        {},
        [
            [0.4646323619204227, -1.3960238482552272, 0.0, 0.6459862046688457],
            [0.4648390864780713, -1.3969094631407672, -0.0009784921095801632, 0.6459862046688457],
            [0.46398336137839014, -1.3971256319913508, -0.0005390230580983776, 0.6469811649003805],
        ],
    ),
    (
        {"lr": 0.5, L1: 0.3, L2: 0.2, SHRINKAGE: 0.1, "beta": 1.0},
        [
            [0.0, -0.27355022406959256, 0.0, -0.008947988577936354],
            [0.0, -0.5547982149627578, -0.23783640833970654, -0.008389825229105356],
            [-0.15288349679281565, -0.6101696375207729, -0.10063728221214831, 0.3174250951493141],
        ],
    ),
    (
        {"lr": 0.1, "initial_accumulator_value": 0.25, L1: 0.5},
        [
            [0.151471862576143, -0.9714087303500968, 0.0, 0.18255434835026513],
            [0.1688796281717128, -1.0586958864444938, -0.06324555320336758, 0.18255434835026513],
            [0.08765193496102326, -1.0800159580800546, -0.02038841034622472, 0.2815918620446928],
        ],
    ),
    (
        {"lr": 0.1, "weight_decay": 0.5},
        [
            [0.35768821489354197, -1.2317821863776897, 0.0, 0.5522586921300978],
            [0.37797435273792773, -1.2873578021819165, -0.09784921095801632, 0.5522586921300978],
            [0.2832819022758138, -1.307452772493871, -0.0534045357767548, 0.6269105385476371],
        ],
    ),
]

every_options = pytest.mark.parametrize("options", [options for options, _ in KERAS], ids=shown)


@every_dtype
@pytest.mark.parametrize(("options", "after"), KERAS, ids=shown)
def test_golden_numbers_of_keras(options: dict[str, Any], after: list[list[float]], dtype: Any) -> None:
    param = np.array(START, dtype)
    opt = fastopt.FTRL(param, **options)
    for grad, wanted in zip(GRADS, after, strict=True):
        opt.step(np.array(grad))
        np.testing.assert_allclose(param, wanted, rtol=1e-12 if dtype == np.float64 else 1e-5)


@every_options
def test_numbers_of_live_keras(options: dict[str, Any]) -> None:
    """Over 50 steps; ``pip install keras`` gets it."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    jax = pytest.importorskip("jax", reason="keras computes with it")
    keras = pytest.importorskip("keras", reason="needs keras")
    rng = np.random.default_rng(3)
    param = rng.normal(size=(7, 5))
    opt = fastopt.FTRL(param, **options)
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")  # of its learning rate
    try:
        variable = keras.Variable(param.copy(), dtype="float64")
        names = {"learning_rate" if name == "lr" else name: value for name, value in options.items()}
        reference = keras.optimizers.Ftrl(**names)
        for _ in range(50):
            grad = rng.normal(size=param.shape) * (rng.random(param.shape) < 0.7)
            opt.step(grad)
            reference.apply([keras.ops.convert_to_tensor(grad, dtype="float64")], [variable])
            # Where a parameter is near 0, z is a small difference of large sums.
            np.testing.assert_allclose(param, np.asarray(variable.value), rtol=1e-12, atol=1e-13)
    finally:
        keras.config.set_floatx("float32")
        jax.config.update("jax_enable_x64", False)


def test_algorithm_1_of_mcmahan() -> None:
    """alpha is lr, lambda_1 is l1, lambda_2 is twice Keras's l2; n and z begin at 0, and so do the weights."""
    alpha, beta, lambda_1, lambda_2 = 0.3, 1.0, 1.0, 0.5
    rng = np.random.default_rng(5)
    param = np.zeros(9)
    strengths: dict[str, Any] = {L1: lambda_1, L2: lambda_2 / 2}
    opt = fastopt.FTRL(param, lr=alpha, beta=beta, initial_accumulator_value=0.0, **strengths)
    z, n, w = np.zeros(9), np.zeros(9), np.zeros(9)
    zeros = 0
    for _ in range(50):
        g = rng.normal(size=9) * (rng.random(9) < 0.5)
        opt.step(g)
        for i in range(9):
            sigma = (np.sqrt(n[i] + g[i] ** 2) - np.sqrt(n[i])) / alpha
            z[i] += g[i] - sigma * w[i]
            n[i] += g[i] ** 2
            if abs(z[i]) <= lambda_1:
                w[i] = 0
            else:
                w[i] = -(z[i] - np.sign(z[i]) * lambda_1) / ((beta + np.sqrt(n[i])) / alpha + lambda_2)
        assert ((w == 0) == (param == 0)).all()
        zeros += int((param == 0).sum())
        np.testing.assert_allclose(param, w, rtol=1e-12, atol=1e-15)
    assert zeros > 50
    np.testing.assert_allclose(opt.state["0"]["z"], z, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(opt.state["0"]["n"], n, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@every_dtype
def test_nothing_divided_by_nothing(dtype: Any, backend: str) -> None:
    """Where no gradient came so far, n and beta are 0; the quotient is not taken, and NumPy says nothing."""
    param = np.array([1.0, -2.0, 3.0], dtype)
    opt = fastopt.FTRL(param, lr=0.5, initial_accumulator_value=0.0, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step(np.array([0.0, 0.0, 1.0], dtype))
        assert param.tolist() == [0, 0, 2.5]
        opt.step(np.array([0.0, np.nan, 0.0], dtype))
    np.testing.assert_array_equal(param, [0, np.nan, 2.5])


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_rows_that_a_gradient_names(backend: str) -> None:
    """They are replaced, and no other; a row that is not named keeps what it began with."""
    table = np.full((5, 2), 7.0)
    opt = fastopt.FTRL(table, lr=0.5, l1_regularization_strength=1.0, backend=backend)
    rows = np.array([[2.0, -0.5], [3.0, 0.0]])
    opt.step(fastopt.RowSparse(np.array([3, 0]), rows))
    small = np.full((2, 2), 7.0)
    fastopt.FTRL(small, lr=0.5, l1_regularization_strength=1.0, backend=backend).step(rows)
    assert table[[3, 0]].tolist() == small.tolist()
    assert (table[[1, 2, 4]] == 7).all()


def test_maximize() -> None:
    """It goes up where it would go down."""
    params = [np.zeros(3), np.zeros(3)]
    grad = np.array([1.0, -2.0, 0.0])
    for param, maximize in zip(params, (False, True), strict=True):
        opt = fastopt.FTRL(param, lr=0.1, maximize=maximize)
        for _ in range(3):
            opt.step(grad)
    assert (params[0] == -params[1]).all()
    assert params[1][0] > 0 > params[1][1]


RATES: dict[str, Callable[[int], float]] = {
    "zero": lambda step: 0.1 if step < 4 else 0.0,
    "too small for float32": lambda step: 0.1 if step < 4 else LEAST_RATE / 2,
    "negative": lambda step: 0.1 if step < 4 else -0.1,
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kind", RATES)
def test_a_rate_that_falls_to_0_is_refused_before_anything_changes(kind: str, backend: str) -> None:
    param = np.ones(3, np.float32)
    opt = fastopt.FTRL(param, lr=RATES[kind], backend=backend)
    for _ in range(4):
        opt.step(np.ones(3, np.float32))
    assert opt.planned_steps > 0 or backend == "numpy"
    before = param.tobytes(), {slot: array.tobytes() for slot, array in opt.state["0"].items()}
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"the schedule at step 4: lr=.*: expected a finite number of at least 1\.1"
        ):
            opt.step(np.ones(3, np.float32))
        assert (param.tobytes(), {slot: array.tobytes() for slot, array in opt.state["0"].items()}) == before
    opt.lr = 0.1
    assert opt.step(np.ones(3, np.float32)).step == 5


def test_options_that_it_has_not() -> None:
    with pytest.raises(ValueError, match=r"^learning_rate_power=-1\.0: expected -0\.5; the rule takes square roots"):
        fastopt.FTRL(np.ones(3), learning_rate_power=-1.0)
    for lr in (0, 0.0, LEAST_RATE / 2):
        with pytest.raises(ValueError, match=r"^lr=.*: expected a finite number of at least 1\.17549e-38, a schedule"):
            fastopt.FTRL(np.ones(3), lr=lr)
    opt = fastopt.FTRL(np.ones(3))
    with pytest.raises(ValueError, match=r"^lr=0: expected a finite number of at least"):
        opt.lr = 0
    opt.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match=r"^lr=0\.0: expected a finite number of at least"):
        opt.step(np.ones(3))
