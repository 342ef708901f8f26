"""Flags that would change bits: csrc/compiler.h refuses them, and setup.py adds the flag that mends them."""

from __future__ import annotations

import platform
import runpy
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from places import ROOT

COMPILER = shutil.which("gcc")
HEADER = ["-std=c11", "-fsyntax-only", "-x", "c", "csrc/compiler.h"]
FAST_MATH = ["-ffast-math", "-funsafe-math-optimizations", "-ffinite-math-only", "-freciprocal-math"]
FAST_MATH += ["-fno-signed-zeros"]
X87 = "-mfpmath=387"

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs gcc"),
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree"),
]
needs_x87 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86-64 processor")


def errors(*flags: str) -> str:
    done = subprocess.run([str(COMPILER), *flags, *HEADER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == ("error" in done.stderr)
    return done.stderr


@pytest.mark.parametrize("flag", FAST_MATH)
def test_fast_math_is_refused(flag: str) -> None:
    assert "build without -ffast-math and its parts" in errors(flag)


@needs_x87
def test_a_wider_type_is_refused() -> None:
    assert "FLT_EVAL_METHOD must be 0" in errors(X87)


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names of setup.py, which sets up nothing."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.chdir(ROOT)
    return runpy.run_path("setup.py")


def test_the_flags_of_a_build(setup: dict[str, Any]) -> None:
    assert setup["gcc_flags"]([COMPILER]) == setup["GCC_FLAGS"]


@needs_x87
def test_a_wider_type_is_mended(setup: dict[str, Any]) -> None:
    assert setup["gcc_flags"]([COMPILER, X87]) == [*setup["GCC_FLAGS"], "-msse2", "-mfpmath=sse"]
    assert errors(X87, "-msse2", "-mfpmath=sse") == ""


def test_a_refused_build_gives_the_reason(setup: dict[str, Any]) -> None:
    gcc_flags: Callable[[list[str]], list[str]] = setup["gcc_flags"]
    with pytest.raises(RuntimeError, match="fastopt promises the same bits everywhere: build without -ffast-math"):
        gcc_flags([str(COMPILER), "-ffast-math"])
    with pytest.raises(RuntimeError, match=r"unrecognized command-line option .-fnonsense"):
        gcc_flags([str(COMPILER), "-fnonsense"])
