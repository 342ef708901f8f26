"""Parameters and gradients beside pages that can't be accessed: reading or writing outside of an array is a crash."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
from typing import Any

import numpy as np
import pytest
from cases import Case, built, every_case, everything, needs_native

import fastopt
from fastopt import rules
from fastopt.backends.native import library as native

PAGE = mmap.PAGESIZE
SHAPES: list[tuple[int, ...]] = [(1,), (7,), (33,), (5, 7), (70,), (3, 11, 5), (1025,), (4097,)]

pytestmark = [
    needs_native,
    pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning"),  # of steps; of fork
]
every_place = pytest.mark.parametrize("place", ["end", "begin"])


def guarded(values: Any, place: str) -> Any:
    """Return a copy of an array that begins or ends at a page that can't be accessed."""
    size = values.size * values.itemsize
    inside = -(-size // PAGE) * PAGE
    memory = np.frombuffer(mmap.mmap(-1, inside + 2 * PAGE), np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for guard in (memory.ctypes.data, memory.ctypes.data + PAGE + inside):
        assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
    first = PAGE if place == "begin" else PAGE + inside - size
    copy = memory[first : first + size].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def spread(grad: Any, place: str) -> Any:
    """Return the gradient as every second element of a guarded array."""
    *rows, columns = grad.shape
    wide = np.zeros((*rows, 2 * columns - 1), grad.dtype)
    wide[..., ::2] = grad
    return guarded(wide, place)[..., ::2]


def in_every_way(grad: Any, place: str) -> list[Any]:
    """Return a gradient for each step: of the parameter's dtype, which is planned, of others, and in strides."""
    same = [guarded(grad, place) for _ in range(4)]
    others = [guarded(grad.astype(dtype), place) for dtype in (np.float16, np.float32, np.float64)]
    return [*same, *others, spread(grad, place), guarded(grad[..., ::-1], place)[..., ::-1], guarded(grad.T, place).T]


@every_case
@every_place
@pytest.mark.by_turns("case")
def test_steps_stay_inside(case: Case, place: str) -> None:
    """They have the bits of arrays elsewhere, too."""
    check_steps(case, place)


@every_place
def test_steps_of_compiled_rules_stay_inside(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in rule, compiled as if it were the user's own."""
    pytest.importorskip("llvmlite", reason="needs llvmlite")
    monkeypatch.delitem(native.RULES, rules.yogi)
    check_steps(Case(fastopt.Yogi, {"lr": 0.1}), place)


def check_steps(case: Case, place: str) -> None:
    rng = np.random.default_rng(7)
    start = [rng.normal(size=shape).astype(np.float32 if i % 2 else np.float64) for i, shape in enumerate(SHAPES)]
    opt = built(case, start, {}, lambda arrays: [guarded(array, place) for array in arrays], backend="native")
    usual = built(case, start, {}, backend="native")
    runs = zip(*(in_every_way(rng.normal(size=param.shape).astype(param.dtype), place) for param in start), strict=True)
    for grads in runs:
        opt.step(list(grads))
        usual.step([np.array(grad, order="C") for grad in grads])
    assert everything(opt.params, opt) == everything(usual.params, usual)
    assert (opt.planned_steps > 0) == (usual.planned_steps > 0)


@pytest.mark.parametrize(("place", "offset"), [("end", 8 * 3), ("begin", -1)])
def test_an_access_outside_is_a_crash(place: str, offset: int) -> None:
    array = guarded(np.ones(3), place)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        ctypes.string_at(array.ctypes.data + offset, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (-signal.SIGSEGV, -signal.SIGBUS)
