"""Numba's simulator. Its tests run where NUMBA_ENABLE_CUDASIM=1; ../test_simulator.py starts such a process."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

import pytest

IS_ON = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
collect_ignore_glob = [] if IS_ON else ["test_*.py"]

if IS_ON:
    # The simulator polls its threads, and holds the interpreter while it does.
    sys.setswitchinterval(1e-5)


class Allocations(dict[Any, Any]):
    """The shared arrays of a simulated block: one thread makes an array, the others get it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def get(self, key: Any, default: Any = None) -> Any:
        self.lock.acquire()
        if key in self:
            self.lock.release()
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.lock.release()


@pytest.fixture(autouse=True)
def shared_arrays_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's own dict has each of two threads make an array of its own, if both ask at once."""
    shared: Any = importlib.import_module("numba.cuda.simulator.kernelapi").FakeCUDAShared
    real_init = shared.__init__

    def init(self: Any, size: int) -> None:
        real_init(self, size)
        self._allocations = Allocations()

    monkeypatch.setattr(shared, "__init__", init)
