"""The memory that ``save`` needs, as its docstring says: that of the file, and a buffer for .npz."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
from checkpoints import every_kind

import fastopt

MIB = 1 << 20


@every_kind
def test_save(tmp_path: Path, kind: str) -> None:
    params = {"a": np.ones(1_500_000, np.float32), "b": np.ones((1_000, 1_000), np.float32, order="F")}
    opt, extra = fastopt.SGD(params, momentum=0.9), {"data": np.ones(500_000)}
    opt.step({name: np.ones_like(array) for name, array in params.items()})
    path = tmp_path / kind
    tracemalloc.start()
    try:
        fastopt.save(path, opt, extra=extra)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert size - MIB < peak < size + (17 if kind == "run.npz" else 1) * MIB
