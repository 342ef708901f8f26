"""The parts of CUDA that are installed, found without importing any of it and without starting the driver."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import NamedTuple

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class Found(NamedTuple):
    """The driver's version ("13.0"; "simulator"), that of the package numba-cuda, and the names of the GPUs (Linux)."""

    driver: str | None
    package: str | None
    devices: tuple[str, ...]


def found() -> Found:
    return Found(driver(), package(), devices())


def missing() -> str | None:
    """Return why CUDA can't be used here, with the remedy; None where it can."""
    if package() is None:
        return (
            "the package numba-cuda is not installed (pip install 'fastopt[cuda]'; for a driver of CUDA 12: "
            "pip install 'numba-cuda[cu12]')"
        )
    if driver() is None:
        return f"there is no NVIDIA driver ({LIBRARY} can't be loaded); install one, or use NumPy arrays"
    return None


def driver() -> str | None:
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "simulator"
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int()
    # The one call that does not need cuInit, after which a process must not fork.
    library.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def package() -> str | None:
    from importlib import metadata  # slow to import

    try:
        return metadata.version("numba-cuda")
    except metadata.PackageNotFoundError:
        return None


def devices() -> tuple[str, ...]:
    texts = [file.read_text() for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = [line.split(":", 1)[1].strip() for text in texts for line in text.splitlines() if line.startswith("Model")]
    return tuple(models)
