"""What is measured of a solver between the calls of its function."""

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bench.runs import RunStepper


class Clock:
    """In place of the module time."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def evaluating(evaluations: int) -> Callable[[Callable], None]:
    """A solver that only evaluates, so many times."""

    def solve(evaluate: Callable[[Callable[[], Any]], Any]) -> None:
        for _ in range(evaluations):
            evaluate(lambda: None)

    return solve


def test_the_time_of_the_function_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("bench.runs.time", clock)

    def solve(evaluate: Callable[[Callable[[], Any]], Any]) -> None:
        for i in range(100):
            clock.pass_by(i)
            evaluate(lambda: clock.pass_by(1000))

    stepper = RunStepper(solve, warm=2)
    assert stepper.seconds(2) == (3 + 4) / 2
    assert stepper.seconds(1) == 5


def test_a_solver_begins_anew() -> None:
    runs: list[int] = []

    def solve(evaluate: Callable[[Callable[[], Any]], Any]) -> None:
        runs.append(0)
        for _ in range(6):
            runs[-1] += evaluate(lambda: 1)

    stepper = RunStepper(solve, warm=2)
    stepper.seconds(7)
    assert runs == [6, 6, 3]  # 3 of each run count, and the next one is not called before it is asked for


def test_what_a_solver_raises_comes_through() -> None:
    with pytest.raises(RuntimeError, match="it stopped after 2 evaluations"):
        RunStepper(evaluating(2), warm=5).seconds(1)


def test_the_thread_ends_with_the_stepper() -> None:
    before = set(threading.enumerate())
    stepper = RunStepper(evaluating(1_000), warm=0)
    stepper.seconds(1)
    (thread,) = set(threading.enumerate()) - before
    del stepper
    gc.collect()
    assert not thread.is_alive()
