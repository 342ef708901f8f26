"""The CUDA backend without a GPU: what Numba's simulator can show, and that arrays of NumPy need nothing of CUDA."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cuda_arrays import SimulatedArray
from places import ROOT, TESTS

import fastopt
from fastopt.backends.cuda import found as cuda_found

FOLDER = TESTS / "backends/cuda/simulator"
needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda (pip install fastopt[cuda])"
)


@needs_numba
def test_all_in_the_simulator() -> None:
    """In a process of its own, since Numba reads NUMBA_ENABLE_CUDASIM when it is imported."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    environment.pop("FASTOPT_BACKEND", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_numpy_arrays_import_nothing_of_cuda() -> None:
    code = (
        "import sys, numpy as np, fastopt; fastopt.Adam(np.ones(3), clip_global_norm=1.0).step(np.ones(3)); "
        "from fastopt.backends import choosing; choosing.cuda_missing(); "
        "print([m for m in sys.modules if m.split('.')[0] in ('numba', 'numba_cuda', 'cuda', 'llvmlite')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["package", "driver"])
def test_what_is_missing_is_said_with_the_remedy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTOPT_BACKEND", raising=False)
    monkeypatch.setattr(cuda_found, "package", lambda: None if missing == "package" else "0.30")
    monkeypatch.setattr(cuda_found, "driver", lambda: None)
    remedies = {"package": r"pip install 'fastopt\[cuda\]'", "driver": "there is no NVIDIA driver .*; install one"}
    remedy = remedies[missing]
    with pytest.raises(RuntimeError, match=f"params: 'w' is on the GPU: .*{remedy}"):
        fastopt.SGD({"w": SimulatedArray(np.ones(2, np.float32))})
    with pytest.raises(RuntimeError, match=f"backend=cuda: .*{remedy}"):
        fastopt.SGD(np.ones(2), backend="cuda")


def test_gpu_arrays_where_the_others_are_numpys() -> None:
    opt = fastopt.SGD(np.ones(2, np.float32))
    on_gpu: Any = SimulatedArray(np.ones(2, np.float32))
    with pytest.raises(TypeError, match="SimulatedArray, on the GPU; expected a float NumPy array"):
        opt.step(on_gpu)
    with pytest.raises(TypeError, match="SimulatedArray, on the GPU; expected a NumPy array"):
        opt.add_param_group({"params": on_gpu})
    with pytest.raises(ValueError, match="only steps on a GPU have a stream"):
        opt.step(np.ones(2), stream=1)
