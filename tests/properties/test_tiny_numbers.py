"""Tiny numbers: which slots are flushed and when, with the same bits everywhere, and no parameter the worse for it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, ISAS, MATRIX_CASES, Case, every_case, every_dtype, everything, needs_native, taken_by
from planned_runs import needs_plans, without_plans
from tiny_numbers import tiny_count, with_tiny_numbers

import fastopt
from fastopt.arithmetic import operations, rules, tiny
from fastopt.backends.native import library as native
from fastopt.backends.numpy.calls import Trace, Value

SIZES: Any = (1, 37, 2049, (5, 7))
RULES = {
    name: rule for name, rule in vars(rules).items() if inspect.isfunction(rule) and rule.__module__ == rules.__name__
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))

#: Those of CASES have weight decay, which keeps their slots from getting tiny.
WITH_SIGNS = [
    Case(fastopt.Signum, {"lr": 0.01, "momentum": 0.5}),
    Case(fastopt.DeltaBarDelta, {"lr": 0.1, "momentum": 0.5, "against_momentum": True}),
]

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"ema_decay": 0.9, "prox_l1": 0.01},
    "polyak": {"polyak": True, "max_weight_norm": 2.0},
    "accumulate": {"accumulate_steps": 2, "ema_decay": 0.9, "ema_bias_correction": True},
    "8 bits": {"state_dtype": "uint8"},
}


def run(case: Case, dtype: Any, options: dict[str, Any], backend: str, steps: int = 3) -> tuple[Any, fastopt.Optimizer]:
    """Step from a state with tiny numbers; the first array's gradient is 0, the last one's is missing once."""
    rng = np.random.default_rng(3)
    params = [rng.normal(size=size).astype(dtype) for size in SIZES]
    params[1][:9] = 0
    opt = case.build(params, backend=backend, **taken_by(case, options))
    opt.step([rng.normal(size=size).astype(dtype) for size in SIZES])
    opt.step([rng.normal(size=size).astype(dtype) for size in SIZES])
    opt.load_state_dict(with_tiny_numbers(opt.state_dict(), rng))
    for step in range(steps * options.get("accumulate_steps", 1)):
        grads: list[Any] = [rng.normal(size=size).astype(dtype) for size in SIZES]
        grads[0][:] = 0
        grads[1][:20] = 0
        if step == 1:
            grads[3] = None
        opt.step(grads)
    return everything(params, opt), opt


@needs_native
@pytest.mark.by_turns("case")
@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        pytest.param(options, dtype, id=f"{name}-{dtype.__name__}")
        for name, options in OPTIONS.items()
        for dtype in ((np.float32,) if "state_dtype" in options else DTYPES)
    ],
)
@every_case
def test_native_is_numpy(case: Case, options: dict[str, Any], dtype: Any) -> None:
    expected, _ = run(case, dtype, options, "numpy")
    for isa in ISAS:
        native.use_isa(isa)
        assert run(case, dtype, options, "native")[0] == expected
    native.use_isa(None)


@needs_plans
@pytest.mark.by_turns("case")
@every_dtype
@every_case
def test_planned_steps(case: Case, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows of different steps, some of which flush and others not."""
    planned, opt = run(case, dtype, {"ema_decay": 0.9}, "native", steps=20)
    with without_plans(monkeypatch):
        assert run(case, dtype, {"ema_decay": 0.9}, "native", steps=20)[0] == planned
    is_plannable = opt.parts.workspace.planning.is_possible  # type: ignore[union-attr]
    assert opt.planned_steps >= 15 or not is_plannable


