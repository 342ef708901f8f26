"""``python -m fastopt bench``: time each optimizer's step, and compare it with the speed of this machine's memory.

The memory limit is measured with NumPy's ``np.negative(x, out=x)`` on an array of 128 MiB, far larger than the usual
caches. The array is cut into one slice for each of the step's threads, and each thread negates one slice (NumPy
releases the GIL). That reads and writes every byte once and computes next to nothing. The limit is measured right
before each turn of a step, as the better of two times, so that a noisy host slows both.

A step has to move some bytes: it reads and writes once each array that it changes, and reads the gradient once. Its
percentage is the time that the limit allows for these bytes, divided by the time of the step; the table shows the
median over the turns. A step whose arrays stay in cache can exceed 100 %. A step that reads more than it writes (SGD)
can exceed it by a little.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from .. import optimizers
from ..arrays.dtypes import Array
from ..backends.information import info, isa_of
from ..backends.threads import set_num_threads
from ..core.optimizer import Optimizer
from . import COLOURS

#: The shape of the arrays in the tables. 25 M elements are then 161 arrays, about as many as in ResNet-50. They are
#: matrices, since some optimizers take nothing else, and have few rows, since Muon's work grows with the rows.
MATRIX = (64, 2432)

#: SWATS would switch to SGD at once, since the gradients stay the same; with eps=0 it never does.
OPTIONS: dict[str, dict[str, Any]] = {"SWATS": {"eps": 0.0}}

#: Elements of the array for measuring the limit.
LIMIT_ELEMENTS = 1 << 25
#: Elements of the smallest timed array.
SMALLEST = 1 << 10

#: Seconds before each measurement of the limit. OpenMP's threads spin for some milliseconds after a step, and would
#: slow it down.
REST = 0.01
#: Seconds of one turn.
TURN = 0.02
MAX_TURNS = 100
MIN_TURNS = 3

#: Line styles: the next one each time the colours are used up.
LINES = ("-", "--")


class Precision(NamedTuple):
    """The dtypes of Adam's parameters and gradients, and its options."""

    name: str
    param: str
    grad: str
    options: dict[str, Any]


FLOAT32 = Precision("float32", "float32", "float32", {})

PRECISIONS = (
    FLOAT32,
    Precision("float64", "float64", "float64", {}),
    Precision("bfloat16 gradients", "float32", "bfloat16", {}),
    Precision("float16 gradients", "float32", "float16", {}),
    Precision("bfloat16 slots", "float32", "float32", {"state_dtype": "bfloat16"}),
    Precision("8-bit slots", "float32", "float32", {"state_dtype": "uint8"}),
    Precision("bfloat16 parameters", "bfloat16", "bfloat16", {}),
    Precision("float16 parameters", "float16", "float16", {}),
    Precision("bfloat16, no master", "bfloat16", "bfloat16", {"stochastic_rounding": True}),
)


class Job(NamedTuple):
    """A measurement to make: a step of this optimizer on arrays of these shapes."""

    label: str
    optimizer: type[Optimizer]
    precision: Precision
    shapes: list[tuple[int, ...]]


class Result(NamedTuple):
    """The result of a job: medians over its turns."""

    job: Job
    elements: int
    bytes: int
    seconds: float
    share_of_limit: float
    limit: float


