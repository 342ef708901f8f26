"""The pictures of the pages that are drawn when the site is made, in the style of the gallery."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib

from fastopt.commands import plot_schedules

DOCS = Path(__file__).parent
STYLE = runpy.run_path(str(DOCS.parent / "examples" / "pictures.py"))["STYLE"]


def draw() -> None:
    """Draw the pictures beside the pages that show them."""
    with matplotlib.rc_context({**STYLE, "savefig.transparent": True}):
        plot_schedules.draw(str(DOCS / "guide" / "schedules.png"))
