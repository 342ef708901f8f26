"""Problems of unconstrained and bounded minimization, from their formulas: loss and gradient in the vector's dtype."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from full_batch import least_squares as formulas
from full_batch.least_squares import Residuals, Vector

FOLDER = Path(__file__).resolve().parent
Function = Callable[[Vector], tuple[Any, Vector]]


class Problem(NamedTuple):
    """A function to minimize, from a start, perhaps in a box."""

    name: str
    function: Function
    start: Vector
    low: Vector | float = -np.inf
    high: Vector | float = np.inf


# --- Moré, Garbow and Hillstrom ---------------------------------------------------------------------------------------


def sum_of_squares(residuals: Callable[[Vector], Residuals]) -> Function:
    """Return the sum of the squares of residuals, as loss and gradient. No BLAS: the same bits on every machine."""

    def function(x: Vector) -> tuple[Any, Vector]:
        with np.errstate(all="ignore"):
            r, jacobian = residuals(x)
            return (r * r).sum(), 2 * (jacobian * r[:, None]).sum(axis=0)

    return function


def counted(n: int) -> Vector:
    return np.arange(1.0, n + 1)


def boundary_start(n: int) -> Vector:
    t = counted(n) / (n + 1)
    return t * (t - 1)


def powell_singular(x: Vector) -> tuple[Any, Vector]:  # 13, 22
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    p, q, r, s = a + 10 * b, c - d, b - 2 * c, a - d
    gradient = np.empty_like(x)
    gradient[0::4] = 2 * p + 40 * s * s * s
    gradient[1::4] = 20 * p + 4 * r * r * r
    gradient[2::4] = 10 * q - 8 * r * r * r
    gradient[3::4] = -10 * q - 40 * s * s * s
    return (p * p + 5 * q * q + r * r * r * r + 10 * s * s * s * s).sum(), gradient


def extended_rosenbrock(x: Vector) -> tuple[Any, Vector]:  # 21
    a, b = x[0::2], x[1::2]
    valley, side = b - a * a, 1 - a
    gradient = np.empty_like(x)
    gradient[0::2] = -400 * valley * a - 2 * side
    gradient[1::2] = 200 * valley
    return (100 * valley * valley + side * side).sum(), gradient


def extended_wood(x: Vector) -> tuple[Any, Vector]:
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    p, q, r, s, t, u = b - a * a, 1 - a, d - c * c, 1 - c, b + d - 2, b - d
    gradient = np.empty_like(x)
    gradient[0::4] = -400 * p * a - 2 * q
    gradient[1::4] = 200 * p + 20 * t + u / 5
    gradient[2::4] = -360 * r * c - 2 * s
    gradient[3::4] = 180 * r + 20 * t - u / 5
    return (100 * p * p + q * q + 90 * r * r + s * s + 10 * t * t + u * u / 10).sum(), gradient


def chained_rosenbrock(x: Vector) -> tuple[Any, Vector]:
    valley, side = x[1:] - x[:-1] * x[:-1], 1 - x[:-1]
    gradient = np.zeros_like(x)
    gradient[:-1] = -400 * valley * x[:-1] - 2 * side
    gradient[1:] += 200 * valley
    return (100 * valley * valley + side * side).sum(), gradient


#: Residuals, start, and whether only + - * / and sqrt are used: then the counts are the same everywhere.
LEAST_SQUARES: dict[str, tuple[Callable[[Vector], Residuals], Any, bool]] = {
    "rosenbrock": (formulas.rosenbrock, [-1.2, 1], True),
    "freudenstein_roth": (formulas.freudenstein_roth, [0.5, -2], True),
    "powell_badly_scaled": (formulas.powell_badly_scaled, [0, 1], False),
    "brown_badly_scaled": (formulas.brown_badly_scaled, [1, 1], True),
    "beale": (formulas.beale, [1, 1], True),
    "jennrich_sampson": (formulas.jennrich_sampson, [0.3, 0.4], False),
    "helical_valley": (formulas.helical_valley, [-1, 0, 0], False),
    "bard": (formulas.bard, [1, 1, 1], True),
    "gaussian": (formulas.gaussian, [0.4, 1, 0], False),
    "meyer": (formulas.meyer, [0.02, 4000, 250], False),
    "gulf": (formulas.gulf, [5, 2.5, 0.15], False),
    "box_3d": (formulas.box_3d, [0, 10, 20], False),
    "wood": (formulas.wood, [-3, -1, -3, -1], True),
    "kowalik_osborne": (formulas.kowalik_osborne, [0.25, 0.39, 0.415, 0.39], True),
    "brown_dennis": (formulas.brown_dennis, [25, 5, -5, -1], False),
    "osborne_1": (formulas.osborne_1, [0.5, 1.5, -1, 0.01, 0.02], False),
    "biggs_exp6": (formulas.biggs_exp6, [1, 2, 1, 1, 1, 1], False),
    "osborne_2": (formulas.osborne_2, [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5], False),
    "watson_6": (formulas.watson, [0] * 6, True),
    "watson_12": (formulas.watson, [0] * 12, True),
    "penalty_1_4": (formulas.penalty_1, counted(4), True),
    "penalty_1_10": (formulas.penalty_1, counted(10), True),
    "penalty_2_4": (formulas.penalty_2, [0.5] * 4, False),
    "penalty_2_10": (formulas.penalty_2, [0.5] * 10, False),
    "variably_dimensioned": (formulas.variably_dimensioned, 1 - counted(10) / 10, True),
    "trigonometric": (formulas.trigonometric, [0.1] * 10, False),
    "brown_almost_linear": (formulas.brown_almost_linear, [0.5] * 10, True),
    "discrete_boundary_value": (formulas.discrete_boundary_value, boundary_start(10), True),
    "discrete_integral": (formulas.discrete_integral, boundary_start(10), True),
    "broyden_tridiagonal": (formulas.broyden_tridiagonal, [-1] * 10, True),
    "broyden_banded": (formulas.broyden_banded, [-1] * 10, True),
    "linear": (formulas.linear, [1] * 10, True),
    "linear_rank_1": (formulas.linear_rank_1, [1] * 10, True),
    "linear_rank_1_zero": (formulas.linear_rank_1_zero, [1] * 10, True),
    "chebyquad": (formulas.chebyquad, counted(8) / 9, True),
}


def problem(name: str, function: Function, start: Any) -> Problem:
    return Problem(name, function, np.array(start, np.float64))


#: The 38 problems, with their usual dimensions and starts.
CLASSIC: dict[str, Problem] = {
    name: problem(name, sum_of_squares(residuals), start) for name, (residuals, start, _) in LEAST_SQUARES.items()
} | {
    "powell_singular": problem("powell_singular", powell_singular, [3, -1, 0, 1]),
    "extended_rosenbrock": problem("extended_rosenbrock", extended_rosenbrock, [-1.2, 1] * 5),
    "extended_powell": problem("extended_powell", powell_singular, [3, -1, 0, 1] * 3),
}
#: Those of which counts may differ by the exponential functions of a machine.
INEXACT = {name for name, (_, _, is_exact) in LEAST_SQUARES.items() if not is_exact}

LARGE: dict[str, Problem] = {
    f"{name}_{n}": problem(f"{name}_{n}", function, start * (n // len(start)))
    for name, function, start in (
        ("rosenbrock", extended_rosenbrock, [-1.2, 1]),
        ("powell", powell_singular, [3, -1, 0, 1]),
        ("wood", extended_wood, [-3, -1, -3, -1]),
    )
    for n in (1_000, 100_000)
}


# --- Machine learning -------------------------------------------------------------------------------------------------


def digits() -> tuple[Vector, Vector]:
    """Return scikit-learn's digits, scaled to [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data / 16.0, data.target


