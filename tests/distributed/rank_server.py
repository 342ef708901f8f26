"""Run by on_ranks.py under mpiexec: each rank runs the functions that its connection names."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import traceback
from multiprocessing.connection import Client
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from mpi4py import MPI

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]


def load(name: str, file: str) -> ModuleType:
    """Return a test module, under the name that pytest gave it, so that pickles find it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def result_of(comms: list[Any], size: int, name: str, file: str, function: str, args: bytes) -> Any:
    call = attrgetter(function)(load(name, file))
    return call(comms[size], *pickle.loads(args))


def main() -> None:
    world = MPI.COMM_WORLD
    comms = [world.Split(0 if world.rank < size else MPI.UNDEFINED) for size in range(world.size + 1)]
    with Client(sys.argv[1]) as connection:
        connection.send(world.rank)
        while True:
            try:
                job = connection.recv()
            except EOFError:
                return
            try:
                answer = True, pickle.dumps(result_of(comms, *job))
            except BaseException:
                answer = False, traceback.format_exc()
            connection.send(answer)


main()
