"""Initial values of weights: each function takes a NumPy generator and returns a new array.

The fans are computed from the shape and its layout. ``"in_out"`` is ``(*receptive_field, in, out)``, for ``x @ W``,
Keras and JAX; ``"out_in"`` is ``(out, in, *receptive_field)``, for ``W @ x`` and torch. The fan in is ``in`` times the
size of the receptive field, and the fan out is ``out`` times that size.

Every function raises TypeError if ``rng`` is not a ``numpy.random.Generator``, and ValueError for a shape with fewer
than two axes or a negative length, for an unknown choice, and for a scale that is not positive and finite. Values are
drawn and computed in double precision and rounded to ``dtype`` once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import DTypeLike

from .arrays.dtypes import Array
from .options.ranges import POSITIVE, Choice, check

__all__ = [
    "fans",
    "he_normal",
    "he_uniform",
    "orthogonal",
    "truncated_normal",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
]


def __dir__() -> list[str]:
    return __all__


LAYOUTS = Choice("in_out", "out_in")
MODES = Choice("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = Choice("uniform", "normal", "truncated_normal")

#: The standard deviation of a standard normal distribution that is truncated at -2 and 2.
TRUNCATED_STD = 0.87962566103423978


def xavier_uniform(
    rng: Generator, shape: tuple[int, ...], gain: float = 1.0, *, layout: str = "in_out", dtype: DTypeLike = np.float32
) -> Array:
    """Uniform values within ``gain * sqrt(6 / (fan_in + fan_out))``; torch's ``xavier_uniform_``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    gain : float, default 1.0
        Above 0.
    layout : {"in_out", "out_in"}
    dtype : dtype, default float32

    Notes
    -----
    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).

    Examples
    --------
    >>> W = xavier_uniform(np.random.default_rng(0), (30, 20))
    >>> W.dtype, bool(abs(W).max() <= (6 / 50) ** 0.5)
    (dtype('float32'), True)
    """
    return variance_scaling(rng, shape, squared(gain), "fan_avg", "uniform", layout=layout, dtype=dtype)


def xavier_normal(
    rng: Generator, shape: tuple[int, ...], gain: float = 1.0, *, layout: str = "in_out", dtype: DTypeLike = np.float32
) -> Array:
    """Normal values with the standard deviation ``gain * sqrt(2 / (fan_in + fan_out))``; torch's ``xavier_normal_``.

    The parameters and the source are those of :func:`xavier_uniform`.

    Examples
    --------
    >>> W = xavier_normal(np.random.default_rng(0), (300, 200))
    >>> bool(abs(W.std() - (2 / 500) ** 0.5) < 1e-3)
    True
    """
    return variance_scaling(rng, shape, squared(gain), "fan_avg", "normal", layout=layout, dtype=dtype)


def he_uniform(
    rng: Generator,
    shape: tuple[int, ...],
    gain: float = math.sqrt(2),
    mode: str = "fan_in",
    *,
    layout: str = "in_out",
    dtype: DTypeLike = np.float32,
) -> Array:
    """Uniform values within ``gain * sqrt(3 / fan)``; torch's ``kaiming_uniform_``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    gain : float, default sqrt(2)
        Above 0; the default is for ReLU.
    mode : {"fan_in", "fan_out", "fan_avg"}
    layout : {"in_out", "out_in"}
    dtype : dtype, default float32

    Notes
    -----
    Source: He et al., Delving Deep into Rectifiers (2015), arXiv 1502.01852.

    Examples
    --------
    >>> W = he_uniform(np.random.default_rng(0), (64, 3, 5, 5), layout="out_in")
    >>> bool(abs(W).max() <= (6 / 75) ** 0.5)
    True
    """
    return variance_scaling(rng, shape, squared(gain), mode, "uniform", layout=layout, dtype=dtype)


def he_normal(
    rng: Generator,
    shape: tuple[int, ...],
    gain: float = math.sqrt(2),
    mode: str = "fan_in",
    *,
    layout: str = "in_out",
    dtype: DTypeLike = np.float32,
) -> Array:
    """Normal values with the standard deviation ``gain / sqrt(fan)``; torch's ``kaiming_normal_``.

    The parameters and the source are those of :func:`he_uniform`.

    Examples
    --------
    >>> W = he_normal(np.random.default_rng(0), (300, 200))
    >>> bool(abs(W.std() - (2 / 300) ** 0.5) < 1e-3)
    True
    """
    return variance_scaling(rng, shape, squared(gain), mode, "normal", layout=layout, dtype=dtype)


def variance_scaling(
    rng: Generator,
    shape: tuple[int, ...],
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    *,
    layout: str = "in_out",
    dtype: DTypeLike = np.float32,
) -> Array:
    """Random values of mean 0 and variance ``scale / fan``; JAX's and Keras' ``variance_scaling``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    scale : float, default 1.0
        Above 0.
    mode : {"fan_in", "fan_out", "fan_avg"}
    distribution : {"truncated_normal", "normal", "uniform"}
        The truncated distribution has no values outside two standard deviations of the original normal distribution.
    layout : {"in_out", "out_in"}
    dtype : dtype, default float32

    Examples
    --------
    >>> W = variance_scaling(np.random.default_rng(0), (3, 3, 64, 32), 2.0, dtype=np.float64)
    >>> bool(abs(W.var() * 9 * 64 - 2) < 0.1)
    True
    """
    fan_in, fan_out = fans(shape, layout)
    check("mode", mode, MODES)
    check("distribution", distribution, DISTRIBUTIONS)
    check_rng(rng)
    scale = check("scale", scale, POSITIVE)
    if 0 in shape:
        return np.zeros(shape, dtype)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    std = math.sqrt(scale / fan)
    if distribution == "uniform":
        limit = math.sqrt(3) * std
        return rng.uniform(-limit, limit, shape).astype(dtype)
    if distribution == "normal":
        return rng.normal(0.0, std, shape).astype(dtype)
    return (truncated_normal(rng, shape) * (std / TRUNCATED_STD)).astype(dtype)


def orthogonal(
    rng: Generator, shape: tuple[int, ...], gain: float = 1.0, *, layout: str = "in_out", dtype: DTypeLike = np.float32
) -> Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times ``gain``; torch's ``orthogonal_``.

    An array with more than two axes is treated as a matrix: all other axes against ``out``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    gain : float, default 1.0
        Above 0.
    layout : {"in_out", "out_in"}
    dtype : dtype, default float32

    Notes
    -----
    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning (2014), arXiv 1312.6120; uniform by
    Mezzadri, How to generate random matrices from the classical compact groups (2007).

    Examples
    --------
    >>> W = orthogonal(np.random.default_rng(0), (4, 3), dtype=np.float64)
    >>> bool(np.allclose(W.T @ W, np.eye(3)))
    True
    """
    fans(shape, layout)
    check_rng(rng)
    scale = math.sqrt(squared(gain))
    if 0 in shape:
        return np.zeros(shape, dtype)
    rows = math.prod(shape[:-1]) if layout == "in_out" else shape[0]
    columns = math.prod(shape) // rows
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    # QR leaves the signs of R's diagonal free; fixing them makes every orthogonal matrix equally likely.
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    matrix = q if rows >= columns else q.T
    return np.ascontiguousarray(matrix * scale).reshape(shape).astype(dtype)


def fans(shape: tuple[int, ...], layout: str = "in_out") -> tuple[int, int]:
    """Return the number of inputs of each output, and of outputs of each input.

    Examples
    --------
    >>> fans((3, 3, 16, 32)), fans((32, 16, 3, 3), layout="out_in")
    ((144, 288), (144, 288))
    """
    check("layout", layout, LAYOUTS)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"shape={shape!r}: expected at least two axes, in and out, of lengths of at least 0")
    if layout == "in_out":
        *field, ins, outs = shape
    else:
        outs, ins, *field = shape
    return ins * math.prod(field), outs * math.prod(field)


def truncated_normal(rng: Generator, shape: tuple[int, ...]) -> Array:
    """Return standard normal values between -2 and 2; values outside are drawn again."""
    values = rng.normal(size=shape)
    while True:
        outside = np.abs(values) > 2
        count = int(outside.sum())
        if count == 0:
            return values
        values[outside] = rng.normal(size=count)


def squared(gain: float) -> float:
    gain = check("gain", gain, POSITIVE)
    return gain * gain


def check_rng(rng: Any) -> None:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng: expected a numpy.random.Generator such as np.random.default_rng(0), got {type(rng).__name__}"
        )
