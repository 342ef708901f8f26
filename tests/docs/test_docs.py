"""What the documents say is so: README's examples and commands, every docstring, the names and the version."""

from __future__ import annotations

import builtins
import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import shell_blocks
from places import ROOT

import fastopt
from fastopt import schedules
from fastopt.__main__ import COMMANDS, MODULES

pytestmark = pytest.mark.usefixtures("restored")

needs_source = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the source tree is not here")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, *languages: str) -> list[str]:
    """Return the code blocks of a document that are fenced with one of these languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(document), re.M | re.S)
    return [code for language, code in fenced if language in languages]


# --- README -----------------------------------------------------------------------------------------------------------


@needs_source
def test_python_examples_of_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace: a later example may go on from an earlier one."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__readme__"}
    examples = blocks("README.md", "python", "py")
    assert examples
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"README.md, example {number}", "exec"), namespace)


SHELLS = ("sh", "bash", "shell", "console")


@needs_source
def test_every_block_of_the_documents_has_a_known_language() -> None:
    """One of another language would be tested by nothing here."""
    for document in ("README.md", "CONTRIBUTING.md"):
        languages = set(re.findall(r"^```(\w*)\n.*?^```$", text_of(document), re.M | re.S))
        assert languages <= {"python", "py", "text", *SHELLS}, document


@needs_source
@needs_bash
def test_shell_blocks_of_readme() -> None:
    """They parse, and the programs, extras and commands that they name are there."""
    scripts = blocks("README.md", *SHELLS)
    assert len(scripts) >= 2
    for script in scripts:
        shell_blocks.check(script)


@needs_source
def test_modules_and_commands_of_readme_exist() -> None:
    """Those in its text too."""
    scripts = [*blocks("README.md", *SHELLS), *re.findall(r"`(python[^`\n]*)`", text_of("README.md"))]
    assert any("python -m fastopt demo" in script for script in scripts)
    for script in scripts:
        shell_blocks.check_modules(script)


@needs_source
def test_the_gate_runs_the_test_command_of_readme() -> None:
    """The session ``tests`` takes the block behind the marker out of README as it stands."""
    gate = text_of("noxfile.py")
    marked = re.findall(r"^<!-- test command -->\n```\w+\n(.*?)^```$", text_of("README.md"), re.M | re.S)
    assert len(marked) == 1
    (function,) = re.findall(r"^def test_command\(.*?(?=^\S(?!ef test_command))", gate, re.M | re.S)
    namespace: dict[str, Any] = {"re": re, "ROOT": ROOT}
    exec(function, namespace)
    assert " && ".join(namespace["test_command"]()) == marked[0].strip()
    assert "*install, test = test_command()" in gate
    assert all(f'session.run("bash", "-euc", {part}, ' in gate for part in ("part", "test"))


@needs_source
@needs_bash
def test_the_gate_is_a_script() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


@needs_source
@pytest.mark.parametrize("document", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_and_paths_of_documents_exist(document: str) -> None:
    text = text_of(document)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in link or (ROOT / link).exists(), link
    for path in re.findall(r"`((?:\.ci|bench|csrc|fastopt|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path


@needs_source
def test_names_of_fastopt_in_readme_exist() -> None:
    for path in re.findall(r"`fastopt\.([\w.]+)", text_of("README.md")):
        found: Any = fastopt
        for name in path.split("."):
            found = getattr(found, name)


@needs_source
def test_environment_variables_of_the_page_are_read() -> None:
    """Those that the page names are those that the code reads, and the other way round."""
    sources = [*(ROOT / "fastopt").rglob("*.py"), ROOT / "setup.py"]
    read = {name for source in sources for name in re.findall(r"FASTOPT_[A-Z_]*[A-Z]", source.read_text("utf-8"))}
    assert set(re.findall(r"FASTOPT_[A-Z_]*[A-Z]", text_of("docs/installation.rst"))) == read


# --- Docstrings -------------------------------------------------------------------------------------------------------


def every_module() -> list[str]:
    return ["fastopt", *(module.name for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."))]


def imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "fastopt":
            raise
        pytest.skip(f"{name} needs {error.name}, which is not installed")


#: The packages that examples need.
EXTRAS = {
    "fastopt.full_batch.progress_bar": "tqdm",
    "fastopt.distributed.checkpoint": "mpi4py",
    "fastopt.distributed.sharded": "mpi4py",
    "fastopt.distributed.state": "mpi4py",
}


@pytest.mark.parametrize("name", every_module())
def test_doctest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(name)
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module, raise_on_error=False)
    assert result.failed == 0


def test_doctest_finds_the_examples() -> None:
    """Without this, a search that found no example would pass for one where all of them run."""
    finder = doctest.DocTestFinder()
    found = {test.name for test in finder.find(importlib.import_module("fastopt.optimizers.adam")) if test.examples}
    assert found == {
        "fastopt.optimizers.adam.Adam",
        "fastopt.optimizers.adam.AdamW",
        "fastopt.optimizers.adam.SparseAdam",
    }


def public() -> Iterator[tuple[str, Any]]:
    for module in (fastopt, fastopt.clip, schedules):
        for name in getattr(module, "__all__", ["global_norm"]):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value


every_public = pytest.mark.parametrize(("name", "value"), list(public()), ids=[name for name, _ in public()])


def parameters(value: Callable[..., Any]) -> list[str]:
    if inspect.isclass(value) and issubclass(value, Exception):
        return []
    return [name for name in inspect.signature(value).parameters if name != "self"]


def sections(value: Any) -> dict[str, str]:
    """Return the sections of a NumPy-style docstring by their titles; what comes first has the title ''."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(value) or "", flags=re.M)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def described(section: str) -> set[str]:
    """Return the names that a section of parameters or attributes describes."""
    heads = re.findall(r"^([\w*][\w*, ]*?)(?: : .*)?$", section, re.M)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@every_public
