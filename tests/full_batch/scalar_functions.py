"""Functions of one variable for line searches, and what SciPy's ``dcsrch`` does on them.

``python tests/full_batch/scalar_functions.py`` writes line_searches.json again: losses, slopes and steps as numbers, so
that the comparison needs neither SciPy nor the C library's sine of this machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATH = Path(__file__).with_suffix("").with_name("line_searches.json")
Function = Callable[[float], tuple[float, float]]


def rational(t: float) -> tuple[float, float]:
    return -t / (t * t + 2.0), (t * t - 2.0) / (t * t + 2.0) ** 2


def quintic(t: float) -> tuple[float, float]:
    u = t + 0.004
    return u**5 - 2.0 * u**4, 5.0 * u**4 - 8.0 * u**3


def wavy(t: float) -> tuple[float, float]:
    """A V with a rounded tip and oscillations."""
    tip, waves = 0.01, 39.0
    if t <= 1.0 - tip:
        base, slope = 1.0 - t, -1.0
    elif t >= 1.0 + tip:
        base, slope = t - 1.0, 1.0
    else:
        base, slope = (t - 1.0) ** 2 / (2.0 * tip) + tip / 2.0, (t - 1.0) / tip
    angle = waves * math.pi * t / 2.0
    return base + 2.0 * (1.0 - tip) / (waves * math.pi) * math.sin(angle), slope + (1.0 - tip) * math.cos(angle)


def yanai(left: float, right: float) -> Function:
    def gamma(beta: float) -> float:
        return math.sqrt(1.0 + beta * beta) - beta

    def function(t: float) -> tuple[float, float]:
        a, b = math.sqrt((1.0 - t) ** 2 + right * right), math.sqrt(t * t + left * left)
        return gamma(left) * a + gamma(right) * b, gamma(left) * (t - 1.0) / a + gamma(right) * t / b

    return function


def log_barrier(t: float) -> tuple[float, float]:
    return (-math.log(1.0 - t) - 5.0 * t, 1.0 / (1.0 - t) - 5.0) if t < 1.0 else (math.nan, math.nan)


def root(t: float) -> tuple[float, float]:
    """A function with a square root: beyond 4 it is not finite, at 4 the slope is not."""
    if t >= 4.0:
        return (math.inf, math.inf) if t == 4.0 else (math.nan, math.nan)
    return -3.0 * t - 4.0 * math.sqrt(4.0 - t), -3.0 + 2.0 / math.sqrt(4.0 - t)


def overflow(t: float) -> tuple[float, float]:
    if t > 14.0:
        return math.inf, math.inf
    return math.exp(50.0 * t) - 150.0 * t - 1.0, 50.0 * math.exp(50.0 * t) - 150.0


#: Functions 1 to 6 of Moré and Thuente's paper, and the constants of the Wolfe conditions that it uses with them.
FUNCTIONS: dict[str, tuple[Function, float, float]] = {
    "rational": (rational, 1e-3, 1e-1),
    "quintic": (quintic, 1e-1, 1e-1),
    "wavy": (wavy, 1e-1, 1e-1),
    "yanai_1": (yanai(0.001, 0.001), 1e-3, 1e-3),
    "yanai_2": (yanai(0.01, 0.001), 1e-3, 1e-3),
    "yanai_3": (yanai(0.001, 0.01), 1e-3, 1e-3),
}
#: The paper begins far too short and far too long.
FIRST_STEPS = (1e-3, 1e-1, 1e1, 1e3)
#: Functions that are not finite everywhere.
HOLES: dict[str, Function] = {"log_barrier": log_barrier, "root": root, "overflow": overflow}


class Options(NamedTuple):
    """How a search is set."""

    first_step: float
    decrease: float
    curvature: float
    width: float
    max_step: float = 1e10


def polynomial(seed: int) -> Function:
    """Return a random polynomial that descends at 0."""
    rng = np.random.default_rng(seed)
    slope = np.poly(rng.uniform(-1, 3, rng.choice([1, 3, 5])) * 10 ** rng.uniform(-2, 2)) * 10 ** rng.uniform(-3, 3)
    slope = slope if slope[-1] < 0 else -slope
    loss = np.polyint(slope)

    def value(coefficients: list[float], t: float) -> float:
        total = 0.0
        for coefficient in coefficients:
            total = total * t + coefficient
        return total

    return lambda t: (value(loss.tolist(), t), value(slope.tolist(), t))


def random_options(seed: int) -> Options:
    rng = np.random.default_rng([seed, 1])
    width, max_step = float(rng.choice([0.1, 1e-3, 1e-14])), float(rng.choice([1e10, 1e3]))
    return Options(10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-4, -1), rng.uniform(0.1, 0.9), width, max_step)


def scipy_trace(function: Function, options: Options, trials: int = 20) -> list[float]:
    """Return the steps that SciPy's dcsrch evaluates."""
    from scipy.optimize._dcsrch import DCSRCH

    steps: list[float] = []

    def loss(t: float) -> float:
        steps.append(float(t))
        return function(float(t))[0]

    search = DCSRCH(
        loss, lambda t: function(float(t))[1], options.decrease, options.curvature, options.width, 0.0, options.max_step
    )
    start = function(0.0)
    with np.errstate(all="ignore"):
        search(options.first_step, *start, maxiter=trials + 1)
    return steps[:trials]


def record() -> list[dict[str, Any]]:
    cases = [
        (name, function, Options(first, decrease, curvature, width))
        for name, (function, decrease, curvature) in FUNCTIONS.items()
        for first in FIRST_STEPS
        for width in (1e-14, 0.1)
    ]
    cases += [
        (name, f, Options(first, 1e-3, 0.9, 0.1)) for name, (f, _, _) in FUNCTIONS.items() for first in FIRST_STEPS
    ]
    cases += [(f"polynomial_{seed}", polynomial(seed), random_options(seed)) for seed in range(80)]
    records = []
    for name, function, options in cases:
        steps = scipy_trace(function, options)
        points = [function(t) for t in (0.0, *steps)]
        records.append({"name": name, "options": options, "steps": steps, "points": points})
    return records


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(record) for record in record())
    PATH.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
