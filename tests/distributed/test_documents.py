"""The documents about several ranks: the guide's page, and the example alone and on four."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from on_ranks import TIMEOUT, environment, mpiexec
from pages import blocks, names_of, page_of
from places import ROOT

EXAMPLE = ROOT / "examples" / "distributed_digits.py"
PAGE = "guide/distributed"

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the source tree is not here")


def output_of(command: list[str]) -> str:
    variables = {**environment(), "FASTOPT_EXAMPLES": "short"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses_of(ranks: int, output: str) -> list[str]:
    """Return the numbers that the example prints, to the last digit; it has compared them with those without MPI."""
    lines = output.splitlines()
    assert lines[-1] == "fastopt.AdamW without MPI: the same losses and parameters, to the last bit"
    assert lines[0].startswith(f"{ranks} rank")
    return re.findall(r"\d+\.\d+", lines[0])


def commands_of_the_page() -> list[list[str]]:
    """Return the words of the page's commands with mpiexec."""
    scripts = [code for language, code in blocks(PAGE) if language == "sh"]
    words = [shlex.split(line) for script in scripts for line in script.splitlines() if line]
    return [each for each in words if each[0] == "mpiexec"]


def test_the_example_has_equal_losses_alone_and_on_four_ranks() -> None:
    """Alone, and on four ranks by the command of the page."""
    pytest.importorskip("sklearn")
    program, python = mpiexec(), sys.executable
    alone = losses_of(1, output_of([python, str(EXAMPLE)]))
    assert len(alone) == 3
    assert float(alone[1]) < 0.5 * float(alone[0])
    (command,) = commands_of_the_page()
    assert command[:4] == ["mpiexec", "-n", "4", "python"]
    assert losses_of(4, output_of([program, "-n", "4", python, *command[4:]])) == alone


def test_the_page_runs_on_one_rank() -> None:
    mpiexec()
    assert names_of(PAGE)["info"].applied


def test_the_page_runs_on_two_ranks() -> None:
    """Its blocks one after the other, as a program."""
    code = "\n".join(code for language, code in blocks(PAGE) if language == "python")
    path = page_of(PAGE)
    program = f"exec(compile({code!r}, {str(path)!r}, 'exec'))"
    output_of([mpiexec(), "-n", "2", sys.executable, "-W", "error", "-c", program])
