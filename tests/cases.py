"""One row for each optimizer variant: every property test runs over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from tiers import rest_of_grid

import fastopt
from fastopt.backends.native import library as native
from fastopt.core.slots import known_slots
from fastopt.options.bounds import split
from fastopt.rules import maximum, sign, sqrt, where


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


@fastopt.optimizer(lr=1e-3, beta=0.9, keep=0.99, eps=1e-8, non_negative=("v",))
def Lamprey(h: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    """A rule that nobody has."""
    m = h.beta * m + (1 - h.beta) * g
    v = maximum(h.keep * v, g**2)
    p = p - h.lr * where(m * g > 0, m, 0.5 * m) / (sqrt(v) + h.eps)
    return p, m, v


@fastopt.optimizer(
    lr=1e-2,
    betas=(0.9, 0.99),
    non_negative=("v",),
    slots={"v": 1.0},
    scalars=lambda h, t: {"step_size": h.lr / (1 - h.betas[0] ** t)},
)
def Tench(h: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    """One with all that a rule may have."""
    fast, slow = h.betas
    m = fast * m + (1 - fast) * g
    v = where((g >= 0) & (m > 0) | ~(v < 1e3), slow * v + (1 - slow) * g**2, v)
    p -= h.step_size * where((p <= 1) ^ (g != m) | (g == 0), m, 0.5 * sign(m) * abs(m)) / (v**0.5 + 1e-8)
    return p, m, v


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
    Case(fastopt.Adam, {"lr": 0.01, "amsgrad": "corrected", "weight_decay": 0.1}),
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
    Case(
        fastopt.FTRL,
        {
            "lr": 0.5,
            "initial_accumulator_value": 0.0,
            "l1_regularization_strength": 0.3,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.2,
            "beta": 1.0,
            "weight_decay": 0.1,
            "maximize": True,
        },
    ),
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
    # Rules of one's own.
    Case(Lamprey, {"lr": 0.01}),
    Case(Tench, {"lr": 0.01, "weight_decay": 0.1}),
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
    Case(
        fastopt.Prodigy,
        {
            "lr": 0.5,
            "betas": (0.8, 0.99),
            "beta3": 0.9,
            "d0": 0.01,
            "d_coef": 3000.0,
            "growth_rate": 1.5,
            "safeguard_warmup": True,
            "use_bias_correction": True,
            "weight_decay": 0.1,
            "clip_norm": 0.7,
        },
    ),
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


class TwoOptimizers(fastopt.Combined):
    """A Combined in which every second array has another optimizer; options of groups are those of both."""

    kinds: tuple[Any, Any] = (fastopt.SGD, {"momentum": 0.9}), (fastopt.AdamW, {"betas": (0.8, 0.99)})

    def __init__(self, params: Any, lr: Any = 0.01, **common: Any) -> None:
        plain = fastopt.SGD(params)
        of_groups = {"lr": lr, **{name: common.pop(name) for name in [*common] if name in plain.defaults}}
        of_groups["bounds"], common["bounds"] = split(of_groups.get("bounds"))
        first = plain.parts.parameters.names[::2]
        one, other = ((optimizer, {**options, **of_groups}) for optimizer, options in self.kinds)
        parts = [(lambda name, p: name in first, one), ("*", other)]
        super().__init__(params, parts if len(plain.parts.parameters.names) > 1 else {"*": other}, **common)


class TwoOfWholeArrays(TwoOptimizers):
    """One whose parts both need whole arrays."""

    kinds = (fastopt.LAMB, {"weight_decay": 0.1}), (fastopt.Adafactor, {})
    refused: ClassVar[Mapping[str, str]] = {**fastopt.LAMB.refused, **fastopt.Adafactor.refused}


class WithOneOfWholeArrays(TwoOptimizers):
    """One of whose parts needs whole arrays."""

    kinds = (fastopt.Adam, {}), (fastopt.SWATS, {"eps": 0.1})


#: Several optimizers in one step.
COMBINED_CASES = [Case(kind, {"lr": 0.01}) for kind in (TwoOptimizers, TwoOfWholeArrays, WithOneOfWholeArrays)]

#: Those whose slots and averages get tiny: flushed, not flushed, and with an eps that forbids it.
TINY_CASES = [
    Case(fastopt.Adam, {"lr": 0.01, "ema_decay": 0.5}),
    Case(fastopt.Adam, {"lr": 0.01, "eps": 0.0, "ema_decay": 0.5}),
    Case(fastopt.SGD, {"lr": 0.01, "momentum": 0.9, "prox_l1": 0.5}),
    Case(fastopt.Lion, {"lr": 0.01, "polyak": True}),
    Case(fastopt.LAMB, {"lr": 0.01}),
]

DTYPES = (np.float32, np.float64)

try:
    import ml_dtypes

    BFLOAT16: Any = np.dtype(ml_dtypes.bfloat16)
except ModuleNotFoundError:
    BFLOAT16 = None


def warm_decay(t: int) -> float:
    return min(0.9999, (1 + t) / (10 + t))


#: A covering table of the options: each is there, alone and among others.
OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.9},
    "ema of a function": {"ema_decay": warm_decay, "ema_start": "zero", "clip_global_norm": np.inf},
    "ema corrected, zero_grads": {"ema_decay": 0.9, "ema_bias_correction": True, "zero_grads": True},
    "polyak": {"polyak": True, "polyak_start": 2},
    "l1": {"l1": 0.1, "zero_grads": True},
    "prox_l1": {"prox_l1": 0.3, "ema_decay": 0.5},
    "max_weight_norm": {"max_weight_norm": 2.0, "ema_decay": 0.5},
    "max_weight_norm of rows": {
        "max_weight_norm": 1.5,
        "max_weight_norm_axis": -1,
        "zero_grads": True,
        "nonfinite": "skip",
    },
    "bounds, cautious_decay": {
        "bounds": (-0.5, 0.7),
        "ema_decay": 0.5,
        "cautious_decay": True,
        "decoupled": True,
        "weight_decay": 0.3,
    },
    "bounds of elements": {"bounds": "elements", "zero_grads": True, "accumulate_steps": 2},
    "grad_scale": {"grad_scale": 1024.0, "nonfinite": "skip"},
    "accumulate": {"accumulate_steps": 2, "zero_grads": True, "ema_decay": 0.9, "grad_scale": 3.0},
    "accumulate, clip": {"accumulate_steps": 3, "clip_global_norm": 0.5, "nonfinite": "raise", "l1": 0.01},
    "skip_above": {"skip_above": 1000.0, "accumulate_steps": 2, "zero_grads": True},
    "all": {
        "ema_decay": 0.9,
        "zero_grads": True,
        "l1": 0.1,
        "prox_l1": 0.01,
        "grad_scale": 8.0,
        "nonfinite": "skip",
        "clip_value": 2.0,
        "clip_norm": 9.0,
        "clip_global_norm": 5.0,
        "maximize": True,
    },
}
#: Those of storage: for parameters that are computed in float32.
STORAGE: dict[str, dict[str, Any]] = {
    "copy": {"copy_to": BFLOAT16},
    "copy float16": {"copy_to": np.dtype(np.float16), "polyak": True},
    "float16": {"params": np.dtype(np.float16), "ema_decay": 0.9, "bounds": (-0.3, 0.7)},
    "bfloat16": {"params": BFLOAT16, "zero_grads": True},
    "bfloat16 without master": {
        "params": BFLOAT16,
        "stochastic_rounding": True,
        "seed": 5,
        "ema_decay": 0.9,
        "bounds": (-0.3, 0.7),
    },
    "bfloat16 slots": {"state_dtype": "bfloat16", "seed": 2**64 - 1},
    "8-bit slots": {"state_dtype": "uint8"},
    "8-bit slots, copy": {"state_dtype": "uint8", "copy_to": BFLOAT16, "zero_grads": True, "accumulate_steps": 2},
    "all in few bits": {"params": BFLOAT16, "stochastic_rounding": True, "state_dtype": "uint8", "polyak": True},
}


def by_rule(cases: list[Case]) -> list[Any]:
    """Return values of a parameter: the first case with each rule of an optimizer, and the others as rest of a grid."""
    found, rules = [], set()
    for case in cases:
        opt = case.build(np.zeros(1))
        rule = case.optimizer, opt.rule(opt.param_groups[0])
        found.append(pytest.param(case, id=str(case), marks=rest_of_grid if rule in rules else ()))
        rules.add(rule)
    return found


GPU_CASES = [case for case in CASES if case.optimizer.runs_on_gpu]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_gpu_case = pytest.mark.parametrize("case", GPU_CASES, ids=str)
every_rule = pytest.mark.parametrize("case", by_rule(CASES))
every_gpu_rule = pytest.mark.parametrize("case", by_rule(GPU_CASES))
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
needs_native = pytest.mark.skipif(native.missing is not None, reason=f"native part: {native.missing}")

ISAS = native.isas_found() if native.missing is None else []


def taken_by(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that an optimizer takes."""
    refused = {*case.optimizer.refused}
    if "ema_decay" in refused:
        refused |= {"ema_start", "ema_bias_correction", "polyak_start"}
    return {name: value for name, value in options.items() if name not in refused}


