"""The optimizers that docs/own_rules.rst shows."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from typing import Any

from places import ROOT

PAGE = ROOT / "docs" / "own_rules.rst"

#: Those that others have.
NAMES = ("QHAdam", "LaProp", "ADOPT", "MADGRAD", "AdaBound", "NAdamW", "Padam", "SMORMS3")


@cache
def shown() -> dict[str, Any]:
    """Return the names that the page's examples define, run in order."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.M)
    names: dict[str, Any] = {"__name__": "own_rules"}
    for number, block in enumerate(blocks, 1):
        exec(compile(textwrap.dedent(block), f"own_rules.rst, example {number}", "exec"), names)
    return names
