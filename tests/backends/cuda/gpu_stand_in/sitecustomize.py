"""Has numba-cuda link kernels to C instead of a GPU's code, in every Python that is started in the stand-in."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

from cuda.core import ObjectCode
from numba.cuda.codegen import CUDACodeLibrary
from ptx_in_c import Translation

HERE = Path(__file__).parent
FOLDER = Path(os.environ["GPU_STAND_IN"])
#: As on a GPU nothing is fused, whole numbers wrap, and memory may be read as anything; a thread's stack has 256 KiB.
FLAGS = [
    *("-O1", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing", "-shared", "-fPIC"),
    "-Werror=frame-larger-than=131072",
]


def built(ptx: str) -> Path:
    """Return the shared library that a kernel becomes, made once for all processes."""
    code = Translation(ptx).code()
    library = FOLDER / f"{hashlib.sha256(code.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        own = library.with_suffix(f".{os.getpid()}")
        command = ["gcc", *FLAGS, f"-I{HERE}", "-xc", "-", "-o", str(own), "-xnone", str(FOLDER / "libcuda.so.1")]
        done = subprocess.run(command, input=code, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the stand-in made C that is wrong: {done.stderr}\nof\n{ptx}")
        own.replace(library)
    return library


def get_cubin(library: Any, cc: Any = None) -> Any:
    """As Numba's, which keeps it on disk with the kernel; the driver gets the library's path."""
    cc = library._ensure_cc(cc)
    if cc not in library._cubin_cache:
        ptx = library.get_lto_ptx(cc) if library._lto else library.get_asm_str(cc)
        library._cubin_cache[cc] = ObjectCode.from_cubin(f"{built(ptx)}\0".encode())
    return library._cubin_cache[cc]


CUDACodeLibrary.get_cubin = get_cubin
