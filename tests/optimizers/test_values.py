"""The right numbers: against values by hand, plain Python floats, torch and optax where they are, and by descent."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from cases import CASES, Case, every_case, every_dtype

import fastopt
from fastopt import SGD, Adagrad, Adam, AdamW, RMSprop, schedules

# --- By hand ----------------------------------------------------------------------------------------------------------


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
    ByHand(AdamW, {**HALVES, "eps": 0.0, "weight_decay": 1.0}, 1, (2, 2), (0.8, 0.62)),
    ByHand(AdamW, {**HALVES, "eps": 0.0, "weight_decay": 1.0, "decoupled": False}, 1, (2, 2.1), (0.9, 0.8)),
]


def shown(value: object) -> str | None:
    if isinstance(value, dict):
        return "-".join(f"{name}={option}" for name, option in value.items())
    return getattr(value, "__name__", None)


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


# --- Gradients about the size of eps, which tell the conventions apart ------------------------------------------------

TINY = 1e-8
ROOT = math.sqrt(0.001)

FIRST_STEP = [
    (Adam, {}, 1 / 2),
    (Adam, {"eps_hat": True}, ROOT / (ROOT + 1)),
    (Adam, {"eps": 0.0, "eps_root": TINY**2}, 1 / math.sqrt(2)),
    (Adam, {"bias_correction": False}, 0.1 / (ROOT + 1)),
    (Adam, {"amsgrad": True}, 1 / 2),
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


# --- In plain Python floats, as FORMULAS and the papers write them ----------------------------------------------------


def prepared(
    p: float, g: float, lr: float, weight_decay: float = 0.0, decoupled: bool = False, maximize: bool = False
) -> tuple[float, float]:
    if maximize:
        g = -g
    return (p * (1 - lr * weight_decay), g) if decoupled else (p, g + weight_decay * p)


def plain_sgd(
    p: float,
    grads: Sequence[float],
    lrs: Sequence[float],
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    lr_in_momentum: bool = False,
    **common: Any,
) -> float:
    b = None
    for grad, lr in zip(grads, lrs, strict=True):
        p, g = prepared(p, grad, lr, **common)
        if lr_in_momentum:
            b = lr * g if b is None else momentum * b + lr * (1 - dampening) * g
            p -= momentum * b + lr * g if nesterov else b
        else:
            b = g if b is None else momentum * b + (1 - dampening) * g
            p -= lr * (g + momentum * b) if nesterov else lr * b
    return p


def plain_adagrad(
    p: float,
    grads: Sequence[float],
    lrs: Sequence[float],
    lr_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    eps_in_root: bool = False,
    **common: Any,
) -> float:
    total = initial_accumulator_value
    for t, (grad, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        p, g = prepared(p, grad, lr, **common)
        total += g**2
        rate = lr / (1 + (t - 1) * lr_decay)
        p -= rate * g / math.sqrt(total + eps) if eps_in_root else rate * g / (math.sqrt(total) + eps)
    return p


def plain_rmsprop(
    p: float,
    grads: Sequence[float],
    lrs: Sequence[float],
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    eps_in_root: bool = False,
    lr_in_momentum: bool = False,
    **common: Any,
) -> float:
    v = mean = b = 0.0
    for grad, lr in zip(grads, lrs, strict=True):
        p, g = prepared(p, grad, lr, **common)
        v = alpha * v + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        variance = v - mean**2 if centered else v
        ratio = g / math.sqrt(variance + eps) if eps_in_root else g / (math.sqrt(variance) + eps)
        if lr_in_momentum:
            b = momentum * b + lr * ratio
            p -= b
        else:
            b = momentum * b + ratio
            p -= lr * b
    return p


def plain_adam(
    p: float,
    grads: Sequence[float],
    lrs: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    amsgrad: bool = False,
    eps_root: float = 0.0,
    eps_hat: bool = False,
    bias_correction: bool = True,
    **common: Any,
) -> float:
    m = v = v_max = 0.0
    beta1, beta2 = betas
    for t, (grad, lr) in enumerate(zip(grads, lrs, strict=True), 1):
        p, g = prepared(p, grad, lr, **common)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        v_max = max(v_max, v)
        correction1 = 1 - beta1**t if bias_correction else 1.0
        correction2 = 1 - beta2**t if bias_correction else 1.0
        second = v_max if amsgrad else v
        if eps_hat:
            p -= lr * math.sqrt(correction2) / correction1 * m / (math.sqrt(second) + eps)
        else:
            p -= lr * (m / correction1) / (math.sqrt(second / correction2 + eps_root) + eps)
    return p


def plain_adamw(p: float, grads: Sequence[float], lrs: Sequence[float], **options: Any) -> float:
    return plain_adam(p, grads, lrs, **{"weight_decay": 1e-2, "decoupled": True, **options})


PLAIN: dict[type[fastopt.Optimizer], Callable[..., float]] = {
    SGD: plain_sgd,
    Adagrad: plain_adagrad,
    RMSprop: plain_rmsprop,
    Adam: plain_adam,
    AdamW: plain_adamw,
}

DECAY = {"weight_decay": 0.1}
DECOUPLED = {"weight_decay": 0.1, "decoupled": True}

VARIANTS: list[tuple[type[fastopt.Optimizer], dict[str, Any]]] = [
    (optimizer, {**options, **common})
    for optimizer, options in (
        (SGD, {}),
        (SGD, {"momentum": 0.9}),
        (SGD, {"momentum": 0.9, "dampening": 0.3}),
        (SGD, {"momentum": 0.9, "nesterov": True}),
        (SGD, {"momentum": 0.9, "dampening": 0.3, "lr_in_momentum": True}),
        (SGD, {"momentum": 0.9, "nesterov": True, "lr_in_momentum": True}),
        (Adagrad, {}),
        (Adagrad, {"eps": 1e-8, "lr_decay": 0.5, "initial_accumulator_value": 1e-16}),
        (Adagrad, {"eps": 1e-16, "eps_in_root": True}),
        (RMSprop, {}),
        (RMSprop, {"eps": 1e-16, "eps_in_root": True, "momentum": 0.9}),
        (RMSprop, {"centered": True}),
        (RMSprop, {"centered": True, "momentum": 0.9, "lr_in_momentum": True}),
        (RMSprop, {"alpha": 0.9, "eps": 1e-10, "eps_in_root": True, "momentum": 0.9, "lr_in_momentum": True}),
        (Adam, {}),
        (Adam, {"betas": (0.8, 0.99), "eps": 1e-7}),
        (Adam, {"amsgrad": True}),
        (Adam, {"eps_root": 1e-16}),
        (Adam, {"eps_hat": True}),
        (Adam, {"eps_hat": True, "amsgrad": True}),
        (Adam, {"bias_correction": False}),
        (AdamW, {}),
    )
    for common in ({}, DECAY, DECOUPLED, {**DECAY, "maximize": True})
]

#: A parameter, and gradients of two steps: of the size of eps, none at all, large, small against the parameter.
ELEMENTS = [(0.0, 1e-8, 3e-9), (0.0, 0.0, -2e-8), (0.5, 1.0, -2.0), (-2.0, -0.25, 0.5), (4.0, 100.0, 0.001)]


@every_dtype
@pytest.mark.parametrize(("optimizer", "options"), VARIANTS, ids=shown)
def test_two_steps_in_plain_python(optimizer: type[fastopt.Optimizer], options: dict[str, Any], dtype: Any) -> None:
    start, *grads = np.array(ELEMENTS, dtype).T
    param, lrs = start.copy(), [0.1, 0.01]
    opt = optimizer(param, lr=lambda step: lrs[step], **options)
    for grad in grads:
        opt.step(grad)
    expected = [PLAIN[optimizer](float(p), [float(g1), float(g2)], lrs, **options) for p, g1, g2 in ELEMENTS]
    np.testing.assert_allclose(param, expected, rtol=1e-13 if dtype == np.float64 else 3e-6)


# --- TensorFlow 1 and Keras, as their documentation writes them -------------------------------------------------------


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


# --- Nesterov's accelerated gradient ----------------------------------------------------------------------------------

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


# --- torch, where it is installed -------------------------------------------------------------------------------------

SHAPES = [(), (7,), (33, 17), (3, 2, 5, 4)]
SEEDS = (0, 1, 2)

every_torch_case = pytest.mark.parametrize("case", [case for case in CASES if case.torch is not None], ids=str)
every_seed = pytest.mark.parametrize("seed", SEEDS)


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")
    # So it keeps its scalars (ASGD's eta, NAdam's product) in double precision, as fastopt does.
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(torch.float32)


class Peers:
    """An optimizer and its torch counterpart, from the same start."""

    def __init__(self, torch: ModuleType, case: Case, dtype: Any, rng: np.random.Generator) -> None:
        assert case.torch is not None
        name, options = case.torch
        self.torch = torch
        self.params = [np.array(rng.normal(size=shape), dtype) for shape in SHAPES]
        self.tensors = [torch.tensor(param) for param in self.params]
        self.ours = case.build(self.params)
        self.peer = getattr(torch.optim, name)(self.tensors, **options)
        # With the learning rate in the buffer, the buffer is torch's times the (constant) learning rate.
        self.buffer_scale = case.options["lr"] if case.options.get("lr_in_momentum") else 1.0

    def step(self, grads: list[Any]) -> None:
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = None if grad is None else self.torch.tensor(grad)
        self.ours.step(grads)
        self.peer.step()

    def pairs(self, i: int) -> dict[str, tuple[Any, Any]]:
        """Return the parameter and the slots of array ``i``, each with torch's: of its state, the nearest."""
        slots = {name: slot for name, slot in self.ours.state[str(i)].items() if name != "step"}
        scale = self.params[i].dtype.type(self.buffer_scale)
        theirs = [
            tensor.numpy() * scale
            for name, tensor in self.peer.state[self.tensors[i]].items()
            if name != "step" and tensor is not None
        ]
        pairs = {"p": (self.params[i], self.tensors[i].numpy())}
        for name, slot in slots.items():
            pairs[name] = slot, min(theirs, key=lambda other, slot=slot: np.abs(other - slot).max())
        return pairs


