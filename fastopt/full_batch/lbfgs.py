"""L-BFGS, with and without bounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn

from ..backends.history import History, Reading
from ..core.attributes import Elsewhere
from ..options.names import hints
from ..options.ranges import COUNT, as_number
from .method import Method
from .searching import first_step_down, search_along, search_for

#: What to write instead of torch's keywords.
OF_TORCH: Mapping[str, str] = {
    "lr": "leave it out: the line search finds the step size",
    "max_iter": "leave it out: a step is one iteration; make more in a loop, or give max_iterations to "
    "fastopt.minimize",
    "max_eval": "leave it out; give max_evaluations to fastopt.minimize",
    "tolerance_grad": "write gtol",
    "tolerance_change": "write ftol, which is compared with the decrease of the loss alone",
    "history_size": "write history",
    "line_search_fn": "leave it out: the line search is always that of Moré and Thuente, for the strong Wolfe "
    "conditions",
}


class LBFGS(Method):
    """L-BFGS: one iteration a step; call :meth:`reset` after you have changed parameters or data between steps.

    The direction is ``d = -H g`` with H the inverse Hessian that follows from the newest ``history`` pairs of steps s
    and changes y of the gradient, and ``(s'y / y'y) I`` before them. A line search (Moré and Thuente) finds the step.
    All sums are made in double precision and in a fixed order: a run has the same bits on every machine and for every
    number of threads, as far as the closure's results have.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, changed in place. Groups (dicts with the key ``"params"``) have no options but ``bounds``.
    history : int, default 10
        How many pairs to keep, at least 1. The memory is that of ``2 * history + 3`` copies of the parameters.
    bounds : pair, optional
        ``(lo, hi)``, each a number, None, or a structure like the parameters, with None where there is no bound. They
        are rounded inwards to the parameters' dtype. Parameters that are outside are moved in, with a warning.
    gtol : float, optional
        ``status`` is ``"gtol"`` where the largest absolute element of the (projected) gradient is at most this;
        default 1e-5, where an array is float32 1e-4; 0: off.
    ftol : float, optional
        ``status`` is ``"ftol"`` where an iteration has lowered the loss by at most this; default 2.2e-9, where an array
        is float32 1e-6; 0: off. A rise does not count.
    backend : str, optional
        As for :class:`fastopt.Optimizer`.
    **unknown
        Any other keyword is a TypeError that says what to write.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be changed in place, that are float16 or bfloat16, or on a GPU; for options out of
        their ranges.
    RuntimeError
        For a backend that can't be had here.

    Notes
    -----
    With bounds it is the two-metric projection: where a bound is active the direction is 0, and the path is clipped.
    Parameters that lie at their bounds are left out of the pairs where they do not move.

    torch's class makes up to 20 iterations in a step, and its closure returns the loss alone.

    Sources: Nocedal, Updating quasi-Newton matrices with limited storage (1980); Liu and Nocedal, On the limited memory
    BFGS method (1989); Bertsekas, Projected Newton methods for optimization problems with simple constraints (1982).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"x": np.array(-1.2), "y": np.array(1.0)}
    >>> def rosenbrock():
    ...     x, y = params["x"], params["y"]
    ...     loss = 100 * (y - x**2) ** 2 + (1 - x) ** 2
    ...     return loss, {"x": -400 * x * (y - x**2) - 2 * (1 - x), "y": 200 * (y - x**2)}
    >>> opt = fastopt.LBFGS(params)
    >>> state = opt.step(rosenbrock)
    >>> while state.status is None:
    ...     state = opt.step(rosenbrock)
    >>> state.status, round(params["x"].item(), 4), round(params["y"].item(), 4)
    ('ftol', 1.0, 1.0)
    >>> opt.message.split(" after")[0]
    'Converged'
    """

    shown: ClassVar[tuple[str, ...]] = ("history",)

    lr = Elsewhere("the line search finds the step size; read opt.step_size for the last one")
    param_groups = Elsewhere("its groups have no options; read opt.params")
    add_param_group = Elsewhere("what was learned is of the present arrays; build a new one for more")
    zero_grad = Elsewhere("the closure returns the gradients; leave it out")

    def __init__(
        self,
        params: Any,
        *,
        history: int = 10,
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            refuse_keyword(name)
        self.size: int = as_number("history", history, COUNT)
        super().__init__(params, bounds=bounds, gtol=gtol, ftol=ftol, backend=backend)
        self.pairs: History
        #: The gradient of the accepted point.
        self.reading: Reading

    @property
    def history(self) -> int:
        """How many pairs are kept; fixed when it is built."""
        return self.size

    def prepare(self) -> None:
        numbers = self.own.bounds
        sides = None if numbers is None else (numbers.lower[self.places], numbers.upper[self.places])
        self.pairs = self.parts.backend.history(self.table, self.size, sides)

    def start(self) -> None:
        self.reading = self.pairs.begin()

    def forget(self) -> None:
        self.pairs.forget()

    def put_back(self) -> None:
        self.pairs.put_back()

    def iterate(self) -> str | None:
        while True:
            has_pairs = self.pairs.count > 0
            first_step = 1.0 if has_pairs else first_step_down(self.reading.grad_square, self.reading.grad_max)
            self.moving()
            move = self.pairs.direct(first_step)
            search = search_for(self, self.loss, move.slope, first_step, self.own.bounds is not None)
            found = search_along(self, self.pairs, search, move.moved)
            if found is not None:
                keep = partial(self.keep, found.trial) if found.is_read else None
                self.accept(found.loss, found.trial.grad_max, found.step_size, keep)
                return None if found.is_read else "max_evaluations"
            if self.evaluations_left == 0:
                return "max_evaluations"
            self.undo_move()
            if not has_pairs:
                return "line_search"
            self.pairs.forget()  # and try steepest descent once

    def keep(self, reading: Reading) -> None:
        """Record the trial that was read last as the accepted point."""
        self.pairs.accept()
        self.reading = reading


def refuse_keyword(name: str) -> NoReturn:
    own = ("history", "bounds", "gtol", "ftol", "backend")
    remedy = f"; {OF_TORCH[name]}" if name in OF_TORCH else hints([name], own)
    raise TypeError(f"LBFGS() got an unexpected keyword argument {name!r}{remedy}")
