"""L-BFGS and dense BFGS: what an iteration costs outside the function that is minimized."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.case import Case, Stepper, Work, fill
from bench.contenders import Contender
from bench.limit import read_limit, update_limit
from bench.runs import Evaluate, RunStepper
from bench.shapes import ArraySet

HISTORY = 10
#: Of the quadratic: no solver is done with it before its history is full.
CONDITION = 1e4
FOREVER = 1_000_000_000
MOST_OF_FALLBACK = 1 << 20

SIZES_OF_X = {f"{size:,}": ArraySet([(size,)]) for size in (10_000, 200_000, 1_000_000, 10_000_000)}
BOXED = {label: SIZES_OF_X[label] for label in ("10,000", "200,000", "1,000,000")}
DENSE_SIZES = {f"{size:,}": ArraySet([(size,)]) for size in (200, 1_000, 2_000)}


@dataclass(frozen=True)
class LBFGSWork(Work):
    """An iteration of L-BFGS that evaluates once, with a full history of m pairs.

    One pass reads the pairs and the new gradient, and makes a new pair; the other one reads the pairs, and makes the
    direction and the next point. They read and write 2m + 5 and 2m + 6 words for each element.
    """

    written: int = 0
    dtype: str = "float64"
    has_bounds: bool = False

    def memory(self, elements: int) -> int:
        return np.dtype(self.dtype).itemsize * elements * (2 * HISTORY + 6)

    def bytes_moved(self, elements: int) -> int:
        return np.dtype(self.dtype).itemsize * elements * (4 * HISTORY + 11)


@dataclass(frozen=True)
class BFGSWork(Work):
    """An iteration of BFGS that evaluates once: half of the matrix is read and written."""

    written: int = 0
    dtype: str = "float64"
    has_bounds: bool = False

    def memory(self, elements: int) -> int:
        return 3 * 8 * elements**2  # naive NumPy's outer products

    def bytes_moved(self, elements: int) -> int:
        return 8 * elements**2


LBFGS_WORKS: dict[str, Work] = {"float64": LBFGSWork(), "float32": LBFGSWork(dtype="float32")}
BFGS_WORKS: dict[str, Work] = {"float64": BFGSWork()}
BOXED_WORKS: dict[str, Work] = {
    "float64": LBFGSWork(has_bounds=True),
    "float32": LBFGSWork(dtype="float32", has_bounds=True),
}


class Quadratic:
    """Half the sum of h (x - c)^2, in arrays of its own."""

    def __init__(self, case: Case) -> None:
        (shape,) = case.set.shapes
        dtype = case.work.dtype
        self.curvature = np.geomspace(1, CONDITION, *shape).astype(dtype)
        self.center = fill(np.empty(shape, np.float32), seed=7).astype(dtype)
        self.x, self.grad, self.distance = (np.ones(shape, dtype) for _ in range(3))

    def __call__(self) -> Any:
        np.subtract(self.x, self.center, out=self.distance)
        np.multiply(self.curvature, self.distance, out=self.grad)
        return 0.5 * self.distance.dot(self.grad)


def fastopt_run(case: Case, method: str, backend: str) -> Stepper:
    """fastopt.minimize."""
    import fastopt

    if backend == "numpy" and case.elements > MOST_OF_FALLBACK:
        raise NotImplementedError(f"not measured above {MOST_OF_FALLBACK:,} elements: a row would take minutes")
    fastopt.set_num_threads(case.threads)
    quadratic = Quadratic(case)
    options: dict[str, Any] = {"history": HISTORY} if method == "lbfgs" else {}
    if case.work.has_bounds:
        options["bounds"] = (0, None)

    def solve(evaluate: Callable[[Evaluate], Any]) -> None:
        quadratic.x[...] = 1
        fastopt.minimize(
            lambda x: (evaluate(quadratic), quadratic.grad),
            quadratic.x,
            method,
            gtol=0,
            ftol=0,
            max_iterations=FOREVER,
            backend=backend,
            **options,
        )

    return RunStepper(solve, warm_up(method))


def scipy_run(case: Case, method: str) -> Stepper:
    """scipy.optimize.minimize in float64: it converts float32 gradients, and the function its x."""
    from scipy.optimize import Bounds, minimize

    limit_blas(case.threads)
    quadratic = Quadratic(case)
    most = {"maxiter": FOREVER, "gtol": 0}
    if method == "L-BFGS-B":
        most |= {"maxfun": FOREVER, "maxcor": HISTORY, "ftol": 0}

    def solve(evaluate: Callable[[Evaluate], Any]) -> None:
        def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
            def value() -> float:
                quadratic.x[...] = x
                return float(quadratic())

            return evaluate(value), quadratic.grad

        bounds = Bounds(0, np.inf) if case.work.has_bounds else None
        minimize(fun, np.ones_like(quadratic.x), jac=True, method=method, bounds=bounds, options=most)

    return RunStepper(solve, warm_up(method))


def torch_run(case: Case) -> Stepper:
    """torch.optim.LBFGS with its line search for the strong Wolfe conditions, in one step that makes all iterations."""
    import torch

    quadratic = Quadratic(case)

    def solve(evaluate: Callable[[Evaluate], Any]) -> None:
        torch.set_num_threads(case.threads)  # in the thread that works
        quadratic.x[...] = 1
        tensor = torch.from_numpy(quadratic.x).requires_grad_()
        tensor.grad = torch.from_numpy(quadratic.grad)
        opt = torch.optim.LBFGS(
            [tensor],
            max_iter=FOREVER,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        opt.step(lambda: evaluate(quadratic))

    return RunStepper(solve, warm_up("lbfgs"))


def naive_lbfgs(case: Case) -> Stepper:
    """The two-loop recursion with a vector operation for each line of the textbook, and steps halved until f falls."""
    limit_blas(case.threads)
    quadratic = Quadratic(case)

    def solve(evaluate: Callable[[Evaluate], Any]) -> None:
        quadratic.x[...] = 1
        x, pairs = quadratic.x, []
        loss, g = evaluate(quadratic), quadratic.grad.copy()
        while np.abs(g).max() > 0:
            q, alphas = g.copy(), []
            for s, y, rho in reversed(pairs):
                alphas.append(rho * s.dot(q))
                q -= alphas[-1] * y
            if pairs:
                s, y, rho = pairs[-1]
                q /= rho * y.dot(y)
            for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
                q += (alpha - rho * y.dot(q)) * s
            d = -q
            slope, step = g.dot(d), 1.0 if pairs else min(1.0, 1 / np.linalg.norm(g))
            start = x.copy()
            while True:
                x[...] = start + step * d
                new = evaluate(quadratic)
                if new <= loss + 1e-4 * step * slope:
                    break
                step /= 2
                if step < 1e-10:
                    return
            s, y = x - start, quadratic.grad - g
            loss, g = new, quadratic.grad.copy()
            if s.dot(y) > 0:
                pairs = [*pairs[-HISTORY + 1 :], (s, y, 1 / s.dot(y))]

    return RunStepper(solve, warm_up("lbfgs"))


def naive_bfgs(case: Case) -> Stepper:
    """The rank-two update of the inverse Hessian, with outer products."""
    limit_blas(case.threads)
    quadratic = Quadratic(case)

    def solve(evaluate: Callable[[Evaluate], Any]) -> None:
        quadratic.x[...] = 1
        x, inverse = quadratic.x, np.eye(case.elements)
        loss, g = evaluate(quadratic), quadratic.grad.copy()
        first = True
        while np.abs(g).max() > 0:
            d = -(inverse @ g)
            slope, step, start = g.dot(d), min(1.0, 1 / np.linalg.norm(g)) if first else 1.0, x.copy()
            while True:
                x[...] = start + step * d
                new = evaluate(quadratic)
                if new <= loss + 1e-4 * step * slope:
                    break
                step /= 2
                if step < 1e-10:
                    return
            s, y = x - start, quadratic.grad - g
            loss, g = new, quadratic.grad.copy()
            if (curvature := s.dot(y)) <= 0:
                return
            if first:
                inverse *= curvature / y.dot(y)
                first = False
            product = inverse @ y
            inverse += (1 + y.dot(product) / curvature) / curvature * np.outer(s, s)
            inverse -= (np.outer(product, s) + np.outer(s, product)) / curvature

    return RunStepper(solve, warm_up("bfgs"))


def warm_up(method: str) -> int:
    """Evaluations before those that count: for a full history of iterations that may evaluate twice."""
    return 3 if method.lower() == "bfgs" else 2 * HISTORY + 2


def limit_blas(threads: int) -> None:
    """Give every BLAS that is loaded this many threads: with another number than others', its time is another's too."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads, user_api="blas")


LBFGS: dict[str, Contender] = {
    "limit": read_limit,
    "fastopt": partial(fastopt_run, method="lbfgs", backend="native"),
    "fastopt NumPy": partial(fastopt_run, method="lbfgs", backend="numpy"),
    "SciPy": partial(scipy_run, method="L-BFGS-B"),
    "torch": torch_run,
    "naive NumPy": naive_lbfgs,
}
LBFGS_BOXED = {name: LBFGS[name] for name in ("limit", "fastopt", "fastopt NumPy", "SciPy")}
BFGS: dict[str, Contender] = {
    "limit": update_limit,
    "fastopt": partial(fastopt_run, method="bfgs", backend="native"),
    "fastopt NumPy": partial(fastopt_run, method="bfgs", backend="numpy"),
    "SciPy": partial(scipy_run, method="BFGS"),
    "naive NumPy": naive_bfgs,
}
