"""Every optimizer goes down: on a quadratic, on Rosenbrock's function, and in a ravine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from cases import Case, every_case


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
    "Adam-amsgrad=corrected-weight_decay=0.1": (0.2, 1.0, 0.1),
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
    "FTRL": (1.0, 1.0, 0.2),
    "Lion": (0.02, 0.01, 0.02),
    "Signum": (0.5, 0.005, 0.002),
    "AdaBelief": (20.0, 1.0, 0.1),
    "Yogi": (2.0, 0.1, 0.05),
    "Adan": (5.0, 2.0, 1.0),
    "AdEMAMix": (5.0, 0.2, 2.0),
    "ScheduleFreeSGD": (0.2, 0.002, 0.5),
    "ScheduleFreeAdamW": (1.0, 2.0, 0.1),
    "Lamprey": (0.5, 0.5, 0.1),
    "Tench": (0.05, 0.01, 0.1),
    "LARS": (0.005, 0.1, 0.5),
    "LAMB": (0.02, 0.05, 0.05),
    "Adafactor": (0.1, 0.2, 1.0),
    "SWATS": (0.5, 1.0, 5.0),
    "Prodigy": (0.005, 0.005, 0.005),
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
    "Adam-amsgrad=corrected-weight_decay=0.1": (2e-2, 8e-2, 2e-12),
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
    "FTRL-initial_accumulator_value=0.0-l1_regularization_strength=0.3-l2_regularization_strength=0.1-"
    "l2_shrinkage_regularization_strength=0.2-beta=1.0-weight_decay=0.1-maximize=True": (2e-1, 3e-1, 2e-12),
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
    "Lamprey": (2e-12, 7e-5, 2e-12),
    "Tench-weight_decay=0.1": (2e-2, 2e-1, 2e-12),
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
    "Prodigy-betas=(0.8, 0.99)-beta3=0.9-d0=0.01-d_coef=3000.0-growth_rate=1.5-safeguard_warmup=True-"
    "use_bias_correction=True-weight_decay=0.1-clip_norm=0.7": (1e-3, 5e-1, 2e-12),
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
