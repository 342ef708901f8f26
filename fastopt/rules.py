"""Every rule, once: what an optimizer does to a parameter ``p``, given its gradient ``g`` and its slots.

``csrc/rules.h`` states the same arithmetic in the same order, under the same names; the two give the same bits. A rule
works on arrays or scalars. Its scalars ``h`` are a tuple of named numbers in the dtype that is computed in, made once
a step by :meth:`fastopt.Optimizer.hyper`; its slots are its arguments after ``g``. It returns the new parameter and
slots.

No numeric literals, no ``**``, and ``sqrt`` and ``maximum`` through the names below: this is what lets the same
functions be compiled for a GPU in one precision.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Real: TypeAlias = npt.NDArray[Any]
Rule: TypeAlias = Callable[..., tuple[Real, ...]]

sqrt = np.sqrt
maximum = np.maximum


def slots(rule: Rule) -> tuple[str, ...]:
    """Return the names of a rule's slots.

    >>> slots(adam)
    ('m', 'v')
    """
    return tuple(inspect.signature(rule).parameters)[3:]


class SGDScalars(NamedTuple):
    lr: float


def sgd(h: SGDScalars, p: Real, g: Real) -> tuple[Real]:
    p = p - h.lr * g
    return (p,)


class MomentumScalars(NamedTuple):
    momentum: float
    grad_weight: float
    lr: float


def momentum(h: MomentumScalars, p: Real, g: Real, b: Real) -> tuple[Real, Real]:
    b = h.momentum * b + h.grad_weight * g
    p = p - h.lr * b
    return p, b


class NesterovScalars(NamedTuple):
    momentum: float
    grad_weight: float
    lookahead_grad_weight: float
    lr: float


def nesterov(h: NesterovScalars, p: Real, g: Real, b: Real) -> tuple[Real, Real]:
    b = h.momentum * b + h.grad_weight * g
    p = p - h.lr * (h.momentum * b + h.lookahead_grad_weight * g)
    return p, b


class AdagradScalars(NamedTuple):
    lr: float
    eps: float
    eps_root: float


def adagrad(h: AdagradScalars, p: Real, g: Real, sum: Real) -> tuple[Real, Real]:
    sum = sum + g * g
    p = p - h.lr * (g / (sqrt(sum + h.eps_root) + h.eps))
    return p, sum


class RMSpropScalars(NamedTuple):
    alpha: float
    one_minus_alpha: float
    lr: float
    eps: float
    eps_root: float


class RMSpropMomentumScalars(NamedTuple):
    alpha: float
    one_minus_alpha: float
    momentum: float
    step_weight: float
    lr: float
    eps: float
    eps_root: float


def rmsprop(h: RMSpropScalars, p: Real, g: Real, v: Real) -> tuple[Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g
    p = p - h.lr * (g / (sqrt(v + h.eps_root) + h.eps))
    return p, v


def rmsprop_momentum(h: RMSpropMomentumScalars, p: Real, g: Real, v: Real, b: Real) -> tuple[Real, Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g
    b = h.momentum * b + h.step_weight * (g / (sqrt(v + h.eps_root) + h.eps))
    p = p - h.lr * b
    return p, v, b


class RMSpropCenteredScalars(NamedTuple):
    alpha: float
    one_minus_alpha: float
    least_variance: float
    lr: float
    eps: float
    eps_root: float


class RMSpropCenteredMomentumScalars(NamedTuple):
    alpha: float
    one_minus_alpha: float
    least_variance: float
    momentum: float
    step_weight: float
    lr: float
    eps: float
    eps_root: float


def rmsprop_centered(h: RMSpropCenteredScalars, p: Real, g: Real, v: Real, m: Real) -> tuple[Real, Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g
    m = h.alpha * m + h.one_minus_alpha * g
    p = p - h.lr * (g / (sqrt(maximum(v - m * m, h.least_variance) + h.eps_root) + h.eps))
    return p, v, m


def rmsprop_centered_momentum(
    h: RMSpropCenteredMomentumScalars, p: Real, g: Real, v: Real, m: Real, b: Real
) -> tuple[Real, Real, Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g
    m = h.alpha * m + h.one_minus_alpha * g
    b = h.momentum * b + h.step_weight * (g / (sqrt(maximum(v - m * m, h.least_variance) + h.eps_root) + h.eps))
    p = p - h.lr * b
    return p, v, m, b


class AdamScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    eps: float
    eps_root: float


def adam(h: AdamScalars, p: Real, g: Real, m: Real, v: Real) -> tuple[Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g
    v = h.beta2 * v + h.one_minus_beta2 * g * g
    p = p - h.step_size * (m / (sqrt(v + h.eps_root) + h.eps))
    return p, m, v


def adam_amsgrad(h: AdamScalars, p: Real, g: Real, m: Real, v: Real, v_max: Real) -> tuple[Real, Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g
    v = h.beta2 * v + h.one_minus_beta2 * g * g
    v_max = maximum(v_max, v)
    p = p - h.step_size * (m / (sqrt(v_max + h.eps_root) + h.eps))
    return p, m, v, v_max
