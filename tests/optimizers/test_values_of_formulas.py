"""The right numbers: two steps in plain Python floats, as FORMULAS and the papers write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cases import every_dtype, shown

import fastopt
from fastopt import SGD, Adagrad, Adam, AdamW, RMSprop


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
    amsgrad: bool | str = False,
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
        correction1 = 1 - beta1**t if bias_correction else 1.0
        correction2 = 1 - beta2**t if bias_correction else 1.0
        v_max = max(v_max, v / correction2 if amsgrad == "corrected" else v)
        second = v_max if amsgrad else v
        if amsgrad == "corrected":
            second *= correction2
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
        (Adam, {"amsgrad": "corrected", "eps_root": 1e-16}),
        (Adam, {"amsgrad": "corrected", "eps_hat": True}),
        (Adam, {"amsgrad": "corrected", "bias_correction": False}),
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
