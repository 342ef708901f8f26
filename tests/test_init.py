"""Initial weights: fans by hand, moments and bounds, torch's numbers for the same draws' statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastopt import init

FUNCTIONS: list[Callable[..., Any]] = [
    init.xavier_uniform,
    init.xavier_normal,
    init.he_uniform,
    init.he_normal,
    init.variance_scaling,
    init.orthogonal,
]
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((30, 20), "in_out", (30, 20)),
        ((30, 20), "out_in", (20, 30)),
        ((5, 30, 20), "in_out", (150, 100)),
        ((3, 2, 4, 8), "in_out", (24, 48)),
        ((8, 4, 3, 2), "out_in", (24, 48)),
        ((0, 4), "in_out", (0, 4)),
    ],
)
def test_fans(shape: tuple[int, ...], layout: str, expected: tuple[int, int]) -> None:
    assert init.fans(shape, layout) == expected


@pytest.mark.parametrize(
    ("function", "options", "variance", "bound"),
    [
        (init.xavier_uniform, {}, 2 / 900, math.sqrt(6 / 900)),
        (init.xavier_uniform, {"gain": 2.0}, 8 / 900, 2 * math.sqrt(6 / 900)),
        (init.xavier_normal, {}, 2 / 900, math.inf),
        (init.he_uniform, {}, 2 / 600, math.sqrt(6 / 600)),
        (init.he_uniform, {"mode": "fan_out", "gain": 1.0}, 1 / 300, math.sqrt(3 / 300)),
        (init.he_normal, {}, 2 / 600, math.inf),
        (init.he_normal, {"layout": "out_in"}, 2 / 300, math.inf),
        (init.variance_scaling, {}, 1 / 600, 2 * math.sqrt(1 / 600) / 0.8796256610342398),
        (
            init.variance_scaling,
            {"scale": 3.0, "mode": "fan_avg"},
            3 / 450,
            2 * math.sqrt(3 / 450) / 0.8796256610342398,
        ),
        (init.variance_scaling, {"mode": "fan_out", "distribution": "uniform"}, 1 / 300, 0.1),
        (init.variance_scaling, {"distribution": "normal"}, 1 / 600, math.inf),
    ],
)
def test_moments_and_bounds(function: Any, options: dict[str, Any], variance: float, bound: float) -> None:
    values = function(rng(), (600, 300), dtype=np.float64, **options)
    count = values.size
    assert abs(values.mean()) < 5 * math.sqrt(variance / count)
    assert values.var() == pytest.approx(variance, rel=0.02)
    assert abs(values).max() <= bound
    if bound < math.inf:
        assert abs(values).max() > 0.99 * bound


@every_function
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_same_generator_same_values_in_any_dtype(function: Callable[..., Any], dtype: Any) -> None:
    values = function(rng(3), (7, 5), dtype=dtype)
    assert values.dtype == dtype
    assert values.flags.c_contiguous
    assert values.flags.writeable
    np.testing.assert_array_equal(values, function(rng(3), (7, 5), dtype=np.float64).astype(dtype))
    assert function(rng(3), (7, 5)).dtype == np.float32
    assert (function(rng(4), (7, 5)) != function(rng(3), (7, 5))).any()


@every_function
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)])
def test_empty(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    assert function(rng(), shape).shape == shape


@pytest.mark.parametrize(
    ("shape", "layout", "matrix"),
    [
        ((6, 4), "in_out", (6, 4)),
        ((4, 6), "in_out", (4, 6)),
        ((5, 5), "out_in", (5, 5)),
        ((3, 2, 4, 7), "in_out", (24, 7)),
        ((7, 4, 3, 2), "out_in", (7, 24)),
    ],
)
def test_orthogonal(shape: tuple[int, ...], layout: str, matrix: tuple[int, int]) -> None:
    values = init.orthogonal(rng(), shape, gain=1.5, layout=layout, dtype=np.float64).reshape(matrix)
    product = values.T @ values if matrix[0] >= matrix[1] else values @ values.T
    np.testing.assert_allclose(product, 2.25 * np.eye(min(matrix)), atol=1e-12)


def test_orthogonal_matrices_are_uniform() -> None:
    """Of both determinants alike, and no entry preferred."""
    matrices = [init.orthogonal(rng(seed), (2, 2), dtype=np.float64) for seed in range(400)]
    assert 150 < sum(np.linalg.det(matrix) > 0 for matrix in matrices) < 250
    assert abs(np.mean(matrices, axis=0)).max() < 0.15


@pytest.mark.parametrize(
    ("function", "name", "options", "theirs"),
    [
        (init.xavier_uniform, "xavier_uniform_", {"gain": 1.5}, {"gain": 1.5}),
        (init.xavier_normal, "xavier_normal_", {}, {}),
        (init.he_uniform, "kaiming_uniform_", {}, {}),
        (init.he_normal, "kaiming_normal_", {"mode": "fan_out"}, {"mode": "fan_out"}),
    ],
)
def test_same_spread_as_torch(function: Any, name: str, options: dict[str, Any], theirs: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="compares with the live torch.nn.init")
    shape = (40, 30, 5, 5)
    torch.manual_seed(0)
    expected = getattr(torch.nn.init, name)(torch.empty(shape, dtype=torch.float64), **theirs).numpy()
    values = function(rng(), shape, layout="out_in", dtype=np.float64, **options)
    assert values.std() == pytest.approx(expected.std(), rel=0.02)
    if "uniform" in name:
        assert abs(values).max() == pytest.approx(abs(expected).max(), rel=0.01)


@every_function
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, (2, 3)), {}, TypeError, r"rng: expected a numpy.random.Generator such as .*, got int"),
        ((np.random, (2, 3)), {}, TypeError, "got module"),
        ((rng(), (2,)), {}, ValueError, r"shape=\(2,\): expected at least two axes"),
        ((rng(), ()), {}, ValueError, "expected at least two axes"),
        ((rng(), (2, -3)), {}, ValueError, "of lengths of at least 0"),
        ((rng(), (2, 3), 0.0), {}, ValueError, "(gain|scale)=0.0: expected a finite number above 0"),
        ((rng(), (2, 3), math.nan), {}, ValueError, "(gain|scale)=nan: expected a finite number above 0"),
        ((rng(), (2, 3)), {"layout": "io"}, ValueError, "layout='io': expected one of 'in_out', 'out_in'"),
    ],
)
def test_bad_arguments(
    function: Callable[..., Any], arguments: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*arguments, **options)


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match="mode='fan': expected one of 'fan_in', 'fan_out', 'fan_avg'"):
        init.he_normal(rng(), (2, 3), mode="fan")
    with pytest.raises(ValueError, match="distribution='x': expected one of 'uniform', 'normal', 'truncated_normal'"):
        init.variance_scaling(rng(), (2, 3), distribution="x")
