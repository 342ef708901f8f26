"""The right numbers: by hand, of gradients about the size of eps, of Keras and TensorFlow, and of Nesterov."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from cases import BFLOAT16, every_dtype, shown

import fastopt
from fastopt import SGD, Adagrad, Adam, AdamW, RMSprop, schedules


class ByHand(NamedTuple):
    """A parameter, two gradients, and what the parameter is after each of the two steps."""

    optimizer: type[fastopt.Optimizer]
    options: dict[str, Any]
    param: float
    grads: tuple[float, float]
    after: tuple[float, float]


MOMENTUM = {"lr": 0.1, "momentum": 0.5}

FALLING = {"lr": schedules.exponential(0.1, 0.1)}

HALVES = {"betas": (0.5, 0.75), "lr": 0.1}

BY_HAND = [
    ByHand(SGD, {"lr": 0.1}, 1, (1, 1), (0.9, 0.8)),
    ByHand(SGD, {"lr": 0.1, "maximize": True}, 1, (1, 1), (1.1, 1.2)),
    ByHand(SGD, MOMENTUM, 1, (1, 1), (0.9, 0.75)),
    ByHand(SGD, {**MOMENTUM, "dampening": 0.5}, 1, (1, 1), (0.9, 0.8)),
    ByHand(SGD, {**MOMENTUM, "nesterov": True}, 1, (1, 1), (0.85, 0.675)),
    ByHand(SGD, {**MOMENTUM, "weight_decay": 0.5}, 1, (1, 1), (0.85, 0.6325)),
    ByHand(SGD, {**MOMENTUM, "weight_decay": 0.5, "decoupled": True}, 1, (1, 1), (0.85, 0.6575)),
    ByHand(SGD, {**MOMENTUM, "weight_decay": 0.5, "maximize": True}, 1, (1, 1), (1.05, 1.1225)),
    # The rate falls from 0.1 to 0.01: in the buffer, the first gradient keeps the rate that it came with.
    ByHand(SGD, {**MOMENTUM, **FALLING}, 1, (1, 1), (0.9, 0.885)),
    ByHand(SGD, {**MOMENTUM, **FALLING, "lr_in_momentum": True}, 1, (1, 1), (0.9, 0.84)),
    ByHand(SGD, {**MOMENTUM, **FALLING, "lr_in_momentum": True, "nesterov": True}, 1, (1, 1), (0.85, 0.81)),
    ByHand(Adagrad, {"lr": 1.0, "eps": 0.0}, 0, (3, 4), (-1, -1.8)),
    ByHand(Adagrad, {"lr": 1.0, "eps": 0.0, "lr_decay": 1.0}, 0, (3, 4), (-1, -1.4)),
    ByHand(Adagrad, {"lr": 1.0, "eps": 0.0, "initial_accumulator_value": 16.0}, 0, (3, 0), (-0.6, -0.6)),
    ByHand(Adagrad, {"lr": 1.0, "eps": 1.0}, 0, (3, 4), (-3 / 4, -3 / 4 - 4 / 6)),
    ByHand(Adagrad, {"lr": 1.0, "eps": 7.0, "eps_in_root": True}, 0, (3, 4), (-3 / 4, -3 / 4 - 4 / math.sqrt(32))),
    ByHand(RMSprop, {"lr": 1.0, "alpha": 0.75, "eps": 0.0}, 0, (2, 1), (-2, -3)),
    ByHand(RMSprop, {"lr": 1.0, "alpha": 0.75, "eps": 1.0}, 0, (2, 1), (-1, -1.5)),
    ByHand(RMSprop, {"lr": 1.0, "alpha": 0.75, "eps": 3.0, "eps_in_root": True}, 0, (2, 1), (-1, -1.5)),
    ByHand(RMSprop, {"lr": 1.0, "alpha": 0.75, "eps": 0.0, "momentum": 0.5}, 0, (2, 1), (-2, -4)),
    # v = 1, m = 0.5, the variance 0.75; then v = 1, m = 0.625.
    ByHand(
        RMSprop,
        {"lr": 1.0, "alpha": 0.75, "eps": 0.0, "centered": True},
        0,
        (2, 1),
        (-2 / math.sqrt(0.75), -2 / math.sqrt(0.75) - 1 / math.sqrt(1 - 0.625**2)),
    ),
    ByHand(Adam, {**HALVES, "eps": 0.0}, 0, (2, 2), (-0.1, -0.2)),
    ByHand(Adam, {**HALVES, "eps": 1.0}, 0, (2, 2), (-0.1 * 2 / 3, -0.2 * 2 / 3)),
    ByHand(Adam, {**HALVES, "eps": 0.0, "eps_root": 5.0}, 0, (2, 2), (-0.1 * 2 / 3, -0.2 * 2 / 3)),
    ByHand(
        Adam,
        {**HALVES, "eps": 1.0, "eps_hat": True},
        0,
        (2, 2),
        (-0.05, -0.05 - 0.1 * math.sqrt(0.4375) / 0.75 * 1.5 / (math.sqrt(1.75) + 1)),
    ),
    ByHand(Adam, {**HALVES, "eps": 0.0, "bias_correction": False}, 0, (2, 2), (-0.1, -0.1 - 0.15 / math.sqrt(1.75))),
    # v is 1, then 0.75; the largest stays 1.
    ByHand(
        Adam, {**HALVES, "eps": 0.0, "amsgrad": True}, 0, (2, 0), (-0.1, -0.1 - 0.1 * 0.5 / 0.75 * math.sqrt(0.4375))
    ),
    # v / (1 - beta2**t) is 4, then 0.75 / 0.4375; the largest stays 4.
    ByHand(Adam, {**HALVES, "eps": 0.0, "amsgrad": "corrected"}, 0, (2, 0), (-0.1, -0.1 - 0.1 * 0.5 / 0.75 / 2)),
    ByHand(AdamW, {**HALVES, "eps": 0.0, "weight_decay": 1.0}, 1, (2, 2), (0.8, 0.62)),
    ByHand(AdamW, {**HALVES, "eps": 0.0, "weight_decay": 1.0, "decoupled": False}, 1, (2, 2.1), (0.9, 0.8)),
]


@every_dtype
@pytest.mark.parametrize("row", BY_HAND, ids=lambda row: f"{row.optimizer.__name__}-{shown(row.options)}")
def test_two_steps_by_hand(row: ByHand, dtype: Any) -> None:
    param = np.array([row.param], dtype)
    opt = row.optimizer(param, **row.options)
    for grad, after in zip(row.grads, row.after, strict=True):
        opt.step(np.array([grad], dtype))
        assert param[0] == pytest.approx(after, rel=1e-14 if dtype == np.float64 else 1e-6)


@every_dtype
def test_worked_example_of_the_lectures(dtype: Any) -> None:
    theta = np.array([0.5, 2.0], dtype)
    opt = fastopt.SGD(theta, lr=0.1, momentum=0.9)
    for after in ((0.4, 1.9), (0.21, 1.71)):
        opt.step(np.ones(2, dtype))
        np.testing.assert_allclose(theta, after, rtol=1e-15 if dtype == np.float64 else 1e-6)


TINY = 1e-8

ROOT = math.sqrt(0.001)

FIRST_STEP = [
    (Adam, {}, 1 / 2),
    (Adam, {"eps_hat": True}, ROOT / (ROOT + 1)),
    (Adam, {"eps": 0.0, "eps_root": TINY**2}, 1 / math.sqrt(2)),
    (Adam, {"bias_correction": False}, 0.1 / (ROOT + 1)),
    (Adam, {"amsgrad": True}, 1 / 2),
    (Adam, {"amsgrad": "corrected"}, 1 / 2),
    (AdamW, {}, 1 / 2),
    (Adagrad, {"eps": TINY}, 1 / 2),
    (Adagrad, {"eps": TINY**2, "eps_in_root": True}, 1 / math.sqrt(2)),
    (RMSprop, {}, 1 / (0.1 + 1)),
    (RMSprop, {"eps": TINY**2, "eps_in_root": True}, 1 / math.sqrt(0.01 + 1)),
    (RMSprop, {"centered": True}, 1 / (math.sqrt(0.01 - 0.01**2) + 1)),
    (RMSprop, {"centered": True, "eps": TINY**2, "eps_in_root": True}, 1 / math.sqrt(0.01 - 0.01**2 + 1)),
]


@every_dtype
@pytest.mark.parametrize(("optimizer", "options", "update"), FIRST_STEP, ids=shown)
def test_first_step_of_a_gradient_as_small_as_eps(
    optimizer: type[fastopt.Optimizer], options: dict[str, Any], update: float, dtype: Any
) -> None:
    param = np.zeros(1, dtype)
    optimizer(param, lr=0.5, **options).step(np.array([TINY], dtype))
    assert param[0] == pytest.approx(-0.5 * update, rel=1e-14 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_of_keras(nesterov: bool) -> None:
    """velocity = momentum * velocity - lr * g; w += velocity, or w += momentum * velocity - lr * g."""
    w, velocity, param = 1.0, 0.0, np.array([1.0])
    opt = SGD(param, lr=schedules.exponential(0.1, 0.5), momentum=0.9, nesterov=nesterov, lr_in_momentum=True)
    for lr, g in ((0.1, 1.0), (0.05, -3.0), (0.025, 2.0)):
        opt.step(np.array([g]))
        velocity = 0.9 * velocity - lr * g
        w += 0.9 * velocity - lr * g if nesterov else velocity
        assert param[0] == pytest.approx(w, rel=1e-14)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_of_tensorflow_1_and_keras(centered: bool) -> None:
    """mom = momentum * mom + lr * g / sqrt(ms [- mg**2] + eps); w -= mom. The slots begin at 0 as in Keras."""
    w, ms, mg, mom, param = 1.0, 0.0, 0.0, 0.0, np.array([1.0])
    opt = RMSprop(
        param,
        lr=schedules.exponential(0.1, 0.5),
        alpha=0.9,
        momentum=0.5,
        eps=1e-10,
        centered=centered,
        eps_in_root=True,
        lr_in_momentum=True,
    )
    for lr, g in ((0.1, 1e-5), (0.05, -3e-5), (0.025, 2e-5)):
        opt.step(np.array([g]))
        ms += (1 - 0.9) * (g * g - ms)
        mg += (1 - 0.9) * (g - mg)
        mom = 0.5 * mom + lr * g / math.sqrt(ms - (mg**2 if centered else 0.0) + 1e-10)
        w -= mom
        assert param[0] == pytest.approx(w, rel=1e-13)


def test_adagrad_of_keras() -> None:
    """w -= lr * g / sqrt(accumulator + eps), the accumulator from 0.1."""
    w, accumulator, param = 1.0, 0.1, np.array([1.0])
    opt = Adagrad(param, lr=0.5, initial_accumulator_value=0.1, eps=1e-7, eps_in_root=True)
    for g in (1e-4, -3.0, 2.0):
        opt.step(np.array([g]))
        accumulator += g * g
        w -= 0.5 * g / math.sqrt(accumulator + 1e-7)
        assert param[0] == pytest.approx(w, rel=1e-14)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_of_keras(amsgrad: bool) -> None:
    """alpha = lr * sqrt(1 - beta2**t) / (1 - beta1**t); w -= alpha * m / (sqrt(v) + eps), with eps 1e-7."""
    w, m, v, v_hat, param = 1.0, 0.0, 0.0, 0.0, np.array([1.0])
    opt = Adam(param, lr=0.5, eps=1e-7, eps_hat=True, amsgrad=amsgrad)
    for t, g in enumerate((1e-6, -3e-7, 2e-8), 1):
        opt.step(np.array([g]))
        m += (g - m) * (1 - 0.9)
        v += (g * g - v) * (1 - 0.999)
        v_hat = max(v_hat, v)
        w -= 0.5 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v_hat if amsgrad else v) + 1e-7)
        assert param[0] == pytest.approx(w, rel=1e-13)


STEPS = 50


def rosenbrock_gradient(p: npt.NDArray[Any]) -> npt.NDArray[Any]:
    x, y = p
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], p.dtype)


NESTEROV = [
    {"lr": 1e-3, "momentum": 0.9},
    {"lr": 1e-3, "momentum": 0.9, "lr_in_momentum": True},
    {"lr": schedules.cosine(1e-3, STEPS), "momentum": 0.9, "lr_in_momentum": True},
]


@pytest.mark.parametrize("options", NESTEROV, ids=shown)
def test_nesterov_at_the_looked_ahead_point_is_the_rearranged_form(options: dict[str, Any]) -> None:
    """The parameters of the rearranged form are the looked-ahead point of the lectures' form, step by step."""
    theta, rearranged = np.array([-1.2, 1.0]), np.array([-1.2, 1.0])
    ahead = SGD(theta, **options)
    at_once = SGD(rearranged, **options, nesterov=True)
    for step in range(STEPS):
        before = theta.tobytes()
        with ahead.lookahead():
            np.testing.assert_allclose(theta, rearranged, rtol=1e-12)
            assert (theta.tobytes() != before) == (step > 0)
            grad = rosenbrock_gradient(theta)
        assert theta.tobytes() == before
        ahead.step(grad)
        at_once.step(rosenbrock_gradient(rearranged))


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16][: 1 + (BFLOAT16 is not None)], ids=str)
def test_lookahead_of_half_precision_is_computed_in_float32(dtype: Any) -> None:
    """A small learning rate is 0 in float16."""
    param = np.full((2, 2), 0.01, dtype, order="F")
    opt = SGD(param, lr=1e-8, momentum=0.5)
    opt.step(np.full((2, 2), 1e6))
    before = param.astype(np.float32)
    with opt.lookahead():
        assert (param == (before - np.float32(5e-9) * np.float32(1e6)).astype(dtype)).all()
        assert (param < before).all()


@every_dtype
def test_lookahead_gives_the_bits_back_after_an_exception(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    params = {"W": np.asfortranarray(rng.normal(size=(5, 3)).astype(dtype)), "b": np.array(0.3, dtype)}
    opt = SGD(params, lr=0.1, momentum=0.9)
    opt.step({"W": rng.normal(size=(5, 3)), "b": np.array(1.0)})
    before = [param.tobytes("A") for param in params.values()]
    buffers = [slots["b"].copy() for slots in opt.state.values()]

    def fail_ahead() -> None:
        with opt.lookahead():
            assert all(param.tobytes("A") != bits for param, bits in zip(params.values(), before, strict=True))
            params["W"][0] = math.nan
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_ahead()
    assert [param.tobytes("A") for param in params.values()] == before
    for slots, buffer in zip(opt.state.values(), buffers, strict=True):
        np.testing.assert_array_equal(slots["b"], buffer)