def some_missing(grads: list[Any], step: int) -> list[Any]:
    """Leave out a gradient in the first step, and two in the middle."""
    return [None if step in (0, 20, 21) and i == step % len(grads) else grad for i, grad in enumerate(grads)]


@every_seed
@every_torch_case
def test_torch_in_float64(torch: ModuleType, case: Case, seed: int) -> None:
    """Within 1e-12 after each of 50 steps, relative to the largest value that the element has had.

    (Relative to an element itself there is no bound: one that passes near 0 keeps the error of where it came from.)
    """
    rng = np.random.default_rng(seed)
    peers = Peers(torch, case, np.float64, rng)
    largest = [np.abs(param) for param in peers.params]
    for step in range(STEPS):
        peers.step(some_missing([np.array(rng.normal(size=shape)) for shape in SHAPES], step))
        for i, (param, tensor) in enumerate(zip(peers.params, peers.tensors, strict=True)):
            largest[i] = np.maximum(largest[i], np.abs(tensor.numpy()))
            assert (np.abs(param - tensor.numpy()) <= 1e-12 * largest[i]).all()


@every_seed
@every_torch_case
def test_torch_in_float32(torch: ModuleType, case: Case, seed: int) -> None:
    """Each of 50 steps, from torch's parameters and state, within 8 ulp of the largest value the element has had.

    The two round differently, half an ulp in each operation: torch's loops contract to FMA, it divides by the root of
    the bias correction where fastopt multiplies, and multiplies by the learning rate before it divides. 6 ulp is the
    most in 1.3 million elements of 40 seeds (centered RMSprop; 4 or 5 elsewhere). The gradients keep away from 0, so
    that adding L2 does not cancel them: the errors of what cancels would count as many ulp of what is left.
    """
    rng = np.random.default_rng(seed)
    peers = Peers(torch, case, np.float32, rng)
    largest = {(i, "p"): np.abs(param) for i, param in enumerate(peers.params)}
    for step in range(STEPS):
        grads = [np.array(rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape), np.float32) for shape in SHAPES]
        grads = some_missing(grads, step)
        peers.step(grads)
        for i, grad in enumerate(grads):
            if grad is None:
                continue
            for name, (ours, theirs) in peers.pairs(i).items():
                key = i, name
                # ASGD's average is made of the parameters.
                largest[key] = np.maximum(largest[i, "p"] if name == "ax" else largest.get(key, 0), np.abs(theirs))
                assert (np.abs(ours - theirs) <= 8 * np.spacing(largest[key])).all(), name
                ours[...] = theirs


