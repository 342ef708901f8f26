"""What a program does to its own threads changes no bit of a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from cases import needs_native

import fastopt
from fastopt.backends import threads
from fastopt.backends.numpy import passes, workers


@needs_native
@pytest.mark.parametrize("count", [1, 2, 3])
def test_denormals_are_kept_whatever_the_caller_set(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that flushes denormals to zero has the same bits as one that does not, on every thread."""
    torch: Any = pytest.importorskip("torch", reason="needs torch, which can set the mode")
    monkeypatch.setattr(threads, "setting", count)
    param, grad = np.full(1_000_000, 1e-39, np.float32), np.zeros(1_000_000, np.float32)
    opt = fastopt.SGD(param, lr=0.1, backend="native")
    opt.step(grad)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush denormals")
    try:
        opt.step(grad)
        still_flushed = float(np.float32(1e-39) * np.float32(1)) == 0
    finally:
        torch.set_flush_denormal(False)
    assert still_flushed, "the caller's own mode is as it was"
    assert (param.view(np.uint32) == np.float32(1e-39).view(np.uint32)).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # once another test has started JAX
def test_numpy_steps_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process, which has none of its parent's threads, steps with threads of its own."""
    monkeypatch.setattr(threads, "setting", 2)
    monkeypatch.setattr(passes, "WORK_OF_A_THREAD", 1)
    params = [np.ones(10_000), np.ones(10_000)]
    opt = fastopt.SGD(params, lr=0.5, backend="numpy")
    opt.step([np.ones(10_000)] * 2)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        opt.step([np.ones(10_000)] * 2)
        os._exit(int(any((param != 0).any() for param in params)))
    assert os.waitpid(child, 0)[1] == 0
    assert (params[1] == 0.5).all()


def test_numpy_steps_after_the_main_thread() -> None:
    """A thread that goes on training when the main thread has ended, where Python starts no other one any more."""
    program = """
import threading
import numpy as np
import fastopt
from fastopt.backends.numpy import passes

def train():
    opt.step(np.ones(200_000))
    threading.main_thread().join()
    print(opt.step(np.ones(200_000)).step, param[-1])

passes.WORK_OF_A_THREAD = 1
fastopt.set_num_threads(3)
param = np.ones(200_000)
opt = fastopt.SGD(param, lr=0.5, backend="numpy")
threading.Thread(target=train).start()
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert told.stdout.split() == ["2", "0.0"]


def test_no_thread_goes_on_after_an_error() -> None:
    """Of three threads one raises at once and one works on: the error comes when both have ended."""
    caller = threading.get_ident()
    for _ in range(10):
        together, others = threading.Barrier(3), ["raises", "works on"]
        ended: list[str] = []

        def work(number: int, item: tuple[threading.Barrier, list[str], list[str]]) -> None:
            together, others, ended = item
            together.wait(10)
            if threading.get_ident() == caller:
                return
            if others.pop() == "raises":
                raise ValueError("the first")
            time.sleep(0.01)
            ended.append("works on")

        with pytest.raises(ValueError, match="the first"):
            workers.map_threaded(work, [(together, others, ended)] * 3, 3)
        assert ended == ["works on"]
