"""Interleaved measuring: every contender in turn, round after round, so that all of them see the same machine."""

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median, quantiles

from bench.case import Case, Stepper
from bench.contenders import PEERS, Contender
from bench.groups import Group

REST = 0.01  # seconds between turns: idle OpenMP threads spin for some milliseconds, and would slow the next contender
TURN = 0.02  # seconds of steps in one turn
LONGEST = 0.1  # seconds of one turn with what comes before the steps
SAMPLE = 2e-5  # seconds: shorter steps are timed several in a row
SECONDS = 5.0  # of rounds for each row
NOISY = 10  # percent: a row whose first contender varies more is measured again, and the quietest one shown
TRIES = 3


@dataclass
class Row:
    """One line of a table: a set of arrays, with each contender's figures by its name."""

    label: str
    elements: int
    micros: dict[str, float] = field(default_factory=dict)  # median over all rounds
    percent: dict[str, float] = field(default_factory=dict)  # limit / contender, median of the rounds' ratios
    best_peer: str = ""
    lead: float | None = None  # best peer / fastopt, median of the rounds' ratios
    over_naive: float | None = None  # naive NumPy / fastopt's NumPy fallback, likewise
    ratios: dict[str, float] = field(default_factory=dict)  # of the group's pairs, likewise
    spread: float = 0.0  # of the first contender: half the distance of its quartiles, in percent of its median
    skipped: dict[str, str] = field(default_factory=dict)  # reasons


def measure(group: Group, quick: bool, threads: int, only: list[str] | None = None) -> Iterator[Row]:
    """The rows of a group's table, as they are measured; `only` names parts of labels, of which a row must have one."""
    with busy_machine() if group.busy else contextlib.nullcontext():
        for label, case in group.cases(quick, threads).items():
            if only and not any(part in label for part in only):
                continue
            rows = []
            with limited_blas(case.blas_threads):
                steppers, skipped = build(group.contenders, case)
                while not rows or (rows[-1].spread > NOISY and len(rows) < (1 if group.is_noisy or quick else TRIES)):
                    rounds = interleave(steppers, seconds=1.0 if quick else SECONDS)
                    rows.append(summary(label, case, rounds, skipped, group.pairs))
            yield min(rows, key=lambda row: row.spread)
            del steppers
            gc.collect()  # the arrays are large, and torch's optimizers hold reference cycles


def build(contenders: dict[str, Contender], case: Case) -> tuple[dict[str, Stepper], dict[str, str]]:
    """Those contenders that can do it, warmed up, and why the others can't."""
    steppers, skipped = {}, {}
    for name, contender in contenders.items():
        try:
            steppers[name] = ready(contender, case)
        except Exception as error:  # whatever ails a peer, the others are still worth measuring
            skipped[name] = reason(error)
    return steppers, skipped


def ready(contender: Contender, case: Case) -> Stepper:
    """The contender on its own arrays, after the steps in which it allocates and compiles."""
    if 1.5 * case.memory > available_memory():  # half as much again for temporaries
        raise MemoryError(f"not enough memory free for {case.memory / 1e9:.1f} GB of arrays")
    stepper = contender(case)
    for _ in range(2):
        stepper.seconds(1)
    return stepper


def reason(error: Exception) -> str:
    """An error as one line."""
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"


def available_memory() -> float:
    """Bytes; infinity where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def samples(stepper: Stepper) -> tuple[int, int]:
    """How many samples a turn has, and how many steps are in each."""
    step = turn(stepper, 1, 1)
    start = time.perf_counter()
    stepper.seconds(1)
    whole = time.perf_counter() - start
    steps = 1 if stepper.before else max(1, int(SAMPLE / step))
    return max(1, min(200, int(TURN / (steps * step)), int(LONGEST / whole))), steps


def turn(stepper: Stepper, count: int, steps: int) -> float:
    """The median sample of one turn, after one that wakes threads and warms caches."""
    time.sleep(REST)
    stepper.seconds(steps)
    return median(stepper.seconds(steps) for _ in range(count))


def interleave(steppers: dict[str, Stepper], seconds: float) -> list[dict[str, float]]:
    """Seconds of each contender in each round: for about so long, but 7 to 200 rounds."""
    rounds: list[dict[str, float]] = []
    sizes = {name: samples(each) for name, each in steppers.items()}
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    while len(rounds) < 7 or (len(rounds) < 200 and time.perf_counter() - start < seconds):
        rounds.append({name: turn(each, *sizes[name]) for name, each in steppers.items()})
    gc.enable()
    return rounds


def summary(
    label: str,
    case: Case,
    rounds: list[dict[str, float]],
    skipped: dict[str, str],
    pairs: list[tuple[str, str]],
) -> Row:
    """Medians over the rounds; ratios within each round, then their median."""
    names = list(rounds[0])

    def ratio(above: str, below: str) -> float:
        return median(times[above] / times[below] for times in rounds)

    row = Row(label, case.elements, skipped=skipped)
    row.micros = {name: 1e6 * median(times[name] for times in rounds) for name in names}
    if "limit" in names:
        row.percent = {name: 100 * ratio("limit", name) for name in names}
    if names:
        low, middle, high = quantiles([times[names[0]] for times in rounds], n=4)
        row.spread = 50 * (high - low) / middle
    if peers := [name for name in names if name.startswith(PEERS)]:
        row.best_peer = min(peers, key=row.micros.__getitem__)
        if "fastopt" in names:
            row.lead = ratio(row.best_peer, "fastopt")
    if {"naive NumPy", "fastopt NumPy"} <= set(names):
        row.over_naive = ratio("naive NumPy", "fastopt NumPy")
    row.ratios = {pair_name(pair): ratio(*pair) for pair in pairs if {*pair} <= {*names}}
    return row


def pair_name(pair: tuple[str, str]) -> str:
    """Two contenders, as the column of their ratio is called."""
    return " / ".join(pair)


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """A spinning process on every core."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


@contextlib.contextmanager
def limited_blas(threads: int | None) -> Iterator[None]:
    """This number of threads for NumPy's BLAS; with None, as many as it has."""
    if threads is None:
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        yield


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
