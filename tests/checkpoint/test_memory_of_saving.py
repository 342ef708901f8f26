"""The memory that ``save`` needs, as its docstring says: that of the file, and a buffer for .npz."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from checkpoints import ENVIRONMENT

import fastopt

MIB = 1 << 20


def version_of(package: str) -> list[int]:
    """Return the first two numbers of a package's version; [] if it is missing."""
    try:
        return [int(number) for number in version(package).split(".")[:2]]
    except PackageNotFoundError:
        return []


#: Returns by how many bytes the greatest use of memory grows while a large checkpoint is written after a small one.
PEAK = """
import sys, numpy as np, fastopt
opt = fastopt.Adam(np.ones(3_000_000, np.float32))
opt.step(np.ones(3_000_000))
fastopt.save(sys.argv[1], params=np.ones(2))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the greatest use so far is the present one
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * 4096
fastopt.save(sys.argv[1], opt)
with open("/proc/self/status") as file:
    print(int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024 - before)
"""


def test_npz(tmp_path: Path) -> None:
    params = {"a": np.ones(1_500_000, np.float32), "b": np.ones((1_000, 1_000), np.float32, order="F")}
    opt, extra = fastopt.SGD(params, momentum=0.9), {"data": np.ones(500_000)}
    opt.step({name: np.ones_like(array) for name, array in params.items()})
    path = tmp_path / "run.npz"
    tracemalloc.start()
    try:
        fastopt.save(path, opt, extra=extra)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert size - MIB < peak < size + 17 * MIB


@pytest.mark.exhaustive
@pytest.mark.skipif(version_of("safetensors") < [0, 8], reason="needs safetensors 0.8, which makes no copies")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    command = [sys.executable, "-c", PEAK, str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    size = path.stat().st_size
    assert size - MIB < int(done.stdout) < size + 4 * MIB
