"""One row for each optimizer variant: every property test runs over all of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt.backends import native


class Case(NamedTuple):
    """An optimizer, its options, and the torch optimizer and options that give the same numbers, if there is one."""

    optimizer: type[fastopt.Optimizer]
    options: dict[str, Any]
    torch: tuple[str, dict[str, Any]] | None = None

    def build(self, params: Any, **more: Any) -> fastopt.Optimizer:
        return self.optimizer(params, **{**self.options, **more})

    def __str__(self) -> str:
        shown = "-".join(f"{name}={value}" for name, value in self.options.items() if name != "lr")
        return f"{self.optimizer.__name__}-{shown}".rstrip("-")


def like_torch(optimizer: type[fastopt.Optimizer], **options: Any) -> Case:
    return Case(optimizer, options, (optimizer.__name__, options))


CASES = [
    like_torch(fastopt.SGD, lr=0.1),
    like_torch(fastopt.SGD, lr=0.1, weight_decay=0.1, maximize=True),
    like_torch(fastopt.SGD, lr=0.1, momentum=0.9),
    like_torch(fastopt.SGD, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    like_torch(fastopt.SGD, lr=0.1, momentum=0.9, nesterov=True),
    # With a constant learning rate the two places of the learning rate give the same numbers.
    Case(
        fastopt.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "lr_in_momentum": True},
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ),
    Case(
        fastopt.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "lr_in_momentum": True},
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ),
    Case(fastopt.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "decoupled": True}),
    like_torch(fastopt.Adagrad, lr=0.1),
    like_torch(fastopt.Adagrad, lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-3),
    Case(fastopt.Adagrad, {"lr": 0.1, "eps": 1e-3, "eps_in_root": True}),
    like_torch(fastopt.RMSprop, lr=0.01),
    like_torch(fastopt.RMSprop, lr=0.01, momentum=0.9, alpha=0.9, weight_decay=0.1, maximize=True),
    like_torch(fastopt.RMSprop, lr=0.01, centered=True, eps=1e-3),
    like_torch(fastopt.RMSprop, lr=0.01, centered=True, momentum=0.5, eps=1e-3),
    Case(
        fastopt.RMSprop,
        {"lr": 0.01, "momentum": 0.9, "alpha": 0.9, "eps": 1e-10, "eps_in_root": True, "lr_in_momentum": True},
    ),
    like_torch(fastopt.Adam, lr=0.01),
    like_torch(fastopt.Adam, lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1, maximize=True),
    like_torch(fastopt.Adam, lr=0.01, amsgrad=True, weight_decay=0.1),
    Case(fastopt.Adam, {"lr": 0.01, "eps_root": 1e-3}),
    Case(fastopt.Adam, {"lr": 0.01, "eps": 1e-3, "eps_hat": True}),
    Case(fastopt.Adam, {"lr": 0.01, "bias_correction": False}),
    like_torch(fastopt.AdamW, lr=0.01),
    like_torch(fastopt.AdamW, lr=0.01, weight_decay=0.3, amsgrad=True, maximize=True),
    # The pipeline around the rule.
    Case(fastopt.SGD, {"lr": 0.1, "clip_value": 0.5}),
    Case(fastopt.SGD, {"lr": 0.1, "clip_norm": 0.7, "weight_decay": 0.1}),
    Case(fastopt.AdamW, {"lr": 0.01, "clip_global_norm": 1.0, "maximize": True}),
    Case(fastopt.Adam, {"lr": 0.01, "clip_value": 1.0, "clip_norm": 3.0, "clip_global_norm": 2.0, "weight_decay": 0.1}),
    Case(fastopt.Adam, {"lr": fastopt.schedules.warmup_cosine(0.01, warmup=3, total=10)}),
]

DTYPES = (np.float32, np.float64)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
needs_native = pytest.mark.skipif(native.missing is not None, reason=f"native part: {native.missing}")

ISAS = native.isas_found() if native.missing is None else []


def everything(params: Any, opt: fastopt.Optimizer) -> list[bytes]:
    """Return the bytes of all parameters and of all state, with NaNs made alike: their payloads are not promised."""
    arrays = [*params, *(array for slots in opt.state.values() for array in slots.values())]
    return [
        np.where(np.isnan(array), np.nan, array).tobytes() if array.dtype.kind == "f" else array.tobytes()
        for array in arrays
    ]
