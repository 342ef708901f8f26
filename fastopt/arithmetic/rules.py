"""Every rule, stated once: how an optimizer updates a parameter ``p``, given its gradient ``g`` and its slots.

``csrc/rules.h`` is made from this file by ``csrc/tools/make_rules.py``, comments included; the two give the same bits.
A rule works on arrays or scalars. Its scalars ``h`` are a tuple of named numbers in the compute dtype, which
:meth:`fastopt.Optimizer.hyper` makes once per step. Its slots are its arguments after ``g``. It returns the new
parameter and slots.

Rules have no numeric literals and no ``**``, and call only the functions of ``operations.py``, so that they can be
compiled for a GPU in one precision, and translated into C. They work on all elements at once: ``where``, ``maximum``
and ``minimum`` choose, not ``if``, ``and``, ``or``, ``not``, ``max`` and ``min``, which are errors.
"""

from __future__ import annotations

from typing import NamedTuple

from .operations import Real, absolute, maximum, minimum, sign, sqrt, where
from .operations import Rule as Rule
from .operations import slots as slots


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
    b = h.momentum * b + h.grad_weight * g  # momentum buffer
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
    sum = sum + g * g  # sum of squares
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
    v = h.alpha * v + h.one_minus_alpha * g * g  # mean square
    p = p - h.lr * (g / (sqrt(v + h.eps_root) + h.eps))
    return p, v


