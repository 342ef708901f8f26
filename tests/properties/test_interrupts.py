"""Interrupts at random moments: what was applied is what was counted, and the run goes on from there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from tiers import shortly

import fastopt
from fastopt.core.groups import Groups
from fastopt.core.progress import Progress

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]

#: The folder of fastopt's own code.
PACKAGE = str(Path(fastopt.__file__).parent)

#: Runs in a process of its own: each optimizer is interrupted once, in its first steps, and then compared with one that
#: made as many steps in peace. Prints how many interrupts came, and in how many runs something differed.
PROGRAM = """
import json, random, signal, sys
import numpy as np
import fastopt

name, options, is_raised_by_alarm, runs = json.loads(sys.argv[1])

def build():
    params = {"a": np.linspace(-1, 1, 20_000).reshape(100, 200), "b": np.ones(3), "never": np.ones(2)}
    return params, getattr(fastopt, name)(params, lr=0.01, **options)

def everything(params, opt):
    state = {f"{name}.{slot}": array.tolist() for name, its in opt.state.items() for slot, array in its.items()}
    return [array.tolist() for array in params.values()], state, opt.step_count, opt.accumulated_calls

def interrupt(*args):
    if is_raised_by_alarm:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(0)
grads = {"a": np.full((100, 200), 0.5), "b": np.ones(3)}
wrong = 0
for _ in range(runs):
    params, opt = build()
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 1e-3))
        while True:
            opt.step(grads)
    except KeyboardInterrupt:
        pass
    others, peaceful = build()
    while (peaceful.step_count, peaceful.accumulated_calls) < (opt.step_count, opt.accumulated_calls):
        peaceful.step(grads)
    for each in (opt, peaceful):
        each.step(grads)
    wrong += everything(params, opt) != everything(others, peaceful)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(json.dumps([runs, wrong]))
