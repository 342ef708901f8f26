"""Run functions of test modules, and scripts, on the ranks of MPI; a test that does is skipped where there is no MPI.

``results = on_ranks(2, function, *args)`` calls ``function(comm, *args)`` on 2 ranks (1 to 4) and returns what each
returned; the function stands in a test module (not inside another function), and fails the test if it raises on a rank.
``run_script(4, code)`` runs a program of its own under mpiexec and returns its returncode and output.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
MOST = 4
#: Far more seconds than a start or a test takes, on a machine that is busy with other things.
TIMEOUT = 180.0
#: How many seconds the other ranks may take to return, after one has raised.
AFTER_FAILURE = 10.0

#: That of this Python's environment, if it has one.
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
MISSING = MPIEXEC is None or importlib.util.find_spec("mpi4py") is None
REASON = "needs mpi4py and mpiexec: pip install mpi4py mpich"
#: For tests that call neither on_ranks nor run_script.
needs_mpi = pytest.mark.skipif(MISSING, reason=REASON)


def mpiexec() -> str:
    if MISSING:
        pytest.skip(REASON)
    return str(MPIEXEC)


def environment() -> dict[str, str]:
    """Return the environment of a rank, which shares its cores with others."""
    variables = {"OPENBLAS_NUM_THREADS": "1", "FASTOPT_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    python_path = os.pathsep.join(path for path in (str(HERE.parents[1]), os.environ.get("PYTHONPATH")) if path)
    source_tree = {"PYTHONPATH": python_path} if (HERE.parents[1] / "fastopt").is_dir() else {}
    return {**os.environ, **variables, **source_tree}


def end(process: subprocess.Popen[Any]) -> None:
    """End mpiexec, which ends its ranks; if it doesn't within seconds, kill it, which does too."""
    process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server:
    """Four ranks that wait for functions to run."""

    def __init__(self) -> None:
        path_of_mpiexec = mpiexec()
        self.folder = tempfile.TemporaryDirectory()
        self.output = Path(self.folder.name) / "output"
        address = str(Path(self.folder.name) / "socket")
        command = [path_of_mpiexec, "-n", str(MOST), sys.executable, str(HERE / "rank_server.py"), address]
        with socket.socket(socket.AF_UNIX) as listener, self.output.open("wb") as output:
            listener.bind(address)
            listener.listen(MOST)
            listener.settimeout(TIMEOUT)
            self.process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            ranks: dict[int, Connection] = {}
            for _ in range(MOST):
                connection = Connection(listener.accept()[0].detach())
                ranks[connection.recv()] = connection
        self.connections = [ranks[rank] for rank in range(MOST)]

    def stop(self, at_once: bool) -> None:
        for connection in self.connections:
            connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0 if at_once else 3)
        end(self.process)
        self.folder.cleanup()

    def run(self, size: int, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
        """Return what each rank returned; raise AssertionError with the traceback of each rank that has one."""
        file = inspect.getsourcefile(function)
        job = (size, function.__module__, file, function.__qualname__, pickle.dumps(args))
        waiting = {connection: rank for rank, connection in enumerate(self.connections[:size])}
        for connection in waiting:
            connection.send(job)
        results: dict[int, Any] = {}
        errors: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            for connection in wait(list(waiting), left):
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    has_returned, data = connection.recv()
                except (EOFError, OSError):
                    has_returned, data = False, "died\n" + self.output.read_text(errors="replace")
                if has_returned:
                    results[rank] = pickle.loads(data)
                else:
                    errors[rank] = data
                    deadline = min(deadline, time.monotonic() + AFTER_FAILURE)
        errors |= {rank: f"did not return within {timeout} s\n" for rank in waiting.values() if not errors}
        errors |= {rank: "was still waiting\n" for rank in waiting.values() if rank not in errors}
        if errors:
            raise AssertionError("\n".join(f"rank {rank}: {text}" for rank, text in sorted(errors.items())))
        return [results[rank] for rank in range(size)]


server: Server | None = None


def stop_server(at_once: bool = False) -> None:
    """Stop the ranks; the next function gets new ones."""
    global server
    if server is not None:
        server.stop(at_once)
    server = None


def on_ranks(size: int, function: Callable[..., Any], *args: Any, timeout: float = TIMEOUT) -> list[Any]:
    """Return the results of ``function(comm, *args)`` on each of ``size`` ranks."""
    global server
    server = server or Server()
    try:
        return server.run(size, function, args, timeout)
    except BaseException:
        stop_server(at_once=True)
        raise


def run_script(
    size: int, code: str | Path, *arguments: str, timeout: float = TIMEOUT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program, given by its text or path, on ``size`` ranks; fail if it takes longer than ``timeout`` seconds."""
    program = [str(code)] if isinstance(code, Path) else ["-c", code]
    command = [mpiexec(), "-n", str(size), sys.executable, *program, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**environment(), **variables}, text=True, **pipes)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end(process)
        output, errors = process.communicate()
        raise AssertionError(f"not done after {timeout} s\n{output}\n{errors}") from None
    except BaseException:
        end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def errors_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the last line of each traceback of a program that failed, in alphabetical order."""
    assert result.returncode != 0, result.stderr
    tracebacks = re.findall(r"^Traceback .*\n(?:  .*\n)+(.*)", result.stderr, re.M)
    assert len(tracebacks) == result.stderr.count("Traceback"), result.stderr
    return sorted(line.replace("fastopt.distributed.faults.", "") for line in tracebacks)
