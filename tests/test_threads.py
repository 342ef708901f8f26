"""What a program does to its own threads changes no bit of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import needs_native

import fastopt
from fastopt import threads


@needs_native
@pytest.mark.parametrize("count", [1, 2, 3])
def test_denormals_are_kept_whatever_the_caller_set(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that flushes denormals to zero has the same bits as one that does not, on every thread."""
    torch: Any = pytest.importorskip("torch", reason="needs torch, which can set the mode")
    monkeypatch.setattr(threads, "asked_for", count)
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