"""


def told_by(program: str, arguments: str) -> Any:
    """Return what a program prints; one whose interrupt got lost would go on for good."""
    command = [sys.executable, "-c", program, arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=500).stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signal.setitimer")
@pytest.mark.parametrize(
    ("name", "options", "is_raised_by_alarm"),
    [
        pytest.param("SGD", {"backend": "native", "momentum": 0.9}, True, marks=needs_native),
        pytest.param("Adam", {"backend": "native", "ema_decay": 0.5, "clip_norm": 1.0}, True, marks=needs_native),
        pytest.param("Adam", {"backend": "native", "accumulate_steps": 3}, True, marks=needs_native),
        pytest.param("LAMB", {"backend": "native"}, False, marks=needs_native),
        pytest.param("Adam", {"backend": "native", "max_weight_norm": 1.0}, False, marks=needs_native),
        ("Adam", {"backend": "numpy", "accumulate_steps": 2}, True),
        ("AdamW", {"backend": "numpy", "clip_value": 1.0, "ema_decay": 0.5}, True),
        ("ScheduleFreeSGD", {"backend": "numpy"}, False),
    ],
)
@pytest.mark.parametrize("runs", [20, pytest.param(1000, marks=pytest.mark.long)])
def test_what_is_applied_is_counted(name: str, options: dict[str, object], is_raised_by_alarm: bool, runs: int) -> None:
    """``is_raised_by_alarm``: also what other signals raise can't come between; else only Ctrl-C waits."""
    arguments = json.dumps([name, options, is_raised_by_alarm, runs])
    assert told_by(PROGRAM, arguments) == [runs, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_while_options_are_checked(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after an option was written that changes the rule: the next step has the new rule and its slots."""
    params, expected = [np.ones(3)], [np.ones(3)]
    opt, reference = fastopt.Adam(params, backend=backend), fastopt.Adam(expected, backend=backend)

    def interrupt(groups: Groups) -> None:
        raise KeyboardInterrupt

    for one in (opt, reference):
        one.step([np.ones(3)])
        one.param_groups[0].update(amsgrad=True, clip_norm=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(Groups, "note_checked", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opt.step([np.ones(3)])
    for one in (opt, reference):
        one.step([np.ones(3)])
    assert params[0].tobytes() == expected[0].tobytes()
    assert [*opt.state["0"]] == [*reference.state["0"]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("goes_on_with", [None, np.ones(4)], ids=["as before", "as interrupted"])
def test_an_interrupt_while_other_arrays_get_a_gradient(backend: str, goes_on_with: Any) -> None:
    """At each line in turn: the next steps change and count the arrays that have a gradient."""

    def interrupt(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_name not in ("set_grads", "counting", "point_to"):
            return interrupt if frame.f_code.co_filename.startswith(PACKAGE) else None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == place:
                raise KeyboardInterrupt
        return interrupt

    before, then = [np.ones(3), None], [np.ones(3), np.ones(4)]
    place, was_interrupted, tracer = 0, True, sys.gettrace()
    while was_interrupted:
        params, expected = [np.ones(3), np.ones(4)], [np.ones(3), np.ones(4)]
        opt, reference = fastopt.Adam(params, backend=backend), fastopt.Adam(expected, backend=backend)
        for one in (opt, reference):
            one.step(before)
        lines: list[int] = []
        place, was_interrupted = place + 1, False
        sys.settrace(interrupt)
        try:
            opt.step(then)
        except KeyboardInterrupt:
            was_interrupted = True
        finally:
            sys.settrace(tracer)
        if not was_interrupted:
            reference.step(then)
        for one in (opt, reference):
            one.step([np.ones(3), goes_on_with])
            one.step([np.ones(3), None])
        assert [param.tobytes() for param in params] == [param.tobytes() for param in expected], lines
        assert repr(opt.state) == repr(reference.state), lines
    assert place > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_while_arrays_are_added(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C waits until they are added."""
    params = {"a": np.ones(3)}
    opt = fastopt.Adam(params, backend=backend)
    opt.step({"a": np.ones(3)})

    def interrupted_add(progress: Progress, arrays: int) -> None:
        signal.raise_signal(signal.SIGINT)
        add(progress, arrays)

    add = Progress.add
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background has not
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Progress, "add", interrupted_add)
            with pytest.raises(KeyboardInterrupt):
                opt.add_param_group({"params": {"b": np.ones(2)}})
    finally:
        signal.signal(signal.SIGINT, before)
    opt.step({"a": np.ones(3), "b": np.ones(2)})
    assert [entries["step"] for entries in opt.state.values()] == [2, 1]


#: Runs in a process of its own: an optimizer whose steps are planned is interrupted again and again, and then compared
#: with one that made as many steps in peace. Prints how many steps were planned, and whether something differed.
STORM = """
import json, random, signal, sys
import numpy as np
import fastopt

options, is_scheduled, is_raised_by_alarm, interrupts = json.loads(sys.argv[1])

def schedule(step):
    return 0.01 / (1 + step % 7)

def build():
    params = {"a": np.linspace(-1, 1, 4_000).reshape(40, 100), "b": [np.ones(3), np.ones((2, 2))]}
    return params, fastopt.Adam(params, lr=schedule if is_scheduled else 0.01, backend="native", **options)

def everything(params, opt):
    state = {f"{name}.{slot}": array.tobytes() for name, its in opt.state.items() for slot, array in its.items()}
    return [array.tobytes() for array in (params["a"], *params["b"])], state, opt.step_count, opt.accumulated_calls

def interrupt(*args):
    if is_raised_by_alarm:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(0)
grads = {"a": np.full((100, 40), 0.5).T, "b": [np.ones(3), np.full((2, 2), 2.0)]}
params, opt = build()
for _ in range(6):
    opt.step(grads)
for _ in range(interrupts):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(3e-5, 3e-4))
        while True:
            opt.step(grads)
    except KeyboardInterrupt:
        pass
planned = opt.planned_steps
for _ in range(3):
    opt.step(grads)
others, peaceful = build()
while (peaceful.step_count, peaceful.accumulated_calls) < (opt.step_count, opt.accumulated_calls):
    peaceful.step(grads)
print(json.dumps([planned, everything(params, opt) != everything(others, peaceful)]))
"""


@needs_native
@pytest.mark.skipif(sys.platform == "win32", reason="needs signal.setitimer")
@pytest.mark.parametrize("interrupts", [*shortly(500, 3000), pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("options", "is_scheduled", "is_raised_by_alarm"),
    [
        pytest.param({}, False, True, id="constant"),
        pytest.param({"nonfinite": "skip", "ema_decay": 0.9, "ema_bias_correction": True}, True, True, id="scheduled"),
        pytest.param({"accumulate_steps": 2, "clip_norm": 1.0, "clip_global_norm": 0.5}, True, False, id="accumulate"),
    ],
)
def test_a_storm_of_interrupts_over_planned_steps(
    options: dict[str, object], is_scheduled: bool, is_raised_by_alarm: bool, interrupts: int
) -> None:
    """Whatever is interrupted, a schedule in Python too, a step is made and counted or not at all."""
    arguments = json.dumps([options, is_scheduled, is_raised_by_alarm, interrupts])
    planned, differs = told_by(STORM, arguments)
    assert not differs
    assert planned > interrupts


def trained(steps: int, lr: float, backend: str) -> tuple[dict[str, Any], fastopt.Optimizer]:
    params = {"a": np.linspace(-1, 1, 12).reshape(4, 3), "b": np.ones(3)}
    opt = fastopt.SGD(params, lr=lr, momentum=0.9, ema_decay=0.5, backend=backend)
    for _ in range(steps):
        opt.step({"a": np.ones((4, 3)), "b": np.full(3, 0.5)})
    return params, opt


def average(opt: fastopt.Optimizer) -> None:
    with opt.averaged():
        pass


def look_ahead(opt: fastopt.Optimizer) -> None:
    with opt.lookahead():
        pass


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["load_state_dict", "restore", "averaged", "lookahead", "freeze", "add_param_group"])
def test_ctrl_c_at_any_line(name: str, backend: str, stride: int, tmp_path: Path) -> None:
    """The call is done or not done then, and the optimizer goes on from there."""
    _, other = trained(5, 0.3, backend)
    saved = other.state_dict()
    fastopt.save(tmp_path / "run.npz", other)
    checkpoint = fastopt.load(tmp_path / "run.npz")
    calls: dict[str, Any] = {
        "load_state_dict": lambda opt: opt.load_state_dict(saved),
        "restore": checkpoint.restore,
        "averaged": average,
        "lookahead": look_ahead,
        "freeze": lambda opt: opt.freeze("b"),
        "add_param_group": lambda opt: opt.add_param_group({"params": {"c": np.ones(2)}}),
    }

    def seen_after(line: int) -> tuple[bool, Any]:
        """Return whether there was such a line, and the state after the interrupt and one more step."""
        lines = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            lines += event == "line"
            if event == "line" and lines == line:
                signal.raise_signal(signal.SIGINT)
            return trace

        params, opt = trained(3, 0.1, backend)
        before = sys.gettrace()
        sys.settrace(trace if line else None)
        try:
            if line != 0:
                calls[name](opt)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        opt.step({name: np.full(param.shape, 0.25) for name, param in opt.params.items()})
        state = {name: {slot: array.tolist() for slot, array in its.items()} for name, its in opt.state.items()}
        values = {name: param.tolist() for name, param in params.items()}
        return lines >= line, (values, state, opt.step_count, opt.lr, opt.frozen)

    not_done, done = seen_after(0)[1], seen_after(10**9)[1]
    line, is_there = 1, True
    while is_there:
        is_there, seen = seen_after(line)
        assert seen in (not_done, done), line
        line += stride
