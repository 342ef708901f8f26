"""What torch and optax have not: the numbers against plain Python, and the ranges of the options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastopt

GRADS = [0.5, 1.0, -2.0, -0.25, 0.0, 0.75, 1.5, 1e-30, 2e-30]


def steps(optimizer: Any, start: float, **options: Any) -> tuple[list[float], fastopt.Optimizer]:
    """Return the parameter after each of the gradients."""
    param = np.array([start])
    opt = optimizer(param, **options)
    values = []
    for grad in GRADS:
        opt.step(np.array([grad]))
        values.append(float(param[0]))
    return values, opt


def sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0


@pytest.mark.parametrize(("momentum", "against_momentum"), [(0.0, False), (0.0, True), (0.8, False), (0.8, True)])
def test_delta_bar_delta(momentum: float, against_momentum: bool) -> None:
    """The lecture's form; signs, not products, are compared, so that tiny gradients have one too."""
    options = {"beta": 0.3, "gain_limits": (0.6, 1.5), "momentum": momentum, "against_momentum": against_momentum}
    values, opt = steps(fastopt.DeltaBarDelta, 1.0, lr=0.1, **options)
    p, gain, b, last = 1.0, 1.0, 0.0, 0.0
    for t, (g, value) in enumerate(zip(GRADS, values, strict=True)):
        if t > 0:
            agrees = sign(g) * sign(b if against_momentum else last) > 0
            gain = min(max(gain + 0.3 if agrees else gain * 0.7, 0.6), 1.5)
        b = momentum * b + gain * g
        p -= 0.1 * b
        last = g
        assert value == pytest.approx(p, rel=1e-14)
    assert set(opt.state["0"]) == {"step", "gain", "b"} | ({"last"} if momentum and not against_momentum else set())


@pytest.mark.parametrize("paper", [False, True])
def test_adan_with_either_weight_of_the_change(paper: bool) -> None:
    b1, b2, b3, eps = 0.9, 0.8, 0.95, 1e-3
    values, _ = steps(fastopt.Adan, 1.0, lr=0.1, betas=(b1, b2, b3), eps=eps, eps_root=0.0, paper=paper)
    weight = b2 if paper else 1 - b2
    p, m, v, n, last = 1.0, 0.0, 0.0, 0.0, GRADS[0]
    for t, (g, value) in enumerate(zip(GRADS, values, strict=True), 1):
        change, last = g - last, g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + weight * change) ** 2
        u = m / (1 - b1**t) + weight * v / (1 - b2**t)
        p -= 0.1 * u / (math.sqrt(n / (1 - b3**t)) + eps)
        assert value == pytest.approx(p, rel=1e-13)


def test_warmup_of_ademamix_is_the_papers() -> None:
    values, _ = steps(fastopt.AdEMAMix, 1.0, lr=0.1, alpha=3.0, beta3=0.99, warmup=6)
    p, m, slow, v = 1.0, 0.0, 0.0, 0.0
    for t, (g, value) in enumerate(zip(GRADS, values, strict=True), 1):
        alpha = min(3.0 * t / 6, 3.0)
        logs = math.log(0.9), math.log(0.99)
        beta3 = 0.99
        if t < 6:
            beta3 = min(math.exp(logs[0] * logs[1] / ((1 - t / 6) * logs[1] + t / 6 * logs[0])), 0.99)
        m = 0.9 * m + (1 - 0.9) * g
        slow = beta3 * slow + (1 - beta3) * g
        v = 0.999 * v + (1 - 0.999) * g * g
        p -= 0.1 * (m / (1 - 0.9**t) + alpha * slow) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert value == pytest.approx(p, rel=1e-13)


