"""The optimizers that docs/guide/own_rules.rst shows."""

from __future__ import annotations

from typing import Any

from pages import names_of, page_of

PAGE = page_of("guide/own_rules")

#: Those that others have.
NAMES = ("QHAdam", "LaProp", "ADOPT", "MADGRAD", "AdaBound", "NAdamW", "Padam", "SMORMS3")


def shown() -> dict[str, Any]:
    """Return the names that the page's examples define, run in order."""
    return names_of("guide/own_rules")
