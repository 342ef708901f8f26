"""The memory that ``save`` needs, as its docstring says, and ``load``: that of the file, and a buffer for .npz."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import every_kind

import fastopt

MIB = 1 << 20


def peak_of(work: Callable[[], Any]) -> int:
    """Return how many bytes of memory this needs at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@every_kind
def test_save(tmp_path: Path, kind: str) -> None:
    params = {"a": np.ones(1_500_000, np.float32), "b": np.ones((1_000, 1_000), np.float32, order="F")}
    opt, extra = fastopt.SGD(params, momentum=0.9), {"data": np.ones(500_000)}
    opt.step({name: np.ones_like(array) for name, array in params.items()})
    path = tmp_path / kind
    peak = peak_of(lambda: fastopt.save(path, opt, extra=extra))
    size = path.stat().st_size
    assert size - MIB < peak < size + (17 if kind == "run.npz" else 1) * MIB


@every_kind
def test_load(tmp_path: Path, kind: str) -> None:
    array = np.ones((1_000, 3_000), np.float32)
    fastopt.save(tmp_path / kind, params=array)
    peak = peak_of(lambda: fastopt.load(tmp_path / kind))
    # A part of an .npz file is read as bytes first.
    assert array.nbytes < peak < (2 if kind == "run.npz" else 1) * array.nbytes + MIB