def cross_entropy(logits: Vector, target: Vector) -> tuple[Any, Vector]:
    """Return the mean of the cross-entropy, and its gradient by the logits."""
    rows = np.arange(len(target))
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    gradient = exponentials / sums
    gradient[rows, target] -= 1
    return (np.log(sums[:, 0]) - shifted[rows, target]).mean(), gradient / len(target)


def logistic(x: Vector, target: Vector, l2: float) -> Problem:
    """Return multinomial regression of digits: weights (64, 10) and biases in a vector. Biases are not penalized."""

    def function(w: Vector) -> tuple[Any, Vector]:
        inputs = x.astype(w.dtype)
        weights = w[:640].reshape(64, 10)
        loss, by_logits = cross_entropy(inputs @ weights + w[640:], target)
        by_weights = inputs.T @ by_logits + l2 * weights
        return loss + l2 / 2 * (weights * weights).sum(), np.concatenate([by_weights.ravel(), by_logits.sum(axis=0)])

    return problem(f"logistic_{l2:.0e}", function, np.zeros(650))


def sparse_logistic(x: Vector, target: Vector, l1: float) -> Problem:
    """Return logistic regression with an l1 penalty, its weights split in two parts of at least 0."""
    smooth = logistic(x, target, 0.0).function

    def function(w: Vector) -> tuple[Any, Vector]:
        loss, gradient = smooth(w[:650] - w[650:])
        penalty = np.full(650, l1, w.dtype)
        penalty[640:] = 1e-6
        return loss + (penalty * (w[:650] + w[650:])).sum(), np.concatenate([gradient + penalty, penalty - gradient])

    return Problem(f"sparse_logistic_{l1:.0e}", function, np.zeros(1300), 0.0)


