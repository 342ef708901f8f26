"""Nested parameters for tests: a model, gradients like it, copies, and whether two are the same to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np

RNG = np.random.default_rng(0)


def model() -> dict[str, Any]:
    return {
        "hidden": {"W": RNG.normal(size=(4, 3)), "b": RNG.normal(size=3)},
        "norm1": RNG.normal(size=3).astype(np.float32),
        "out": [RNG.normal(size=(3, 2)), {"b": RNG.normal(size=2)}],
    }


def like(params: Any) -> Any:
    """Return random gradients in the structure of parameters."""
    if isinstance(params, dict):
        return {key: like(value) for key, value in params.items()}
    if isinstance(params, list):
        return [like(value) for value in params]
    return RNG.normal(size=params.shape)


def copied(params: Any) -> Any:
    if isinstance(params, dict):
        return {key: copied(value) for key, value in params.items()}
    return [copied(value) for value in params] if isinstance(params, list) else params.copy()


def flat(params: Any) -> list[Any]:
    if isinstance(params, (dict, list)):
        return [leaf for value in (params.values() if isinstance(params, dict) else params) for leaf in flat(value)]
    return [params]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to the last bit, in types, dtypes, shapes and memory orders."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return (
            (one.dtype, one.shape, one.flags.c_contiguous, one.flags.f_contiguous)
            == (other.dtype, other.shape, other.flags.c_contiguous, other.flags.f_contiguous)
        ) and one.tobytes("A") == other.tobytes("A")
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.random.Generator):
        return same(one.bit_generator.state, other.bit_generator.state)
    return one == other or (one != one and other != other)
