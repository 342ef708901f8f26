"""Shell commands that documents show: they are not run, but what they name is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec

from places import ROOT

from fastopt.__main__ import COMMANDS

IN_VENV = {"mpiexec", "python", "python3", "pip", "pytest", "nox", "spacy", "sphinx-build"}


def commands(script: str) -> list[list[str]]:
    """Return the words of each simple command of a shell script, without variables that are set before it."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", ";"), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            found.append([])
        elif found[-1] or not re.match(r"\w+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def check_modules(script: str, may_lack: Sequence[str] = ()) -> None:
    """Check that the modules which a script runs by ``-m`` exist, but for some, and fastopt's commands among them."""
    for words in commands(script):
        if "-m" in words and not words[0].endswith("pytest"):
            module, *arguments = words[words.index("-m") + 1 :]
            assert find_spec(module) is not None or module in may_lack, module
            if module == "fastopt" and arguments and not arguments[0].startswith("-"):
                assert arguments[0] in COMMANDS


def check(script: str, may_lack: Sequence[str] = ()) -> None:
    """Check that a script parses, and that the programs, extras, modules, commands and files that it names exist."""
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    extras = (ROOT / "pyproject.toml").read_text("utf-8").split("[project.optional-dependencies]")[1]
    known = set(re.findall(r"^(\w+) = \[", extras, re.M))
    for words in commands(script):
        program = words[0].removeprefix(".venv/bin/")
        if program not in IN_VENV:
            assert program == words[0]
            assert subprocess.run(["bash", "-c", f"type {shlex.quote(program)}"], capture_output=True).returncode == 0
        for listed in re.findall(r"(?:\.|fastopt)\[([\w,]+)\]", " ".join(words)):
            assert set(listed.split(",")) <= known
        for path in words[1:]:
            assert not re.match(r"(bench|docs|examples|tests)/", path) or (ROOT / path).exists(), path
    check_modules(script, may_lack)