def perceptron(x: Vector, target: Vector, hidden: int = 64) -> Problem:
    """Return a network of one hidden layer of tanh on the digits, with a little l2."""
    rng = np.random.default_rng(0)
    shapes = [(64, hidden), (hidden,), (hidden, 10), (10,)]
    sizes = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    start = [rng.normal(0, 1 / np.sqrt(shape[0]), shape) if len(shape) == 2 else np.zeros(shape) for shape in shapes]
    l2 = 1e-4

    def function(w: Vector) -> tuple[Any, Vector]:
        inputs = x.astype(w.dtype)
        w1, b1, w2, b2 = (part.reshape(shape) for part, shape in zip(np.split(w, sizes), shapes, strict=True))
        outputs = np.tanh(inputs @ w1 + b1)
        loss, by_logits = cross_entropy(outputs @ w2 + b2, target)
        by_hidden = (by_logits @ w2.T) * (1 - outputs * outputs)
        parts = [inputs.T @ by_hidden, by_hidden.sum(axis=0), outputs.T @ by_logits, by_logits.sum(axis=0)]
        return loss + l2 / 2 * (w * w).sum(), np.concatenate([part.ravel() for part in parts]) + l2 * w

    return problem(f"perceptron_{hidden}", function, np.concatenate([part.ravel() for part in start]))


# --- In boxes ---------------------------------------------------------------------------------------------------------


def boxed(inner: Problem, solution: Vector, seed: int) -> Problem:
    """Return a problem in a box: half of the coordinates can't go all the way from the start to the solution."""
    rng = np.random.default_rng(seed)
    n = len(inner.start)
    cut = rng.permutation(n)[: (n + 1) // 2]
    low, high = np.full(n, -np.inf), np.full(n, np.inf)
    way = solution[cut] - inner.start[cut]
    ends = inner.start[cut] + rng.uniform(0.1, 0.9, len(cut)) * way
    low[cut[way < 0]], high[cut[way > 0]] = ends[way < 0], ends[way > 0]
    return inner._replace(name=f"{inner.name}_{seed}", low=low, high=high)


def in_boxes(boxes: int, make: Callable[[Problem, Vector, int], Problem]) -> dict[str, Problem]:
    """Return the 38 problems in so many boxes each. Their solutions are kept, as they were found without bounds."""
    path = FOLDER / "solutions.json"
    solutions: Mapping[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    found = [make(inner, np.array(solutions[name]), seed) for name, inner in CLASSIC.items() for seed in range(boxes)]
    return {problem.name: problem for problem in found}


def boxed_classic() -> dict[str, Problem]:
    """Return the problems in boxes without half of their solutions."""
    return in_boxes(3, boxed)


def tight_boxes() -> dict[str, Problem]:
    """Return the problems in boxes around their starts, of which all sides are finite."""

    def around_start(inner: Problem, solution: Vector, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        n = len(inner.start)
        size = np.maximum(abs(solution - inner.start), 0.1 * (1 + abs(inner.start)))
        low, high = (inner.start + sign * size * rng.uniform(0, 1.5, n) for sign in (-1, 1))
        return inner._replace(name=f"{inner.name}_{seed}", low=low, high=high)

    return in_boxes(2, around_start)


def corners() -> dict[str, Problem]:
    """Return the problems in boxes that have the start at a corner, and half of the solution inside."""

    def from_start(inner: Problem, solution: Vector, seed: int) -> Problem:
        rng = np.random.default_rng(seed)
        end = inner.start + rng.uniform(0.3, 1.7, len(inner.start)) * (solution - inner.start)
        low, high = np.minimum(inner.start, end), np.maximum(inner.start, end)
        return inner._replace(name=f"{inner.name}_{seed}", low=low, high=high)

    return in_boxes(2, from_start)


def obstacle(high: float, n: int = 100_000) -> Problem:
    """Return a membrane above an obstacle: a quadratic with a tridiagonal matrix."""
    load = 0.1 * np.cos(counted(n) * (50.0 / n)) * np.cos(counted(n) * 0.03)

    def function(x: Vector) -> tuple[Any, Vector]:
        step = x[1:] - x[:-1]
        gradient = 0.01 * x - load.astype(x.dtype)
        gradient[1:] += step
        gradient[:-1] -= step
        return (step * step).sum() / 2 + 0.005 * (x * x).sum() - (load.astype(x.dtype) * x).sum(), gradient

    return Problem(f"obstacle_{high:g}", function, np.full(n, 0.1), 0.0, high)


def nonnegative_least_squares(m: int = 600, n: int = 400) -> Problem:
    rng = np.random.default_rng(0)
    matrix = rng.uniform(size=(m, n)) * rng.uniform(0.1, 1, n) / np.sqrt(m)
    y = matrix @ np.maximum(rng.normal(size=n), 0) + 0.1 * rng.normal(size=m)

    def function(x: Vector) -> tuple[Any, Vector]:
        r = matrix.astype(x.dtype) @ x - y.astype(x.dtype)
        return (r * r).sum() / 2, matrix.astype(x.dtype).T @ r

    return Problem("nonnegative_least_squares", function, np.zeros(n), 0.0)


def bounded_chain(n: int = 1_000) -> Problem:
    high = np.full(n, np.inf)
    high[::3] = 0.8
    return Problem("bounded_chain", chained_rosenbrock, np.tile([-1.2, 1.0], n // 2), -1.5, high)
