"""The residuals and Jacobians of the problems of Moré, Garbow and Hillstrom (TOMS 7, 1981; algorithm 566), by formula.

Each function takes a vector and returns the residuals and their Jacobian, in the vector's dtype: float32 stays float32,
and complex numbers go through, so that the Jacobian can be checked by complex steps. Numbered as in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Vector = np.ndarray[Any, np.dtype[Any]]
Residuals = tuple[Vector, Vector]


def count(m: int, x: Vector, start: int = 1) -> Vector:
    """Return the numbers from start on, m of them, in the dtype of x."""
    return np.arange(start, start + m).astype(x.dtype)


def listed(numbers: list[Any], x: Vector) -> Vector:
    return np.array(numbers, x.dtype)


def columns(x: Vector, *parts: Any) -> Vector:
    """Return a Jacobian from its columns, of which some are one number."""
    return np.stack([part + np.zeros(len(parts[0]), x.dtype) for part in parts], axis=1)


def rosenbrock(x: Vector) -> Residuals:  # 1
    a, b = x
    return listed([10 * (b - a * a), 1 - a], x), listed([[-20 * a, 10], [-1, 0]], x)


def freudenstein_roth(x: Vector) -> Residuals:  # 2
    a, b = x
    residuals = [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
    return listed(residuals, x), listed([[1, (10 - 3 * b) * b - 2], [1, (3 * b + 2) * b - 14]], x)


def powell_badly_scaled(x: Vector) -> Residuals:  # 3
    a, b = x
    residuals = [1e4 * a * b - 1, np.exp(-a) + np.exp(-b) - 1.0001]
    return listed(residuals, x), listed([[1e4 * b, 1e4 * a], [-np.exp(-a), -np.exp(-b)]], x)


def brown_badly_scaled(x: Vector) -> Residuals:  # 4
    a, b = x
    return listed([a - 1e6, b - 2e-6, a * b - 2], x), listed([[1, 0], [0, 1], [b, a]], x)


def beale(x: Vector) -> Residuals:  # 5
    a, b = x
    residuals = [1.5 - a * (1 - b), 2.25 - a * (1 - b * b), 2.625 - a * (1 - b * b * b)]
    return listed(residuals, x), listed([[b - 1, a], [b * b - 1, 2 * a * b], [b * b * b - 1, 3 * a * b * b]], x)


def jennrich_sampson(x: Vector) -> Residuals:  # 6
    i = count(10, x)
    left, right = np.exp(i * x[0]), np.exp(i * x[1])
    return 2 + 2 * i - (left + right), columns(x, -i * left, -i * right)


def helical_valley(x: Vector) -> Residuals:  # 7
    a, b, c = x
    turns = np.arctan(b / a) / (2 * np.pi) + (0.5 if a.real < 0 else 0.0)
    square = a * a + b * b
    radius = np.sqrt(square)
    per_turn = 100 / (2 * np.pi) / square
    jacobian = [[per_turn * b, -per_turn * a, 10], [10 * a / radius, 10 * b / radius, 0], [0, 0, 1]]
    return listed([10 * (c - 10 * turns), 10 * (radius - 1), c], x), listed(jacobian, x)


def bard(x: Vector) -> Residuals:  # 8
    y = listed([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39], x)
    u = count(15, x)
    v = 16 - u
    w = np.minimum(u.real, v.real).astype(x.dtype)
    bottom = v * x[1] + w * x[2]
    ratio = u / (bottom * bottom)
    return y - (x[0] + u / bottom), columns(x, ratio * 0 - 1, ratio * v, ratio * w)


def gaussian(x: Vector) -> Residuals:  # 9
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    y = listed([*half, 0.3989, *half[::-1]], x)
    t = (8 - count(15, x)) / 2 - x[2]
    bell = np.exp(-x[1] * t * t / 2)
    return x[0] * bell - y, columns(x, bell, -x[0] * bell * t * t / 2, x[0] * bell * x[1] * t)


def meyer(x: Vector) -> Residuals:  # 10
    y = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
    bottom = 45 + 5 * count(16, x) + x[2]
    growth = np.exp(x[1] / bottom)
    rate = x[0] * growth / bottom
    return x[0] * growth - listed(y, x), columns(x, growth, rate, -rate * x[1] / bottom)


def gulf(x: Vector) -> Residuals:  # 11
    a, b, c = x
    t = count(99, x) / 100
    y = 25 + (-50 * np.log(t)) ** listed([2 / 3], x)
    distance = np.where((y - b).real < 0, b - y, y - b)
    power = distance**c / a
    decay = np.exp(-power)
    jacobian = columns(x, decay * power / a, decay * power * c / (y - b), -decay * power * np.log(distance))
    return decay - t, jacobian


def box_3d(x: Vector) -> Residuals:  # 12
    t = count(10, x) / 10
    left, right, both = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t) - np.exp(-10 * t)
    return left - right - x[2] * both, columns(x, -t * left, t * right, -both)


def wood(x: Vector) -> Residuals:  # 14
    a, b, c, d = x
    p, q = np.sqrt(x.dtype.type(90)), np.sqrt(x.dtype.type(10))
    residuals = [10 * (b - a * a), 1 - a, p * (d - c * c), 1 - c, q * (b + d - 2), (b - d) / q]
    jacobian = [
        [-20 * a, 10, 0, 0],
        [-1, 0, 0, 0],
        [0, 0, -2 * p * c, p],
        [0, 0, -1, 0],
        [0, q, 0, q],
        [0, 1 / q, 0, -1 / q],
    ]
    return listed(residuals, x), listed(jacobian, x)


def kowalik_osborne(x: Vector) -> Residuals:  # 15
    y = listed([0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246], x)
    u = listed([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625], x)
    top, bottom = u * (u + x[1]), u * (u + x[2]) + x[3]
    ratio = x[0] * top / (bottom * bottom)
    return y - x[0] * top / bottom, columns(x, -top / bottom, -x[0] * u / bottom, ratio * u, ratio)


def brown_dennis(x: Vector) -> Residuals:  # 16
    t = count(20, x) / 5
    left, right = x[0] + t * x[1] - np.exp(t), x[2] + x[3] * np.sin(t) - np.cos(t)
    return left * left + right * right, columns(x, 2 * left, 2 * left * t, 2 * right, 2 * right * np.sin(t))


def osborne_1(x: Vector) -> Residuals:  # 17
    y = [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685, 0.658, 0.628, 0.603]
    y += [0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414]
    y += [0.411, 0.406]
    t = 10 * count(33, x, 0)
    first, second = np.exp(-t * x[3]), np.exp(-t * x[4])
    residuals = listed(y, x) - (x[0] + x[1] * first + x[2] * second)
    return residuals, columns(x, t * 0 - 1, -first, -second, t * x[1] * first, t * x[2] * second)


def biggs_exp6(x: Vector) -> Residuals:  # 18
    t = count(13, x) / 10
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    a, b, c = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t * x[4])
    residuals = x[2] * a - x[3] * b + x[5] * c - y
    return residuals, columns(x, -t * x[2] * a, t * x[3] * b, a, -b, -t * x[5] * c, c)


def osborne_2(x: Vector) -> Residuals:  # 19
    y = [1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608, 0.655, 0.616, 0.606]
    y += [0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.500]
    y += [0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708]
    y += [0.633, 0.668, 0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428]
    y += [0.292, 0.162, 0.098, 0.054]
    t = count(65, x, 0) / 10
    decay = np.exp(-t * x[4])
    residuals, heights, widths, places = listed(y, x) - x[0] * decay, [-decay], [t * x[0] * decay], []
    for k in range(3):
        off = t - x[8 + k]
        bell = np.exp(-off * off * x[5 + k])
        residuals = residuals - x[1 + k] * bell
        heights.append(-bell)
        widths.append(x[1 + k] * off * off * bell)
        places.append(-2 * x[1 + k] * x[5 + k] * off * bell)
    return residuals, columns(x, *heights, *widths, *places)


def watson(x: Vector) -> Residuals:  # 20
    n = len(x)
    steps = count(29, x)[:, None] / 29
    t = np.cumprod(np.concatenate([steps * 0 + 1, np.repeat(steps, n - 1, axis=1)], axis=1), axis=1)  # powers
    j = count(n - 1, x)
    derivatives = np.concatenate([np.zeros((29, 1), x.dtype), j * t[:, :-1]], axis=1)
    value = (t * x).sum(axis=1)
    residuals = (derivatives * x).sum(axis=1) - value * value - 1
    jacobian = derivatives - 2 * value[:, None] * t
    last = np.zeros((2, n), x.dtype)
    last[0, 0], last[1, 0], last[1, 1] = 1, -2 * x[0], 1
    residuals = np.concatenate([residuals, [x[0], x[1] - x[0] * x[0] - 1]])
    return residuals.astype(x.dtype), np.concatenate([jacobian, last])


def penalty_1(x: Vector) -> Residuals:  # 23
    weight = np.sqrt(x.dtype.type(1e-5))
    residuals = np.concatenate([weight * (x - 1), [(x * x).sum() - 0.25]])
    return residuals.astype(x.dtype), np.concatenate([weight * np.eye(len(x), dtype=x.dtype), 2 * x[None]])


def penalty_2(x: Vector) -> Residuals:  # 24
    n = len(x)
    weight = np.sqrt(x.dtype.type(1e-5))
    up, known = np.exp(x / 10), np.exp(count(n, x) / 10)
    pairs = weight * (up[1:] + up[:-1] - (known[1:] + known[:-1]))
    singles = weight * (up[1:] - np.exp(x.dtype.type(-0.1)))
    weights = count(n, x)[::-1]
    residuals = np.concatenate([[x[0] - 0.2], pairs, singles, [(weights * x * x).sum() - 1]])
    slopes = weight * np.diag(up) / 10
    first = np.zeros((1, n), x.dtype)
    first[0, 0] = 1
    jacobian = np.concatenate([first, slopes[1:] + slopes[:-1], slopes[1:], 2 * (weights * x)[None]])
    return residuals.astype(x.dtype), jacobian


def variably_dimensioned(x: Vector) -> Residuals:  # 25
    j = count(len(x), x)
    total = (j * (x - 1)).sum()
    residuals = np.concatenate([x - 1, [total, total * total]])
    return residuals.astype(x.dtype), np.concatenate([np.eye(len(x), dtype=x.dtype), [j, 2 * total * j]])


def trigonometric(x: Vector) -> Residuals:  # 26
    n = len(x)
    i = count(n, x)
    residuals = n - np.cos(x).sum() + i * (1 - np.cos(x)) - np.sin(x)
    return residuals, np.sin(x)[None] + np.diag(i * np.sin(x) - np.cos(x))


def brown_almost_linear(x: Vector) -> Residuals:  # 27
    n = len(x)
    residuals = x + x.sum() - (n + 1)
    residuals[-1] = np.prod(x) - 1
    jacobian = np.ones((n, n), x.dtype) + np.eye(n, dtype=x.dtype)
    jacobian[-1] = [np.prod(np.delete(x, j)) for j in range(n)]
    return residuals, jacobian


def discrete_boundary_value(x: Vector) -> Residuals:  # 28
    n = len(x)
    t = count(n, x) / (n + 1)
    cube = x + t + 1
    h = 1 / (n + 1)
    padded = np.concatenate([np.zeros(1, x.dtype), x, np.zeros(1, x.dtype)])
    residuals = 2 * x - padded[:-2] - padded[2:] + h * h * cube * cube * cube / 2
    off = np.eye(n, k=1, dtype=x.dtype) + np.eye(n, k=-1, dtype=x.dtype)
    return residuals, np.diag(2 + 1.5 * h * h * cube * cube) - off


def discrete_integral(x: Vector) -> Residuals:  # 29
    n = len(x)
    t = count(n, x) / (n + 1)
    cube = x + t + 1
    below = np.tri(n, dtype=x.dtype)
    kernel = (np.outer(1 - t, t) * below + np.outer(t, 1 - t) * (1 - below)) / (2 * (n + 1))
    return x + (kernel * cube * cube * cube).sum(axis=1), np.eye(n, dtype=x.dtype) + kernel * (3 * cube * cube)


def broyden_tridiagonal(x: Vector) -> Residuals:  # 30
    n = len(x)
    padded = np.concatenate([np.zeros(1, x.dtype), x, np.zeros(1, x.dtype)])
    jacobian = np.diag(3 - 4 * x) - np.eye(n, k=-1, dtype=x.dtype) - 2 * np.eye(n, k=1, dtype=x.dtype)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1, jacobian


def broyden_banded(x: Vector) -> Residuals:  # 31
    n = len(x)
    band = np.tri(n, k=1, dtype=x.dtype) - np.tri(n, k=-6, dtype=x.dtype) - np.eye(n, dtype=x.dtype)
    residuals = x * (2 + 5 * x * x) + 1 - (band * (x * (1 + x))).sum(axis=1)
    return residuals, np.diag(2 + 15 * x * x) - band * (1 + 2 * x)


def linear(x: Vector) -> Residuals:  # 32
    n, m = len(x), 2 * len(x)
    jacobian = np.eye(m, n, dtype=x.dtype) - x.dtype.type(2 / m)
    return (jacobian * x).sum(axis=1) - 1, jacobian


def linear_rank_1(x: Vector) -> Residuals:  # 33
    n, m = len(x), 2 * len(x)
    jacobian = np.outer(count(m, x), count(n, x))
    return (jacobian * x).sum(axis=1) - 1, jacobian


def linear_rank_1_zero(x: Vector) -> Residuals:  # 34: with zero columns and rows
    n, m = len(x), 2 * len(x)
    jacobian = np.outer(count(m, x, 0), count(n, x))
    jacobian[-1] = jacobian[:, 0] = jacobian[:, -1] = 0
    return (jacobian * x).sum(axis=1) - 1, jacobian


def chebyquad(x: Vector) -> Residuals:  # 35
    n = len(x)
    u = 2 * x - 1
    values, slopes = [np.ones_like(x), u], [np.zeros_like(x), 2 * np.ones_like(x)]
    for _ in range(n - 1):
        values.append(2 * u * values[-1] - values[-2])
        slopes.append(4 * values[-2] + 2 * u * slopes[-1] - slopes[-2])
    integrals = listed([0 if i % 2 else -1 / (i * i - 1) for i in range(1, n + 1)], x)
    return np.stack(values[1:]).sum(axis=1) / n - integrals, np.stack(slopes[1:]) / n
