"""Hooks of a user's optimizer that return something wrong: a step says so before it changes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import needs_native

import fastopt
from fastopt import rules
from fastopt.backends.native import library as native
from fastopt.core.hook_checks import NUMBERS
from fastopt.rules import MomentumScalars, SGDScalars

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


class Momentum(fastopt.Optimizer):
    """An optimizer with all that a user has to write."""

    def __init__(self, params: Any, options: Any = None, **common: Any) -> None:
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.0, **(options or {})}, **common)

    def rule(self, group: Any) -> Any:
        return rules.momentum

    def hyper(self, group: Any, step: int) -> Any:
        return MomentumScalars(0.9, 1.0, group["lr"])


def with_hook(name: str, hook: Callable[..., Any]) -> type[fastopt.Optimizer]:
    return type("Own", (Momentum,), {name: hook})


class Wrong(NamedTuple):
    """A hook, a function of its last argument that returns something wrong, and the error."""

    hook: str
    of_last: Callable[[Any], Any]
    error: type[Exception]
    says: str

    def __str__(self) -> str:
        return f"{self.hook}-{self.says}"


def always(value: Any) -> Callable[[Any], Any]:
    return lambda last: value


def read_only(param: Any) -> Any:
    made = np.zeros_like(param)
    made.flags.writeable = False
    return made


SHAPE = "the shape of the parameter"
A_SHAPE = "expected a shape, a tuple of lengths, for the slot 'b'"
MOMENTUM = "expected the scalars of the rule momentum; return fastopt.rules.MomentumScalars"

WRONG = [
    Wrong("slot_shape", lambda param: (param.size + 3,), ValueError, SHAPE),
    Wrong("slot_shape", always((1,)), ValueError, SHAPE),
    Wrong("slot_shape", always(()), ValueError, SHAPE),
    Wrong("slot_shape", lambda param: param.shape[::-1], ValueError, SHAPE),
    Wrong("slot_shape", lambda param: (param.size,), ValueError, SHAPE),
    Wrong("slot_shape", always(None), TypeError, A_SHAPE),
    Wrong("slot_shape", lambda param: param.size, TypeError, A_SHAPE),
    Wrong("slot_shape", always((-1,)), TypeError, A_SHAPE),
    Wrong("slot_shape", always((2.0, 3.0)), TypeError, A_SHAPE),
    Wrong("slot_names", always(()), ValueError, "expected a name for each of the slots"),
    Wrong("slot_names", always(None), TypeError, "expected a tuple of names"),
    Wrong("slot_names", always("b"), TypeError, "expected a tuple of names"),
    Wrong("slot_names", always((1,)), TypeError, "expected a tuple of names"),
    Wrong("slot_names", always(("b", "b")), ValueError, "expected each name once"),
    *(
        Wrong("slot_names", always((name,)), ValueError, f"'{name}',): expected none of")
        for name in ["step", "master", "ema", "accumulated", "accumulated_calls"]
    ),
    Wrong("initial_slot", always(None), TypeError, "b=None: expected a number"),
    Wrong("initial_slot", always("x"), TypeError, "expected a number"),
    Wrong("initial_slot", always(np.ones(3)), TypeError, "expected a number"),
    Wrong("initial_slot", always(10**400), ValueError, "within the range of float"),
    Wrong("new_slot", always(None), TypeError, "expected a NumPy array of float64"),
    Wrong("new_slot", lambda param: param.tolist(), TypeError, "expected a NumPy array of float64"),
    Wrong("new_slot", lambda param: np.zeros(param.shape, int), TypeError, "expected a NumPy array of float64"),
    Wrong("new_slot", lambda param: np.zeros(param.shape, np.float32), TypeError, "expected a NumPy array of float64"),
    Wrong("new_slot", lambda param: np.zeros(param.size + 1), ValueError, "expected one of shape (2, 3)"),
    Wrong("new_slot", always(np.zeros(1)), ValueError, "expected one of shape (2, 3)"),
    Wrong("new_slot", lambda param: np.zeros(param.shape, order="F"), ValueError, "order of memory"),
    Wrong("new_slot", read_only, ValueError, "writeable"),
    Wrong("hyper", always(None), TypeError, MOMENTUM),
    Wrong("hyper", always([0.9, 1.0, 0.1]), TypeError, MOMENTUM),
    Wrong("hyper", always((0.9, 1.0)), TypeError, MOMENTUM),
    Wrong("hyper", always((0.9, 1.0, 0.1, 0.1)), TypeError, MOMENTUM),
    Wrong("hyper", always(SGDScalars(0.1)), TypeError, MOMENTUM),
    Wrong("hyper", always(np.ones(3)), TypeError, MOMENTUM),
    Wrong("hyper", always(MomentumScalars("a", 1.0, 0.1)), TypeError, "momentum='a': expected a number"),  # type: ignore[arg-type]
    Wrong("hyper", always(MomentumScalars(1.0, None, 0.1)), TypeError, "grad_weight=None: expected a number"),  # type: ignore[arg-type]
    Wrong("hyper", always(MomentumScalars(np.ones(3), 1.0, 0.1)), TypeError, "expected a number"),  # type: ignore[arg-type]
    Wrong("hyper", always(MomentumScalars(1j, 1.0, 0.1)), TypeError, "expected a number"),  # type: ignore[arg-type]
    Wrong("hyper", always(MomentumScalars(10**400, 1.0, 0.1)), ValueError, "within the range of float"),
    Wrong("adjusted", always(None), TypeError, "expected the row, or row._replace"),
    Wrong("row_keys", always(None), TypeError, "expected a list of NumPy arrays of shape (3,)"),
    Wrong("row_keys", always([np.zeros(1)]), TypeError, "expected a list of NumPy arrays of shape (3,)"),
    Wrong("row_keys", always([[0, 0, 0]]), TypeError, "expected a list of NumPy arrays of shape (3,)"),
    Wrong("row_keys", always([np.array(["a", None, 1], object)]), TypeError, "expected a list of NumPy arrays"),
]


def arrays(value: float) -> list[Any]:
    return [np.full((2, 3), value), np.full((2, 3), value), np.full(4, value)]


def check_refused(opt: fastopt.Optimizer, params: list[Any], wrong: Wrong) -> None:
    """Check that a step is refused with the hook's error, and changes nothing."""
    grads = arrays(0.5)
    before = repr([params, opt.state, opt.step_count])
    with pytest.raises(wrong.error) as raised:
        opt.step(grads)
    assert str(raised.value).startswith(wrong.hook)
    assert wrong.says in str(raised.value)
    assert repr([params, opt.state, opt.step_count]) == before
    assert repr(grads) == repr(arrays(0.5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_hooks_return_is_checked(wrong: Wrong, backend: str) -> None:
    params: Any = arrays(1.0)
    own = with_hook(wrong.hook, lambda self, *arguments: wrong.of_last(arguments[-1]))
    check_refused(own(params, {}, backend=backend, zero_grads=True), params, wrong)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [wrong for wrong in WRONG if wrong.hook == "hyper"], ids=str)
def test_scalars_that_are_wrong_later(wrong: Wrong, backend: str) -> None:
    """In a step that would have been planned too."""
    is_wrong = [False]

    def hyper(self: Any, group: Any, step: int) -> Any:
        return wrong.of_last(step) if is_wrong[0] else MomentumScalars(0.9, 1.0, group["lr"])

    params, expected = arrays(1.0), arrays(1.0)
    opt = with_hook("hyper", hyper)(params, {}, backend=backend, zero_grads=True)
    reference = Momentum(expected, backend=backend)
    for _ in range(5):
        opt.step(arrays(0.5))
        reference.step(arrays(0.5))
    assert opt.planned_steps > 0 or backend == "numpy"
    is_wrong[0] = True
    check_refused(opt, params, wrong)
    is_wrong[0] = False
    opt.step(arrays(0.5))
    reference.step(arrays(0.5))
    assert repr([params, opt.state]) == repr([expected, reference.state])


@pytest.mark.parametrize(
    "rule", [None, "sgd", 3, dict, lambda: 0], ids=["None", "text", "int", "class", "no arguments"]
)
def test_a_rule_is_a_function_of_scalars_parameter_gradient_and_slots(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"^rule=.*expected a function of the scalars, the parameter, the gradient"):
        with_hook("rule", lambda self, group: rule)(arrays(1.0), {})


def test_another_rule_is_one_of_further_rules() -> None:
    def adjusted(self: Any, row: Any, group: Any) -> Any:
        return row._replace(rule=rules.sgd, scalars=SGDScalars(0.1))

    own = with_hook("adjusted", adjusted)
    with pytest.raises(ValueError, match=r"^adjusted: expected a row with one of the rules .'momentum'., got sgd"):
        own(arrays(1.0), {}).step(arrays(0.5))
    own.further_rules = (rules.sgd,)
    assert own(arrays(1.0), {}).step(arrays(0.5)).applied


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("field", NUMBERS)
def test_the_fields_of_an_adjusted_row_are_numbers(field: str, backend: str) -> None:
    params, wrong = arrays(1.0), Wrong("adjusted", always(None), TypeError, f"{field}=None: expected a number")
    own = with_hook("adjusted", lambda self, row, group: row._replace(**{field: None}))
    check_refused(own(params, {}, backend=backend, zero_grads=True), params, wrong)


@pytest.mark.parametrize("extra", [None, [1], {1: 2}], ids=str)
def test_extra_state_is_a_dict_by_names(extra: Any) -> None:
    opt = with_hook("extra_state", lambda self: extra)(arrays(1.0), {})
    opt.step(arrays(0.5))
    with pytest.raises(TypeError, match=r"^extra_state=.*: expected a dict whose keys are names"):
        opt.state_dict()


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_tuples_and_numbers_of_other_types_are_scalars(backend: str) -> None:
    params, expected = arrays(1.0), arrays(1.0)
    own = with_hook("hyper", lambda self, group, step: (np.float64(0.9), 1, np.array(group["lr"])))
    opt, reference = own(params, {}, backend=backend), Momentum(expected, backend=backend)
    for _ in range(5):
        opt.step(arrays(0.5))
        reference.step(arrays(0.5))
    assert repr(params) == repr(expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_of_other_shapes_stand_behind_those_of_the_rules(backend: str) -> None:
    own = with_hook("slot_names", lambda self, rule, param: ("b", "row"))
    own.slot_shape = lambda self, slot, param: (7,) if slot == "row" else param.shape  # type: ignore[method-assign,misc]
    params, expected = arrays(1.0), arrays(1.0)
    opt, reference = own(params, {}, backend=backend), Momentum(expected, backend=backend)
    for _ in range(4):
        opt.step(arrays(0.5))
        reference.step(arrays(0.5))
    assert repr(params) == repr(expected)
    assert opt.state["0"]["row"].tolist() == [0.0] * 7


def test_compiled_steps_have_room_for_six_slots() -> None:
    own = with_hook("slot_names", lambda self, rule, param: ("b", "c", "d", "e", "f", "g", "h"))
    assert own(arrays(1.0), {}, backend="numpy").step(arrays(0.5)).applied
    if native.missing is None:
        with pytest.raises(ValueError, match=r'^slot_names: expected at most 6 slots .*; use backend="numpy"$'):
            own(arrays(1.0), {}, backend="native").step(arrays(0.5))
