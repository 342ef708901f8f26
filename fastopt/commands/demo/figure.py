"""The demo's picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .. import COLOURS
from .train import Run, UpdateTime

LINES = ("--", "-")
GREY = "#b5b5b5"


def style(index: int) -> dict[str, Any]:
    """Return the colour and line style of the curve at `index`; the first fourteen differ."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index % len(LINES)]}


def draw(runs: Sequence[Run], times: Sequence[UpdateTime], title: str, path: Path) -> None:
    """Draw losses, learning rate and update times, and write them to a file.

    Parameters
    ----------
    runs : sequence of Run
        One for each optimizer.
    times : sequence of UpdateTime
        One for each run.
    title : str
        The title of the whole picture.
    path : pathlib.Path
        The file; its suffix chooses the format.
    """
    figure = Figure(figsize=(13, 7.5), dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.1)
    figure.suptitle(title, fontsize=15)
    layout = [["losses", "lr"], ["losses", "times"]]
    axes: dict[str, Axes] = figure.subplot_mosaic(layout, width_ratios=[1.1, 1], height_ratios=[1, 2.2])
    draw_losses(axes["losses"], runs)
    draw_lr(axes["lr"], runs[0])
    draw_times(axes["times"], runs, times)
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.3)
        ax.set_axisbelow(True)
    axes["times"].grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)


def draw_losses(ax: Axes, runs: Sequence[Run]) -> None:
    """Draw the loss of every run, labelled for the legend."""
    for i, run in enumerate(runs):
        label = f"{run.method.label}, peak rate {run.method.peak_lr:g}"
        ax.plot(range(1, len(run.losses) + 1), run.losses, linewidth=2, marker=".", label=label, **style(i))
    ax.set(title="Training loss", xlabel="epoch", ylabel="mean cross entropy [nats]", yscale="log")


def draw_lr(ax: Axes, run: Run) -> None:
    """Draw the schedule relative to its peak, since the runs differ only in the peak."""
    epochs = np.linspace(0, len(run.losses), len(run.lrs))
    ax.plot(epochs, np.array(run.lrs) / run.method.peak_lr, linewidth=2, color=COLOURS[0])
    ax.set(title="Learning rate: warmup_cosine", xlabel="epoch", ylabel="share of peak rate")
    ax.yaxis.set_major_formatter(PercentFormatter(1))


def draw_times(ax: Axes, runs: Sequence[Run], times: Sequence[UpdateTime]) -> None:
    """Draw a pair of bars for each optimizer, the first on top."""
    rows = np.arange(len(runs))
    ours = ax.barh(
        rows - 0.2, [time.fastopt for time in times], 0.4, color=[style(i)["color"] for i in range(len(runs))]
    )
    theirs = ax.barh(rows + 0.2, [time.naive for time in times], 0.4, color=GREY)
    speedups = [f"{time.fastopt:.0f} µs, speed-up {time.naive / time.fastopt:.1f}" for time in times]
    ax.bar_label(ours, speedups, padding=4, fontsize=9)
    ax.bar_label(theirs, [f"{time.naive:.0f} µs" for time in times], padding=4, fontsize=9)
    ax.set_yticks(rows, [run.method.label for run in runs])
    ax.invert_yaxis()
    # Leave room for the labels.
    ax.margins(x=0.4)
    ax.set(title="Time of one update: fastopt (coloured), naive NumPy (grey)", xlabel="median time in training [µs]")
