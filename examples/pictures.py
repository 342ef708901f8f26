"""The style of the gallery's pictures: legible on a white page and on a dark one, and by the colour-blind."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

#: Okabe and Ito's colours for the colour-blind, without black and yellow, which vanish on a dark and a white page.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"]

#: A grey with the same contrast to white and to near-black.
GREY = "#7a7a7a"

STYLE: dict[str, Any] = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": GREY,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.facecolor": "none",
    "figure.labelsize": "medium",
    "font.size": 10,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "savefig.dpi": 140,
    "savefig.facecolor": "none",
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Return ``plt.subplots(rows, columns, **options)`` in this style, 7 inches wide unless `options` say otherwise."""
    plt.rcParams.update(STYLE)
    defaults = {"figsize": (7, 1 + 2.4 * rows), "layout": "constrained"}
    return plt.subplots(rows, columns, **defaults | options)


def show() -> None:
    """Show all figures in windows; does nothing where Matplotlib only draws into files."""
    if plt.get_backend().lower() != "agg":
        plt.show()
