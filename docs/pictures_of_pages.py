"""The pictures of the pages that are drawn when the site is made, in the style of the gallery."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

import fastopt
from fastopt.commands import plot_schedules
from fastopt.distributed import Cost, cost

DOCS = Path(__file__).parent
#: The picture of a program that has none of its own.
PROGRAM = DOCS / "_build" / "program.png"
STYLE = runpy.run_path(str(DOCS.parent / "examples" / "pictures.py"))["STYLE"]
#: The speeds of the picture of costs: 100 Gbit/s and 5 microseconds between ranks, 20 GB/s of memory.
SPEED = {"bandwidth": 12.5e9, "latency": 5e-6, "memory_bandwidth": 2e10}
RANKS = [2**power for power in range(3, 11)]


def draw() -> None:
    """Draw the pictures beside the pages that show them."""
    with matplotlib.rc_context({**STYLE, "savefig.transparent": True}):
        plot_schedules.draw(str(DOCS / "guide" / "schedules.png"))
        draw_costs(DOCS / "guide" / "distributed.png")
        figure = Figure(figsize=(4, 2.8))
        figure.text(0.5, 0.5, ">_", size=60, family="monospace", weight="bold", ha="center", va="center")
        PROGRAM.parent.mkdir(exist_ok=True)
        figure.savefig(PROGRAM, dpi=100)


def gpt2_xl() -> list[int]:
    """Return the sizes of the arrays of GPT-2 XL: 48 layers of width 1,600, 1.56 billion parameters."""
    d = 1600
    attention, feed_forward = [3 * d * d, 3 * d, d * d, d], [4 * d * d, 4 * d, 4 * d * d, d]
    block = [d, d, *attention, d, d, *feed_forward]
    return [50257 * d, 1024 * d, *block * 48, d, d]


def draw_costs(path: Path) -> None:
    """Draw the parts of a step and of a rank's memory against the number of ranks, for both ways of making it."""
    costs = [cost(gpt2_xl(), fastopt.AdamW, ranks, **SPEED) for ranks in RANKS]
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    draw_bars(above, costs, "seconds", 1.0)
    draw_bars(below, costs, "memory", 1e-9)
    above.set(ylabel="seconds of a step")
    below.set(ylabel="gigabytes of a rank", xlabel="ranks", xticks=range(len(RANKS)), xticklabels=RANKS)
    figure.savefig(path, dpi=140)


def draw_bars(axes: Any, costs: list[Cost], field: str, unit: float) -> None:
    """Draw two stacks of bars for each number of ranks: the sharded step on the left, the other one hatched."""
    for number, (way, hatch) in enumerate((("sharded", None), ("all_reduce", "///"))):
        places = [place + 0.42 * (number - 0.5) for place in range(len(costs))]
        stacks = [getattr(getattr(each, way), field) for each in costs]
        bottoms = [0.0] * len(costs)
        for k, part in enumerate(stacks[0]._fields):
            heights = [unit * stack[k] for stack in stacks]
            style = {"color": f"C{k}", "hatch": hatch, "edgecolor": STYLE["text.color"], "linewidth": 0}
            axes.bar(places, heights, 0.38, bottoms, label=None if number else part, **style)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
