"""The pages of docs/, and what their examples define."""

from __future__ import annotations

import linecache
import os
import re
import sys
import tempfile
import textwrap
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from places import ROOT

DOCS = ROOT / "docs"
#: Folders that Sphinx writes.
MADE = ("_build", "gallery")

os.environ.setdefault("MPLBACKEND", "Agg")


def page_of(name: str) -> Path:
    return DOCS / f"{name}.rst"


def every_page() -> list[str]:
    """Return the names of all pages, which are their paths in docs/ without the ending."""
    pages = [path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.rst")]
    return sorted(page.as_posix() for page in pages if page.parts[0] not in MADE)


def text_of(name: str) -> str:
    return page_of(name).read_text(encoding="utf-8")


def blocks(name: str) -> list[tuple[str, str]]:
    """Return the language and the code of each block of a page."""
    found = re.findall(r"^( *)\.\. code-block:: *(\S*)\n(?:\1 +:.*\n)*\n((?:\1 +\S.*\n|\n)+)", text_of(name), re.M)
    return [(language, textwrap.dedent(code)) for _, language, code in found]


def needs(name: str) -> list[str]:
    """Return the packages that a page names in the comment ``.. needs:``."""
    listed = re.match(r"\.\. needs: (.*)\n", text_of(name))
    return listed[1].split() if listed else []


@cache
def names_of(name: str) -> dict[str, Any]:
    """Return the names that a page's examples define: run in order, in an empty folder, a warning is an error."""
    page = sys.modules[name] = ModuleType(name)  # pickle finds the page's classes there
    names = vars(page)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        os.chdir(folder)
        try:
            examples = [code for language, code in blocks(name) if language == "python"]
            for number, example in enumerate(examples, 1):
                file = f"{name}.rst, example {number}"
                linecache.cache[file] = (len(example), None, example.splitlines(keepends=True), file)  # for tracebacks
                exec(compile(example, file, "exec"), names)
        finally:
            os.chdir(before)
    return names
