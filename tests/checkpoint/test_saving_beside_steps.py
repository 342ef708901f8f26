"""Saving and reading while another thread steps: all of it is of one step, and neither waits for more than that."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from checkpoints import KINDS
from meetings import (
    READERS,
    PausedSchedule,
    called,
    grads,
    new_opt,
    refusal,
    repeating,
    running,
    threads_take_turns_often,
    wait_until,
)
from tiers import shortly

import fastopt
from fastopt.core import turns


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    with threads_take_turns_often():
        yield


# --- storms -----------------------------------------------------------------------------------------------------------


class Run:
    """A run whose gradients depend on the number of the step alone."""

    def __init__(self, optimizer: Any, size: int, backend: str) -> None:
        rng = np.random.default_rng(1)
        self.params = {"W": rng.normal(size=size).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}
        self.grads = [{name: array * (1 + k) for name, array in self.params.items()} for k in range(3)]
        self.opt: fastopt.Optimizer = optimizer(self.params, lr=1e-3, ema_decay=0.9, backend=backend)

    def step(self) -> None:
        self.opt.step(self.grads[self.opt.step_count % len(self.grads)])

    def digest(self) -> str:
        return digest(self.opt.params, self.opt.state_dict())


def digest(params: Any, saved: Any) -> str:
    """Return a digest of parameters, slots and counts."""
    sha = hashlib.sha1()
    for name in ("W", "b"):
        sha.update(np.ascontiguousarray(params[name]))
        for slot, array in sorted(saved["state"][name].items()):
            sha.update(slot.encode() + array.tobytes())
    return sha.hexdigest()


STORMS = [
    pytest.param(fastopt.Adam, 1_000, "native", id="planned, small", marks=needs_native),
    pytest.param(fastopt.Adam, 300_000, "native", id="planned, large", marks=needs_native),
    pytest.param(fastopt.LAMB, 100_000, "native", id="whole", marks=needs_native),
    pytest.param(fastopt.Adam, 1_000, "numpy", id="numpy, small"),
    pytest.param(fastopt.Adam, 100_000, "numpy", id="numpy, large"),
]


@pytest.mark.parametrize("files", [*shortly(2, 8), pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize(("optimizer", "size", "backend"), STORMS)
def test_each_file_is_of_one_step(optimizer: Any, size: int, backend: str, files: int, tmp_path: Path) -> None:
    """Savers to one path and to different ones, and readers of the state, beside a thread that steps all the time."""
    run, found = Run(optimizer, size, backend), []
    for _ in range(3):
        run.step()

    def save(kind: str, names: list[str]) -> None:
        for name in names:
            path = tmp_path / f"{name}.{kind.rpartition('.')[2]}"
            fastopt.save(path, run.opt, params=run.opt.params if name == "common" else None)
            loaded = fastopt.load(path)
            assert loaded.optimizer is not None
            found.append((loaded.optimizer["step_count"], digest(loaded.params, loaded.optimizer)))

    def read() -> None:
        for _ in range(files):
            saved = run.opt.state_dict()
            assert saved["step_count"] == saved["state"]["W"]["step"] == saved["state"]["b"]["step"]

    jobs = [partial(save, KINDS[k % len(KINDS)], [f"{k} {i}" for i in range(files)]) for k in range(2)]
    jobs += [partial(save, KINDS[0], ["common"] * files)] * 2
    with repeating(run.step) as stepping, ExitStack() as savers:
        raised = [savers.enter_context(running(job)) for job in jobs]
        read()
    assert [stepping, *raised] == [[]] * 5
    assert run.opt.planned_steps > 0 or backend == "numpy" or optimizer is fastopt.LAMB
    alone, expected = Run(optimizer, size, backend), {}
    wanted = {count for count, _ in found}
    for count in range(max(wanted) + 1):
        if count in wanted:
            expected[count] = alone.digest()
        alone.step()
    assert len(found) == 4 * files
    assert [expected[count] for count, _ in found] == [its for _, its in found]


@pytest.mark.parametrize(("optimizer", "size", "backend"), STORMS)
def test_averages_beside_steps_are_of_one_step(optimizer: Any, size: int, backend: str, tmp_path: Path) -> None:
    """A step inside averaged() is refused as ever, also in another thread; the parameters get their own bits back."""
    run, found, errors = Run(optimizer, size, backend), [], []
    run.step()

    def step() -> None:
        try:
            run.step()
        except ValueError as error:
            errors.append(str(error))

    with repeating(step) as raised:
        for _ in range(4):
            with run.opt.averaged():
                count = len(errors)
                wait_until(lambda count=count: len(errors) > count)
                found.append((run.opt.step_count, {name: array.copy() for name, array in run.params.items()}))
            fastopt.save(tmp_path / "run.npz", params=run.opt.ema)
            fastopt.load(tmp_path / "run.npz")
    assert raised == []
    assert {*errors} == {"step: the parameters are the averaged ones; leave averaged() first"}
    alone, averages = Run(optimizer, size, backend), {}
    for _ in range(run.opt.step_count):
        alone.step()
        if alone.opt.step_count in {count for count, _ in found}:
            averages[alone.opt.step_count] = {name: array.copy() for name, array in alone.opt.ema.items()}
    for count, its in found:
        assert all(its[name].tobytes() == averages[count][name].tobytes() for name in its)
    assert digest(run.params, run.opt.state_dict()) == alone.digest()


# --- one meeting after the other --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("backend", "before"),
    [
        pytest.param("numpy", 1, id="numpy"),
        pytest.param("native", 1, id="whole", marks=needs_native),
        pytest.param("native", 5, id="planned", marks=needs_native),
    ],
)
def test_a_reader_waits_for_a_step(name: str, backend: str, before: int, tmp_path: Path) -> None:
    schedule = PausedSchedule(before)
    opt, counts = new_opt(schedule, backend), []
    for _ in range(before):
        opt.step(grads())

    def read() -> None:
        READERS[name](opt, tmp_path)
        counts.append(opt.step_count)

    with running(lambda: opt.step(grads())) as stepping:
        assert schedule.is_in.wait(60)
        with running(read) as reading:
            wait_until(lambda: [turn.what for turn in opt.parts.turns.queue][-1:] == [called(name)])
            assert counts == []
            schedule.may_go_on.set()
    assert [*stepping, *reading] == []
    assert counts == [before + 1]
    assert opt.parts.turns.queue == []


class Paused(fastopt.SGD):
    """An SGD that stops in the middle of a read, until it may go on."""

    inside: Callable[[], Any]

    def extra_state(self) -> dict[str, Any]:
        self.inside()
        return {}


def paused(inside: Callable[[], Any]) -> Paused:
    opt = Paused({"W": np.ones(3)}, momentum=0.9, ema_decay=0.5)
    opt.inside = inside
    return opt


@pytest.mark.parametrize("name", ["save", "state_dict"])
def test_a_step_waits_for_a_reader(name: str, tmp_path: Path) -> None:
    """Readers that come while it waits let it go first."""
    is_in, may_go_on, order = threading.Event(), threading.Event(), []

    def inside() -> None:
        order.append(opt.step_count)
        if not is_in.is_set():
            is_in.set()
            assert may_go_on.wait(60)

    opt = paused(inside)
    with running(lambda: READERS[name](opt, tmp_path)) as first:
        assert is_in.wait(60)
        with running(lambda: opt.step(grads())) as stepping:
            wait_until(lambda: len(opt.parts.turns.queue) == 2)
            with running(lambda: READERS[name](opt, tmp_path)) as second:
                wait_until(lambda: len(opt.parts.turns.queue) == 3)
                assert opt.step_count == 0
                may_go_on.set()
    assert [*first, *stepping, *second] == []
    assert order == [0, 1]


@pytest.fixture
def signals() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Return a function that has a call made by a handler of SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda call: signal.signal(signal.SIGINT, lambda number, frame: call())  # type: ignore[func-returns-value]
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["save", "state_dict"])
def test_a_signal_handler_in_a_reader(name: str, signals: Any, tmp_path: Path) -> None:
    """It may read, and is refused changes and values that stand in: the read goes on after it."""
    errors: dict[str, str] = {}
    refused: dict[str, Callable[[], Any]] = {
        "step": lambda: opt.step(grads()),
        "freeze": lambda: opt.freeze("W"),
        "averaged()": lambda: opt.averaged().__enter__(),
        "lookahead()": lambda: opt.lookahead().__enter__(),
    }

    def handler() -> None:
        opt.inside = lambda: None
        opt.state_dict()
        fastopt.save(tmp_path / "other.npz", opt)
        errors.update({each: refusal(call) for each, call in refused.items()})

    opt = paused(lambda: signal.raise_signal(signal.SIGINT))
    signals(handler)
    READERS[name](opt, tmp_path)
    for each in refused:
        assert errors[each].startswith(f"{each}: {name} of this optimizer is running around this call; ")
    assert fastopt.load(tmp_path / "other.npz").params["W"].tolist() == [1, 1, 1]
    assert opt.parts.turns.queue == []


def test_values_that_stand_in_are_left_inside_any_call() -> None:
    """The collector may close a generator that holds averaged() at any moment."""
    opt = paused(lambda: None)
    opt.step(grads())
    own, averaged = opt.params["W"].copy(), opt.averaged()
    averaged.__enter__()
    assert (opt.params["W"] != own).all()
    opt.inside = lambda: averaged.__exit__(None, None, None)
    opt.state_dict()
    assert (opt.params["W"] == own).all()
    opt.step(grads())


def test_an_interrupt_while_a_reader_waits_leaves_the_optimizer_free(signals: Any, tmp_path: Path) -> None:
    schedule, main = PausedSchedule(1), threading.main_thread().ident
    opt = new_opt(schedule)
    opt.step(grads())

    def interrupt() -> None:
        wait_until(lambda: len(opt.parts.turns.queue) == 2)
        signal.pthread_kill(main, signal.SIGINT)

    def handler() -> None:
        raise KeyboardInterrupt

    signals(handler)
    with running(lambda: opt.step(grads())) as stepping:
        assert schedule.is_in.wait(60)
        with running(interrupt) as interrupting, pytest.raises(KeyboardInterrupt):
            fastopt.save(tmp_path / "run.npz", opt)
        assert [turn.what for turn in opt.parts.turns.queue] == ["step"]
        schedule.may_go_on.set()
    assert [*stepping, *interrupting] == []
    assert opt.parts.turns.queue == []
    assert not (tmp_path / "run.npz").exists()
    opt.step(grads())


def test_a_handler_that_reads_while_its_thread_waits_to_read(signals: Any) -> None:
    """Both wait for the step of the other thread, and none for the other."""
    schedule, main, seen = PausedSchedule(1), threading.main_thread().ident, []
    opt = new_opt(schedule)
    opt.step(grads())

    def interrupt() -> None:
        wait_until(lambda: len(opt.parts.turns.queue) == 2)
        signal.pthread_kill(main, signal.SIGINT)

    def handler() -> None:
        schedule.may_go_on.set()
        seen.append(opt.state_dict()["step_count"])

    signals(handler)
    with running(lambda: opt.step(grads())) as stepping:
        assert schedule.is_in.wait(60)
        with running(interrupt) as interrupting:
            seen.append(opt.state_dict()["step_count"])
    assert [*stepping, *interrupting] == []
    assert seen == [2, 2]


@pytest.mark.parametrize(("optimizer", "size", "backend"), STORMS[1:])
def test_a_reader_waits_for_one_step(optimizer: Any, size: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that steps all the time lets it in after its present step."""
    run, waits = Run(optimizer, size, backend), []
    reader = threading.get_ident()

    class Clock:
        """The module ``time``, for the pauses between two looks at the queue."""

        @staticmethod
        def sleep(seconds: float) -> None:
            if threading.get_ident() == reader:
                counts.append(run.opt.step_count)
            time.sleep(seconds)

    monkeypatch.setattr(turns, "time", Clock)
    counts: list[int] = []
    with repeating(run.step) as raised:
        for _ in range(1000):
            counts.clear()
            saved = run.opt.state_dict()
            waits += [saved["step_count"] - counts[0]] if counts else []
            if len(waits) == 5:
                break
    assert raised == []
    assert len(waits) == 5
    assert max(waits) <= 1


def test_other_values_that_stand_in_are_those_of_one_thread() -> None:
    """Else the last one that leaves would leave the other's values behind."""
    opt = new_opt()
    opt.step(grads())
    own = opt.params["W"].copy()
    with opt.lookahead():
        with running(lambda: opt.averaged().__enter__()) as raised:
            pass
        assert "in another thread the parameters are those ahead" in str(raised[0])
        with opt.averaged():
            pass
    assert (opt.params["W"] == own).all()