# --- optax, where it is installed -------------------------------------------------------------------------------------

OPTAX_SCRIPT = """
import json, sys
import jax, numpy as np, optax
rows, grads, start = json.loads(sys.argv[1]), np.load("grads.npy"), np.load("start.npy")
rates = jax.numpy.asarray([0.1 * 0.97**count for count in range(len(grads))])
trajectories = []
for name, options in rows:
    # Not optax's own schedule, which computes in float32.
    optimizer = getattr(optax, name)(learning_rate=lambda count: rates[count], **options)
    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state
    params, trajectory = jax.numpy.asarray(start), []
    state = optimizer.init(params)
    for grad in grads:
        params, state = step(params, state, grad)
        trajectory.append(np.asarray(params))
    trajectories.append(trajectory)
np.save("optax.npy", np.array(trajectories))
"""

#: The optimizer and its options, optax's name and options; the learning rate falls by 3 % each step.
OPTAX: dict[str, tuple[type[fastopt.Optimizer], dict[str, Any], dict[str, Any]]] = {
    "adam": (Adam, {}, {}),
    "adam eps_root": (Adam, {"eps_root": 1e-3}, {"eps_root": 1e-3}),
    "adamw": (AdamW, {"weight_decay": 0.3, "eps_root": 1e-9}, {"weight_decay": 0.3, "eps_root": 1e-9}),
    "adagrad": (
        Adagrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-3, "eps_in_root": True},
        {"initial_accumulator_value": 0.1, "eps": 1e-3},
    ),
    "rmsprop": (RMSprop, {"alpha": 0.9, "eps": 1e-3, "eps_in_root": True}, {"decay": 0.9, "eps": 1e-3}),
    "rmsprop momentum": (
        RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "eps_in_root": True, "momentum": 0.9, "lr_in_momentum": True},
        {"decay": 0.9, "eps": 1e-3, "momentum": 0.9},
    ),
    "rmsprop centered": (
        RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "centered": True},
        {"decay": 0.9, "eps": 1e-3, "centered": True, "eps_in_sqrt": False},
    ),
    "sgd nesterov": (SGD, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
}


