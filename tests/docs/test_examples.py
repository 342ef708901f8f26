"""The examples run, and reach what they set out to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import fastopt

EXAMPLES = [
    ROOT / "examples" / name for name in ("dictionary_learning.py", "fine_tune.py", "own_rule.py", "train_mlp.py")
]

pytestmark = pytest.mark.skipif(not EXAMPLES[0].exists(), reason="the source tree is not here")


def output_of(name: str) -> str:
    packages = str(Path(fastopt.__file__).parents[1])
    code = f"import sys, runpy; sys.path.insert(0, {packages!r}); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-W", "error", "-c", code, str(ROOT / "examples" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_its_comment_says_how_to_run_it(example: Path) -> None:
    docstring = example.read_text(encoding="utf-8").split('"""')[1]
    assert f"    python examples/{example.name}\n" in docstring


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
