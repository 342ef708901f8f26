"""The pictures of the pages that are drawn when the site is made, in the style of the gallery."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fastopt.commands import plot_schedules

DOCS = Path(__file__).parent
#: The picture of a program that has none of its own.
PROGRAM = DOCS / "_build" / "program.png"
STYLE = runpy.run_path(str(DOCS.parent / "examples" / "pictures.py"))["STYLE"]


def draw() -> None:
    """Draw the pictures beside the pages that show them."""
    with matplotlib.rc_context({**STYLE, "savefig.transparent": True}):
        plot_schedules.draw(str(DOCS / "guide" / "schedules.png"))
        figure = Figure(figsize=(4, 2.8))
        figure.text(0.5, 0.5, ">_", size=60, family="monospace", weight="bold", ha="center", va="center")
        PROGRAM.parent.mkdir(exist_ok=True)
        figure.savefig(PROGRAM, dpi=100)
