"""How many evaluations the problems take, by L-BFGS and by SciPy's L-BFGS-B, until the projected gradient is small.

``python tests/full_batch/evaluations.py [FAMILY ...]`` counts again, prints a table and writes evaluations.json.
Without ``--scipy`` the counts of SciPy that are in the file stay.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from full_batch import problems
from full_batch.problems import FOLDER, Problem

import fastopt

PATH = FOLDER / "evaluations.json"
MOST = 3_000
#: By problem: the evaluations of L-BFGS and of SciPy; None: it does not get there.
Counts = dict[str, list[int | None]]


class Family(NamedTuple):
    """Problems that are counted together."""

    problems: Callable[[], Mapping[str, Problem]]
    dtype: type[np.floating[Any]] = np.float64

    @property
    def gtol(self) -> float:
        return 1e-5 if self.dtype is np.float64 else 1e-4


@cache
def learned() -> dict[str, Problem]:
    x, target = problems.digits()
    return {
        problem.name: problem for problem in (problems.logistic(x, target, 1e-3), problems.logistic(x, target, 1e-6))
    }


@cache
def networks() -> dict[str, Problem]:
    return {"perceptron_64": problems.perceptron(*problems.digits())}


@cache
def large_boxed() -> dict[str, Problem]:
    found = [problems.obstacle(np.inf), problems.obstacle(0.3), problems.nonnegative_least_squares()]
    found += [problems.bounded_chain(), problems.sparse_logistic(*problems.digits(), 1e-3)]
    return {problem.name: problem for problem in found}


FAMILIES: dict[str, Family] = {
    "classic": Family(lambda: problems.CLASSIC),
    "classic_float32": Family(lambda: problems.CLASSIC, np.float32),
    "large": Family(lambda: problems.LARGE),
    "large_float32": Family(lambda: problems.LARGE, np.float32),
    "learned": Family(learned),
    "learned_float32": Family(learned, np.float32),
    "networks": Family(networks),
    "boxed": Family(cache(problems.boxed_classic)),
    "boxed_float32": Family(cache(problems.boxed_classic), np.float32),
    "tight_boxes": Family(cache(problems.tight_boxes)),
    "corners": Family(cache(problems.corners)),
    "large_boxed": Family(large_boxed),
}


class Reached(Exception):
    """The projected gradient is small enough."""


class Evaluations:
    """A problem's function that counts, and raises where the projected gradient is small."""

    def __init__(self, problem: Problem, family: Family) -> None:
        self.problem, self.family = problem, family
        self.low, self.high = (np.broadcast_to(side, problem.start.shape) for side in problem[3:5])
        self.has_bounds = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self.count = 0

    def start(self) -> Any:
        return np.clip(self.problem.start, self.low, self.high)

    def __call__(self, x: Any) -> tuple[Any, Any]:
        self.count += 1
        with np.errstate(all="ignore"):
            loss, gradient = self.problem.function(x.astype(self.family.dtype))
            if np.max(np.abs(x - np.clip(x - gradient, self.low, self.high))) <= self.family.gtol:
                raise Reached
        return loss, gradient


def ours(problem: Problem, family: Family) -> int | None:
    """Return how many evaluations L-BFGS needs, or None."""
    function = Evaluations(problem, family)
    x = function.start().astype(family.dtype)
    bounds = (function.low.astype(family.dtype), function.high.astype(family.dtype)) if function.has_bounds else None
    opt = fastopt.LBFGS(x, bounds=bounds, gtol=0, ftol=0)
    try:
        while function.count < MOST and opt.step(lambda: function(x)).status is None:
            pass
    except Reached:
        return function.count
    return None


def scipys(problem: Problem, family: Family) -> int | None:
    """Return how many evaluations SciPy's L-BFGS-B needs, or None."""
    from scipy.optimize import Bounds, minimize

    function = Evaluations(problem, family)
    bounds = Bounds(function.low, function.high) if function.has_bounds else None
    options = {"maxcor": 10, "ftol": 0, "gtol": 0, "maxls": 20, "maxfun": MOST, "maxiter": MOST}

    def in_double(x: Any) -> tuple[float, Any]:
        loss, gradient = function(x)
        return float(loss), gradient.astype(np.float64)

    try:
        with np.errstate(all="ignore"):
            minimize(in_double, function.start(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    except Reached:
        return function.count
    return None


def read() -> dict[str, Counts]:
    counts: dict[str, Counts] = json.loads(PATH.read_text(encoding="utf-8"))
    return counts


def write(counts: Mapping[str, Counts]) -> None:
    families = [
        f'"{family}": {{\n' + ",\n".join(f'  "{name}": {json.dumps(each)}' for name, each in its.items()) + "\n}"
        for family, its in counts.items()
    ]
    PATH.write_text("{\n" + ",\n".join(families) + "\n}\n", encoding="utf-8")


def geometric_mean(numbers: list[int]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


class Summary(NamedTuple):
    """A family's counts: who gets there how often, and the geometric means where both do."""

    solved: int
    solved_by_scipy: int
    mean: float
    mean_of_scipy: float


def summary(counts: Counts) -> Summary:
    both = [(own, theirs) for own, theirs in counts.values() if own is not None and theirs is not None]
    solved = [sum(each[k] is not None for each in counts.values()) for k in range(2)]
    means = [geometric_mean([pair[k] for pair in both]) for k in range(2)]
    return Summary(*solved, *means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--scipy", action="store_true", help="count SciPy's again too")
    options = parser.parse_args()
    all_counts = read() if PATH.exists() else {}
    for name in options.families:
        family, before = FAMILIES[name], all_counts.get(name, {})
        counts: Counts = {}
        for problem in family.problems().values():
            known = before.get(problem.name)
            theirs = scipys(problem, family) if options.scipy or known is None else known[1]
            counts[problem.name] = [ours(problem, family), theirs]
        all_counts[name] = counts
        write({known: all_counts[known] for known in FAMILIES if known in all_counts})
        its = summary(counts)
        print(
            f"{name:16} {len(counts):4} problems, solved {its.solved:4} : {its.solved_by_scipy:4}, "
            f"evaluations {its.mean:7.2f} : {its.mean_of_scipy:7.2f} ({its.mean / its.mean_of_scipy - 1:+.1%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