def main(argv: Sequence[str]) -> int:
    """Measure every optimizer and every precision of Adam; print tables, draw a picture.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``bench``.

    Returns
    -------
    int
        Exit code: 0, or 1 if matplotlib is needed and missing, or the picture can't be written.
    """
    parser, args = parse(argv)
    if args.plot is not None:
        if find_spec("matplotlib") is None:
            print("the picture needs matplotlib: pip install 'fastopt[plot]'", file=sys.stderr)
            return 1
        check_format(parser, args.plot)
    if args.threads is not None:
        set_num_threads(args.threads)

    found = info()
    isa = isa_of(found["backend"])
    isa, threads = ("NumPy's own", 1) if isa is None else (isa, found["threads"])
    head = f"backend {found['backend']}, instruction set {isa}, threads {threads}"
    print(f"{head}; {machine()}", flush=True)

    elements = args.elements or (1_000_000 if args.quick else 25_000_000)
    largest = args.elements or (1 << 20 if args.quick else 1 << 26)
    precisions, omitted = available(PRECISIONS)
    by_optimizer = [
        Job(name, getattr(optimizers, name), FLOAT32._replace(options=OPTIONS.get(name, {})), matrices(elements))
        for name in sorted(optimizers.__all__, key=str.casefold)
    ]
    by_precision = [Job(each.name, optimizers.Adam, each, matrices(elements)) for each in precisions]
    by_size = [Job(each.name, optimizers.Adam, each, [(size,)]) for each in precisions for size in sizes(largest)]
    jobs = by_optimizer + by_precision + (by_size if args.plot is not None else [])
    with ThreadPoolExecutor(threads) as pool:
        limit = memory_limit(pool, threads)
        seconds = 0.1 if args.quick else 0.7
        results = [measure(job, limit, seconds if len(job.shapes) > 1 else seconds / 2) for job in progress(jobs)]

    of_optimizers, of_precisions = results[: len(by_optimizer)], results[len(by_optimizer) :][: len(by_precision)]
    limits = median(result.limit for result in results)
    print(f"memory limit: {limits / 1e9:.1f} GB/s, read and written in place; arrays that stay in cache can exceed it")
    print(f"\none step, {elements:,} elements of float32, matrices: {len(matrices(elements))}\n{table(of_optimizers)}")
    print(f"\none step of Adam, the same in each precision\n{table(of_precisions)}")
    for line in omitted:
        print(line)
    if args.plot is not None:
        try:
            draw(results[len(by_optimizer) + len(by_precision) :], f"One step of Adam: {head}", args.plot)
        except OSError as error:
            print(f"{parser.prog}: --plot: {error}", file=sys.stderr)
            return 1
        print(f"\npicture: {args.plot}")
    return 0


