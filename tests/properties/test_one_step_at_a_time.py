"""Two threads that step one optimizer: the second one gets a RuntimeError, and nothing is torn."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import everything, needs_native
from tiers import shortly

import fastopt
from fastopt.backends import threads
from fastopt.backends.numpy import axis_sums
from fastopt.backends.numpy.lanes import fold_rows
from fastopt.core.entries import Column, State

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


def slow(step: int) -> float:
    """A schedule in Python, in which threads take turns."""
    return sum(0.001 for _ in range(100 + step % 7))


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def one_step_in_each(count: int, work: Callable[[], Any]) -> None:
    """Call a function in so many threads at once, and wait for all."""
    started = [threading.Thread(target=work) for _ in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


@pytest.mark.parametrize("steps", shortly(60, 1000))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("size", "options"),
    [
        pytest.param(3, {"lr": 0.01}, id="tiny"),
        pytest.param(3, {"lr": slow, "weight_decay": 0.1}, id="schedule"),
        pytest.param(50_000, {"lr": 0.01, "clip_global_norm": 0.5}, id="large"),
        pytest.param(50_000, {"lr": slow, "nonfinite": "skip"}, id="large, schedule"),
        pytest.param(40_000, {"lr": 0.01, "accumulate_steps": 2}, id="accumulate"),
    ],
)
def test_threads_step_one_optimizer(
    size: int, options: dict[str, Any], backend: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the steps changed that were not refused is what as many steps in one thread change."""
    monkeypatch.setattr(threads, "setting", 2)
    params = {"a": np.linspace(-1, 1, size), "b": np.ones(3)}
    grads = {"a": np.linspace(1, 2, size), "b": np.ones(3)}
    opt = fastopt.Adam(params, backend=backend, **options)
    made, refused, others = [], [], []

    def work() -> None:
        for k in range(steps):
            try:
                if k % 5 == 0:
                    opt.param_groups[0]["eps"] = 1e-8 + 0 * k
                made.append(opt.step(grads).applied)
            except RuntimeError as error:
                refused.append(str(error))
            except BaseException as error:
                others.append(error)

    one_step_in_each(3, work)
    assert others == []
    assert opt.planned_steps > 0 or backend == "numpy"
    assert len(made) + len(refused) == 3 * steps
    assert all("another step of this optimizer is running" in text for text in refused)
    alone = {name: array.copy() for name, array in (("a", np.linspace(-1, 1, size)), ("b", np.ones(3)))}
    peaceful = fastopt.Adam(alone, backend=backend, **options)
    for _ in made:
        peaceful.step(grads)
    assert (opt.step_count, opt.accumulated_calls) == (peaceful.step_count, peaceful.accumulated_calls)
    assert everything(params.values(), opt) == everything(alone.values(), peaceful)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("before", [0, 5])
def test_a_step_inside_a_step_is_refused(before: int, backend: str) -> None:
    """From another thread and from the schedule itself; ``before`` steps make it a planned one."""
    param = np.ones(3)
    told: list[str] = []

    def schedule(step: int) -> float:
        if step == before:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="step: another step of this optimizer is running"):
                    opt.step(np.ones(3))
            one_step_in_each(1, refused)
        return 0.5

    def refused() -> None:
        try:
            opt.step(np.ones(3))
        except RuntimeError as error:
            told.append(str(error))

    opt = fastopt.SGD(param, lr=schedule, backend=backend)
    for _ in range(before + 2):
        opt.step(np.ones(3))
    assert len(told) == 1
    assert opt.step_count == before + 2
    assert param.tolist() == [1 - 0.5 * (before + 2)] * 3


def test_a_signal_handler_may_step_another_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the sums of the fallback, which has scratch memory of its own then."""

    def new(value: float) -> tuple[Any, fastopt.Optimizer]:
        param = np.linspace(-1, 1, 12).reshape(3, 4) * value
        return param, fastopt.Adafactor(param, lr=0.1, backend="numpy")

    def sums_with_a_handler(rows: Any) -> Any:
        patched.setattr(axis_sums, "fold_rows", fold_rows)
        inner.step(grad**2)
        return fold_rows(rows)

    grad = np.linspace(-3, 2, 12).reshape(3, 4)
    (outer_param, outer), (inner_param, inner), (expected, peaceful), (inner_expected, inner_peaceful) = map(
        new, (1.0, 2.0, 1.0, 2.0)
    )
    with monkeypatch.context() as patched:
        patched.setattr(axis_sums, "fold_rows", sums_with_a_handler)
        outer.step(grad)
    peaceful.step(grad)
    inner_peaceful.step(grad**2)
    assert outer_param.tobytes() == expected.tobytes()
    assert inner_param.tobytes() == inner_expected.tobytes()


def test_a_thread_may_look_at_the_state_while_a_step_adds_to_it() -> None:
    state, arrays = State(), [np.zeros(1), np.ones(1)]
    add = threading.Thread(target=lambda: state.add([Column("m", ["a"], arrays[1:])]))

    class Interrupted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            add.start()
            add.join(0.05)
            return super().__iter__()

    state.set_counts(lambda entries: [Column("step", ["a"], Interrupted(arrays[:1]))])
    assert state.entries["a"]["step"] is arrays[0]
    add.join()
    assert state.entries["a"]["m"] is arrays[1]
