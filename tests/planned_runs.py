"""Runs that are planned, and the same runs without plans: whatever happens in between, both must look the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import BFLOAT16, TwoOptimizers

import fastopt
from fastopt.backends.native import library as native
from fastopt.schedules import warmup_cosine

#: A run is planned from its third step on; a trouble comes after so many steps, and is undone after some more.
BEFORE, BETWEEN, AFTER = 6, 2, 4

SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), (), (3, 2), (0, 2)]
LARGE: list[tuple[int, ...]] = [(200, 200), (3,), (), (3, 2), (0, 2)]
IN_8_BITS: list[tuple[int, ...]] = [(128, 33), (3,), (), (60, 70), (0, 2)]


def plans() -> Any:
    """Return the module that makes plans; it needs the native part."""
    return import_module("fastopt.backends.native.plan")


needs_plans = pytest.mark.skipif(native.missing is not None or not plans().are_made, reason="no plans are made here")


@contextmanager
def without_plans(monkeypatch: pytest.MonkeyPatch, has_known_layout: bool = True) -> Iterator[None]:
    """Make whole steps alone; also as where the layout of NumPy's objects is not known."""
    with monkeypatch.context() as patched:
        patched.setattr(plans(), "are_made", False)
        patched.setattr(import_module("fastopt.backends.native.ndarrays"), "has_known_ndarrays", has_known_layout)
        yield


f16, f32, f64 = np.float16, np.float32, np.float64


class OptionSet(NamedTuple):
    """An optimizer with its options, and the arrays that it gets."""

    name: str
    optimizer: type[fastopt.Optimizer]
    options: dict[str, Any]
    form: str = "nested"
    dtypes: Any = (f32, f64)
    shapes: list[tuple[int, ...]] = SHAPES
    order: Any = "C"
    before: int = BEFORE

    def __str__(self) -> str:
        return self.name

    @property
    def defaults(self) -> dict[str, Any]:
        """The options of its groups."""
        return defaults_of(self.optimizer)


@cache
def defaults_of(optimizer: type[fastopt.Optimizer]) -> dict[str, Any]:
    return optimizer(np.zeros(1), lr=0.1).defaults


def schedule(step: int) -> float:
    return 0.1 / (1 + step)