def parse(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line; exit with the usage if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m fastopt bench", description="Time each optimizer's step against this machine's memory."
    )
    parser.add_argument("--quick", action="store_true", help="1 M elements and few turns: a first impression")
    parser.add_argument(
        "--plot", type=Path, metavar="PICTURE", help="draw time per element against size, such as a.png"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of each step (default: as many as other steps have)")
    parser.add_argument(
        "--elements",
        type=int,
        metavar="N",
        help="of the tables, and of the largest array in the picture (default: 25 M and 64 M, with --quick 1 M)",
    )
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        parser.error(f"--threads must be at least 1, not {args.threads}")
    if args.elements is not None and args.elements < SMALLEST:
        parser.error(f"--elements must be at least {SMALLEST}, not {args.elements}")
    if args.plot is not None and not args.plot.parent.is_dir():
        parser.error(f"--plot: there is no folder {args.plot.parent}")
    return parser, args


def check_format(parser: argparse.ArgumentParser, path: Path) -> None:
    """Exit with the usage, before the measurements, if matplotlib can't write a file of this kind."""
    from matplotlib.figure import Figure

    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        parser.error(f"--plot: {path} ends in none of .{', .'.join(sorted(formats))}")


def machine() -> str:
    """Return the processor, the system and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {version}" for name, version in info()["versions"].items())
    return f"{model}, {platform.system()} {platform.machine()}, {versions}"


def matrices(elements: int) -> list[tuple[int, ...]]:
    """Return the shapes of matrices with this many elements in all; the last has one row."""
    rows, columns = MATRIX
    count, rest = divmod(elements, rows * columns)
    return [*[MATRIX] * count, *[(1, rest)] * (rest > 0)]


def sizes(largest: int) -> list[int]:
    """Return the powers of 4 from 1 K to ``largest``."""
    return [1 << power for power in range(10, 27, 2) if 1 << power <= largest]


def dtype_of(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)


def available(precisions: Sequence[Precision]) -> tuple[list[Precision], list[str]]:
    """Return the precisions that Adam takes here, and for each of the others a line with the reason."""
    accepted, omitted = [], []
    for precision in precisions:
        try:
            params = [np.ones(SMALLEST, dtype_of(precision.param))]
            optimizers.Adam(params, **precision.options).step([np.ones(SMALLEST, dtype_of(precision.grad))])
            accepted.append(precision)
        except ImportError as error:
            omitted.append(f"{precision.name}: left out, {error.name} is not installed")
        except (TypeError, ValueError) as error:
            omitted.append(f"{precision.name}: left out, Adam does not take it: {error}")
    return accepted, omitted


def progress(jobs: list[Job]) -> Iterable[Job]:
    """Show a progress bar on a terminal, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return jobs
    bar: Iterable[Job] = tqdm(jobs, disable=None, leave=False)
    return bar


def memory_limit(pool: ThreadPoolExecutor, threads: int) -> Callable[[], float]:
    """Return a function that measures how many bytes per second these threads read and write (see the module)."""
    x = np.ones(LIMIT_ELEMENTS, np.float32)
    parts = np.array_split(x, threads)

    def negate(part: Array) -> None:
        np.negative(part, out=part)

    def once() -> float:
        start = time.perf_counter()
        list(pool.map(negate, parts))
        return time.perf_counter() - start

    return lambda: 2 * x.nbytes / min(once(), once())


def measure(job: Job, limit: Callable[[], float], seconds: float) -> Result:
    """Measure the limit and the step in turns, for this many seconds.

    A turn has several steps if they are short. The first one wakes threads and fills caches, and does not count then.
    """
    normal = np.random.default_rng(0).standard_normal(1 << 16)
    params = [np.ones(shape, dtype_of(job.precision.param)) for shape in job.shapes]
    grads = [np.resize(normal.astype(dtype_of(job.precision.grad)), shape) for shape in job.shapes]
    opt = job.optimizer(params, **job.precision.options)

    def step() -> float:
        start = time.perf_counter()
        opt.step(grads)
        return time.perf_counter() - start

    # The first step makes the slots.
    step()
    steps = min(200, max(1, int(TURN / step())))
    size = bytes_moved(opt, params, grads)
    times: list[float] = []
    limits: list[float] = []
    begin = time.perf_counter()
    while len(times) < MIN_TURNS or (len(times) < MAX_TURNS and time.perf_counter() - begin < seconds):
        time.sleep(REST)
        limits.append(limit())
        turn = [step() for _ in range(steps)]
        times.append(median(turn[1:] or turn))
    share = median(size / each_limit / each for each_limit, each in zip(limits, times, strict=True))
    return Result(job, sum(p.size for p in params), size, median(times), share, median(limits))


def bytes_moved(opt: Optimizer, params: Sequence[Array], grads: Sequence[Array]) -> int:
    """Return how many bytes a step has to move.

    It reads the gradients, and reads and writes the parameters and the state. It only writes a parameter with a master.
    """
    size = sum(grad.nbytes for grad in grads)
    for param, state in zip(params, opt.state.values(), strict=True):
        size += param.nbytes if "master" in state else 2 * param.nbytes
        size += sum(2 * slot.nbytes for slot in state.values() if slot.ndim > 0)
    return size


def table(results: Sequence[Result]) -> str:
    """Return a heading and one line for each result."""
    lines = [f"{'':22}{'µs':>12}{'bytes/element':>16}{'GB/s':>9}{'% of memory limit':>20}"]
    for result in results:
        lines.append(
            f"{result.job.label:22}{1e6 * result.seconds:12.1f}{result.bytes / result.elements:16.2f}"
            f"{result.bytes / result.seconds / 1e9:9.1f}{100 * result.share_of_limit:20.0f}"
        )
    return "\n".join(lines)


def draw(results: Sequence[Result], title: str, path: Path) -> None:
    """Draw the time per element against the size, with a line for each precision and the memory limit of float32.

    Raises
    ------
    OSError
        If the file can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 6.5), dpi=120, layout="constrained")
    ax = figure.subplots()
    lines: dict[str, list[Result]] = {}
    for result in results:
        lines.setdefault(result.job.label, []).append(result)
    for i, (label, points) in enumerate(lines.items()):
        ax.plot(
            [point.elements for point in points],
            [1e9 * point.seconds / point.elements for point in points],
            color=COLOURS[i % len(COLOURS)],
            linestyle=LINES[i // len(COLOURS)],
            linewidth=2,
            marker=".",
            label=f"{label}, {points[-1].bytes / points[-1].elements:.4g} bytes",
        )
    largest = lines[FLOAT32.name][-1]
    limit = median(result.limit for result in results)
    ax.axhline(
        1e9 * largest.bytes / largest.elements / limit,
        color="#808080",
        linestyle=":",
        linewidth=2,
        label=f"memory limit of float32's bytes, {limit / 1e9:.1f} GB/s",
    )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks([point.elements for point in lines[FLOAT32.name]], map(short, sizes(largest.elements)))
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.set(title=title, xlabel="elements of the one array", ylabel="median time per element [ns]")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, title="precision, bytes moved per element")
    figure.savefig(path)


def short(size: int) -> str:
    """Return a size in K or M.

    >>> short(4096), short(1 << 26)
    ('4 K', '64 M')
    """
    return f"{size >> 20} M" if size >= 1 << 20 else f"{size >> 10} K"
