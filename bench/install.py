"""What a package costs before it does anything: import time, installed size, and the size of fastopt's wheel."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench import ROOT

# What an import pulls in with it, as distributions.
PACKAGES = {
    "numpy": ["numpy"],
    "fastopt": ["fastopt"],
    "torch": ["torch"],
    "optax": ["optax", "jax", "jaxlib"],
    "deepspeed": ["deepspeed", "torch"],
}


def importable() -> list[str]:
    """Those of the packages that are installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name)]


def start_python(statement: str) -> None:
    """Run one statement in a fresh interpreter, away from the checkout but with the same fastopt."""
    origin = Path(importlib.util.find_spec("fastopt").origin).parent.parent
    environment = os.environ | {"PYTHONPATH": str(origin)} if origin == ROOT else os.environ
    command = [sys.executable, "-W", "ignore", "-c", statement]
    subprocess.run(command, cwd=tempfile.gettempdir(), env=environment, check=True, capture_output=True)


def import_times(names: list[str], rounds: int) -> dict[str, float]:
    """Seconds that each import adds to one of NumPy, and NumPy's own above Python's start; medians, interleaved."""
    statements = {"": "pass", "numpy": "import numpy"}
    statements |= {name: f"import numpy, {name}" for name in names if name != "numpy"}
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(rounds + 1):
        for name, statement in statements.items():
            start = time.perf_counter()
            start_python(statement)
            times[name].append(time.perf_counter() - start)
    middle = {name: median(each[1:]) for name, each in times.items()}  # the first round filled the disk cache
    return {name: middle[name] - middle["" if name == "numpy" else "numpy"] for name in names}


def installed_size(name: str) -> str:
    """What a package's distributions take on disk."""
    files = [file for each in PACKAGES[name] for file in distribution_files(each)]
    size = sum(path.stat().st_size for path in files if path.is_file())
    return f"{size / 1e6:.1f} MB" if size > 50_000 else "–"  # next to nothing: it runs from a source tree


def distribution_files(name: str) -> list[Path]:
    try:
        return [Path(file.locate()) for file in importlib.metadata.files(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def wheel_size() -> int:
    """Bytes of fastopt's wheel, built from a copy of the checkout so that nothing old is packed and nothing is left."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(
            ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "*.pyd")
        )
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", folder, str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return next(Path(folder).glob("fastopt-*.whl")).stat().st_size
