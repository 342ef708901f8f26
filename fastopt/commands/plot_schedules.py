"""``python -m fastopt schedules``: draw one of every schedule into one picture."""

import argparse
import sys
from collections.abc import Sequence

from .. import schedules
from ..schedules.plotting import pyplot

STEPS = 1000
COLUMNS = 4


def draw(path: str) -> None:
    """Draw `schedules.examples()` into the file `path`.

    Raises
    ------
    ImportError
        Matplotlib, the optional extra ``plot``, is missing.
    OSError, ValueError
        `path` can't be written, or Matplotlib does not know the format of its suffix.
    """
    plt = pyplot()
    plt.switch_backend("Agg")
    examples = schedules.examples()
    rows = -(-len(examples) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(3.4 * COLUMNS, 2.1 * rows), sharex=True)
    # The labels are known: a layout that measures them would take longer than to draw the picture.
    figure.subplots_adjust(left=0.04, right=0.98, bottom=0.045, top=0.97, wspace=0.25, hspace=0.25)
    for ax in grid.flat[len(examples) :]:
        ax.remove()
    for schedule, ax in zip(examples, grid.flat, strict=False):
        schedules.plot(schedule, STEPS, ax)
        ax.set_title(type(schedule).__name__, loc="left", fontsize=11, fontweight="bold")
        ax.set_xlabel("")
        ax.set_ylabel("")
        ax.set_xlim(0, STEPS)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in grid.flat[len(examples) - COLUMNS : len(examples)]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("step", y=0.005)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str or None, default None
        The arguments after the command's name. None: the arguments of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m fastopt schedules", description="Draw every schedule.")
    parser.add_argument("output", nargs="?", default="schedules.png", help="the picture (default: %(default)s)")
    output = parser.parse_args(argv).output
    try:
        draw(output)
    except (ImportError, OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0
