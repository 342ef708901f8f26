"""The scripts of examples/: their form, and what the short programs print. The gallery runs the lectures."""

from __future__ import annotations

import ast
import io
import re
import runpy
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from places import ROOT

import fastopt

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GALLERY = runpy.run_path(str(ROOT / "docs" / "gallery_scripts.py")) if EXAMPLES else {}
LECTURES, PROGRAMS, HELPERS = (GALLERY.get(name, ()) for name in ("LECTURES", "PROGRAMS", "HELPERS"))
#: The most lines of code of those that may be longer than others.
LINES = {"character_transformer.py": 200}

pytestmark = pytest.mark.skipif(not EXAMPLES, reason="the source tree is not here")


def output_of(name: str) -> str:
    packages = str(Path(fastopt.__file__).parents[1])
    code = f"import sys, runpy; sys.path.insert(0, {packages!r}); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-W", "error", "-c", code, str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_gallery_lists_every_script() -> None:
    assert {path.name for path in EXAMPLES} == {*LECTURES, *PROGRAMS, *HELPERS}


def docstring_of(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("name", [*LECTURES, *PROGRAMS])
def test_its_docstring_begins_with_a_title(name: str) -> None:
    title, underline, blank, text, *_ = docstring_of(name).split("\n")
    assert underline == "=" * len(title)
    assert title
    assert not blank
    assert text


@pytest.mark.parametrize("name", PROGRAMS)
def test_its_docstring_says_how_to_run_it(name: str) -> None:
    assert f"    python examples/{name}\n" in docstring_of(name) + "\n"


def lines_of_code(text: str) -> int:
    """Return how many lines of a script are neither its docstring, nor a comment, nor empty."""
    docstring, *_ = ast.parse(text).body
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in no_code]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len([line for line in lines if line > (docstring.end_lineno or 0)])


@pytest.mark.parametrize("name", LECTURES)
def test_a_lecture_is_short_and_ends_with_what_it_has_shown(name: str) -> None:
    """The session ``docs`` of the gate runs it."""
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert 40 <= lines_of_code(text) <= LINES.get(name, 120)
    *_, last = [node for node in ast.parse(text).body if ast.unparse(node) not in ("show()", "pictures.show()")]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(last))
    assert len(re.findall("^# %%$|^# %% ", text, re.M)) >= 2, "text between the code is behind # %%"


def test_train_mlp_learns() -> None:
    accuracies = [float(percent) for percent in re.findall(r"([\d.]+)%", output_of("train_mlp.py"))]
    assert len(accuracies) == 6
    assert min(accuracies[-2:]) > 99


def test_fine_tune_resumes_with_the_same_bits() -> None:
    output = output_of("fine_tune.py")
    assert "not loaded: ['params.head']\n" in output
    assert "the same bits: True\n" in output
    first, half_way, at_once, resumed = (float(error) for error in re.findall(r"error (\S+)", output))
    assert first < 1e-6
    assert at_once == resumed < 1e-5 < half_way


def test_own_rule_finds_the_minimum() -> None:
    assert output_of("own_rule.py") == "found [ 1.  -2.   0.5], wanted [ 1.  -2.   0.5]; slots: ['step', 'm']\n"


def test_dictionary_learning_explains_images_by_few_atoms() -> None:
    pytest.importorskip("sklearn")
    found = re.findall(r"([\d.]+) of 64 atoms in an image; ([\d.]+) %", output_of("dictionary_learning.py"))
    ((atoms, percent),) = [(float(each), float(other)) for each, other in found]
    assert atoms < 12
    assert percent > 85
