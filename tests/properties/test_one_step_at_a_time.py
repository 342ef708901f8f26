"""A change of an optimizer that meets another one gets a RuntimeError, and nothing is torn."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, everything, needs_native
from meetings import (
    CHANGES,
    READERS,
    PausedSchedule,
    called,
    grads,
    new_opt,
    refusal,
    repeating,
    running,
    threads_take_turns_often,
)
from structures import same
from tiers import shortly

import fastopt
from fastopt.backends import threads
from fastopt.backends.numpy import axis_sums
from fastopt.backends.numpy.lanes import fold_rows
from fastopt.core.attributes import Absent, Elsewhere
from fastopt.core.entries import Column, State
from fastopt.core.hooks import Hooks

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


def slow(step: int) -> float:
    """A schedule in Python, in which threads take turns."""
    return sum(0.001 for _ in range(100 + step % 7))


@pytest.fixture(autouse=True)
def short_turns() -> Iterator[None]:
    with threads_take_turns_often():
        yield


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
    assert all("a step of this optimizer is running" in text for text in refused)
    alone = {name: array.copy() for name, array in (("a", np.linspace(-1, 1, size)), ("b", np.ones(3)))}
    peaceful = fastopt.Adam(alone, backend=backend, **options)
    for _ in made:
        peaceful.step(grads)
    assert (opt.step_count, opt.accumulated_calls) == (peaceful.step_count, peaceful.accumulated_calls)
    assert everything(params.values(), opt) == everything(alone.values(), peaceful)


@pytest.mark.parametrize("changes", shortly(30, 500))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "lr"), [(3, 0.01), (3, slow), (50_000, slow)], ids=["tiny", "schedule", "large"])
def test_threads_step_and_change_one_optimizer(
    size: int, lr: Any, backend: str, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that leave the result of the steps what it is: what was not refused was made as a whole."""
    monkeypatch.setattr(threads, "setting", 2)
    params, alone = ({"a": np.linspace(-1, 1, size), "b": np.ones(3)} for _ in range(2))
    grads = {"a": np.linspace(1, 2, size), "b": np.ones(3)}
    opt = fastopt.Adam(params, lr=lr, backend=backend)
    made, refused = [], []

    def step() -> None:
        try:
            made.append(opt.step(grads))
        except RuntimeError as error:
            refused.append(str(error))

    def change(k: int) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: opt.add_param_group({"params": {f"new {k}": np.ones(2)}}),
            opt.unfreeze,
            opt.reload_params,
            lambda: opt.load_state_dict(opt.state_dict(), state=False),
        ]
        with suppress(RuntimeError):
            calls[k % 4]()

    with repeating(step) as raised:
        for k in range(changes):
            change(k)
    assert raised == []
    assert all("of this optimizer is running in another thread" in text for text in refused)
    peaceful = fastopt.Adam(alone, lr=lr, backend=backend)
    for _ in made:
        peaceful.step(grads)
    assert opt.step_count == peaceful.step_count == len(made)
    assert same([opt.params[name] for name in alone], [*alone.values()])
    assert same([dict(opt.state[name]) for name in alone], [dict(peaceful.state[name]) for name in alone])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("before", [0, 5])
def test_a_step_inside_a_step_is_refused(before: int, backend: str) -> None:
    """From another thread and from the schedule itself; ``before`` steps make it a planned one."""
    param = np.ones(3)
    told: list[str] = []

    def schedule(step: int) -> float:
        if step == before:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="step: a step of this optimizer is running"):
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


#: Public attributes that neither change an optimizer nor need a consistent state: they are what they are at the moment.
GLANCES = {
    "Scalars",
    "accumulated_calls",
    "backend",
    "clip_global_norm",
    "d",
    "defaults",
    "first_values",
    "frozen",
    "grad_scale",
    "is_training",
    "lr",
    "param_groups",
    "params",
    "parts",
    "pass_options",
    "planned_steps",
    "recorded_rule",
    "seed",
    "skip_above",
    "skipped_steps",
    "state",
    "state_bytes",
    "step_count",
}
#: The part of a step and of a reader that both of them call.
INNER = {"attributes_to_pickle", "make_parts", "ready", "saving", "set_pickled"}
#: The modes of Schedule-Free, which have a test of their own.
MODES = {"train", "eval"}


def is_hook(optimizer: Any, name: str) -> bool:
    """Return whether an attribute is an option's error, or a function that the step calls."""
    found = inspect.getattr_static(optimizer, name)
    is_own = inspect.isfunction(found) and len(inspect.signature(found).parameters) > 1
    return (
        isinstance(found, (Absent, Elsewhere))
        or hasattr(Hooks, name)
        or (is_own and not hasattr(fastopt.Optimizer, name))
    )


