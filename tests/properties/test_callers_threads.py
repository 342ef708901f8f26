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
from tiers import shortly

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
        signal.alarm(120)
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
            together.wait(60)
            if threading.get_ident() == caller:
                return
            if others.pop() == "raises":
                raise ValueError("the first")
            time.sleep(0.01)
            ended.append("works on")

        with pytest.raises(ValueError, match="the first"):
            workers.map_threaded(work, [(together, others, ended)] * 3, 3)
        assert ended == ["works on"]


@pytest.mark.parametrize("steps", shortly(8, 40))
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_threads_step_optimizers_of_their_own(backend: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, on threads that they share: each optimizer as if it were alone."""
    monkeypatch.setattr(threads, "setting", 2)
    monkeypatch.setattr(passes, "WORK_OF_A_THREAD", 1)
    options: list[dict[str, Any]] = [
        {"clip_global_norm": 1.0, "nonfinite": "skip"},
        {"state_dtype": "uint8", "ema_decay": 0.9},
        {"accumulate_steps": 2, "clip_norm": 1.0},
    ]

    def run(number: int) -> None:
        rng = np.random.default_rng(number)
        params = [rng.normal(size=size).astype(np.float32) for size in (50_000, 12, 20)]
        opt = fastopt.Adam(params, backend=backend, **options[number])
        for k in range(steps):
            grads: list[Any] = [rng.normal(size=param.size) for param in params]
            grads[1][k % 12 :] = np.nan if k % 4 == 3 and number == 0 else 1.0
            opt.step(grads)
        slots = [array for its in opt.state.values() for array in its.values()]
        seen[number] = [array.tobytes() for array in (*params, *slots)]

    seen: dict[int, list[bytes]] = {}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        started = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    together, seen = seen, {}
    for number in range(3):
        run(number)
    assert together == seen
