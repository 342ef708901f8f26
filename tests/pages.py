"""The examples of the pages in docs/."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from places import ROOT


def page_of(name: str) -> Path:
    return ROOT / "docs" / f"{name}.rst"


@cache
def names_of(name: str) -> dict[str, Any]:
    """Return the names that a page's examples define, run in order."""
    text = page_of(name).read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.M)
    names: dict[str, Any] = {"__name__": name}
    for number, block in enumerate(blocks, 1):
        exec(compile(textwrap.dedent(block), f"{name}.rst, example {number}", "exec"), names)
    return names
