"""A step hands out its work once, however many arrays there are; a step like the last one is one call in all."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from cases import CASES, COMBINED_CASES, Case, every_case, needs_native

import fastopt
from fastopt.backends.native import library as native

pytestmark = needs_native

WORK = ("fo_step", "fo_accumulate", "fo_sum_products")


class Recorder:
    """The native part, which notes the calls that hand out work."""

    def __init__(self, lib: Any) -> None:
        self.lib, self.called = lib, list[str]()

    def __getattr__(self, name: str) -> Any:
        if name in WORK:
            self.called.append(name)
        return getattr(self.lib, name)


def after_two_steps(case: Case, count: int, **options: Any) -> tuple[fastopt.Optimizer, list[list[Any]]]:
    """Return an optimizer of this many arrays, of two dtypes and in two groups, and gradients for its third step."""
    params = [np.ones((3, 4), [np.float32, np.float64][k % 2]) for k in range(count)]
    halves = params[: count // 2], params[count // 2 :]
    opt = case.build([{"params": halves[0]}, {"params": halves[1], "lr": 0.02}], backend="native", **options)
    grads = [[param * 0.5 for param in half] for half in halves]
    for _ in range(2):
        opt.step([[grad.copy() for grad in half] for half in grads])
    return opt, grads


def calls_of_a_step(case: Case, count: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Return the calls of a third step that was not planned."""
    from fastopt.backends.native import ndarrays, plan, table

    monkeypatch.setattr(plan, "are_made", False)
    opt, grads = after_two_steps(case, count, **options)
    recorder = Recorder(native.lib)
    for module in (ndarrays, table):
        monkeypatch.setattr(module, "lib", recorder)
    opt.step(grads)
    monkeypatch.undo()
    return recorder.called


@every_case
def test_no_call_for_each_array(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_a_step(case, 4, monkeypatch)
    assert calls
    assert calls_of_a_step(case, 40, monkeypatch) == calls


@pytest.mark.parametrize("case", COMBINED_CASES, ids=str)
def test_no_call_for_each_array_of_several_optimizers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import ndarrays, plan, table

    monkeypatch.setattr(plan, "are_made", False)
    called = []
    for count in (4, 40):
        opt = case.build([np.ones(12, [np.float32, np.float64][k % 4 // 2]) for k in range(count)], backend="native")
        grads = [np.full(12, 0.5) for _ in range(count)]
        opt.step(grads)
        recorder = Recorder(native.lib)
        with monkeypatch.context() as patched:
            for module in (ndarrays, table):
                patched.setattr(module, "lib", recorder)
            opt.step(grads)
        called.append(recorder.called)
    assert called[0] == called[1]
    assert (called[0] == ["fo_step"]) == (not opt.ready().own)


ELEMENTWISE = [
    case
    for case in CASES
    if case.optimizer.update is fastopt.Optimizer.update and not {"clip_norm", "clip_global_norm"} & case.options.keys()
]


OPTIONS = pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, ["fo_step"]),
        ({"ema_decay": 0.9, "l1": 0.1, "prox_l1": 0.1, "zero_grads": True, "clip_value": 0.3}, ["fo_step"]),
        ({"clip_global_norm": 0.1, "nonfinite": "skip"}, ["fo_sum_products", "fo_step"]),
        ({"nonfinite": "raise"}, ["fo_sum_products", "fo_step"]),
        ({"accumulate_steps": 4}, ["fo_accumulate"]),
    ],
    ids=lambda value: "-".join(value) or "plain",
)


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
@OPTIONS
def test_an_elementwise_step_is_one_pass(
    case: Case, options: dict[str, Any], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one read of the gradients where something must be known of all of them."""
    options = {name: value for name, value in options.items() if name not in case.optimizer.refused}
    assert calls_of_a_step(case, 12, monkeypatch, **options) == calls


@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
@OPTIONS
def test_a_step_like_the_last_one_is_planned(case: Case, options: dict[str, Any], calls: list[str]) -> None:
    """However it reads the gradients: the third step is the first one that can be like two before it."""
    options = {name: value for name, value in options.items() if name not in case.optimizer.refused}
    opt, grads = after_two_steps(case, 12, **options)
    opt.step(grads)
    assert opt.planned_steps == 1


def test_a_hyper_of_ones_own_is_asked_in_every_step() -> None:
    """Though it wraps one whose scalars stay the same, and that says so."""

    class Slowing(fastopt.SGD):
        @functools.wraps(fastopt.SGD.hyper)
        def hyper(self, group: Any, step: int) -> Any:
            return super().hyper({**group, "lr": 1.0 / step}, step)

    theta = np.zeros(1)
    opt = Slowing(theta, backend="native")
    for _ in range(4):
        opt.step(np.ones(1))
    assert opt.planned_steps == 2
    assert theta[0] == -(1 + 1 / 2 + 1 / 3 + 1 / 4)
