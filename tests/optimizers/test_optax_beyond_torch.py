"""The numbers of optax for the optimizers that torch has not, over 50 steps and at tiny gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import every_dtype

import fastopt

optax = pytest.importorskip("optax", reason="needs optax")
jax = pytest.importorskip("jax", reason="needs jax")

SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3), (2, 3, 2, 3)]
STEPS = 50

#: In float32 a few ulp: the parameters are made equal after each step; the slots keep the rounding of all steps, which
#: is in this too.
CLOSE: dict[Any, float] = {np.float32: 16 * 2.0**-23, np.float64: 1e-12}

LR = 0.01
contrib = optax.contrib
Row = tuple[Callable[[Any], fastopt.Optimizer], Any]


def l2(weight_decay: float, transformation: Any) -> Any:
    """optax's optimizers have decoupled decay or none: coupled decay is a transformation before them."""
    return optax.chain(optax.add_decayed_weights(weight_decay), transformation)


def decoupled(weight_decay: float, make: Any, **options: Any) -> Any:
    """Add decoupled decay behind an optax optimizer that has none of its own."""
    return optax.chain(
        make(learning_rate=-1.0, **options),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(LR),
    )


def row(name: str, transformation: Any, **options: Any) -> Any:
    shown = "-".join(f"{key}={value}" for key, value in options.items())
    return pytest.param(
        lambda params: getattr(fastopt, name)(params, **{"lr": LR, **options}), transformation, id=f"{name}-{shown}"
    )


ROWS = [
    row("Lion", optax.lion(LR, weight_decay=0.0)),
    row("Lion", optax.lion(LR, b1=0.8, b2=0.95, weight_decay=0.1), betas=(0.8, 0.95), weight_decay=0.1),
    row("Lion", l2(0.1, optax.lion(LR, weight_decay=0.0)), weight_decay=0.1, decoupled=False),
    row("Signum", optax.signum(LR)),
    row("Signum", l2(0.1, optax.signum(LR, beta=0.5)), momentum=0.5, weight_decay=0.1),
    row("Signum", decoupled(0.1, optax.signum), weight_decay=0.1, decoupled=True),
    row("Signum", optax.sign_sgd(LR), momentum=0.0),
    row("AdaBelief", optax.adabelief(LR)),
    row(
        "AdaBelief",
        l2(0.1, optax.adabelief(LR, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-3)),
        betas=(0.8, 0.99),
        eps=1e-3,
        eps_root=1e-3,
        weight_decay=0.1,
    ),
    row("AdaBelief", decoupled(0.1, optax.adabelief), weight_decay=0.1, decoupled=True),
    row("Yogi", optax.yogi(LR)),
    row("Yogi", l2(0.1, optax.yogi(LR, b1=0.8, b2=0.99, eps=1e-5)), betas=(0.8, 0.99), eps=1e-5, weight_decay=0.1),
    row("Yogi", decoupled(0.1, optax.yogi), weight_decay=0.1, decoupled=True),
    row("Adan", optax.adan(LR)),
    row(
        "Adan",
        optax.adan(LR, b1=0.9, b2=0.8, b3=0.95, eps=1e-5, eps_root=0.0, weight_decay=0.1),
        betas=(0.9, 0.8, 0.95),
        eps=1e-5,
        eps_root=0.0,
        weight_decay=0.1,
    ),
    row("Adan", l2(0.1, optax.adan(LR)), weight_decay=0.1, decoupled=False),
    row("AdEMAMix", contrib.ademamix(LR)),
    row(
        "AdEMAMix",
        contrib.ademamix(LR, b1=0.8, b2=0.99, b3=0.99, alpha=2.0, eps=1e-5, eps_root=1e-6, weight_decay=0.1),
        betas=(0.8, 0.99),
        beta3=0.99,
        alpha=2.0,
        eps=1e-5,
        eps_root=1e-6,
        weight_decay=0.1,
    ),
    row("AdEMAMix", l2(0.1, contrib.ademamix(LR)), weight_decay=0.1, decoupled=False),
    row("LARS", optax.lars(LR)),
    row(
        "LARS",
        optax.lars(LR, weight_decay=0.1, trust_coefficient=0.5, eps=0.1, momentum=0.5, nesterov=True),
        weight_decay=0.1,
        trust_coefficient=0.5,
        eps=0.1,
        momentum=0.5,
        nesterov=True,
    ),
    row("LAMB", optax.lamb(LR)),
    row(
        "LAMB",
        optax.lamb(LR, b1=0.8, b2=0.99, eps=1e-3, eps_root=1e-3, weight_decay=0.1),
        betas=(0.8, 0.99),
        eps=1e-3,
        eps_root=1e-3,
        weight_decay=0.1,
    ),
    row("LAMB", l2(0.1, optax.lamb(LR)), weight_decay=0.1, decoupled=False),
    row("ScheduleFreeSGD", contrib.schedule_free_sgd(LR)),
    row("ScheduleFreeSGD", contrib.schedule_free_sgd(LR, b1=0.7, weight_decay=0.1), momentum=0.7, weight_decay=0.1),
    row("ScheduleFreeAdamW", contrib.schedule_free_adamw(LR)),
    row(
        "ScheduleFreeAdamW",
        contrib.schedule_free_adamw(LR, b1=0.7, b2=0.99, eps=1e-5, weight_decay=0.1, weight_lr_power=1.0),
        betas=(0.7, 0.99),
        eps=1e-5,
        weight_decay=0.1,
        weight_lr_power=1.0,
    ),
    row("ScheduleFreeAdamW", l2(0.1, contrib.schedule_free_adamw(LR)), weight_decay=0.1, decoupled=False),
]

every_row = pytest.mark.parametrize(("build", "transformation"), ROWS)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def compare(build: Any, transformation: Any, dtype: Any, steps: int, scale: float, close: float) -> None:
    """Step both, each array with a state of its own, so that None gradients in the middle skip it in optax too."""
    rng = np.random.default_rng(1)
    params = [np.array(rng.normal(size=shape), dtype) for shape in SHAPES]
    others = [jax.numpy.array(param) for param in params]
    states = [transformation.init(other) for other in others]
    opt = build(params)
    update = jax.jit(transformation.update)
    for step in range(steps):
        grads: list[Any] = [np.array(scale * rng.normal(size=shape), dtype) for shape in SHAPES]
        if 10 <= step < 13:
            grads[step - 10] = None
        before = [param.copy() for param in params]
        opt.step(grads)
        for i, grad in enumerate(grads):
            if grad is not None:
                updates, states[i] = update(jax.numpy.array(grad), states[i], others[i])
                others[i] = optax.apply_updates(others[i], updates)
            wanted = np.asarray(others[i])
            # Relative to the largest of what was added (of steps lr is the size): near zero a sum has no more digits.
            error = np.abs(params[i] - wanted) / np.maximum(np.maximum(np.abs(wanted), np.abs(before[i])), LR)
            assert error.max() <= close, (step, grads[i], params[i], wanted)
            if dtype == np.float32:
                params[i][...] = wanted


@pytest.mark.by_turns("build")
@every_dtype
@every_row
def test_each_step(build: Any, transformation: Any, dtype: Any) -> None:
    compare(build, transformation, dtype, STEPS, 1.0, CLOSE[dtype])


@every_dtype
@every_row
def test_tiny_gradients(build: Any, transformation: Any, dtype: Any) -> None:
    """Gradients of about eps: where it is added, inside or outside the root, before or after the correction, shows."""
    compare(build, transformation, dtype, 10, 1e-8, CLOSE[dtype])