def test_each_public_method_is_a_change_or_a_reader_or_a_glance() -> None:
    known = {called(name).removesuffix("()") for name in (*CHANGES, *READERS)}
    for optimizer in {case.optimizer for case in [*CASES, *MATRIX_CASES]}:
        names = {name for name in dir(optimizer) if not (name.startswith("_") or is_hook(optimizer, name))}
        assert names <= known | MODES | GLANCES | INNER


#: What is made around the calls: how many steps come before, and what the schedule does in the step after these.
INSIDE = [
    pytest.param("numpy", 0, id="numpy"),
    pytest.param("native", 0, id="whole", marks=needs_native),
    pytest.param("native", 5, id="planned", marks=needs_native),
]


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], Any]], Callable[[], None]]]:
    """Return a function that has a call made by a signal handler: at once, in this very thread."""
    before = signal.getsignal(signal.SIGINT)

    def by_signal(call: Callable[[], Any]) -> Callable[[], None]:
        signal.signal(signal.SIGINT, lambda number, frame: call())
        return lambda: signal.raise_signal(signal.SIGINT)

    yield by_signal
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("by_signal", [False, True], ids=["schedule", "signal handler"])
@pytest.mark.parametrize(("backend", "before"), INSIDE)
def test_nothing_is_called_inside_a_step(
    backend: str, before: int, by_signal: bool, on_signal: Any, tmp_path: Path
) -> None:
    """Neither a change nor a reader: the state is that of no step. The step itself goes on as if nothing had been."""
    calls = {**CHANGES, **{name: partial(read, folder=tmp_path) for name, read in READERS.items()}}
    errors: dict[str, str] = {}

    def schedule(step: int) -> float:
        if step == before:
            for name, call in calls.items():

                def refused(name: str = name, call: Callable[[Any], Any] = call) -> None:
                    errors[name] = refusal(lambda: call(opt))

                on_signal(refused)() if by_signal else refused()
        return 0.5

    opt, peaceful = new_opt(schedule, backend), new_opt(0.5, backend)
    for _ in range(before + 2):
        assert tuple(opt.step(grads())) == tuple(peaceful.step(grads()))
    assert opt.planned_steps == before
    for name in calls:
        assert errors[name].startswith(f"{called(name)}: a step of this optimizer is running around this call; ")
    assert same(opt.params, peaceful.params)
    assert same(opt.state_dict()["state"], peaceful.state_dict()["state"])
    assert not any(tmp_path.iterdir())


@needs_native
def test_nothing_is_called_while_a_planned_step_looks_at_its_options() -> None:
    """It asks for the rule of a group whose options were written, before it looks at the gradients."""
    errors: dict[str, str] = {}

    class Asked(fastopt.SGD):
        is_watched = False

        def rule(self, group: Any) -> Any:
            if self.is_watched:
                Asked.is_watched = False
                errors.update({name: refusal(lambda call=call: call(self)) for name, call in CHANGES.items()})
            return super().rule(group)

    opts = [optimizer({"W": np.ones(3)}, lr=0.5, ema_decay=0.5, backend="native") for optimizer in (Asked, fastopt.SGD)]
    for opt in opts:
        for _ in range(5):
            opt.step(grads())
        opt.param_groups[0]["lr"] = 0.25
    Asked.is_watched = True
    for opt in opts:
        opt.step(grads())
    assert [opt.planned_steps for opt in opts] == [4, 4]
    for name, error in errors.items():
        assert error.startswith(f"{called(name)}: a step of this optimizer is running around this call; ")
    assert errors.keys() == CHANGES.keys()
    assert same(opts[0].params, opts[1].params)


