"""``python -m fastopt demo``: the optimizers at work on handwritten digits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...backends.information import info, isa_of

if TYPE_CHECKING:
    from .train import Run, UpdateTime

REQUIRED = ("matplotlib", "sklearn", "tqdm")


def main(argv: Sequence[str]) -> int:
    """Train a small network with each optimizer; print a table and draw a picture.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``demo``.

    Returns
    -------
    int
        Exit code: 0, or 1 if a package that the demo needs is not installed.
    """
    args = parse(argv)
    missing = [name for name in REQUIRED if find_spec(name) is None]
    if missing:
        print(f"the demo needs {', '.join(missing)}: pip install 'fastopt[demo]'", file=sys.stderr)
        return 1

    from tqdm import tqdm

    from . import figure, train
    from .methods import METHODS

    epochs = args.epochs or (3 if args.quick else 30)
    digits = train.load()
    network = f"a {'-'.join(map(str, train.SIZES))} network on {len(digits.y_train)} handwritten digits"
    print(f"{network}, batches of {train.BATCH}, {epochs} epochs, seed {args.seed}", flush=True)
    runs = []
    with tqdm(total=len(METHODS) * epochs, unit="epoch", disable=None) as bar:
        for method in METHODS:
            bar.set_description(method.label)
            runs.append(train.train(method, digits, epochs, args.seed, bar.update))
    times = [train.time_update(method, digits, epochs=1 if args.quick else 10) for method in METHODS]

    print(backend_text(runs[0].backend))
    print(table(runs, times))
    figure.draw(runs, times, f"fastopt, backend {runs[0].backend}: {network}", args.out)
    print(f"picture: {args.out}")
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit with the usage if it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m fastopt demo", description="Train an MLP with each optimizer.")
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="3 epochs and few timings: shows that it works, not more")
    args = parser.parse_args(argv)
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {args.epochs}")
    if not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}")
    return args


def backend_text(backend: str) -> str:
    """Return which backend ran: the instruction set and threads of the native one, the reason for another."""
    found, isa = info(), isa_of(backend)
    if isa is not None:
        return f"backend {backend}: instruction set {isa}, threads {found['threads']}"
    return f"backend {backend}: {found['native_missing'] or 'asked for by FASTOPT_BACKEND'}"


def table(runs: Sequence[Run], times: Sequence[UpdateTime]) -> str:
    """Return two lines of headings, one line for each optimizer, and an explanation."""
    lines = [
        f"{'':14}{'peak':>8}{'test':>10}{'epochs':>10}{'update by':>18}{'update by':>18}{'speed-':>9}",
        f"{'optimizer':14}{'rate':>8}{'accuracy':>10}{'to 95 %':>10}{'fastopt':>18}{'naive NumPy':>18}{'up':>9}",
    ]
    for run, time in zip(runs, times, strict=True):
        lines.append(
            f"{run.method.label:14}{run.method.peak_lr:8g}{run.accuracies[-1]:10.2%}"
            f"{run.epochs_to_target or 'never':>10}"
            f"{time.fastopt:9.1f} µs {time.fastopt_share:4.0%} "
            f"{time.naive:9.1f} µs {time.naive_share:4.0%} {time.naive / time.fastopt:9.1f}"
        )
    lines += [
        "update: the median time of one, right after the forward and backward pass that made its gradients,",
        "and its share of the whole training step; fastopt and naive NumPy train in turn, each a network of its own",
    ]
    return "\n".join(lines)