OPTION_SETS = [
    OptionSet("sgd", fastopt.SGD, {}, "list"),
    OptionSet("momentum", fastopt.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    OptionSet("adam_scheduled", fastopt.Adam, {"lr": warmup_cosine(0.1, warmup=4, total=30), "weight_decay": 0.1}),
    OptionSet(
        "adamw_groups", fastopt.AdamW, {"clip_global_norm": 0.5, "weight_decay": 0.1, "betas": (0.8, 0.9)}, "groups"
    ),
    OptionSet("adamw_scheduled_decay", fastopt.AdamW, {"weight_decay": schedule}, "groups"),
    OptionSet("skip_ema", fastopt.Adam, {"nonfinite": "skip", "nonfinite_limit": 2, "ema_decay": 0.9}),
    OptionSet(
        "raise_clip_norm",
        fastopt.SGD,
        {"momentum": 0.9, "dampening": 0.3, "nonfinite": "raise", "clip_norm": 0.7, "clip_value": 0.9},
    ),
    OptionSet(
        "clip_both_norms",
        fastopt.Adam,
        {"clip_norm": 0.7, "clip_global_norm": 0.5, "skip_above": 2.0, "l1": 0.01},
        "list",
    ),
    OptionSet("zero_grads", fastopt.Adam, {"zero_grads": True, "ema_decay": 0.9, "ema_bias_correction": True}),
    OptionSet("accumulate_first", fastopt.SGD, {"momentum": 0.9, "accumulate_steps": 2, "polyak": True}),
    OptionSet(
        "accumulate_last", fastopt.Adam, {"accumulate_steps": 2, "clip_global_norm": 0.5, "prox_l1": 0.1}, before=7
    ),
    OptionSet("bounds_of_elements", fastopt.SGD, {"bounds": "elements", "momentum": 0.9}, order="F"),
    OptionSet("rounded_bounds", fastopt.AdamW, {"bounds": (-0.1, 0.1), "cautious_decay": True}, dtypes=(f16, f64)),
    OptionSet("masters", fastopt.SGD, {"momentum": 0.9, "maximize": True}, dtypes=(f16, f16), form="list"),
    OptionSet("copies", fastopt.AdamW, {"copy_to": f16}, dtypes=(f32, f32)),
    OptionSet("uint8", fastopt.Adam, {"state_dtype": "uint8", "seed": 3}, dtypes=(f32, f32), shapes=IN_8_BITS),
    OptionSet("one_array", fastopt.SGD, {"momentum": 0.5}, "single"),
    OptionSet("one_0d_array", fastopt.Adam, {"polyak": True}, "single", shapes=[()], dtypes=(f64,)),
    OptionSet("fortran", fastopt.RMSprop, {"momentum": 0.9, "lr": schedule}, order="F"),
    OptionSet("combined", TwoOptimizers, {"clip_global_norm": 0.5, "weight_decay": 0.1, "ema_decay": 0.9}),
    OptionSet("large", fastopt.SGD, {"momentum": 0.9, "clip_global_norm": 0.5}, shapes=LARGE),
]
if BFLOAT16 is not None:
    OPTION_SETS += [
        OptionSet("bfloat16", fastopt.AdamW, {"copy_to": BFLOAT16, "polyak": True}, "list", dtypes=(f32, f32)),
        OptionSet(
            "stochastic_rounding", fastopt.Adam, {"stochastic_rounding": True}, "groups", dtypes=(BFLOAT16, BFLOAT16)
        ),
    ]


def structure(form: str, leaves: list[Any]) -> Any:
    """Return the leaves in the structure of gradients."""
    if form == "single":
        return leaves[0]
    a, b, c, d, e = leaves
    if form == "list":
        return [a, b, c, d, e]
    if form == "groups":
        return [[a, b], c, {"x": d, "y": e}]
    return {"hidden": {"W": a, "b": b}, "scale": c, "out": [d, e]}


class Run:
    """One optimizer, and what was seen of it after each step.

    A trouble is a function of the run. It changes ``opt``, ``params``, ``arrays``, or the next step's ``grads``,
    ``given`` and ``keywords``, or sets ``each_step``, a trouble of each step from then on. It may return a function
    that undoes what it did.
    """

    def __init__(self, its: OptionSet) -> None:
        self.rng = np.random.default_rng(3)
        self.its, self.form = its, its.form
        shapes = its.shapes[:1] if its.form == "single" else its.shapes
        self.arrays: list[Any] = [
            np.array(self.rng.normal(size=shape), its.dtypes[i % len(its.dtypes)], order=its.order)
            for i, shape in enumerate(shapes)
        ]
        self.arrays[0], self.around = with_room(self.arrays[0], its.order)
        options = {"lr": 0.1, **its.options}
        if "copy_to" in options:
            copies = [np.empty_like(array, options["copy_to"]) for array in self.arrays]
            options["copy_to"] = structure(self.form, copies)
        if options.get("bounds") == "elements":
            options["bounds"] = -9.0, structure(self.form, [array + 0.3 for array in self.arrays])
        self.params = structure(self.form, self.arrays)
        if self.form == "groups":
            self.params = [{"params": part} for part in self.params]
            self.params[1]["lr"] = 0.05
        self.opt = its.optimizer(self.params, backend="native", **options)
        self.saved: list[Any] = []
        self.grads: list[Any] = []
        self.given: Any = None
        self.passed: Any = None
        self.keywords: dict[str, Any] = {}
        self.each_step: Callable[[Run], Any] | None = None
        self.is_bad_now = False
        self.seen: list[Any] = []

    @property
    def group(self) -> dict[str, Any]:
        """The options of the last group."""
        return self.opt.param_groups[-1]

    @property
    def kind(self) -> dict[str, Any]:
        """The option that names the class of a new group's optimizer, where there are several."""
        return {"optimizer": self.group["optimizer"]} if "optimizer" in self.group else {}

    def new_grads(self) -> list[Any]:
        return [
            np.array(self.rng.normal(size=array.shape), array.dtype, order=self.its.order)
            for array in self.opt.parts.parameters.arrays
        ]

    def step(self, trouble: Callable[[Run], Any] | None = None) -> Any:
        """Make a step, and note what is seen then; return what the trouble returns."""
        self.grads, self.given, self.keywords = self.new_grads(), None, {}
        undo = trouble(self) if trouble is not None else None
        if self.each_step is not None:
            self.each_step(self)
        self.passed = self.given if self.given is not None else self.structure()
        try:
            info = self.opt.step(self.passed, **self.keywords)
            facts = *info, info.lrs, info.norms, info.skipped
            told: list[Any] = [(type(value), repr(value)) for value in (info, *facts)]
        except BaseException as error:
            told = [(type(error), re.sub("0x[0-9a-f]+", "0x", str(error)))]
        self.seen.append({"told": told, **self.state(), "grads": list(map(bits, self.grads))})
        return undo

    def structure(self) -> Any:
        """Return the gradients in their structure; those of arrays that were added come last."""
        count = len(self.its.shapes) if self.form != "single" else 1
        grads = structure(self.form, self.grads[:count])
        more = self.grads[count:]
        if isinstance(grads, dict):
            return grads | {f"added{k}": grad for k, grad in enumerate(more)}
        return grads if not more else [*grads, *more] if isinstance(grads, list) else [grads, *more]

    def state(self) -> dict[str, Any]:
        opt = self.opt
        copies = [array for array in opt.parts.parameters.copies if array is not None]
        return {
            "params": list(map(bits, [*opt.parts.parameters.arrays, *copies])),
            "state": {(name, slot): bits(its[slot]) for name, its in opt.state.items() for slot in its},
            "counts": (opt.step_count, opt.accumulated_calls, opt.skipped_steps),
            "frozen": opt.frozen,
        }

    def go(self, trouble: Callable[[Run], Any]) -> int:
        """Make all steps, the trouble among them; return how many were planned before it."""
        for k in range(self.its.before):
            self.step()
            if k == 1:
                self.saved.append(self.opt.state_dict())
        planned = self.opt.planned_steps
        undo = self.step(trouble)
        for _ in range(BETWEEN - 1):
            self.step()
        if undo is not None:
            undo()
        for _ in range(AFTER):
            self.step()
        return planned


def with_room(array: Any, order: Any) -> tuple[Any, Any]:
    """Return an array like this one in the middle of a longer run of memory, and that run."""
    around = np.full(3 * array.size, 0.5, array.dtype)
    middle = around[array.size : 2 * array.size].reshape(array.shape, order=order)
    middle[...] = array
    return middle, around


def bits(value: Any) -> Any:
    """Return all that distinguishes two arrays, or two other values."""
    is_bytes = isinstance(value, np.ndarray) and not value.dtype.hasobject and value.dtype.char != "g"
    if is_bytes:  # a longdouble has bytes that mean nothing
        return value.shape, value.dtype.str, np.ma.getdata(value).tobytes()
    return type(value), re.sub("0x[0-9a-f]+", "0x", repr(value))


def check_same(found: Run, expected: Run) -> None:
    """Compare all that was seen of two runs."""
    assert len(found.seen) == len(expected.seen)
    for k, (ours, theirs) in enumerate(zip(found.seen, expected.seen, strict=True), 1):
        for part, value in theirs.items():
            assert ours[part] == value, f"{part} after step {k}"


def check_like_unplanned(its: OptionSet, trouble: Callable[[Run], Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run once planned and once with plans off; return the planned run."""
    planned = Run(its)
    assert planned.go(trouble) >= its.before - 2, "the steps before the trouble are planned"
    with without_plans(monkeypatch):
        whole = Run(its)
        assert whole.go(trouble) == 0
    check_same(planned, whole)
    return planned