class Trajectories(NamedTuple):
    start: npt.NDArray[Any]
    grads: npt.NDArray[Any]
    optax: dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Run optax over all rows, in a process of its own: JAX starts threads, and its dtypes are set for a process."""
    for package in ("jax", "optax"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder = tmp_path_factory.mktemp("optax")
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=40), rng.normal(size=(STEPS, 40))
    grads[:, :8] *= 1e-5
    np.save(folder / "start.npy", start)
    np.save(folder / "grads.npy", grads)
    rows = [(name.split()[0], options) for name, (_, _, options) in OPTAX.items()]
    subprocess.run(
        [sys.executable, "-c", OPTAX_SCRIPT, json.dumps(rows)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return Trajectories(start, grads, dict(zip(OPTAX, np.load(folder / "optax.npy"), strict=True)))


@pytest.mark.parametrize("name", OPTAX)
def test_optax_in_float64(trajectories: Trajectories, name: str) -> None:
    """Within 1e-12 after each of 50 steps, relative to the largest value that the element has had."""
    optimizer, options, _ = OPTAX[name]
    param = trajectories.start.copy()
    opt = optimizer(param, lr=schedules.exponential(0.1, 0.97), **options)
    largest = np.abs(param)
    for grad, expected in zip(trajectories.grads, trajectories.optax[name], strict=True):
        opt.step(grad)
        largest = np.maximum(largest, np.abs(expected))
        assert (np.abs(param - expected) <= 1e-12 * largest).all()


# --- Descent ----------------------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function of two variables with its gradient, its usual starting point and its value there."""

    of: Callable[[float, float], tuple[float, float, float]]
    start: tuple[float, float]
    value: float


