"""Memory is flat, however long a program runs and whatever it does in each step; without the cyclic collector too."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from memory_use import growth, is_flat, lasting_growth, mallinfo, no_collector, resident
from usage_patterns import MAKE_CYCLES, PATTERNS

import fastopt

NATIVE = pytest.param("native", marks=needs_native)

#: Those whose step takes a few microseconds.
FAST = [
    *("same_gradients", "new_gradients", "scheduled", "averaged", "clipped", "accumulated", "cleared", "float16"),
    *("hooks_that_raise", "schedules_that_raise", "steps_in_steps"),
]

#: What the caches may still take in steps without an end, in pieces of Python's memory and in bytes.
MOST_BLOCKS, MOST_BYTES = 1000, 2 << 20


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.by_turns("name")
@pytest.mark.parametrize("backend", ["numpy", NATIVE])
@pytest.mark.parametrize("name", PATTERNS)
def test_steps_take_no_memory(name: str, backend: str) -> None:
    """Also steps that raise, and optimizers that are made and dropped."""
    found = lasting_growth(PATTERNS[name](backend), 24, name in MAKE_CYCLES)
    assert is_flat(found, 24), found


def leak_of_objects(kept: list[Any]) -> Callable[[int], Any]:
    return lambda k: kept.append(object())


def leak_of_cycles(kept: list[Any]) -> Callable[[int], Any]:
    def step(k: int) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)

    return step


def leak_of_native_memory(kept: list[Any]) -> Callable[[int], Any]:
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    return lambda k: malloc(100)


@pytest.mark.parametrize(
    "leak",
    [
        leak_of_objects,
        leak_of_cycles,
        pytest.param(leak_of_native_memory, marks=pytest.mark.skipif(mallinfo is None, reason="needs mallinfo2")),
    ],
)
def test_leaks_are_found(leak: Callable[[list[Any]], Callable[[int], Any]]) -> None:
    """The controls of the test above."""
    found = lasting_growth(leak([]), 24)
    assert not is_flat(found, 24), found


@pytest.mark.exhaustive
@pytest.mark.parametrize("backend", [NATIVE])
@pytest.mark.parametrize("name", FAST)
def test_10_000_steps_take_no_memory(name: str, backend: str) -> None:
    step = PATTERNS[name](backend)
    with no_collector():
        growth(step, range(1000))
        found = growth(step, range(1000, 11_000))
    assert found.cyclic == 0, found
    assert found.blocks <= MOST_BLOCKS, found
    assert found.allocated <= MOST_BYTES, found


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("backend", "steps"), [pytest.param("native", 1_000_000, marks=needs_native), ("numpy", 100_000)]
)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_million_steps_take_no_memory(name: str, backend: str, steps: int) -> None:
    step, makes_cycles = PATTERNS[name](backend), name in MAKE_CYCLES
    with no_collector():
        growth(step, range(3000))
        before = resident()
        for begin in range(3000, 3000 + steps, 10_000):
            found = growth(step, range(begin, begin + 10_000), makes_cycles)
            assert found.cyclic == 0, found
            assert found.blocks <= MOST_BLOCKS, found
        assert resident() - before <= MOST_BYTES


@pytest.mark.exhaustive
def test_states_for_torch_take_no_memory() -> None:
    pytest.importorskip("torch")
    opt, grad = fastopt.Adam({"W": np.ones(3)}), np.ones(3)
    found = lasting_growth(lambda k: (opt.step({"W": grad}), fastopt.convert.to_torch(opt)), 24)
    assert is_flat(found, 24), found
