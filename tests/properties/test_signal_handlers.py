"""A signal handler that steps another optimizer, or calls another function of fastopt, changes no bit around it.

The handler comes at lines of fastopt's own code, by ``sys.settrace``: where it comes is the same in every run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from cases import CASES, COMBINED_CASES, MATRIX_CASES, OPTIONS, STORAGE, Case, built, needs_native, raw, taken_by

import fastopt
from fastopt.backends import threads
from fastopt.backends.numpy import passes, table, workers

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]

#: The folder of fastopt's own code.
PACKAGE = str(Path(fastopt.__file__).parent)

#: A few arrays: some of 8-bit slots, some that share a block of the fallback.
SHAPES = [(64, 66), (5, 4), (3, 4)]

#: Makes call number ``k`` and returns all that can be seen of it (:func:`bits`).
Work = Callable[[int], Any]


@pytest.fixture(autouse=True)
def no_deadlock() -> Iterator[None]:
    """Raise where a call waits for what the call around it holds."""
    if not hasattr(signal, "alarm"):
        yield
        return

    def give_up(*args: Any) -> None:
        raise TimeoutError("the handler waits for the call that it interrupts")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def traced(work: Callable[[], Any], at_line: Callable[[], Any], function: str | None = None) -> Any:
    """Return what some work returns; call ``at_line`` before each line of fastopt, or of its function of this name."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and function in (None, frame.f_code.co_name):
            at_line()
        return trace

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(tracer)


