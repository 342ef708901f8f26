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


def decoupled_like_torch(optimizer: type[fastopt.Optimizer], **options: Any) -> Case:
    torch_options = {**options, "decoupled_weight_decay": True}
    return Case(optimizer, {**options, "decoupled": True}, (optimizer.__name__, torch_options))


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
    Case(fastopt.SparseAdam, {"lr": 0.01, "betas": (0.8, 0.99)}),
    like_torch(fastopt.AdamW, lr=0.01),
    like_torch(fastopt.AdamW, lr=0.01, weight_decay=0.3, amsgrad=True, maximize=True),
    like_torch(fastopt.Adadelta, lr=0.5),
    like_torch(fastopt.Adadelta, lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.1, maximize=True),
    Case(fastopt.Adadelta, {"lr": 0.5, "weight_decay": 0.001, "decoupled": True}),
    like_torch(fastopt.Adamax, lr=0.01),
    like_torch(fastopt.Adamax, lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1, maximize=True),
    like_torch(fastopt.NAdam, lr=0.01),
    like_torch(fastopt.NAdam, lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1, momentum_decay=0.1),
    decoupled_like_torch(fastopt.NAdam, lr=0.01, weight_decay=0.1, maximize=True),
    like_torch(fastopt.RAdam, lr=0.01),
    like_torch(fastopt.RAdam, lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, maximize=True),
    decoupled_like_torch(fastopt.RAdam, lr=0.01, weight_decay=0.1),
    like_torch(fastopt.Rprop, lr=0.01),
    like_torch(fastopt.Rprop, lr=0.01, etas=(0.4, 1.5), step_sizes=(1e-3, 0.1), maximize=True),
    Case(fastopt.Rprop, {"lr": 0.01, "weight_decay": 0.1}),
    like_torch(fastopt.ASGD, lr=0.1),
    like_torch(fastopt.ASGD, lr=0.1, lambd=0.1, alpha=0.5, t0=1.0, weight_decay=0.1, maximize=True),
    Case(fastopt.DeltaBarDelta, {"lr": 0.1}),
    Case(fastopt.DeltaBarDelta, {"lr": 0.1, "beta": 0.3, "momentum": 0.9, "weight_decay": 0.1}),
    Case(fastopt.DeltaBarDelta, {"lr": 0.1, "momentum": 0.9, "against_momentum": True, "gain_limits": (0.9, 1.1)}),
    Case(fastopt.Lion, {"lr": 0.01}),
    Case(fastopt.Lion, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    Case(fastopt.Signum, {"lr": 0.01, "weight_decay": 0.1}),
    Case(fastopt.Signum, {"lr": 0.01, "momentum": 0.0}),
    Case(fastopt.AdaBelief, {"lr": 0.01}),
    Case(fastopt.AdaBelief, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "eps_root": 1e-3, "weight_decay": 0.1}),
    Case(fastopt.Yogi, {"lr": 0.01, "weight_decay": 0.1, "decoupled": True}),
    Case(fastopt.Adan, {"lr": 0.01}),
    Case(fastopt.Adan, {"lr": 0.01, "betas": (0.9, 0.8, 0.95), "eps_root": 0.0, "weight_decay": 0.1, "paper": True}),
    Case(fastopt.AdEMAMix, {"lr": 0.01}),
    Case(fastopt.AdEMAMix, {"lr": 0.01, "alpha": 2.0, "beta3": 0.99, "warmup": 3, "weight_decay": 0.1}),
    Case(fastopt.ScheduleFreeSGD, {"lr": 0.1}),
    Case(fastopt.ScheduleFreeSGD, {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.1, "warmup_steps": 2, "r": 1.0}),
    Case(fastopt.ScheduleFreeAdamW, {"lr": 0.01}),
    Case(fastopt.ScheduleFreeAdamW, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1, "warmup_steps": 2}),
    # Numbers of whole arrays.
    Case(fastopt.LARS, {"lr": 0.1, "trust_coefficient": 0.1}),
    Case(fastopt.LARS, {"lr": 0.1, "trust_coefficient": 0.1, "nesterov": True, "weight_decay": 0.1, "eps": 0.1}),
    Case(fastopt.LAMB, {"lr": 0.01}),
    Case(fastopt.LAMB, {"lr": 0.01, "betas": (0.8, 0.99), "eps_root": 1e-3, "weight_decay": 0.1, "clip_norm": 0.7}),
    like_torch(fastopt.Adafactor, lr=0.1),
    like_torch(fastopt.Adafactor, lr=0.1, beta2_decay=-0.5, eps=(1e-4, 1e-2), d=2.0, weight_decay=0.1, maximize=True),
    Case(fastopt.Adafactor, {"weight_decay": 0.1, "decoupled": False, "clip_norm": 0.7}),
    Case(fastopt.SWATS, {"lr": 0.01}),
    # Settles at once, so that both phases and the switch are in three steps.
    Case(fastopt.SWATS, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1, "decoupled": True, "clip_norm": 0.7}),
    Case(fastopt.SWATS, {"lr": 0.01, "eps": 0.1, "weight_decay": 0.1, "per_group": True}),
    # The pipeline around the rule.
    Case(fastopt.SGD, {"lr": 0.1, "clip_value": 0.5}),
    Case(fastopt.SGD, {"lr": 0.1, "clip_norm": 0.7, "weight_decay": 0.1}),
    Case(fastopt.AdamW, {"lr": 0.01, "clip_global_norm": 1.0, "maximize": True}),
    Case(fastopt.Adam, {"lr": 0.01, "clip_value": 1.0, "clip_norm": 3.0, "clip_global_norm": 2.0, "weight_decay": 0.1}),
    Case(fastopt.Adam, {"lr": fastopt.schedules.warmup_cosine(0.01, warmup=3, total=10)}),
]

#: Those for matrices alone.
MATRIX_CASES = [
    Case(fastopt.Muon, {"lr": 0.02}),
    Case(fastopt.Muon, {"lr": 0.02, "nesterov": False, "weight_decay": 0.1, "decoupled": False, "ns_steps": 3}),
]

DTYPES = (np.float32, np.float64)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_gpu_case = pytest.mark.parametrize("case", [case for case in CASES if case.optimizer.runs_on_gpu], ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
needs_native = pytest.mark.skipif(native.missing is not None, reason=f"native part: {native.missing}")

ISAS = native.isas_found() if native.missing is None else []


def everything(params: Any, opt: fastopt.Optimizer) -> list[bytes]:
    """Return the bytes of all parameters and of all state, with NaNs made alike: their payloads are not promised."""
    arrays = [*params, *(array for slots in opt.state.values() for _, array in sorted(slots.items()))]
    return [
        np.where(np.isnan(array), np.nan, array).tobytes() if array.dtype.kind == "f" else array.tobytes()
        for array in arrays
    ]
