"""The files that a build ships."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from places import ROOT

import fastopt

needs_sources = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


@needs_sources
def test_a_second_build_ships_no_module_that_was_deleted(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "fastopt"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))
    module, built = tmp_path / "fastopt" / "deleted.py", tmp_path / "build" / "lib" / "fastopt"
    module.touch()

    def build() -> None:
        command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "build/lib"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    build()
    assert (built / module.name).exists()
    module.unlink()
    build()
    assert (built / "__init__.py").exists()
    assert not (built / module.name).exists()


@needs_sources
def test_thinc_finds_every_optimizer(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "fastopt.egg-info" / "entry_points.txt").read_text().split("\n")
    expected = {f"fastopt.{name}.v1 = fastopt.thinc:{name}" for name in fastopt.optimizers.__all__}
    assert {row for row in rows if row} == {"[thinc_optimizers]", *expected}


def test_an_installation_has_the_package_alone() -> None:
    """No examples, tests or documents."""
    installed = [{file.parts[0] for file in found.files or []} for found in metadata.distributions(name="fastopt")]
    # A source tree in which a wheel was built has an egg-info, which lists all sources.
    installed = [folders for folders in installed if any(folder.endswith(".dist-info") for folder in folders)]
    if not installed:
        pytest.skip("fastopt is not installed")
    for folders in installed:
        assert {name for name in folders if not name.endswith(".dist-info") and "editable" not in name} <= {"fastopt"}


def test_an_installation_names_its_optimizers_to_thinc() -> None:
    found = [each for each in metadata.distributions(name="fastopt") if each.files and each.entry_points]
    if not found:
        pytest.skip("fastopt is not installed")
    for each in found:
        names = {point.name for point in each.entry_points if point.group == "thinc_optimizers"}
        assert names == {f"fastopt.{name}.v1" for name in fastopt.optimizers.__all__}
