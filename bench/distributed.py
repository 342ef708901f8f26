"""The groups of several ranks: what they measure, and the processes that do (bench.ranks, under mpiexec)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.shapes import ArraySet, mlp

RANKS = (1, 2, 4)
#: PEERS of bench.contenders tells by this name that it is one.
PEER = "torch ZeRO, gloo"

NETWORKS = {
    "MLP, 6 arrays, 0.1M": ArraySet(mlp(256, 256, 128, 10)),
    "MLP, 6 arrays, 1M": ArraySet(mlp(784, 800, 400, 10)),
    "MLP, 8 arrays, 11M": ArraySet(mlp(784, 2400, 2400, 1400, 10)),
}
SETS = NETWORKS | {
    "1,000 of 1,000": ArraySet([(1000,)] * 1000),
    "one of 1M": ArraySet([(1_000_000,)]),
}

CONTENDERS = ("fastopt", "fastopt, float16 wire", "all-reduce, fastopt", "all-reduce, naive NumPy", PEER)
PAIRS = [(name, "fastopt") for name in CONTENDERS[2:]]
MODEL = ("measured", "predicted", "measured, all-reduce", "predicted, all-reduce")
PAIRS_OF_MODEL = [MODEL[:2], MODEL[2:]]
OVERLAP = ("opt.add", "opt.step(grads)", "backward alone")
PAIRS_OF_OVERLAP = [OVERLAP[1::-1]]
MEMORY = ("state of a rank", "of one process", "buffers of a rank")


def mpiexec() -> str | None:
    """The program that starts ranks: the one of this Python's environment, if it has one."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def rows_on_ranks(name: str, quick: bool, cores: int, only: list[str] | None) -> Iterator[dict[str, Any]]:
    """The fields of the rows of a group, from 1, 2 and 4 ranks, which share the cores."""
    program = mpiexec()
    if program is None:
        sys.exit("the groups of several ranks need mpi4py and mpiexec: pip install mpi4py mpich")
    for ranks in RANKS:
        threads = str(max(1, cores // ranks))
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "FASTOPT_NUM_THREADS")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            command = [program, "-n", str(ranks), sys.executable, "-m", "bench.ranks", name, "--rows", str(file)]
            command += ["--quick"] * quick + [f"--only={each}" for each in only or []]
            environment = {**os.environ, **dict.fromkeys(names, threads)}
            subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, check=True)
            yield from json.loads(file.read_text())
