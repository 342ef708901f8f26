"""Runs of ``fastopt.functional``: parameters, gradients, and the bits of trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import raw


def params_of(dtype: Any = np.float32, are_matrices: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    if are_matrices:
        return {"a": rng.normal(size=(4, 3)).astype(dtype), "b": [rng.normal(size=(2, 5)).astype(dtype)]}
    return {"a": rng.normal(size=(4, 3)).astype(dtype), "b": [rng.normal(size=5).astype(dtype), np.zeros(2, dtype)]}


def grads_of(params: dict[str, Any], step: int) -> dict[str, Any]:
    rng = np.random.default_rng(100 + step)
    return {"a": rng.normal(size=params["a"].shape), "b": [rng.normal(size=each.shape) for each in params["b"]]}


def flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for child in tree.values() for leaf in flat(child)]
    if isinstance(tree, (list, tuple)):
        return [leaf for child in tree for leaf in flat(child)]
    return [] if tree is None else [tree]


def bits(tree: Any) -> list[bytes]:
    return [raw(np.asarray(leaf)) for leaf in flat(tree)]
