"""A stand-in for a GPU: runs Python with numba-cuda on a driver whose device is the processor.

``python tests/backends/cuda/gpu_stand_in -m pytest tests/backends/cuda/test_on_gpu.py`` runs the tests that need a
GPU; needs Linux, gcc and ``fastopt[cuda]``. All that numba-cuda and cuda.core do on the host is as ever, on a driver of
our own (libcuda.c), found in ``LD_LIBRARY_PATH`` before any other. What kernels are compiled and linked to (PTX) is
translated to C (ptx_in_c.py) and run thread by thread, from the first and from the last by turns; threads meet at
barriers and in the exchanges of a warp (threads.c). A launch fails where a thread uses memory that was not allocated or
is not aligned, or waits for threads that do not come; an operation that the kernels did not have before is an error.

It can't show: how long anything takes; that work of different streams waits for each other, since all is done when it
is asked for; threads at the same time, other than in these two orders; what ptxas makes of PTX (test_ptx.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Fortified jumps may not go to another stack.
FLAGS = ["-std=gnu11", "-O2", "-U_FORTIFY_SOURCE", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]


def before(path: str | Path, name: str) -> str:
    """Return a search path of the environment with a folder before the others."""
    return os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])])


def run(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        sources = [str(HERE / name) for name in ("libcuda.c", "threads.c")]
        subprocess.run(["gcc", *FLAGS, "-o", f"{folder}/libcuda.so.1", *sources], check=True)
        environment = {
            **os.environ,
            "GPU_STAND_IN": folder,
            "LD_LIBRARY_PATH": before(folder, "LD_LIBRARY_PATH"),
            "NUMBA_CACHE_DIR": f"{folder}/kernels",
            "PYTHONPATH": before(HERE, "PYTHONPATH"),
        }
        return subprocess.call([sys.executable, *arguments], env=environment)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