def booth(x: float, y: float) -> tuple[float, float, float]:
    a, b = x + 2 * y - 7, 2 * x + y - 5
    return a * a + b * b, 2 * a + 4 * b, 4 * a + 2 * b


def rosenbrock(x: float, y: float) -> tuple[float, float, float]:
    a, b = 1 - x, y - x * x
    return a * a + 100 * b * b, -2 * a - 400 * x * b, 200 * b


def ravine(x: float, y: float) -> tuple[float, float, float]:
    """A quadratic of condition 10,000."""
    return 5 * x * x + 0.0005 * y * y, 10 * x, 0.001 * y


FUNCTIONS = (
    Function(booth, (0.0, 0.0), 74.0),
    Function(rosenbrock, (-1.2, 1.0), 24.2),
    Function(ravine, (1.0, 1.0), 5.0005),
)

#: The learning rate on each function, of an optimizer or of one row.
RATES = {
    "SGD": (0.05, 0.0005, 0.1),
    "Adagrad": (0.5, 0.5, 0.5),
    "RMSprop": (0.02, 0.02, 0.01),
    "Adam": (0.1, 0.1, 0.1),
    "SparseAdam": (0.1, 0.1, 0.1),
    "AdamW": (0.1, 0.1, 0.1),
    "Adadelta": (5.0, 1.0, 1.0),
    "Adadelta-rho=0.8-eps=0.001-weight_decay=0.1-maximize=True": (0.1, 0.05, 0.2),
    "Adamax": (2.0, 5.0, 0.02),
    "NAdam": (0.5, 0.5, 0.02),
    "RAdam": (0.2, 0.005, 0.05),
    "Rprop": (0.5, 0.005, 0.01),
    "ASGD": (0.1, 0.002, 0.2),
    "DeltaBarDelta": (0.02, 0.001, 0.01),
    "Lion": (0.02, 0.01, 0.02),
    "Signum": (0.5, 0.005, 0.002),
    "AdaBelief": (20.0, 1.0, 0.1),
    "Yogi": (2.0, 0.1, 0.05),
    "Adan": (5.0, 2.0, 1.0),
    "AdEMAMix": (5.0, 0.2, 2.0),
    "ScheduleFreeSGD": (0.2, 0.002, 0.5),
    "ScheduleFreeAdamW": (1.0, 2.0, 0.1),
    "LARS": (0.005, 0.1, 0.5),
    "LAMB": (0.02, 0.05, 0.05),
    "Adafactor": (0.1, 0.2, 1.0),
    "SWATS": (0.5, 1.0, 5.0),
}

