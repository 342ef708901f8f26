"""The CUDA backend on a stand-in for a GPU (gpu_stand_in): the host's side as it is, kernels as linked PTX."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from places import ROOT, TESTS

HERE = TESTS / "backends/cuda"

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda (pip install fastopt[cuda])"
    ),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, whose loader has LD_LIBRARY_PATH"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]


@pytest.mark.parametrize("file", ["gpu_stand_in/faults.py", "test_on_gpu.py"])
def test_in_the_stand_in(file: str) -> None:
    """In a process of its own, since the loader reads where drivers are when it starts."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTOPT_BACKEND"}
    parallel = ["-n", "auto"] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, str(HERE / "gpu_stand_in"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel]
    done = subprocess.run([*command, str(HERE / file)], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
