"""minimize: a full-batch method, or a first-order optimizer, run until it converges."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .. import optimizers
from ..arrays.memory import described, shown
from ..core.optimizer import Optimizer
from ..options.names import hints, meant
from ..options.ranges import COUNT, Range, as_number
from .first_order import FirstOrder
from .lbfgs import LBFGS
from .messages import message_of
from .method import Method
from .progress_bar import Progress
from .results import MinimizeResult, MinimizeState

#: How many iterations the full-batch methods make at most, unless told.
MAX_ITERATIONS = 15_000

MOST_ITERATIONS = Range(0, optional=True, whole=True)
MOST_EVALUATIONS = Range(1, optional=True, whole=True)

FULL_BATCH = ("lbfgs", "bfgs", "newton")

#: The modules of methods with dense matrices, which are imported when they are used, and the names of their classes.
DENSE: Mapping[str, tuple[str, str]] = {
    "bfgs": ("bfgs", "BFGS"),
    "newton hess": ("newton", "Newton"),
    "newton hvp": ("trust_region", "TrustRegion"),
}

#: The remedy for each of SciPy's keywords, and torch's.
OF_OTHERS: Mapping[str, str] = {
    "jac": "fun returns both: return loss, grads",
    "args": "write minimize(lambda params: fun(params, *args), params)",
    "tol": "write gtol, ftol or both",
    "options": "give its entries as keywords: max_iterations, max_evaluations, gtol, ftol, history",
    "x0": "the parameters are the second argument, params, and are changed in place",
    "constraints": "bounds are the only constraints",
    "hessp": "write hvp=, a function of (params, v)",
    "maxiter": "write max_iterations",
    "max_iter": "write max_iterations",
    "maxfun": "write max_evaluations",
    "maxfev": "write max_evaluations",
    "max_eval": "write max_evaluations",
    "maxcor": "write history",
    "history_size": "write history",
    "maxls": "leave it out: a line search makes at most 20 trials",
    "disp": "write callback=fastopt.progress()",
    "tolerance_grad": "write gtol",
    "tolerance_change": "write ftol",
    "line_search_fn": "leave it out: the line search is always that of Moré and Thuente",
    "lr": "leave it out: the line search finds the step size",
}

#: Those among them that optimizers have.
OF_OPTIMIZERS = ("lr",)

#: The method to write instead of each of SciPy's.
METHODS_OF_OTHERS: Mapping[str, str] = {
    "lbfgsb": "lbfgs",
    "newtoncg": "newton",
    "trustncg": "newton",
    "trustexact": "newton",
    "trustkrylov": "newton",
    "dogleg": "newton",
    "cg": "lbfgs",
    "tnc": "lbfgs",
    "neldermead": "lbfgs",
    "powell": "lbfgs",
    "slsqp": "lbfgs",
}

Callback = Callable[[MinimizeState], Any]


def minimize(
    fun: Callable[[Any], Any],
    params: Any,
    method: str | type = "lbfgs",
    *,
    bounds: Any = None,
    callback: Callback | None = None,
    max_iterations: int | None = None,
    max_evaluations: int | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    history: int = 10,
    hess: Callable[[Any], Any] | None = None,
    hvp: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> MinimizeResult:
    """Minimize a function of all data at once; the parameters are changed in place.

    Parameters
    ----------
    fun : callable
        ``fun(params)`` returns ``(loss, grads)``: a real number, and the gradients in the structure of the parameters.
        They may be the same arrays in each call (a first-order optimizer reads them after the callback), but not the
        parameters themselves, and fun must not change those.
    params : array or structure of arrays
        float32 or float64: one array, a dict, a list, nested mixes. ``fun`` gets this very object.
    method : str or class, default "lbfgs"
        ``"lbfgs"``: :class:`fastopt.LBFGS`. ``"bfgs"``: with a dense inverse Hessian, at most 20,000 elements.
        ``"newton"``: with ``hess`` by a factorization of the Hessian, with ``hvp`` by conjugate gradients in a trust
        region; its LAPACK has other bits on other machines. Or a first-order optimizer, by name (``"adam"``) or class;
        ``max_iterations`` is required then.
    bounds : pair, optional
        ``(lo, hi)``, each a number, None, or a structure like the parameters. Parameters that are outside are moved in,
        with a warning. Not for "bfgs" and "newton".
    callback : callable, optional
        ``callback(state)`` is called after each iteration with a :class:`fastopt.MinimizeState`. It stops by returning
        True or raising StopIteration. It must not change the parameters: :class:`fastopt.LBFGS` is for such loops.
        :func:`fastopt.progress` is one with a bar.
    max_iterations : int, optional
        At least 0; default 15,000.
    max_evaluations : int, optional
        How often fun is called at most, at least 1; default: no limit. Where it ends a line search, the best point of
        that search is taken.
    gtol : float, optional
        Stop where the largest absolute element of the gradient, with bounds of the projected gradient, is at most this.
        Default 1e-5, where an array is float32 1e-4; 0: off.
    ftol : float, optional
        Stop where an iteration has lowered the loss by at most this (a rise does not count). Default 2.2e-9, where an
        array is float32 1e-6; 0: off.
    history : int, default 10
        How many pairs L-BFGS keeps.
    hess : callable, optional
        For Newton: ``hess(params)`` returns the Hessian, a square matrix over all elements: arrays raveled in C order,
        one after the other in the order of their names. Only its lower triangle is read.
    hvp : callable, optional
        For Newton: ``hvp(params, v)`` returns the Hessian times v; both have the structure of the parameters, and v
        has their dtypes.
    **options
        Options of the method: those of the optimizer (``lr``), or ``backend``.

    Returns
    -------
    MinimizeResult
        ``loss``, ``grad_norm``, ``iterations``, ``evaluations``, ``status``, ``success``, ``message``.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, and if fun returns anything but a loss and gradients; names the array. What fun
        and callback raise comes through. In all cases, as after Ctrl-C, the parameters are the last accepted ones.
    RuntimeError
        For a backend that can't be had here.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> A, b = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, 1.0])
    >>> x = np.zeros(2)
    >>> result = fastopt.minimize(lambda x: (0.5 * x @ A @ x - b @ x, A @ x - b), x)
    >>> result.status, x.round(5)
    ('gtol', array([0.2, 0.4]))

    Newton's method with the Hessian, here a constant:

    >>> x = np.zeros(2)
    >>> result = fastopt.minimize(lambda x: (0.5 * x @ A @ x - b @ x, A @ x - b), x, "newton", hess=lambda x: A)
    >>> result.iterations, x.round(5)
    (1, array([0.2, 0.4]))

    A dict of arrays with bounds, and a first-order optimizer:

    >>> params = {"w": np.array([3.0, -2.0])}
    >>> def fun(params):
    ...     w = params["w"]
    ...     return w @ w, {"w": 2 * w}
    >>> fastopt.minimize(fun, params, bounds=(None, {"w": np.array([4.0, -1.0])})).loss
    1.0
    >>> params["w"]
    array([ 0., -1.])
    >>> fastopt.minimize(fun, params, "adam", lr=0.1, max_iterations=1000).success
    True
    """
    if not callable(fun):
        raise TypeError(f"fun={shown(fun):.80}: expected a function of the parameters that returns (loss, grads)")
    check_callback(callback)
    max_iterations = as_number("max_iterations", max_iterations, MOST_ITERATIONS)
    max_evaluations = as_number("max_evaluations", max_evaluations, MOST_EVALUATIONS)
    history = as_number("history", history, COUNT)
    given = Arguments(history, hess, hvp, max_iterations, options)
    running = method_of(method, params, given, {"bounds": bounds, "gtol": gtol, "ftol": ftol})
    running.caller = "fun"
    if max_evaluations is not None:
        running.evaluations_left = max_evaluations - running.evaluations_at_end
    return result_of(running, fun, callback, max_iterations)


def result_of(
    method: Method, fun: Callable[[Any], Any], callback: Callback | None, max_iterations: int | None
) -> MinimizeResult:
    """Run a method until there is a reason to stop; None: for MAX_ITERATIONS at most."""
    most = MAX_ITERATIONS if max_iterations is None else max_iterations
    run = Run(method, partial(fun, method.given_params), callback, most)
    if not isinstance(callback, Progress):
        return run.result()
    with callback.of_run(max_iterations):
        return run.result()


class Arguments(NamedTuple):
    """The arguments of minimize that only some methods take."""

    history: int
    hess: Callable[[Any], Any] | None
    hvp: Callable[[Any, Any], Any] | None
    max_iterations: int | None
    options: dict[str, Any]


class Run:
    """A run of a method.

    Parameters
    ----------
    method : Method
    closure : callable
        Returns the loss and the gradients.
    callback : callable or None
    max_iterations : int
    """

    def __init__(
        self, method: Method, closure: Callable[[], Any], callback: Callback | None, max_iterations: int
    ) -> None:
        self.method, self.closure, self.callback, self.max_iterations = method, closure, callback, max_iterations

    def result(self) -> MinimizeResult:
        """Run until there is a reason to stop."""
        method = self.method
        state = method.begin(self.closure)
        status = state.status or self.limit(state)
        while status is None:
            before = state
            state = method.step(self.closure)
            status = state.status or self.limit(state)
            is_new = state.iterations > before.iterations
            if is_new and self.callback is not None and stops(self.callback, state._replace(status=status)):
                status = status or "callback"
        state = method.finish(self.closure, state)
        return MinimizeResult(
            state.loss,
            state.grad_norm,
            state.iterations,
            state.evaluations,
            status,
            status in ("gtol", "ftol"),
            message_of(status, method),
        )

    def limit(self, state: MinimizeState) -> str | None:
        """Return the status of a limit that was reached."""
        if state.iterations >= self.max_iterations:
            return "max_iterations"
        left = self.method.evaluations_left
        return "max_evaluations" if left is not None and left <= 0 else None


def check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={shown(callback):.80}: expected a function of a state, or None")


def stops(callback: Callback, state: MinimizeState) -> bool:
    """Call a callback; return whether it says stop."""
    try:
        answer = callback(state)
    except StopIteration:
        return True
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def method_of(method: str | type, params: Any, given: Arguments, common: dict[str, Any]) -> Method:
    """Return the method that was asked for, with these parameters and common options."""
    found = method_by_name(method) if isinstance(method, str) else method
    if isinstance(found, type) and issubclass(found, Optimizer):
        refuse_of_newton(found.__name__, given)
        refuse_history(found.__name__, given)
        refuse_of_others(found.__name__, [name for name in given.options if name not in OF_OPTIMIZERS])
        if given.max_iterations is None:
            raise ValueError(
                f"max_iterations=None: {found.__name__} needs a number of iterations, since only its schedule and "
                "yours know when it is done; give max_iterations="
            )
        return FirstOrder(found, params, given.options, **common)
    if found is LBFGS:
        found = "lbfgs"
    if not isinstance(found, str):
        remedy = (
            "give its class, and its options as keywords of minimize"
            if isinstance(found, Optimizer)
            else (f"expected one of {', '.join(map(repr, FULL_BATCH))}, or an optimizer's name or class")
        )
        raise TypeError(f"method={shown(found):.80}: {remedy}")
    if found != "newton":
        refuse_of_newton(found, given)
    if found != "lbfgs":
        refuse_history(found, given)
    if found == "lbfgs":
        common["history"] = given.history
    build = class_of(found, given, common)
    check_options(found, given.options, build, common)
    built: Method = build(params, **common, **given.options)
    return built


def class_of(method: str, given: Arguments, common: dict[str, Any]) -> Callable[..., Any]:
    """Return the class of a full-batch method, and add what it needs to its options."""
    if method == "lbfgs":
        return LBFGS
    if method == "newton":
        if (given.hess is None) == (given.hvp is None):
            found = "neither" if given.hess is None else "both"
            raise TypeError(
                'method="newton": expected one of hess= (the Hessian) and hvp= (its product with a vector), got '
                f"{found}"
            )
        name = "hess" if given.hvp is None else "hvp"
        common[name] = checked_function(name, getattr(given, name))
        method = f"newton {name}"
    module, cls = DENSE[method]
    found_class: Callable[..., Any] = getattr(import_module(f".{module}", __package__), cls)
    return found_class


def method_by_name(method: str) -> str | type[Optimizer]:
    """Return the full-batch method of this name, or the class of a first-order optimizer."""
    word = method.lower().replace("-", "").replace("_", "")
    if word in FULL_BATCH:
        return word
    classes = {name.lower(): name for name in optimizers.__all__}
    if word in classes:
        found: type[Optimizer] = getattr(optimizers, classes[word])
        return found
    known = [*FULL_BATCH, *map(str.lower, optimizers.__all__)]
    write = METHODS_OF_OTHERS.get(word) or meant(method, known)
    hint = f"; write {write!r}" if write else f": {', '.join(known[len(FULL_BATCH) :])}"
    raise ValueError(
        f"method={method!r}: expected one of {', '.join(map(repr, FULL_BATCH))}, or a first-order optimizer's name or "
        f"class{hint}"
    )


def check_options(method: str, options: Iterable[str], build: Callable[..., Any], common: Iterable[str]) -> None:
    """Raise if there is an option that neither minimize nor the method has."""
    taken = {*inspect.signature(minimize).parameters, *common}
    own = [
        name
        for name, its in inspect.signature(build).parameters.items()
        if its.kind is inspect.Parameter.KEYWORD_ONLY and name not in taken
    ]
    unknown = [name for name in options if name not in own]
    refuse_of_others(method, unknown)
    for name in unknown:
        known = [*own, *inspect.signature(minimize).parameters]
        raise TypeError(
            f"minimize() got an unexpected keyword argument {name!r} (method={method!r}){hints([name], known)}"
        )


def refuse_of_others(method: str, names: Iterable[str]) -> None:
    """Raise if one of these names is a keyword of SciPy's or torch's."""
    for name in names:
        if name in OF_OTHERS:
            raise TypeError(
                f"minimize() got an unexpected keyword argument {name!r} (method={method!r}); {OF_OTHERS[name]}"
            )


def checked_function(name: str, function: Any) -> Any:
    if not callable(function):
        raise TypeError(f"{name}: expected a function, got a value {described(function)}")
    return function


def refuse_of_newton(method: str, given: Arguments) -> None:
    for name in ("hess", "hvp"):
        if getattr(given, name) is not None:
            raise TypeError(f'{name}: method={method!r} does not use it; write method="newton", or leave it out')


def refuse_history(method: str, given: Arguments) -> None:
    if given.history != 10:
        raise TypeError(f'history={given.history}: only method="lbfgs" has one, not {method!r}; leave it out')