#: The value of each function that 500 steps reach; decay keeps away from a minimum that is not at 0.
VALUES = {
    "SGD": (2e-12, 5.0, 7e-4),
    "SGD-weight_decay=0.1-maximize=True": (2e-2, 5.0, 4e-8),
    "SGD-momentum=0.9": (2e-12, 5e-2, 3e-4),
    "SGD-momentum=0.9-dampening=0.3-weight_decay=0.1": (2e-2, 2e-1, 2e-12),
    "SGD-momentum=0.9-nesterov=True": (2e-12, 6e-2, 3e-4),
    "SGD-momentum=0.9-dampening=0.3-lr_in_momentum=True": (2e-12, 2e-1, 4e-4),
    "SGD-momentum=0.9-nesterov=True-lr_in_momentum=True": (2e-12, 6e-2, 3e-4),
    "SGD-momentum=0.9-weight_decay=0.1-decoupled=True": (2e-4, 5e-2, 2e-8),
    "Adagrad": (3e-7, 2.0, 2e-12),
    "Adagrad-lr_decay=0.1-weight_decay=0.1-initial_accumulator_value=0.5-eps=0.001": (2.0, 6.0, 5e-6),
    "Adagrad-eps=0.001-eps_in_root=True": (3e-7, 2.0, 2e-10),
    "RMSprop": (2e-6, 2e-1, 2e-12),
    "RMSprop-momentum=0.9-alpha=0.9-weight_decay=0.1-maximize=True": (2e-2, 3e-2, 2e-4),
    "RMSprop-centered=True-eps=0.001": (5e-7, 2e-1, 2e-7),
    "RMSprop-centered=True-momentum=0.5-eps=0.001": (2e-12, 3e-2, 2e-11),
    "RMSprop-momentum=0.9-alpha=0.9-eps=1e-10-eps_in_root=True-lr_in_momentum=True": (2e-3, 4e-2, 2e-4),
    "Adam": (2e-12, 3e-2, 2e-12),
    "Adam-betas=(0.8, 0.99)-eps=0.001-weight_decay=0.1-maximize=True": (2e-2, 3e-2, 2e-12),
    "Adam-amsgrad=True-weight_decay=0.1": (2e-2, 6e-2, 2e-12),
    "Adam-eps_root=0.001": (2e-12, 3e-2, 3e-5),
    "Adam-eps=0.001-eps_hat=True": (2e-12, 3e-2, 2e-12),
    "Adam-bias_correction=False": (2e-12, 2e-3, 2e-12),
    "SparseAdam-betas=(0.8, 0.99)": (2e-12, 3e-2, 2e-12),
    "AdamW": (3e-3, 5e-2, 2e-12),
    "AdamW-weight_decay=0.3-amsgrad=True-maximize=True": (3.0, 8e-1, 2e-12),
    "Adadelta": (5e-2, 7e-1, 5e-4),
    "Adadelta-rho=0.8-eps=0.001-weight_decay=0.1-maximize=True": (2e-2, 4e-1, 2e-12),
    "Adadelta-weight_decay=0.001-decoupled=True": (6e-1, 4e-1, 4e-4),
    "Adamax": (2e-12, 9e-2, 2e-12),
    "Adamax-betas=(0.8, 0.99)-eps=0.001-weight_decay=0.1-maximize=True": (1e-2, 3e-1, 2e-12),
    "NAdam": (2e-12, 2e-2, 2e-12),
    "NAdam-betas=(0.8, 0.99)-eps=0.001-weight_decay=0.1-momentum_decay=0.1": (2e-2, 2e-1, 2e-12),
    "NAdam-weight_decay=0.1-maximize=True-decoupled=True": (2e-1, 2.0, 2e-12),
    "RAdam": (3e-7, 2.0, 2e-12),
    "RAdam-betas=(0.8, 0.9)-eps=0.001-weight_decay=0.1-maximize=True": (1e-2, 3e-2, 7e-5),
    "RAdam-weight_decay=0.1-decoupled=True": (3.0, 2.0, 2e-12),
    "Rprop": (2e-12, 7e-2, 2e-12),
    "Rprop-etas=(0.4, 1.5)-step_sizes=(0.001, 0.1)-maximize=True": (3e-5, 7e-2, 9e-7),
    "Rprop-weight_decay=0.1": (2e-2, 8e-2, 2e-12),
    "ASGD": (2e-8, 8e-1, 7e-3),
    "ASGD-lambd=0.1-alpha=0.5-t0=1.0-weight_decay=0.1-maximize=True": (6e-2, 8e-1, 7e-12),
    "DeltaBarDelta": (2e-12, 3e-1, 9e-4),
    "DeltaBarDelta-beta=0.3-momentum=0.9-weight_decay=0.1": (2e-2, 4e-1, 2e-12),
    "DeltaBarDelta-momentum=0.9-against_momentum=True-gain_limits=(0.9, 1.1)": (2e-12, 3e-3, 9e-4),
    "Lion": (2e-12, 7e-2, 2e-12),
    "Lion-betas=(0.8, 0.95)-weight_decay=0.1": (4e-3, 2e-1, 8e-6),
    "Signum-weight_decay=0.1": (2e-12, 2e-1, 2e-12),
    "Signum-momentum=0.0": (2e-12, 9.0, 2e-12),
    "AdaBelief": (2e-12, 8e-6, 2e-12),
    "AdaBelief-betas=(0.8, 0.99)-eps=0.001-eps_root=0.001-weight_decay=0.1": (2e-2, 5e-3, 2e-12),
    "Yogi-weight_decay=0.1-decoupled=True": (7e-2, 6e-1, 2e-12),
    "Adan": (5e-9, 3e-4, 2e-12),
    "Adan-betas=(0.9, 0.8, 0.95)-eps_root=0.0-weight_decay=0.1-paper=True": (2.0, 7e-1, 2e-3),
    "AdEMAMix": (1e-6, 6e-4, 2e-11),
    "AdEMAMix-alpha=2.0-beta3=0.99-warmup=3-weight_decay=0.1": (4e-2, 2e-1, 2e-12),
    "ScheduleFreeSGD": (2e-12, 4.0, 8e-4),
    "ScheduleFreeSGD-momentum=0.7-weight_decay=0.1-warmup_steps=2-r=1.0": (2e-2, 2.0, 5e-11),
    "ScheduleFreeAdamW": (2e-12, 2e-6, 2e-12),
    "ScheduleFreeAdamW-betas=(0.8, 0.99)-weight_decay=0.1-warmup_steps=2": (6e-1, 3.0, 2e-12),
    "LARS-trust_coefficient=0.1": (8e-6, 1e-2, 3e-6),
    "LARS-trust_coefficient=0.1-nesterov=True-weight_decay=0.1-eps=0.1": (2e-2, 2e-1, 2e-8),
    "LAMB": (8e-3, 4e-1, 2e-12),
    "LAMB-betas=(0.8, 0.99)-eps_root=0.001-weight_decay=0.1-clip_norm=0.7": (2e-1, 7e-1, 2e-12),
    "Adafactor": (2e-12, 3.0, 2e-12),
    "Adafactor-beta2_decay=-0.5-eps=(0.0001, 0.01)-d=2.0-weight_decay=0.1-maximize=True": (6e-2, 9e-1, 6e-7),
    "Adafactor-weight_decay=0.1-decoupled=False-clip_norm=0.7": (2e-2, 2e-1, 2e-12),
    "SWATS": (2e-12, 9e-6, 2e-12),
    "SWATS-eps=0.1-weight_decay=0.1-decoupled=True-clip_norm=0.7": (2e-2, 5e-1, 2e-12),
    "SWATS-eps=0.1-weight_decay=0.1-per_group=True": (2e-2, 6e-4, 2e-12),
    "SGD-clip_value=0.5": (2e-12, 7.0, 7e-4),
    "SGD-clip_norm=0.7-weight_decay=0.1": (2e-2, 7.0, 4e-8),
    "AdamW-clip_global_norm=1.0-maximize=True": (5e-6, 2e-1, 2e-12),
    "Adam-clip_value=1.0-clip_norm=3.0-clip_global_norm=2.0-weight_decay=0.1": (2e-2, 3e-1, 2e-12),
}


def reached(case: Case, function: Function, lr: float) -> float:
    """Return the value after 500 steps with this learning rate."""
    sign = -1.0 if case.options.get("maximize") else 1.0
    param = np.array(function.start)
    opt = case.build(param, lr=lr)
    for _ in range(500):
        _, x, y = function.of(*param.tolist())
        opt.step(np.array([sign * x, sign * y]))
    return function.of(*param.tolist())[0]


@every_case
def test_descent(case: Case) -> None:
    """A row without rates above tries its own and smaller ones; one without values reaches a tenth of its start."""
    rates = RATES.get(str(case), RATES.get(case.optimizer.__name__))
    values = VALUES.get(str(case), [function.value / 10 for function in FUNCTIONS])
    for k, function in enumerate(FUNCTIONS):
        assert function.of(*function.start)[0] == pytest.approx(function.value)
        tried = [rates[k]] if rates else [case.options["lr"] / 10**n for n in range(4)]
        assert any(reached(case, function, lr) <= values[k] for lr in tried), function.of.__name__
