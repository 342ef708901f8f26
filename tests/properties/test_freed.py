"""What a step or an optimizer leaves behind: nothing, once the last reference goes, without the cyclic collector."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import CASES, COMBINED_CASES, MATRIX_CASES, Case, needs_native

import fastopt
from fastopt import lr_scheduler
from fastopt.backends.numpy import workers

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]
ONE_OF_EACH = list({case.optimizer: case for case in reversed([*COMBINED_CASES, *CASES, *MATRIX_CASES])}.values())

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip": {"clip_global_norm": 0.5, "clip_norm": 1.0},
    "skip": {"nonfinite": "skip"},
    "zero_grads": {"zero_grads": True},
    "accumulate": {"accumulate_steps": 2},
    "ema": {"ema_decay": 0.9},
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def new(case: Case, **options: Any) -> tuple[Any, fastopt.Optimizer]:
    params = {"a": np.ones((4, 3)), "b": np.ones((2, 2))}
    return params, case.build(params, **options)


def new_grads() -> dict[str, Any]:
    return {"a": np.full((4, 3), 0.5), "b": np.full((2, 2), 0.5)}


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_an_optimizer_is_freed(case: Case, backend: str, steps: int, no_collector: None) -> None:
    params, opt = new(case, backend=backend)
    for _ in range(steps):
        opt.step(new_grads())
    if steps > 1:
        opt.load_state_dict(opt.state_dict())
        opt.step(new_grads())
    last = [weakref.ref(opt), weakref.ref(params["a"])]
    del opt, params
    assert [found() for found in last] == [None, None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "drive",
    [
        lambda opt: lr_scheduler.StepLR(opt, 2),
        lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: 0.9**epoch),
        lambda opt: lr_scheduler.CosineAnnealingLR(opt, 5),
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.LinearLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)], [2]
        ),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
    ],
    ids=["StepLR", "LambdaLR", "CosineAnnealingLR", "SequentialLR", "ReduceLROnPlateau"],
)
def test_an_optimizer_with_a_driver_is_freed(drive: Callable[[Any], Any], backend: str, no_collector: None) -> None:
    params, opt = new(Case(fastopt.Adam, {"lr": 0.1}), backend=backend)
    driver = drive(opt)
    for _ in range(6):
        opt.step(new_grads())
        driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))
    last = weakref.ref(opt)
    del opt, driver, params
    assert last() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_is_freed_after_an_error(backend: str, no_collector: None) -> None:
    params, opt = new(Case(fastopt.Adam, {"lr": 0.1}), backend=backend)
    for _ in range(5):
        opt.step(new_grads())
    for bad in ({"a": np.ones(3)}, {"a": params["a"]}, [], None):
        with pytest.raises((TypeError, ValueError)):
            opt.step(bad)
    last = weakref.ref(opt)
    del opt, params
    assert last() is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("case", [Case(fastopt.SGD, {"lr": 0.1}), Case(fastopt.LAMB, {})], ids=str)
def test_gradients_are_not_kept(case: Case, options: dict[str, Any], backend: str, no_collector: None) -> None:
    """Neither those that a step reads as they are, nor those that it converts, nor those of a step that raises."""
    params, opt = new(case, backend=backend, **options)
    for step in range(9):
        grads = new_grads()
        if step == 5:
            grads["a"] = np.ones((3, 4)).T
        if step == 6:
            grads["a"] = grads["a"].astype(np.longdouble)
        if step == 7:
            grads["b"] = np.ones(7)
        references = [sys.getrefcount(array) for array in grads.values()]
        if step == 7:
            with pytest.raises(ValueError, match="shape"):
                opt.step(grads)
        else:
            opt.step(grads)
        assert [sys.getrefcount(array) for array in grads.values()] == references
        last = [weakref.ref(array) for array in grads.values()]
        del grads
        assert [found() for found in last] == [None, None], f"step {step}"
    assert opt.planned_steps > 0 or backend == "numpy" or case.optimizer is fastopt.LAMB
    assert params["a"].shape == (4, 3)


def test_threads_that_begin_late_keep_nothing_alive(no_collector: None) -> None:
    threads, may_begin = fastopt.get_num_threads(), threading.Event()
    wait: Any = may_begin.wait
    fastopt.set_num_threads(2)
    try:
        param = np.ones(1_000_000, np.float32)
        opt: Any = fastopt.Adam(param, backend="numpy")
        opt.step(np.ones_like(param))
        assert workers.helpers.count > 0
        for _ in range(workers.helpers.count):
            workers.helpers.work.put(wait)
        grad: Any = np.ones_like(param)
        opt.step(grad)
        last = [weakref.ref(each) for each in (opt, param, grad)]
        del opt, param, grad
        assert [found() for found in last] == [None] * 3
    finally:
        may_begin.set()
        fastopt.set_num_threads(threads)


def test_the_scratch_memory_of_the_fallback_is_that_of_its_largest_block() -> None:
    """Also where the arrays get larger and larger, each of which the calls of the fallback stay bound to."""
    threads = fastopt.get_num_threads()
    fastopt.set_num_threads(1)
    params = [np.ones(length, np.float32) for length in range(5_000, 250_000, 5_000)]
    tracemalloc.start()
    try:
        opt = fastopt.Adam(params, backend="numpy", clip_global_norm=1.0)
        opt.step([np.ones_like(param) for param in params])
        scratch = tracemalloc.get_traced_memory()[0] - opt.state_bytes
    finally:
        tracemalloc.stop()
        fastopt.set_num_threads(threads)
    assert scratch < 12 * max(param.nbytes for param in params) < sum(param.nbytes for param in params)
