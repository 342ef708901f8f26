"""The pictures of the report, legible on a white page and on a near-black one, and without telling colours apart."""

from pathlib import Path
from typing import Any

from bench.groups import Group
from bench.harness import Row
from bench.report import contenders

#: For text and axes: on white and on GitHub's near-black the contrast is above 4.
GREY = "#7a7a7a"
#: By Okabe and Ito, without black and yellow, which one of the two pages hides.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")
MARKERS = "osD^vP"
HATCHES = ("", "///", "...")
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color"), GREY),
    **dict.fromkeys(("xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "font.size": 11,
}


def draw(group: Group, rows: list[Row], path: Path) -> None:
    """Draw the picture of one group: curves against the number of elements, or bars of percents of the limit."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        is_curve = group.per_element or group.by_elements
        figure = Figure(figsize=(8, 5) if is_curve else (max(7, 1.6 * len(rows)), 4.5), layout="constrained")
        axes = figure.add_subplot(title=group.title)
        (curves if is_curve else bars)(axes, group, rows)
        figure.savefig(path, dpi=150)


def curves(axes: Any, group: Group, rows: list[Row]) -> None:
    """Draw a curve for each contender, with its name at its end."""
    names = [name for name in contenders(group, rows) if name != "limit" or group.per_element]
    ends = {}
    for number, name in enumerate(names):
        points = [(row.elements, 1e-6 * row.micros[name]) for row in rows if name in row.micros]
        if group.per_element:
            points = [(elements, 1e9 * seconds / elements) for elements, seconds in points]
        colour = GREY if name == "limit" else COLOURS[number % len(COLOURS)]
        axes.plot(*zip(*points, strict=True), color=colour, marker=MARKERS[number % len(MARKERS)], markersize=5)
        ends[name] = points[-1], colour
    axes.set(xscale="log", yscale="log", xlabel="number of parameters")
    axes.xaxis.set_major_formatter(count)
    axes.grid()
    if group.per_element:
        axes.set_ylabel("nanoseconds of an update, per parameter")
    else:
        axes.set_ylabel("time of an update")
        axes.yaxis.set_major_formatter(duration)
    heights = spread([end[1] for end, _ in ends.values()], axes.get_ylim())
    for (name, ((x, _), colour)), height in zip(ends.items(), heights, strict=True):
        axes.annotate(f"  {name}", (x, height), color=colour, va="center", weight="bold", annotation_clip=False)


def spread(heights: list[float], limits: tuple[float, float]) -> list[float]:
    """Return the heights of labels on a logarithmic axis, moved up where two would overlap."""
    least = (limits[1] / limits[0]) ** 0.055
    places, lowest = list(heights), 0.0
    for i in sorted(range(len(heights)), key=heights.__getitem__):
        places[i] = max(heights[i], lowest)
        lowest = least * places[i]
    return places


def count(number: float, position: Any = None) -> str:
    """Return a number of parameters with k for thousand and M for million."""
    scale, unit = next((scale, unit) for scale, unit in ((1e6, " M"), (1e3, " k"), (0, "")) if number >= scale)
    return f"{number / (scale or 1):g}{unit}"


def duration(seconds: float, position: Any = None) -> str:
    """Return a time with its unit."""
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds >= 0.999 * scale), UNITS[-1])
    return f"{seconds / scale:.0f} {unit}"


def bars(axes: Any, group: Group, rows: list[Row]) -> None:
    """Draw a bar for each contender in each row: percents of the limit."""
    names = [name for name in contenders(group, rows) if name != "limit"]
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [place + (i + 0.5) * width - 0.4 for place in range(len(rows))]
        colour, hatch = COLOURS[i % len(COLOURS)], HATCHES[i // len(COLOURS) % len(HATCHES)]
        heights = [row.percent.get(name, 0) for row in rows]
        axes.bar(places, heights, width, label=name, color=colour, hatch=hatch, edgecolor="none")
    axes.axhline(100, color=GREY, linewidth=1)
    axes.set_xticks(range(len(rows)), [row.label.replace(", ", "\n") for row in rows], fontsize="small")
    axes.set_ylabel("percent of the limit")
    axes.legend(fontsize="small")