def check_undisturbed(
    make: Callable[[], tuple[Work, Work]], calls: int = 3, times: int = 8, function: str | None = None
) -> None:
    """Compare an outer work, which a handler interrupts so many times, and the handler's work with both in peace."""

    def handler() -> None:
        if next(lines) % stride == 0:
            inner_seen.append(inner(len(inner_seen)))

    (peaceful, inner_peaceful), (outer, inner) = make(), make()
    lines, inner_seen = count(1), []
    expected = traced(lambda: [peaceful(k) for k in range(calls)], lambda: next(lines), function)
    stride, lines = max(next(lines) // (times + 1), 1), count(1)
    assert traced(lambda: [outer(k) for k in range(calls)], handler, function) == expected
    assert inner_seen, "the handler came"
    assert inner_seen == [inner_peaceful(k) for k in range(len(inner_seen))]


def bits(value: Any) -> Any:
    """Return values in which arrays are their bytes, and NaN equals NaN."""
    if isinstance(value, (np.ndarray, np.generic)):
        return raw(np.asarray(value))
    if isinstance(value, Mapping):
        return {name: bits(entry) for name, entry in value.items()}
    return [bits(entry) for entry in value] if isinstance(value, (list, tuple)) else repr(value)


def state_of(opt: fastopt.Optimizer) -> Any:
    copies = [copy for copy in opt.parts.parameters.copies if copy is not None]
    return [opt.parts.parameters.arrays, copies, opt.state, opt.step_count, opt.accumulated_calls]


def steps(case: Case, options: dict[str, Any], backend: str, seed: int) -> Work:
    """Return the steps of a new optimizer; of some gradients one element is NaN, if the options skip these."""
    rng = np.random.default_rng(seed)
    opt = built(case, [rng.normal(size=shape).astype(np.float32) for shape in SHAPES], options, backend=backend)

    def step(k: int) -> Any:
        rng = np.random.default_rng([seed, k])
        grads = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
        if options.get("nonfinite") == "skip" and k % 3 == 2:
            grads[k % 2][0, 1] = np.nan
        return bits([opt.step(grads), state_of(opt)])

    return step


ONE_OF_EACH = list({case.optimizer: case for case in reversed([*COMBINED_CASES, *CASES, *MATRIX_CASES])}.values())

ROWS = {"plain": {}, **OPTIONS, **STORAGE}


def of_each_optimizer() -> Iterator[Any]:
    """Yield every optimizer with every row of options; by default each with one row on each backend, by turns."""
    for b, backend in enumerate(["numpy", "native"]):
        for i, case in enumerate(ONE_OF_EACH):
            for j, (name, row) in enumerate(ROWS.items()):
                marks = [needs_native] if backend == "native" else []
                if j != (i + b * len(ROWS) // 2) % len(ROWS):
                    marks.append(pytest.mark.long)
                yield pytest.param(case, taken_by(case, row), backend, marks=marks, id=f"{case}-{name}-{backend}")


@pytest.mark.parametrize(("case", "options", "backend"), list(of_each_optimizer()))
def test_a_handler_steps_another_optimizer(case: Case, options: dict[str, Any], backend: str) -> None:
    pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    check_undisturbed(lambda: (steps(case, options, backend, 1), steps(case, options, backend, 2)))


ADAM = Case(fastopt.Adam, {"lr": 0.1})


def test_shared_scratch_arrays_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests above: where two tables share their buffers, the bits differ."""
    shared = workers.Buffers()
    monkeypatch.setattr(table, "Buffers", lambda: shared)
    options = {"state_dtype": "uint8"}
    with pytest.raises(AssertionError):
        check_undisturbed(lambda: (steps(ADAM, options, "numpy", 1), steps(ADAM, options, "numpy", 2)), times=50)


def row_sparse_steps(backend: str, seed: int) -> Work:
    rng = np.random.default_rng(seed)
    param = rng.normal(size=(50, 3))
    opt = ADAM.build(param, backend=backend)

    def step(k: int) -> Any:
        rng = np.random.default_rng([seed, k])
        indices = rng.integers(50, size=40)
        return bits([opt.step(fastopt.RowSparse(indices, rng.normal(size=(40, 3)))), state_of(opt)])

    return step


def clippings(backend: str, seed: int) -> Work:
    def clip(k: int) -> Any:
        rng = np.random.default_rng([seed, k])
        grads = [rng.normal(size=shape).astype(dtype) for shape, dtype in zip(SHAPES, "efd", strict=True)]
        norms = [fastopt.clip_grad_norm_(grads, 3.0), fastopt.clip.global_norm(grads, 3.0)]
        fastopt.clip_grad_value_(grads, 0.5)
        return bits([norms, grads])

    return clip


def quantizations(backend: str, seed: int) -> Work:
    def quantize(k: int) -> Any:
        x = np.random.default_rng([seed, k]).normal(size=(40, 30)).astype(np.float32)
        codes, scales = fastopt.quantize.quantize(x, "signed")
        return bits([codes, scales, fastopt.quantize.dequantize(codes, scales, "signed")])

    return quantize


def averages(backend: str, seed: int) -> Work:
    def mean(k: int) -> Any:
        rng = np.random.default_rng([seed, k])
        return bits(fastopt.averaging.mean([{"a": rng.normal(size=40)} for _ in range(3)]))

    return mean


def drives(backend: str, seed: int) -> Work:
    opt = ADAM.build(np.ones(2), backend=backend)
    driver = fastopt.lr_scheduler.CosineAnnealingWarmRestarts(opt, 3)
    schedule = fastopt.schedules.warmup_cosine(0.1, warmup=seed, total=20)

    def drive(k: int) -> Any:
        info = opt.step(np.full(2, 1.0 + k + seed))
        driver.step()
        return bits([info, opt.lr, driver.state_dict(), schedule(k)])

    return drive


def states(backend: str, seed: int) -> Work:
    """Save, load, average, add and freeze, by turns with steps."""
    rng = np.random.default_rng(seed)
    options = {"ema_decay": 0.5, "state_dtype": "uint8", "seed": seed, "backend": backend}
    opt = ADAM.build({"a": rng.normal(size=SHAPES[0]).astype(np.float32)}, **options)

    def work(k: int) -> Any:
        opt.add_param_group({"params": {f"b{k}": np.full(3, seed, np.float32)}})
        grads = {name: np.random.default_rng([seed, k]).normal(size=opt.params[name].shape) for name in opt.params}
        info = opt.step(grads)
        opt.freeze(f"b{k}")
        saved = opt.state_dict()
        opt.step(grads)
        opt.load_state_dict(saved)
        with opt.averaged():
            averaged = bits(opt.params)
        opt.reload_params()
        return bits([info, averaged, state_of(opt), opt.ema, opt.slot("a", "m"), opt.frozen])

    return work


WORKS = [row_sparse_steps, clippings, quantizations, averages, drives, states]


def full_steps(backend: str, seed: int) -> Work:
    options = {**OPTIONS["all"], "state_dtype": "uint8", "seed": seed}
    return steps(ADAM, options, backend, seed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_outer", [True, False], ids=["outer", "in the handler"])
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_a_handler_around_other_calls(
    work: Callable[[str, int], Work], is_outer: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other function is interrupted by steps and by itself, and interrupts steps."""
    monkeypatch.setenv("FASTOPT_BACKEND", backend)
    check_undisturbed(lambda: (work(backend, 3), work(backend, 4)), calls=2)
    others = (work, full_steps) if is_outer else (full_steps, work)
    check_undisturbed(lambda: (others[0](backend, 5), others[1](backend, 6)), calls=2)


def skipping_steps() -> tuple[Work, Work]:
    return steps(ADAM, {"nonfinite": "skip"}, "numpy", 1), steps(ADAM, {"nonfinite": "skip"}, "numpy", 2)


def test_a_handler_while_elements_are_counted_that_are_not_finite() -> None:
    """It counts its own, and does not wait for the counting that it interrupts."""
    check_undisturbed(skipping_steps, calls=9, times=1000, function="count_nonfinite")


def test_a_handler_while_threads_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both steps are on two threads, which start when the first one needs them."""
    monkeypatch.setattr(threads, "setting", 2)
    monkeypatch.setattr(passes, "WORK_OF_A_THREAD", 1)
    for function in ("start", None):
        monkeypatch.setattr(workers, "helpers", workers.Helpers())
        check_undisturbed(skipping_steps, times=20, function=function)
        assert workers.helpers.count > 0


#: Runs in a process of its own: signals whose handler steps other optimizers come at random moments of steps, and all
#: optimizers are compared with those that made as many steps in peace. Prints how many signals were handled, and
#: whether something differed.
PROGRAM = """
import json, signal, sys, threading
import numpy as np
import fastopt
from fastopt.backends.numpy import passes

backend, options = json.loads(sys.argv[1])
passes.WORK_OF_A_THREAD = 1 << 16
fastopt.set_num_threads(2)
params = [np.linspace(-1, 1, size, dtype=np.float32) for size in (200_000, 5_000, 12)]

class Run:
    def __init__(self, value):
        self.params = [param * np.float32(value) for param in params]
        self.opt = fastopt.Adam(self.params, lr=0.01, backend=backend, nonfinite="skip", **options)

    def step(self):
        k = self.opt.step_count
        self.opt.step([np.roll(param, k) for param in params])
        bad = [None, None, np.full(12, np.nan)]
        assert not self.opt.step(bad).applied

    def seen(self):
        slots = [array for its in self.opt.state.values() for array in its.values()]
        return [array.tobytes() for array in (*self.params, *slots)]

outer, handled = Run(1.0), [Run(2.0), Run(3.0)]
may_interrupt = [True]

def handle(number, frame):
    if may_interrupt[0]:
        may_interrupt[0] = False  # one at a time: an optimizer is not stepped inside its own step
        min(handled, key=lambda run: run.opt.step_count).step()
        may_interrupt[0] = True

def send():
    while not is_done.wait(0.004):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

signal.signal(signal.SIGALRM, handle)
signal.signal(signal.SIGUSR1, handle)
is_done = threading.Event()
sender = threading.Thread(target=send)
sender.start()
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
while min(run.opt.step_count for run in handled) < 15:
    outer.step()
signal.setitimer(signal.ITIMER_REAL, 0)
is_done.set()
sender.join()
differs = []
for value, run in zip((1.0, 2.0, 3.0), (outer, *handled)):
    peaceful = Run(value)
    while peaceful.opt.step_count < run.opt.step_count:
        peaceful.step()
    differs.append(peaceful.seen() != run.seen())
print(json.dumps([[run.opt.step_count for run in handled], differs]))
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals of threads")
@pytest.mark.parametrize("options", [{}, {"state_dtype": "uint8", "clip_global_norm": 1.0}], ids=["plain", "8-bit"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_storm_of_signals(backend: str, options: dict[str, Any]) -> None:
    """Timers and signals of another thread, whose handlers step two more optimizers."""
    arguments = json.dumps([backend, options])
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=300
    )
    handled, differs = json.loads(told.stdout)
    assert min(handled) >= 15
    assert differs == [False] * 3
