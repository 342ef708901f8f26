"""csrc/tools/make_rules.py: csrc/rules.h is made from the rules, and what C can't say is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

TOOL = ROOT / "csrc" / "tools" / "make_rules.py"

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="needs the source tree")

#: Line 9 is the first of the rule's body.
START = """\
from typing import NamedTuple


class QHMScalars(NamedTuple):
    beta: float
    {scalar}

def qhm(h: QHMScalars, p, g, b):
"""
BODY = """\
    b = h.beta * b + h.nu * g
    p = p - h.nu * b
    return p, b
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


def made_from(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run the tool on a file of this text; it writes rules.h beside it."""
    path = tmp_path / "rules.py"
    path.write_text(text)
    return run(path, "--out", tmp_path / "rules.h")


def test_rules_h_is_current() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr


def test_a_stale_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "rules.h"
    assert run("--out", path).returncode == 0
    assert run("--out", path, "--check").returncode == 0
    for text in (path.read_text().replace("g * g", "g + g"), None):
        path.unlink() if text is None else path.write_text(text)
        done = run("--out", path, "--check")
        assert (done.returncode, done.stderr) == (1, f"{path} is stale: run python csrc/tools/make_rules.py\n")


def test_a_rule_in_c(tmp_path: Path) -> None:
    """Names, slots, locals, the order of operations, comments: all of it as in Python."""
    text = (
        START.format(scalar="nu: float  # how much of the momentum is used")
        + '''\
    """Quasi-hyperbolic momentum."""
    b = h.beta * b + (g - h.beta * g)  # momentum
    # What goes into the step.
    mean = g + h.nu * (b - g) / maximum(absolute(g), where(b > g, h.nu, sqrt(b * b)))
    p = p - (h.nu - (mean - sign(b) - g))
    return p, b
'''
    )
    done = made_from(tmp_path, text)
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "rules.h").read_text()
    assert "#define FO_RULES(RULE) \\\n    RULE(qhm)\n" in made
    expected = """\
typedef struct {
    REAL beta;
    REAL nu; /* how much of the momentum is used */
} SCALARS(qhm);

/* Quasi-hyperbolic momentum. */
static inline void NAME(qhm)(REAL *p, REAL g, REAL *b, SCALARS(qhm) h)
{
    *b = h.beta * *b + (g - h.beta * g); /* momentum */
    /* What goes into the step. */
    const REAL mean = g + h.nu * (*b - g) / MAXIMUM(ABSOLUTE(g), WHERE(*b > g, h.nu, SQRT(*b * *b)));
    *p = *p - (h.nu - (mean - SIGN(*b) - g));
}
LOOP1(qhm)
"""
    assert expected in made


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_rule_that_is_not_there_compiles(tmp_path: Path) -> None:
    """The kernels compile around a rule of a file that the tool has not seen before."""
    assert made_from(tmp_path, START.format(scalar="nu: float") + BODY).returncode == 0
    for path in (ROOT / "csrc").glob("*.[ch]"):
        if path.name != "rules.h":
            shutil.copy(path, tmp_path)
    for source in ("isa_baseline.c", "step.c"):
        command = ["gcc", "-fsyntax-only", "-std=c11", "-fopenmp-simd", "-Wall", "-Wextra", "-Werror", source]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


REFUSED = {
    "literal": ("    p = p - 2 * g\n    return p, b\n", 9, "expected no literal, got 2; make it a scalar"),
    "power": ("    b = g**b\n    return p, b\n", 9, "expected + - * /, "),
    "minus": ("    b = -b\n    return p, b\n", 9, "got -b"),
    "function": ("    b = exp(b)\n    return p, b\n", 9, "got exp(b)"),
    "function of a module": ("    b = np.sqrt(b)\n    return p, b\n", 9, "got np.sqrt(b)"),
    "too few arguments": ("    b = maximum(b)\n    return p, b\n", 9, "maximum: expected 2 arguments, got 1"),
    "keyword": ("    b = maximum(b, g, out=b)\n    return p, b\n", 9, "got maximum(b, g, out=b)"),
    "unknown scalar": ("    b = b * h.gamma\n    return p, b\n", 9, "expected a scalar (beta, nu), got h.gamma"),
    "attribute": ("    b = b.real\n    return p, b\n", 9, "got b.real"),
    "unknown name": ("    b = b + c\n    return p, b\n", 9, "assigned above, got c"),
    "the scalars": ("    b = b * h\n    return p, b\n", 9, "got h"),
    "condition": ("    b = where(b, g, p)\n    return p, b\n", 9, "expected a comparison of two numbers, got b"),
    "two conditions": ("    b = where(b < g < p, g, p)\n    return p, b\n", 9, "got b < g < p"),
    "comparison": ("    b = b > g\n    return p, b\n", 9, "as the first argument of where only"),
    "new gradient": ("    g = g * g\n    return p, b\n", 9, "got g again"),
    "name twice": ("    x = g\n    x = b\n    return p, b\n", 10, "got x again"),
    "in place": ("    b += g\n    return p, b\n", 9, "expected assignments and one return, got b += g"),
    "two targets": ("    b = p = g\n    return p, b\n", 9, "expected an assignment to one name"),
    "control flow": ("    if b > g:\n        b = g\n    return p, b\n", 9, "expected assignments and one return"),
    "C's word": ("    register = g\n    return p, b\n", 9, "expected a name that C has no use for, got register"),
    "a macro": ("    REAL = g\n    return p, b\n", 9, "got REAL"),
    "long line": (
        f"    a_long_name = g\n    b = {' + '.join(['a_long_name'] * 10)}\n    return p, b\n",
        10,
        "expected at most 120 columns in C, got 147; name a part of it",
    ),
    "unused": ("    p = p - h.nu * g\n    return p, b\n", 8, "expected it to use b"),
    "slot not returned": ("    b = h.nu * b\n    return p\n", 10, "expected at its end: return p, b"),
    "other order": ("    b = h.nu * b\n    return b, p\n", 10, "expected at its end: return p, b"),
    "no return": ("    b = h.nu * b\n    p = p - b\n", 10, "expected at its end: return p, b"),
    "comment": ("    b = h.nu * b  # */\n    return p, b\n", 9, "the comment has */ in it"),
    "syntax": ("    b = h.nu *\n    return p, b\n", 9, "invalid syntax"),
    "after it": (f"{BODY}\n\nfor x in (): pass\n", 14, "expected named tuples of scalars, rules, imports"),
    "rule twice": (f"{BODY}\n\ndef qhm(h: QHMScalars, p, g, b):\n{BODY}", 14, "qhm: expected each rule once"),
    "parameters": (f"{BODY}\n\ndef b(h: QHMScalars, g, p):\n    return (p,)\n", 14, "got h, g, p"),
    "scalars": (f"{BODY}\n\ndef b(h, p, g):\n    return (p,)\n", 14, "expected h to be a named tuple"),
    "slots": (f"{BODY}\n\ndef f(h: QHMScalars, p, g, a, b, c, d, e):\n    return p\n", 14, "at most 4 slots, got 5"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    body, line, message = REFUSED[kind]
    done = made_from(tmp_path, START.format(scalar="nu: float") + body)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'rules.py'}:{line}: ")
    assert message in done.stderr
    assert not (tmp_path / "rules.h").exists()


@pytest.mark.parametrize(
    ("scalar", "message"),
    [
        ("nu: int", "QHMScalars: expected fields of the form name: float"),
        ("nu: float = 1.0", "QHMScalars: expected fields of the form name: float"),
        ("double: float", "expected a name that C has no use for, got double"),
    ],
)
def test_refused_scalars(tmp_path: Path, scalar: str, message: str) -> None:
    done = made_from(tmp_path, START.format(scalar=scalar) + BODY)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'rules.py'}:6: {message}\n")


def test_refused_number_of_scalars(tmp_path: Path) -> None:
    fields = "\n".join(f"    x{k}: float" for k in range(16))
    done = made_from(tmp_path, START.format(scalar=fields.strip()) + BODY)
    expected = "QHMScalars: expected 1 to 16 scalars, got 17"
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'rules.py'}:4: {expected}\n")


def test_no_rules(tmp_path: Path) -> None:
    done = made_from(tmp_path, '"""Nothing."""\n')
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'rules.py'}:1: expected rules, got none\n")