def test_schedules_of_ademamix() -> None:
    """alpha and beta3 may be schedules, as in optax."""
    schedules = {"alpha": fastopt.schedules.linear(1.0, 5.0, 4), "beta3": fastopt.schedules.linear(0.9, 0.99, 4)}
    values, _ = steps(fastopt.AdEMAMix, 1.0, lr=0.1, **schedules)
    param = np.array([1.0])
    opt = fastopt.AdEMAMix(param, lr=0.1)
    for t, (g, value) in enumerate(zip(GRADS, values, strict=True)):
        opt.param_groups[0].update({name: schedule(t) for name, schedule in schedules.items()})
        opt.step(np.array([g]))
        assert param[0] == value
    with pytest.raises(ValueError, match=r"the schedule at step 0: beta3=1\.5"):
        fastopt.AdEMAMix(np.ones(1), beta3=lambda step: 1.5).step(np.ones(1))


def test_signs_of_zero_and_nan() -> None:
    """sign(0) is 0, of either zero; NaN passes through."""
    for optimizer in (fastopt.Lion, fastopt.Signum):
        param = np.array([1.0, 1.0, 1.0, 1.0])
        optimizer(param, lr=0.5).step(np.array([0.0, -0.0, np.nan, -np.inf]))
        np.testing.assert_array_equal(param, [1.0, 1.0, np.nan, 1.5])


@pytest.mark.parametrize("steps_before", [400, 5000])
def test_momentum_product_of_nadam_far_on(steps_before: int) -> None:
    """From some step on the product is too small to matter; resuming there gives the same step as going there."""
    grad = np.array([0.5])
    opt = fastopt.NAdam(np.array([1.0]), betas=(0.95, 0.999))
    product = 1.0
    for t in range(1, steps_before + 1):
        product *= 0.95 * (1 - 0.5 * 0.96 ** (t * 4e-3))
    mu_next = 0.95 * (1 - 0.5 * 0.96 ** ((steps_before + 1) * 4e-3))
    mu = 0.95 * (1 - 0.5 * 0.96 ** (steps_before * 4e-3))
    scalars = opt.hyper({**opt.param_groups[0], "lr": 1.0}, steps_before)
    root = math.sqrt(1 - 0.999**steps_before)
    assert scalars.grad_step_size == pytest.approx((1 - mu) / (1 - product) * root, rel=1e-14)
    assert scalars.step_size == pytest.approx(mu_next / (1 - product * mu_next) * root, rel=1e-14)
    opt.step(grad)


@pytest.mark.parametrize(
    ("optimizer", "options", "told"),
    [
        (fastopt.Adadelta, {"rho": 1.0}, "rho=1.0: expected a number from 0 to below 1"),
        (fastopt.NAdam, {"momentum_decay": -1.0}, "momentum_decay=-1.0: expected a finite number of at least 0"),
        (fastopt.Rprop, {"etas": (0.5, 0.9)}, r"etas\[1\]=0.9: expected a finite number of at least 1"),
        (fastopt.Rprop, {"step_sizes": (1e-6,)}, "expected a tuple of 2 numbers|expected 2 numbers"),
        (fastopt.DeltaBarDelta, {"gain_limits": (-1.0, 1.0)}, r"gain_limits\[0\]=-1.0"),
        (fastopt.Adan, {"betas": (0.9, 0.9)}, "expected a tuple of 3 numbers|expected 3 numbers"),
        (fastopt.AdEMAMix, {"beta3": 1.0}, "beta3=1.0: expected a number from 0 to below 1, a schedule"),
        (fastopt.Signum, {"momentum": 1.0}, "momentum=1.0: expected a number from 0 to below 1"),
        (fastopt.ScheduleFreeSGD, {"momentum": 0.0}, "momentum=0.0: expected a number above 0 to below 1"),
        (fastopt.ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, r"betas\[0\]=0.0: expected a number above 0 to below 1"),
        (fastopt.Adafactor, {"beta2_decay": 0.5}, "beta2_decay=0.5: expected a finite number of at most 0"),
        (fastopt.Adafactor, {"d": 0.5}, "d=0.5: expected a finite number of at least 1"),
        (fastopt.LARS, {"adapt": 1.0}, "adapt=1.0: expected True or False"),
        (fastopt.SWATS, {"per_group": None}, "per_group=None: expected True or False"),
    ],
)
def test_options_out_of_range(optimizer: Any, options: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        optimizer(np.ones(3), **options)