def rmsprop_momentum(h: RMSpropMomentumScalars, p: Real, g: Real, v: Real, b: Real) -> tuple[Real, Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g  # mean square
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
    v = h.alpha * v + h.one_minus_alpha * g * g  # mean square
    m = h.alpha * m + h.one_minus_alpha * g  # mean
    p = p - h.lr * (g / (sqrt(maximum(v - m * m, h.least_variance) + h.eps_root) + h.eps))
    return p, v, m


def rmsprop_centered_momentum(
    h: RMSpropCenteredMomentumScalars, p: Real, g: Real, v: Real, m: Real, b: Real
) -> tuple[Real, Real, Real, Real]:
    v = h.alpha * v + h.one_minus_alpha * g * g  # mean square
    m = h.alpha * m + h.one_minus_alpha * g  # mean
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
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    p = p - h.step_size * (m / (sqrt(v + h.eps_root) + h.eps))
    return p, m, v


def adam_amsgrad(h: AdamScalars, p: Real, g: Real, m: Real, v: Real, v_max: Real) -> tuple[Real, Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    v_max = maximum(v_max, v)
    p = p - h.step_size * (m / (sqrt(v_max + h.eps_root) + h.eps))
    return p, m, v, v_max


class AdadeltaScalars(NamedTuple):
    rho: float
    one_minus_rho: float
    lr: float
    eps: float


def adadelta(h: AdadeltaScalars, p: Real, g: Real, v: Real, u: Real) -> tuple[Real, Real, Real]:
    v = h.rho * v + h.one_minus_rho * g * g  # mean square of the gradient
    d = sqrt(u + h.eps) / sqrt(v + h.eps) * g
    u = h.rho * u + h.one_minus_rho * d * d  # mean square of the update
    p = p - h.lr * d
    return p, v, u


class AdamaxScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    step_size: float
    eps: float


def adamax(h: AdamaxScalars, p: Real, g: Real, m: Real, u: Real) -> tuple[Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    u = maximum(h.beta2 * u, absolute(g) + h.eps)  # infinity norm
    p = p - h.step_size * (m / u)
    return p, m, u


class NAdamScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    grad_step_size: float
    step_size: float
    eps: float


def nadam(h: NAdamScalars, p: Real, g: Real, m: Real, v: Real) -> tuple[Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    p = p - (h.grad_step_size * g + h.step_size * m) / (sqrt(v) + h.eps)
    return p, m, v


class RAdamScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    greatest_root: float
    eps: float


def radam(h: RAdamScalars, p: Real, g: Real, m: Real, v: Real) -> tuple[Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    p = p - h.step_size * (m / (minimum(sqrt(v), h.greatest_root) + h.eps))
    return p, m, v


class AdaBeliefScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    eps: float
    eps_in_s: float


def adabelief(h: AdaBeliefScalars, p: Real, g: Real, m: Real, s: Real) -> tuple[Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    error = g - m
    s = h.beta2 * s + h.one_minus_beta2 * error * error + h.eps_in_s  # variance around the first moment
    p = p - h.step_size * (m / (sqrt(s) + h.eps))
    return p, m, s


class YogiScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    one_minus_beta2: float
    step_size: float
    eps: float


def yogi(h: YogiScalars, p: Real, g: Real, m: Real, v: Real) -> tuple[Real, Real, Real]:
    square = g * g
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = v - h.one_minus_beta2 * sign(v - square) * square  # second moment
    p = p - h.step_size * (m / (sqrt(v) + h.eps))
    return p, m, v


class AdanScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    beta3: float
    one_minus_beta3: float
    has_last: float
    change_weight: float
    step_size: float
    change_step_size: float
    eps: float
    eps_root: float


def adan(
    h: AdanScalars, p: Real, g: Real, m: Real, v: Real, n: Real, last: Real
) -> tuple[Real, Real, Real, Real, Real]:
    change = h.has_last * (g - last)
    ahead = g + h.change_weight * change
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * change  # moment of the gradient's change
    n = h.beta3 * n + h.one_minus_beta3 * ahead * ahead  # second moment
    last = g
    p = p - (h.step_size * m + h.change_step_size * v) / (sqrt(n + h.eps_root) + h.eps)
    return p, m, v, n, last


class AdEMAMixScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    beta3: float
    one_minus_beta3: float
    step_size: float
    slow_step_size: float
    eps: float
    eps_root: float


def ademamix(h: AdEMAMixScalars, p: Real, g: Real, m: Real, m_slow: Real, v: Real) -> tuple[Real, Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # fast first moment
    m_slow = h.beta3 * m_slow + h.one_minus_beta3 * g  # slow first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    p = p - (h.step_size * m + h.slow_step_size * m_slow) / (sqrt(v + h.eps_root) + h.eps)
    return p, m, m_slow, v


class LionScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    lr: float


def lion(h: LionScalars, p: Real, g: Real, m: Real) -> tuple[Real, Real]:
    u = h.beta1 * m + h.one_minus_beta1 * g
    p = p - h.lr * sign(u)
    m = h.beta2 * m + h.one_minus_beta2 * g  # momentum
    return p, m


class SignumScalars(NamedTuple):
    momentum: float
    grad_weight: float
    lr: float


def signum(h: SignumScalars, p: Real, g: Real, b: Real) -> tuple[Real, Real]:
    b = h.momentum * b + h.grad_weight * g
    p = p - h.lr * sign(b)
    return p, b


class RpropScalars(NamedTuple):
    zero: float
    one: float
    eta_minus: float
    eta_plus: float
    least_step: float
    greatest_step: float


def rprop(h: RpropScalars, p: Real, g: Real, last: Real, step_size: Real) -> tuple[Real, Real, Real]:
    product = g * last
    growth = where(product > h.zero, h.eta_plus, where(product < h.zero, h.eta_minus, h.one))
    grown = maximum(step_size * growth, h.least_step)
    step_size = minimum(grown, h.greatest_step)
    last = where(product < h.zero, h.zero, g)
    p = p - sign(last) * step_size
    return p, last, step_size


class DeltaBarDeltaScalars(NamedTuple):
    zero: float
    one: float
    increase: float
    decrease: float
    least_gain: float
    greatest_gain: float
    momentum: float
    lr: float


def delta_bar_delta(h: DeltaBarDeltaScalars, p: Real, g: Real, gain: Real, b: Real) -> tuple[Real, Real, Real]:
    agreement = sign(g) * b
    factor = where(agreement > h.zero, h.one, h.decrease)
    increase = where(agreement > h.zero, h.increase, h.zero)
    bounded = maximum(gain * factor + increase, h.least_gain)
    gain = minimum(bounded, h.greatest_gain)
    b = h.momentum * b + gain * g
    p = p - h.lr * b
    return p, gain, b


class DeltaBarDeltaLastGradScalars(NamedTuple):
    zero: float
    one: float
    increase: float
    decrease: float
    least_gain: float
    greatest_gain: float
    momentum: float
    lr: float


def delta_bar_delta_last_grad(
    h: DeltaBarDeltaLastGradScalars, p: Real, g: Real, gain: Real, b: Real, last: Real
) -> tuple[Real, Real, Real, Real]:
    agreement = sign(g) * last
    factor = where(agreement > h.zero, h.one, h.decrease)
    increase = where(agreement > h.zero, h.increase, h.zero)
    bounded = maximum(gain * factor + increase, h.least_gain)
    gain = minimum(bounded, h.greatest_gain)
    b = h.momentum * b + gain * g
    p = p - h.lr * b
    last = g
    return p, gain, b, last


class ASGDScalars(NamedTuple):
    shrink: float
    eta: float
    average_keep: float
    average_weight: float


def asgd(h: ASGDScalars, p: Real, g: Real, ax: Real) -> tuple[Real, Real]:
    p = h.shrink * p - h.eta * g
    ax = h.average_keep * ax + h.average_weight * p  # average of the parameter
    return p, ax


class ScheduleFreeSGDScalars(NamedTuple):
    keep: float
    average_weight: float
    step_size: float
    lr: float


def schedule_free_sgd(h: ScheduleFreeSGDScalars, p: Real, g: Real, z: Real) -> tuple[Real, Real]:
    p = h.keep * p + h.average_weight * z - h.step_size * g
    z = z - h.lr * g
    return p, z


class ScheduleFreeAdamWScalars(NamedTuple):
    beta2: float
    one_minus_beta2: float
    grad_weight: float
    decay: float
    keep: float
    average_weight: float
    step_size: float
    lr: float
    eps: float


def schedule_free_adamw(h: ScheduleFreeAdamWScalars, p: Real, g: Real, z: Real, v: Real) -> tuple[Real, Real, Real]:
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    d = h.grad_weight * (g / (sqrt(v) + h.eps)) + h.decay * p
    p = h.keep * p + h.average_weight * z - h.step_size * d
    z = z - h.lr * d
    return p, z, v


# The rules below are phases of the optimizers that need numbers of whole arrays.
class AdamDirectionScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    decay: float
    eps: float
    eps_root: float


def adam_direction(
    h: AdamDirectionScalars, p: Real, g: Real, u: Real, m: Real, v: Real
) -> tuple[Real, Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    u = h.step_size * (m / (sqrt(v + h.eps_root) + h.eps)) + h.decay * p
    return p, u, m, v


class DescendScalars(NamedTuple):
    step_size: float


def descend(h: DescendScalars, p: Real, g: Real, u: Real) -> tuple[Real, Real]:
    p = p - h.step_size * u
    return p, u


# These came later: the numbers of the rules above are in the hashes of csrc/tools/bits.txt.
class AdamAmsgradCorrectedScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    correction: float
    step_size: float
    eps: float
    eps_root: float


def adam_amsgrad_corrected(
    h: AdamAmsgradCorrectedScalars, p: Real, g: Real, m: Real, v: Real, v_hat_max: Real
) -> tuple[Real, Real, Real, Real]:
    m = h.beta1 * m + h.one_minus_beta1 * g  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * g * g  # second moment
    v_hat_max = maximum(v_hat_max, h.correction * v)
    p = p - h.step_size * (m / (sqrt(v_hat_max + h.eps_root) + h.eps))
    return p, m, v, v_hat_max


class FTRLScalars(NamedTuple):
    zero: float
    one: float
    lr: float
    beta: float
    l1: float
    minus_l1: float
    twice_l2: float
    twice_shrinkage: float


def ftrl(h: FTRLScalars, p: Real, g: Real, n: Real, z: Real) -> tuple[Real, Real, Real]:
    last_root = sqrt(n)
    n = n + g * g  # sum of squares
    root = sqrt(n)
    z = z + (g + h.twice_shrinkage * p - (root - last_root) / h.lr * p)  # the linear term of the sum of losses
    # Where p becomes 0 the divisor may be 0 too. A quotient inside of where would keep GCC from vectorising.
    one_where_0 = where(absolute(z) > h.l1, h.zero, h.one)
    p = (minimum(maximum(z, h.minus_l1), h.l1) - z) / ((h.beta + root) / h.lr + h.twice_l2 + one_where_0)
    return p, n, z


class ProdigyScalars(NamedTuple):
    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    beta3: float
    d: float
    s_weight: float


def prodigy(h: ProdigyScalars, p: Real, g: Real, m: Real, v: Real, s: Real) -> tuple[Real, Real, Real, Real]:
    dg = h.d * g
    m = h.beta1 * m + h.one_minus_beta1 * dg  # first moment
    v = h.beta2 * v + h.one_minus_beta2 * dg * dg  # second moment
    s = h.beta3 * s + h.s_weight * g  # weighted sum of the gradients
    return p, m, v, s


class ProdigyDescentScalars(NamedTuple):
    step_size: float
    eps: float


def prodigy_descent(h: ProdigyDescentScalars, p: Real, g: Real, m: Real, v: Real) -> tuple[Real, Real, Real]:
    p = p - h.step_size * (m / (sqrt(v) + h.eps))
    return p, m, v
