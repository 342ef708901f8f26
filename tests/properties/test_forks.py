"""A child process has none of its parent's other threads: it waits for none of their calls of an optimizer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cases import needs_native
from meetings import CHANGES, READERS, PausedSchedule, grads, new_opt, refusal, running, wait_until

from fastopt.core.turns import Kind

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning"),  # once another test has started JAX
]


def succeeds_in_a_child(work: Callable[[], Any]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_a_child_does_not_wait_for_a_step_of_its_parent(backend: str, before: int, tmp_path: Path) -> None:
    schedule = PausedSchedule(before)
    opt = new_opt(schedule, backend)
    for _ in range(before):
        opt.step(grads())

    def check() -> None:
        for change in CHANGES.values():
            refusal(partial(change, opt))
        for read in READERS.values():
            assert "another thread was at a step of this optimizer when" in refusal(partial(read, opt, tmp_path))

    with running(lambda: opt.step(grads())):
        assert schedule.is_in.wait(60)
        try:
            assert succeeds_in_a_child(check)
        finally:
            schedule.may_go_on.set()
    assert opt.step_count == before + 1


def test_a_child_goes_on_that_was_forked_beside_a_reader() -> None:
    opt, may_go_on = new_opt(), threading.Event()
    with running(lambda: opt.parts.turns.run("save", Kind.READER, may_go_on.wait, 60)):
        wait_until(lambda: opt.parts.turns.queue)
        try:
            assert succeeds_in_a_child(lambda: opt.step(grads()))
        finally:
            may_go_on.set()
    assert opt.step(grads()).step == 1