def test_docstring(name: str, value: Any) -> None:
    """A summary; every parameter (of a named tuple: every attribute) described; an example where there are any."""
    found = sections(value)
    assert value.__doc__
    assert found[""].strip()
    wanted = parameters(value)
    title = "Attributes" if hasattr(value, "_fields") else "Parameters"
    if wanted:
        assert described(found.get(title, "")) == set(wanted)
        assert ">>> " in found.get("Examples", ""), "there is no example"


@every_public
def test_docstrings_of_methods(name: str, value: Any) -> None:
    for attribute, method in inspect.getmembers(value, inspect.isfunction):
        if not attribute.startswith("_") and method.__module__.startswith("fastopt"):
            assert inspect.getdoc(method), f"{name}.{attribute}"


# --- Names and version ------------------------------------------------------------------------------------------------


def test_all_is_complete() -> None:
    """Every public name that is no module of its own is in __all__, and every optimizer."""
    own = {name for name, value in vars(fastopt).items() if getattr(value, "__module__", "").startswith("fastopt.")}
    names = {name for name in own | set(fastopt.LAZY) if not inspect.ismodule(getattr(fastopt, name))}
    assert {name for name in fastopt.__all__ if not inspect.ismodule(getattr(fastopt, name))} == names
    assert set(fastopt.optimizers.__all__) <= set(fastopt.__all__)
    families = [
        imported(f"fastopt.optimizers.{module.name}") for module in pkgutil.iter_modules(fastopt.optimizers.__path__)
    ]
    written = {
        name
        for family in families
        for name, value in vars(family).items()
        if inspect.isclass(value) and issubclass(value, fastopt.Optimizer) and value.__module__ == family.__name__
        if not name.startswith("_")
    }
    assert written - {"Combined"} == set(fastopt.optimizers.__all__)  # that one is made of optimizers
    assert not set(fastopt.__all__) & set(vars(builtins))


def test_version_is_that_of_the_installed_package() -> None:
    assert fastopt.__version__ == metadata.version("fastopt")


@needs_source
def test_version_is_the_same_everywhere() -> None:
    assert 'version = { attr = "fastopt.about.__version__" }' in text_of("pyproject.toml")
    assert re.search(rf"^## \[{re.escape(fastopt.__version__)}\]", text_of("CHANGELOG.md"), re.M)


@needs_source
def test_changelog_names_every_optimizer() -> None:
    for name in fastopt.optimizers.__all__:
        assert f"`{name}`" in text_of("CHANGELOG.md")


@needs_source
def test_three_places_of_contributing() -> None:
    """The steps of "Adding an optimizer" begin with the three places, which exist."""
    section = text_of("CONTRIBUTING.md").split("## Adding an optimizer")[1].split("\n## ")[0]
    steps = re.findall(r"^\d\. (.*)$", section, re.M)
    places = [re.findall(r"`([\w/.]+)`", step)[0] for step in steps]
    assert places == ["fastopt/arithmetic/rules.py", "fastopt/optimizers/", "tests/cases.py"]
    assert all((ROOT / place).exists() for place in places)


@pytest.mark.parametrize("command", MODULES)
def test_every_command_has_its_module(command: str) -> None:
    assert command in COMMANDS
    assert callable(imported(MODULES[command]).main)