def test_a_signal_handler_in_the_middle_of_the_passes_is_refused(
    on_signal: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the middle of the sums of the fallback, where half of the state is changed."""
    errors: list[str] = []

    def new() -> tuple[Any, fastopt.Optimizer]:
        param = np.linspace(-1, 1, 12).reshape(3, 4)
        return param, fastopt.Adafactor(param, lr=0.1, backend="numpy")

    def sums_with_a_handler(rows: Any) -> Any:
        for call in (lambda: opt.step(grad), lambda: opt.freeze("0"), lambda: fastopt.save(tmp_path / "run.npz", opt)):
            on_signal(lambda call=call: errors.append(refusal(call)))()
        return fold_rows(rows)

    grad = np.linspace(-3, 2, 12).reshape(3, 4)
    (param, opt), (expected, peaceful) = new(), new()
    with monkeypatch.context() as patched:
        patched.setattr(axis_sums, "fold_rows", sums_with_a_handler)
        opt.step(grad)
    peaceful.step(grad)
    assert {text.partition(":")[0] for text in errors} == {"step", "freeze", "save"}
    assert everything([param], opt) == everything([expected], peaceful)


@pytest.mark.parametrize(("backend", "before"), INSIDE)
def test_a_change_beside_a_step_is_refused(backend: str, before: int) -> None:
    schedule = PausedSchedule(before)
    opt, peaceful = new_opt(schedule, backend), new_opt(0.5, backend)
    for _ in range(before):
        opt.step(grads())
    with running(lambda: opt.step(grads())) as raised:
        assert schedule.is_in.wait(60)
        errors = {name: refusal(lambda call=call: call(opt)) for name, call in CHANGES.items()}
        schedule.may_go_on.set()
    assert raised == []
    opt.step(grads())
    for _ in range(before + 2):
        peaceful.step(grads())
    for name, error in errors.items():
        assert error.startswith(f"{called(name)}: a step of this optimizer is running in another thread; ")
    assert same(opt.params, peaceful.params)
    assert same(opt.state_dict()["state"], peaceful.state_dict()["state"])


def test_a_change_beside_a_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    opt, is_in, may_go_on = new_opt(), threading.Event(), threading.Event()
    saved = opt.state_dict()

    def load_extra_state(extra: Any) -> None:
        is_in.set()
        assert may_go_on.wait(60)

    monkeypatch.setattr(opt, "load_extra_state", load_extra_state)
    with running(lambda: opt.load_state_dict(saved)) as raised:
        assert is_in.wait(60)
        errors = {name: refusal(lambda call=call: call(opt)) for name, call in CHANGES.items()}
        may_go_on.set()
    assert raised == []
    for name, error in errors.items():
        assert error.startswith(f"{called(name)}: load_state_dict of this optimizer is running in another thread; ")
    assert opt.step_count == 0
    assert opt.frozen == []


@needs_native
@pytest.mark.parametrize(
    "change",
    [
        lambda opt: opt.load_state_dict(opt.state_dict()),
        lambda opt: opt.add_param_group({"params": {"new": np.ones(2)}}),
        lambda opt: setattr(opt, "hyper", opt.hyper),
    ],
    ids=["load_state_dict", "add_param_group", "hook"],
)
def test_a_thread_that_was_about_to_run_the_plan_does_not(change: Callable[[Any], Any]) -> None:
    """Another thread makes a change after the plan was read, and before it runs."""
    opt = new_opt(backend="native")
    for _ in range(5):
        opt.step(grads())
    workspace = opt.parts.workspace
    assert workspace is not None
    plan: Any = workspace.planning.plan
    assert plan.run(plan.address, opt, grads()) is not None
    change(opt)
    assert plan.run(plan.address, opt, grads()) is None
    assert opt.step_count == 6


@pytest.mark.parametrize("mode", sorted(MODES))
def test_modes_are_changes(mode: str) -> None:
    errors: list[str] = []

    def schedule(step: int) -> float:
        errors.append(refusal(getattr(opt, mode)))
        return 0.5

    opt = fastopt.ScheduleFreeSGD(np.ones(3), lr=schedule)
    opt.step(np.ones(3))
    assert errors[0].startswith(f"{mode}: a step of this optimizer is running around this call; ")


def test_a_call_that_raises_leaves_the_optimizer_free(tmp_path: Path) -> None:
    opt = new_opt()
    opt.step(grads())
    wrong: list[Callable[[], Any]] = [
        lambda: opt.step({"V": np.ones(3)}),
        lambda: opt.load_state_dict({}),
        lambda: fastopt.Checkpoint({"V": np.ones(3)}, None, {}).restore(opt),
        lambda: opt.add_param_group({"params": {"W": np.ones(2)}}),
        lambda: opt.freeze("V"),
        lambda: opt.unfreeze("V"),
        lambda: opt.reload_params("V"),
        lambda: setattr(opt, "step_count", -1),
        lambda: setattr(opt, "accumulated_calls", -1),
        lambda: opt.slot("V", "b"),
        lambda: fastopt.save(tmp_path / "no folder" / "run.npz", opt),
        lambda: fastopt.save(tmp_path / "run.npz", opt, extra={"object": object()}),
    ]
    for call in wrong:
        with pytest.raises((TypeError, ValueError, KeyError, OSError)):
            call()
        assert opt.parts.turns.queue == []
        opt.step(grads())


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


def test_an_interrupt_at_any_line_ends_the_turn() -> None:
    """Also between the call and the end of its turn: the next call would be refused for ever."""
    opt = fastopt.SGD(np.ones(3))

    def interrupted_at(line: int) -> bool:
        lines = count(1)

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.endswith("turns.py"):
                return None
            if event == "line" and next(lines) == line:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            opt.freeze("*")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    interrupts = list(takewhile(interrupted_at, count(1)))
    assert len(interrupts) > 15
    assert opt.parts.turns.queue == []
    opt.unfreeze()
    assert opt.step(np.ones(3)).applied
