"""The C side alone, without Python: bench/driver.c, and the programs of this folder.

csrc/tools/check_bits.py builds and runs bits.c, for several compilers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from cases import ISAS
from places import ROOT

COMPILER = shutil.which("cc")
FLAGS = ["-O1", "-std=c11", "-ffp-contract=off", "-fopenmp-simd", "-pthread", "-Icsrc"]
FLAGS += ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SOURCES = sorted(str(path) for path in ROOT.glob("csrc/*.c"))
CALLERS = "tests/backends/native/callers.c"

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler called cc"),
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="needs the source tree"),
]


def build(folder: Path, sources: list[str], *flags: str) -> Path:
    """Return a program of these C files, whose paths are relative to the root."""
    program = folder / "program"
    subprocess.run([str(COMPILER), *FLAGS, *flags, *sources, "-lm", "-o", str(program)], cwd=ROOT, check=True)
    return program


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the compiled files of csrc; to optimise them would take longer than to run them."""
    folder = tmp_path_factory.mktemp("objects")
    subprocess.run([str(COMPILER), *FLAGS, "-O0", f"-I{ROOT / 'csrc'}", "-c", *SOURCES], cwd=folder, check=True)
    return [str(path) for path in folder.glob("*.o")]


@pytest.fixture(scope="module")
def driver(objects: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver"), ["bench/driver.c", *objects])


@pytest.mark.parametrize(
    ("elements", "told"),
    # sgd with a learning rate of 0.5, two steps: 1 - 2 * 0.5 * 0.5; the squares of 0.5 + k % 7 in the first array.
    [(1, "0.5 0.25"), (4, "0.5 0.25"), (5, "0.5 0.25"), (8, "0.5 2.5"), (100_000, None)],
)
def test_any_number_of_elements(driver: Path, elements: int, told: str | None) -> None:
    command = [driver, "sgd", "baseline", str(elements), "2", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told is None or done.stdout == f"sgd baseline: {told}\n"


def test_no_elements(driver: Path) -> None:
    for elements in ("0", "-3", "x"):
        done = subprocess.run([driver, "sgd", "baseline", elements, "2", "2"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, f"elements: expected at least 1, got {elements}\n")


def test_a_door_is_opened_only_if_somebody_would_come(tmp_path: Path) -> None:
    """A small step that would wake nobody runs alone. Helpers that are awake, or a large step, still open the door."""
    program = build(tmp_path, ["tests/backends/native/doors.c"])
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "helpers not started: 1",
        "small, all asleep: 0",
        "large, all asleep: 1",
        "small, back to back: 1",
    ]


def test_callers_in_several_threads_have_the_bits_of_one(objects: list[str], tmp_path: Path) -> None:
    """Also in a child process, which was forked while the others stepped."""
    program = build(tmp_path, [CALLERS, *objects])
    done = subprocess.run([program, "baseline", "3"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith(" 0 faults\n")


def run_sanitized(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = {"TSAN_OPTIONS": "die_after_fork=0 halt_on_error=1 exitcode=66"}
    return subprocess.run([program, *arguments], env={**os.environ, **options}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("isa", "rounds"),
    [
        pytest.param("baseline", "1", marks=pytest.mark.exhaustive),
        *(pytest.param(isa, "20", marks=pytest.mark.long) for isa in ISAS),
    ],
)
def test_no_race(tmp_path: Path, isa: str, rounds: str) -> None:
    """ThreadSanitizer finds the race of callers that step one table, and none if each has a table of its own."""
    program = build(tmp_path, [CALLERS, *SOURCES], "-g", "-fsanitize=thread")
    done = run_sanitized(program, isa, rounds, "shared")
    assert done.returncode == 66
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "visit_step" in done.stderr
    done = run_sanitized(program, isa, rounds)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(" 0 faults\n")


@pytest.mark.parametrize("path", sorted(ROOT.glob("csrc/python/*.c")), ids=lambda path: path.name)
def test_the_files_that_read_python_have_no_warnings(path: Path) -> None:
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([str(COMPILER), *FLAGS, include, "-fsyntax-only", str(path)], cwd=ROOT, check=True)