@pytest.mark.by_turns("case")
@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])
@pytest.mark.parametrize("case", CASES + MATRIX_CASES, ids=str)
def test_slots_and_averages_are_flushed_in_every_16th_step(case: Case, backend: str) -> None:
    rng = np.random.default_rng(0)
    param = rng.normal(size=(4, 9)).astype(np.float32)
    param[0] = 0
    opt = case.build([param], backend=backend, **taken_by(case, {"ema_decay": 0.9}))
    opt.step([np.zeros_like(param)])
    opt.load_state_dict(with_tiny_numbers(opt.state_dict(), rng, before=3))
    rule = opt.rule(opt.parts.groups.checked[0].values)
    is_flushed = tiny.is_flushed(rule) and tiny.has_safe_eps(rule, opt.param_groups[0])
    slots = [slot for slot in opt.slot_names(rule, param) if case.optimizer is not fastopt.Adafactor]
    before = {slot: tiny_count(opt.state["0"][slot]) for slot in slots}
    for _ in range(2):
        opt.step([np.zeros_like(param)])
    had = {slot: tiny_count(opt.state["0"][slot]) for slot in [*slots, *(["ema"] if "ema" in opt.state["0"] else [])]}
    opt.step([np.zeros_like(param)])
    assert opt.state["0"]["step"] == tiny.FLUSH_STEPS
    for slot, count in had.items():
        now = tiny_count(opt.state["0"][slot])
        assert now == 0 if is_flushed or slot == "ema" else count == 0 or now > 0, slot
    assert any(before.values()) or not slots


def depends_on_slots(rule: Any) -> bool:
    """Return whether a rule takes the sign of a value that a slot is part of, or compares one."""
    scalars = inspect.signature(rule, eval_str=True).parameters["h"].annotation
    fields, slots = len(scalars._fields), len(operations.slots(rule))
    trace = Trace(fields + 2 + slots, range(fields), ())
    values = [Value(trace, number) for number in range(trace.inputs)]
    rule(scalars(*values[:fields]), *values[fields:])
    tainted = set(range(fields + 2, trace.inputs))
    found = False
    for number, function, operands in trace.calls:
        if tainted.intersection(operands):
            tainted.add(number)
            found |= function is np.sign or trace.kinds[number].is_bool
    return found


@every_rule
def test_no_slot_is_flushed_whose_sign_counts(rule: Any) -> None:
    """Yogi multiplies the sign by the gradient's square, which is the greater of the two numbers or as tiny."""
    assert not depends_on_slots(rule) or rule in tiny.UNFLUSHED or rule is rules.yogi


def test_signs_are_found() -> None:
    found = {name for name, rule in RULES.items() if depends_on_slots(rule)}
    assert found == {"lion", "signum", "rprop", "delta_bar_delta", "delta_bar_delta_last_grad", "ftrl", "yogi"}


@pytest.mark.by_turns("case")
@every_dtype
@pytest.mark.parametrize("case", [*CASES, *MATRIX_CASES, *WITH_SIGNS], ids=str)
def test_no_parameter_changes_by_a_bit(case: Case, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of 1 down to the smallest normal number that become 0, stay constant, or come back."""
    sizes = np.logspace(0, np.log10(np.finfo(dtype).smallest_normal), 13).astype(dtype)

    def params_of_run(is_flushing: bool) -> list[bytes]:
        rng = np.random.default_rng(1)
        params = [np.linspace(0.5, 2, 3).astype(dtype).reshape(1, 3) for _ in sizes]
        opt = case.build(params)
        with monkeypatch.context() as patched:
            if not is_flushing:
                patched.setattr(tiny, "is_due", lambda step: False)
            kinds = (lambda: rng.normal(size=3), lambda: np.zeros(3), lambda: np.ones(3), lambda: rng.normal(size=3))
            for make, steps in zip(kinds, (10, 60, 20, 20), strict=True):
                for _ in range(steps):
                    grad = make().astype(dtype).reshape(1, 3)
                    opt.step([grad * size for size in sizes])
        return [param.tobytes() for param in params]

    with without_plans(monkeypatch):
        assert params_of_run(True) == params_of_run(False)


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])
@pytest.mark.parametrize(
    ("options", "is_flushed"),
    [
        ({}, True),
        ({"eps": 1e-11}, True),
        ({"eps": 0.0}, False),
        ({"eps": 1e-12}, False),
        ({"eps": 0.0, "eps_root": 1e-16}, True),
        ({"eps": 0.0, "eps_root": 1e-30}, False),
    ],
)
def test_small_eps_is_left_alone(options: dict[str, Any], is_flushed: bool, backend: str) -> None:
    """Also once it is written into a run that goes on."""
    built = fastopt.Adam([np.ones(9, np.float32)], backend=backend, **options)
    written = fastopt.Adam([np.ones(9, np.float32)], backend=backend)
    for _ in range(5):
        built.step([np.ones(9)])
        written.step([np.ones(9)])
    written.param_groups[0].update(options)
    for opt in (built, written):
        for _ in range(10):
            opt.step([np.zeros(9)])
        opt.state["0"]["v"][:] = 1e-40
        opt.step([np.zeros(9)])
        assert opt.step_count == tiny.FLUSH_STEPS
        assert (tiny_count(opt.state["0"]["v"]) == 0) == is_flushed


class OwnRule(fastopt.Optimizer):
    """A rule of one's own."""

    def __init__(self, params: Any, lr: float = 0.1, **common: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0}, **common)

    def rule(self, group: Any) -> Any:
        return own_rule

    def hyper(self, group: Any, step: int) -> rules.SGDScalars:
        return rules.SGDScalars(group["lr"])