def raw(array: Any) -> bytes:
    """Return an array's bytes, with NaNs made alike: their payloads are not promised."""
    if array.dtype.kind == "f" or array.dtype == BFLOAT16:
        with np.errstate(invalid="ignore"):
            array = np.where(np.isnan(array.astype(np.float64)), np.array(np.nan, array.dtype), array)
    return array.tobytes()


def built(
    case: Case, start: list[Any], options: dict[str, Any], to: Callable[[Any], Any] = list, **more: Any
) -> fastopt.Optimizer:
    """Return an optimizer over copies of ``start``: in the dtype ``params``, with copies of the dtype ``copy_to``.

    ``to`` puts arrays where they are to be. The bounds "elements" are arrays around the start.
    """
    options = dict(options)
    kind = options.pop("params", None)
    params = [array.copy() if kind is None else array.astype(kind) for array in start]
    if "copy_to" in options:
        options["copy_to"] = to([np.empty(param.shape, options["copy_to"]) for param in params])
    if options.get("bounds") == "elements":
        options["bounds"] = [array - 0.0625 for array in start], to([array + array.dtype.type(0.05) for array in start])
    return case.build(to(params), **{**options, **more})


def bytes_of_run(
    case: Case, dtype: Any, options: dict[str, Any], sizes: Any, place: Callable[[Any], Any] | None = None
) -> list[bytes]:
    """Return the bytes of everything after a few steps, in which gradients come and go and are not all finite.

    ``place`` puts arrays on a GPU; None: steps run in NumPy.
    """
    rng = np.random.default_rng(6)
    start = [rng.normal(size=size).astype(dtype) for size in sizes]
    opt = built(case, start, options, **({"backend": "numpy"} if place is None else {"to": place}))
    told = []
    for step in range(4):
        grads: list[Any] = [rng.normal(size=size).astype(dtype) for size in sizes]
        if step == 2 and options.get("nonfinite") == "skip":
            grads[2][:1] = np.nan
        elif step == 3 and "skip_above" in options:
            grads[2] *= 1e4
        given = grads if place is None else place(grads)
        info = opt.step([None if step == 1 and i == 0 else grad for i, grad in enumerate(given)])
        told.append(repr((*info, info.lrs, info.norms, info.skipped)).encode())
        told += [raw(opt.parts.backend.ops.on_host(grad)) for grad in given]
    slots_in_8_bits = [slots for slots in opt.state.values() if any(slot + "_scale" in slots for slot in slots)]
    has_slots = {*opt.state["0"]} & known_slots() - case.optimizer.exact
    assert bool(slots_in_8_bits) == (options.get("state_dtype") == "uint8" and bool(has_slots))
    arrays = [*opt.parts.parameters.arrays, *(copy for copy in opt.parts.parameters.copies if copy is not None)]
    state = [array for slots in opt.state.values() for _, array in sorted(slots.items())]
    return [*told, *(raw(opt.parts.backend.ops.on_host(array)) for array in (*arrays, *state))]


