"""L-BFGS, with and without bounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn

from ..core.attributes import Elsewhere
from ..core.results import LoadResult
from ..core.saving import Saving
from ..core.turns import change, reader
from ..options.names import hints
from ..options.ranges import COUNT, as_number
from .history_method import HistoryMethod
from .searching import first_step_down, search_along, search_for
from .starting import PACKAGE

#: The methods and attributes for users; the rest is for the modules around it.
PUBLIC = (
    *("step", "reset", "freeze", "unfreeze", "state_dict", "load_state_dict"),
    *("params", "loss", "grad_norm", "step_size", "iterations", "evaluations", "message"),
    *("history", "gtol", "ftol", "backend", "frozen", "is_bounded"),
)

#: The remedy for each of torch's keywords.
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


class Absent(Elsewhere):
    """An attribute of torch's class that is not here: reading and setting it say what to write."""

    def __set__(self, opt: Any, value: Any) -> None:
        self.__get__(opt, type(opt))


class LBFGS(HistoryMethod):
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
        How many pairs to keep, at least 1. The memory is that of ``2 * history + 3`` copies of the
        parameters, with bounds one more.
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
    With bounds, parameters stay where a bound is active (the gradient's descent leads out); the others go towards the
    minimum of the model over them, ``d_F = -B_FF^-1 g_F`` with B the inverse of H, moved into the bounds. The line
    search is along the straight way there. While bounds are active and have changed, an iteration reads the pairs once
    more.

    torch's class makes up to 20 iterations in a step, and its closure returns the loss alone.

    Sources: Nocedal, Updating quasi-Newton matrices with limited storage (1980); Liu and Nocedal, On the limited memory
    BFGS method (1989); Byrd, Lu, Nocedal and Zhu, A limited memory algorithm for bound constrained optimization (1995).
    Unlike theirs, the bounded form takes as active the bounds of the accepted point, not those of a Cauchy point.

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

    lr = Absent("the line search finds the step size; read opt.step_size for the last one")
    param_groups = Absent("its groups have no options; read opt.params")
    add_param_group = Absent("what was learned is of the present arrays; build a new one for more")
    zero_grad = Absent("the closure returns the gradients; leave it out")

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
        size = as_number("history", history, COUNT)
        super().__init__(params, size, bounds=bounds, gtol=gtol, ftol=ftol, backend=backend)
        self.has_used_pairs = False

    def __dir__(self) -> list[str]:
        """Return what users use, and what a subclass of theirs defines."""
        classes = [cls for cls in type(self).__mro__ if cls.__module__.split(".")[0] != PACKAGE]
        return sorted({*PUBLIC, *(name for cls in classes for name in vars(cls))})

    def iterate(self) -> str | None:
        while True:
            reading, has_pairs = self.reading, self.pairs.count > 0
            self.has_used_pairs = has_pairs
            is_known = has_pairs or self.is_boxed
            first_step = 1.0 if is_known else first_step_down(reading.grad_square, reading.grad_max)
            self.moving()
            move = self.pairs.direct(first_step)
            search = search_for(self, self.loss, move.slope, move.step_size, move.longest)
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

    def confirms(self) -> bool:
        """Return whether the last direction was the gradient's, where bounds may leave little of any other one."""
        is_sure = not (self.is_bounded and self.has_used_pairs)
        if not is_sure:
            self.pairs.forget()
        return is_sure

    # --- the state ---

    @reader
    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on with the same bits, besides the parameters: plain Python and copies.

        Returns
        -------
        dict
            ``"optimizer"``, ``"step_count"`` (the iterations), ``"options"`` (``history``, ``gtol``, ``ftol``),
            ``"param_groups"`` (the names of each group's arrays, and the numbers that bound them), ``"frozen"``,
            ``"state"`` (for the name of each array that is not frozen: ``"directions"`` and ``"changes"``, with a row
            for each pair, the oldest first, and ``"grad"``), ``"extra"`` (numbers: the loss, ``"steps"``, by which the
            directions are multiplied, products of the pairs). Bounds that are arrays are not saved.

        Raises
        ------
        RuntimeError
            If a step is running around this call. One of another thread is waited for.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> x = np.array([3.0, -2.0])
        >>> opt = fastopt.LBFGS(x)
        >>> state = opt.step(lambda: (float(x @ x), 2 * x))
        >>> saved = opt.state_dict()
        >>> saved["step_count"], saved["state"]["0"]["directions"].shape
        (1, (1, 2))
        """
        from . import lbfgs_state

        return lbfgs_state.of(self)

    @change
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, *, state: bool = True, options: bool = True
    ) -> LoadResult:
        """Go on from a saved state. Everything is checked before it is loaded.

        The parameters have to be those of that moment, which :meth:`fastopt.Checkpoint.restore` writes. If they are
        others, call ``opt.reset(keep_history=True)`` afterwards.

        Parameters
        ----------
        state_dict : dict
            From :meth:`state_dict`, on any backend. It is not changed, and its arrays are copied.
        strict : bool, default True
            Whether each array that is not frozen must have its state there, with the same bounds. False: where one has
            not, the options and counts are loaded, and the next step begins anew, without pairs.
        state, options : bool, default True
            ``state=False``: load ``gtol``, ``ftol`` and which arrays are frozen alone. ``options=False``: keep these.

        Returns
        -------
        LoadResult
            As from :meth:`fastopt.Optimizer.load_state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it is no such dict, or (if ``strict``) does not fit: one error with every mismatch. Nothing changes then.
        RuntimeError
            If a step is running.

        Notes
        -----
        ``history`` stays as it is here: if there is room for fewer pairs, the newest ones are loaded.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> x = np.array([3.0, -2.0])
        >>> opt = fastopt.LBFGS(x, gtol=1e-3)
        >>> state = opt.step(lambda: (float(x @ x), 2 * x))
        >>> other = fastopt.LBFGS(x.copy())
        >>> other.load_state_dict(opt.state_dict()).options
        {'gtol': (1e-05, 0.001), 'step_count': (0, 1)}
        >>> other.loss == opt.loss
        True
        """
        from . import lbfgs_state

        return lbfgs_state.load(self, state_dict, strict, state, options)

    def saving(self) -> Saving:
        """Return what :func:`fastopt.save` and :meth:`fastopt.Checkpoint.restore` use."""
        from .lbfgs_state import SavingOfLBFGS

        return SavingOfLBFGS(self)


def refuse_keyword(name: str) -> NoReturn:
    own = ("history", "bounds", "gtol", "ftol", "backend")
    remedy = f"; {OF_TORCH[name]}" if name in OF_TORCH else hints([name], own)
    raise TypeError(f"LBFGS() got an unexpected keyword argument {name!r}{remedy}")