def own_rule(h: Any, p: Any, g: Any, m: Any) -> Any:
    m = m + g
    return p - h.lr * m, m


class WithoutEps(OwnRule):
    """Adam's rule with an eps of 0 that is no option."""

    def rule(self, group: Any) -> Any:
        return rules.adam

    def hyper(self, group: Any, step: int) -> rules.AdamScalars:  # type: ignore[override]
        return rules.AdamScalars(0.9, 0.1, 0.999, 0.001, group["lr"], 0.0, 0.0)


@pytest.mark.parametrize(("optimizer", "slot"), [(OwnRule, "m"), (WithoutEps, "v")])
def test_own_rules_are_left_alone(optimizer: Any, slot: str) -> None:
    opt = optimizer([np.ones(9, np.float32)], ema_decay=0.9, backend="numpy")
    for _ in range(tiny.FLUSH_STEPS - 1):
        opt.step([np.zeros(9)])
    opt.state["0"][slot][:] = 1e-40
    opt.state["0"]["ema"][:] = 1e-40
    opt.parts.parameters.arrays[0][:] = 0
    opt.step([np.zeros(9)])
    assert tiny_count(opt.state["0"][slot]) == 9
    assert not opt.state["0"]["ema"].any()


class SmallerEps(fastopt.Adam):
    """Adam with another eps than that of its option."""

    def hyper(self, group: Any, step: int) -> rules.AdamScalars:
        return super().hyper(group, step)._replace(eps=0.0)


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])
@pytest.mark.parametrize("is_of_instance", [False, True])
def test_own_scalars_are_left_alone(is_of_instance: bool, backend: str) -> None:
    """Also once the method is set in a run that goes on."""
    opt = (fastopt.Adam if is_of_instance else SmallerEps)([np.ones(9, np.float32)], backend=backend)
    hyper = opt.hyper
    for step in range(tiny.FLUSH_STEPS):
        if step == 5 and is_of_instance:
            opt.hyper = lambda group, step: hyper(group, step)._replace(eps=0.0)  # type: ignore[method-assign]
        if step == tiny.FLUSH_STEPS - 1:
            opt.state["0"]["v"][:] = 1e-40
        opt.step([np.full(9, 1e-30)])
    assert tiny_count(opt.state["0"]["v"]) == 9


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])
def test_a_resumed_run_flushes_in_the_same_steps(backend: str) -> None:
    def steps(opt: fastopt.Optimizer, count: int) -> None:
        for _ in range(count):
            opt.step([np.zeros(50)])

    whole, first = (np.linspace(-1, 1, 50).astype(np.float32) for _ in range(2))
    opt, part = (fastopt.Adam([param], betas=(0.5, 0.6), backend=backend) for param in (whole, first))
    for each in (opt, part):
        each.step([np.full(50, 1e-12)])
    steps(opt, 200)
    steps(part, 41)
    resumed = fastopt.Adam([first], backend=backend)
    resumed.load_state_dict(part.state_dict())
    steps(resumed, 159)
    assert everything([whole], opt) == everything([first], resumed)
    assert tiny_count(opt.state["0"]["m"]) == 0


def test_a_run_long_after_its_gradients_have_died() -> None:
    """Without flushing, the moments stay at a few units of the smallest subnormal number for ever."""
    for backend in ("native", "numpy") if native.missing is None else ("numpy",):
        opt = fastopt.Adam([np.ones(9, np.float32)], ema_decay=0.9, backend=backend)
        for step in range(1200):
            opt.step([np.full(9, 1.0 if step < 10 else 0.0)])
        assert not opt.state["0"]["m"].any()