def covering() -> list[Any]:
    """Return every case with three rows of options, by turns, and some cases with all rows."""
    rows = {**OPTIONS, **STORAGE}
    pairs = []
    for i, case in enumerate(case for case in CASES if case.optimizer.runs_on_gpu):
        names = [name for name, row in rows.items() if taken_by(case, row)]
        some = names if str(case) in ("SGD", "Adam", "AdamW") else [names[(i + k) % len(names)] for k in (0, 5, 10)]
        pairs += [(case, name) for name in dict.fromkeys(some)]
    return [
        pytest.param(case, dtype, taken_by(case, rows[name]), id=f"{case}-{name}-{dtype.__name__}")
        for case, name in pairs
        for dtype in ((np.float32,) if name in STORAGE else DTYPES)
    ]


covering_gpu_options = pytest.mark.parametrize(("case", "dtype", "options"), covering() if BFLOAT16 is not None else [])


def everything(params: Any, opt: fastopt.Optimizer) -> list[bytes]:
    """Return the bytes of all parameters and of all state, with NaNs made alike: their payloads are not promised."""
    arrays = [*params, *(array for slots in opt.state.values() for _, array in sorted(slots.items()))]
    return [
        np.where(np.isnan(array), np.nan, array).tobytes() if array.dtype.kind == "f" else array.tobytes()
        for array in arrays
    ]


def shown(value: object) -> str | None:
    if isinstance(value, dict):
        return "-".join(f"{name}={getattr(option, '__name__', option)}" for name, option in value.items())
    return getattr(value, "__name__", None)
