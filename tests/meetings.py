"""The calls of an optimizer that may meet: its changes and its readers, by the name that errors give them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt

SIZE = 3

#: The SGD of :func:`new_opt`, as the saved run of ``load_state_dict`` and ``restore``.
OPTIONS: dict[str, Any] = {"momentum": 0.9, "ema_decay": 0.5}


def new_opt(lr: Any = 0.5, backend: str = "numpy") -> fastopt.SGD:
    return fastopt.SGD({"W": np.ones(SIZE)}, lr=lr, backend=backend, **OPTIONS)


def grads() -> dict[str, Any]:
    return {"W": np.ones(SIZE)}


def saved_opt() -> fastopt.SGD:
    opt = new_opt()
    opt.step(grads())
    return opt


def checkpoint() -> fastopt.Checkpoint:
    opt = saved_opt()
    return fastopt.Checkpoint(opt.params, opt.state_dict(), {})


def stop_early(opt: Any) -> None:
    stopping = fastopt.EarlyStopping(1)
    stopping.update(1.0, {"W": np.zeros(SIZE)})
    stopping.restore(opt.params, opt)


def enter(context: Any) -> None:
    with context:
        pass


#: Each is a call with the optimizer of :func:`new_opt`, and with a new folder.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "step": lambda opt: opt.step(grads()),
    "flush": lambda opt: opt.flush(),
    "load_state_dict": lambda opt: opt.load_state_dict(saved_opt().state_dict()),
    "restore": lambda opt: checkpoint().restore(opt),
    "restore of EarlyStopping": stop_early,
    "add_param_group": lambda opt: opt.add_param_group({"params": {"new": np.ones(2)}}),
    "set": lambda opt: opt.set("W", lr=0.25),
    "freeze": lambda opt: opt.freeze("W"),
    "unfreeze": lambda opt: opt.unfreeze(),
    "reload_params": lambda opt: opt.reload_params(),
    "step_count": lambda opt: setattr(opt, "step_count", 7),
    "accumulated_calls": lambda opt: setattr(opt, "accumulated_calls", 0),
}

READERS: dict[str, Callable[[Any, Path], Any]] = {
    "save": lambda opt, folder: fastopt.save(folder / "run.npz", opt),
    "state_dict": lambda opt, folder: opt.state_dict(),
    "slot": lambda opt, folder: opt.slot("W", "b"),
    "ema": lambda opt, folder: opt.ema,
    "pickle": lambda opt, folder: opt.__reduce_ex__(4),
    "averaged()": lambda opt, folder: enter(opt.averaged()),
    "lookahead()": lambda opt, folder: enter(opt.lookahead()),
}


def called(name: str) -> str:
    """Return what errors call a change or a reader."""
    return name.partition(" ")[0]


@contextmanager
def threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def running(work: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Run a function in another thread meanwhile, and wait for it; return what it raises."""
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catching)
    thread.start()
    try:
        yield raised
    finally:
        thread.join()


@contextmanager
def repeating(work: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Call a function again and again in another thread meanwhile; return what it raises, which ends it."""
    finished = threading.Event()

    def repeat() -> None:
        while not finished.is_set():
            work()

    with running(repeat) as raised:
        try:
            yield raised
        finally:
            finished.set()


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for another thread; fail after a minute."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(1e-4)


class PausedSchedule:
    """A schedule that stops in the step after this many ones, until it may go on."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.is_in, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, step: int) -> float:
        if step == self.before and not self.is_in.is_set():
            self.is_in.set()
            assert self.may_go_on.wait(60)
        return 0.5


def refusal(call: Callable[[], Any]) -> str:
    """Return the error of a call that is refused."""
    with pytest.raises(RuntimeError) as caught:
        call()
    return str(caught.value)
