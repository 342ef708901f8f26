"""Functions that return what is no loss with gradients, and arguments that mean nothing: errors before anything moves.

Each error names the array or the argument, and says what to do.
"""

from __future__ import annotations

import copy
import fractions
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt


class BadFunction(NamedTuple):
    """What is wrong, what the function returns (given the parameters), and what the error is and says."""

    what: str
    returned: Callable[[dict[str, Any]], Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def start() -> dict[str, Any]:
    return {"W": np.array([[3.0, -2.0]]), "b": np.float32([1.0, 2.0])}


def loss_of(params: dict[str, Any]) -> float:
    return float(sum((array.astype(float) ** 2).sum() for array in params.values()))


def grads_of(params: dict[str, Any]) -> dict[str, Any]:
    return {name: 2 * array for name, array in params.items()}


def with_loss(loss: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda params: (loss, grads_of(params))


def with_grads(**grads: Any) -> Callable[[dict[str, Any]], Any]:
    """Return a function some of whose gradients are these, or are made of the parameters by these functions."""
    return lambda params: (
        loss_of(params),
        grads_of(params) | {name: its(params) if callable(its) else its for name, its in grads.items()},
    )


def other_structure(make: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda params: (loss_of(params), make(grads_of(params)))


def replacing(params: dict[str, Any]) -> Any:
    params["b"] = params["b"] - 1
    return loss_of(params), grads_of(params)


def removing(params: dict[str, Any]) -> Any:
    grads = grads_of(params)
    del params["b"]
    return loss_of(params), grads


def stepping(params: dict[str, Any]) -> Any:
    grads = grads_of(params)
    params["b"] -= np.float32(0.1)
    return loss_of(params), grads


def reshaping(params: dict[str, Any]) -> Any:
    grads = grads_of(params)
    params["W"].shape = (2, 1)
    return loss_of(params), grads


PAIR = "expected a pair (loss, grads)"

FUNCTIONS = [
    # What is returned as a whole.
    BadFunction("None", lambda params: None, TypeError, ("fun returned", PAIR, "return")),
    BadFunction("the loss alone", loss_of, TypeError, ("loss alone", PAIR, "return loss, grads")),
    BadFunction("a NumPy loss alone", lambda params: np.float64(1.0), TypeError, ("loss alone", PAIR)),
    BadFunction("a 0-d loss alone", lambda params: np.array(1.0), TypeError, ("loss alone", PAIR)),
    BadFunction("the gradients alone", grads_of, TypeError, ("dict", PAIR)),
    BadFunction("an array of two", lambda params: np.ones(2), TypeError, ("ndarray", PAIR)),
    BadFunction("a string", lambda params: "ab", TypeError, ("str", PAIR)),
    BadFunction("a generator", lambda params: (each for each in (1.0, 2.0)), TypeError, ("generator", PAIR)),
    BadFunction("nothing in a tuple", lambda params: (), ValueError, ("0 values", PAIR)),
    BadFunction("one in a tuple", lambda params: (1.0,), ValueError, ("1 values", PAIR)),
    BadFunction("three values", lambda params: (1.0, grads_of(params), 0.9), ValueError, ("3 values", PAIR, "outside")),
    # The loss.
    BadFunction("the wrong order", lambda params: (grads_of(params), 1.0), TypeError, ("loss first",)),
    BadFunction("a loss of each sample", with_loss(np.ones(7)), TypeError, ("shape (7,)", "sum")),
    BadFunction("a loss of shape 1", with_loss(np.ones(1)), TypeError, ("shape (1,)", ".item()")),
    BadFunction("a loss of shape 1 1", with_loss(np.ones((1, 1))), TypeError, ("shape (1, 1)", ".item()")),
    BadFunction("a list as the loss", with_loss([1.0]), TypeError, ("list", "one number")),
    BadFunction("a dict as the loss", with_loss({"loss": 1.0}), TypeError, ("dict", "one number")),
    BadFunction("a complex loss", with_loss(1 + 0j), TypeError, ("complex", "real")),
    BadFunction("a complex NumPy loss", with_loss(np.complex128(1)), TypeError, ("complex128", "real")),
    BadFunction("no loss", with_loss(None), TypeError, ("NoneType", "real number")),
    BadFunction("a text as the loss", with_loss("0.5"), TypeError, ("str", "real number")),
    BadFunction("a bool as the loss", with_loss(True), TypeError, ("bool", "real number")),
    BadFunction("a NumPy bool as the loss", with_loss(np.bool_(True)), TypeError, ("real number",)),
    BadFunction("a function as the loss", with_loss(loss_of), TypeError, ("function", "real number")),
    BadFunction("a time as the loss", with_loss(np.timedelta64(1, "s")), TypeError, ("real number",)),
    BadFunction("a loss beyond double", with_loss(10**400), ValueError, ("1e308",)),
    # The structure of the gradients.
    BadFunction("no gradients", other_structure(lambda grads: None), TypeError, ("grads", "dict", "NoneType")),
    BadFunction("a list for a dict", other_structure(lambda g: list(g.values())), TypeError, ("grads", "dict", "list")),
    BadFunction("an array for a dict", other_structure(lambda g: g["W"]), TypeError, ("grads", "dict", "ndarray")),
    BadFunction("a missing key", other_structure(lambda g: {"W": g["W"]}), ValueError, ("'b'", "freeze")),
    BadFunction("an unknown key", other_structure(lambda g: g | {"c": g["b"]}), ValueError, ("grads", "'c'")),
    BadFunction("another key", other_structure(lambda g: {"W": g["W"], "B": g["b"]}), ValueError, ("grads", "'B'")),
    # One gradient.
    BadFunction("None for one", with_grads(b=None), ValueError, ("'b'", "zeros_like")),
    BadFunction("a list for one", with_grads(b=[2.0, 4.0]), TypeError, ("'b'", "list")),
    BadFunction("a number for one", with_grads(b=1.0), ValueError, ("'b'", "shape ()")),
    BadFunction("integers", with_grads(b=np.array([2, 4])), TypeError, ("'b'", "int64", "float")),
    BadFunction("complex numbers", with_grads(b=np.array([2j, 4])), TypeError, ("'b'", "complex128")),
    BadFunction("objects", with_grads(b=np.array([2.0, 4.0], object)), TypeError, ("'b'", "object")),
    BadFunction("another shape", with_grads(W=np.ones((2, 1))), ValueError, ("'W'", "(2, 1)", "(1, 2)")),
    BadFunction("flat", with_grads(W=np.ones(2)), ValueError, ("'W'", "(2,)", "(1, 2)")),
    BadFunction("masked", with_grads(b=np.ma.masked_array([1.0, 2.0], [0, 1])), TypeError, ("'b'", "masked")),
    BadFunction("rows", with_grads(b=fastopt.RowSparse(np.array([0]), np.ones(1))), TypeError, ("'b'", "row-sparse")),
    BadFunction("the parameter", with_grads(W=lambda params: params["W"]), ValueError, ("'W'", "overlaps", "copy")),
    BadFunction("its transpose", with_grads(W=lambda params: params["W"].T.T), ValueError, ("'W'", "overlaps")),
    # A function that does more than it should.
    BadFunction("an array replaced", replacing, ValueError, ("'b'", "in place")),
    BadFunction("an array removed", removing, ValueError, ("'b'", "in place")),
    BadFunction("a step of its own", stepping, ValueError, ("'b'", "changed by fun", "LBFGS")),
    BadFunction("an array reshaped", reshaping, ValueError, ("'W'", "shape")),
]


@pytest.mark.parametrize("bad", FUNCTIONS, ids=str)
def test_at_the_start(bad: BadFunction) -> None:
    params, before = start(), start()
    arrays = dict(params)
    with pytest.raises(bad.error) as raised:
        fastopt.minimize(bad.returned, params)
    assert not [part for part in bad.says if part not in str(raised.value)], str(raised.value)
    for name, array in arrays.items():
        assert array.reshape(before[name].shape).tobytes() == before[name].tobytes()


class BadAfterwards:
    """A function that is right in its first calls."""

    def __init__(self, bad: BadFunction, right: int) -> None:
        self.bad, self.right = bad, right
        self.accepted: list[Any] = []

    def __call__(self, params: dict[str, Any]) -> Any:
        if self.right:
            self.right -= 1
            return loss_of(params), grads_of(params)
        return self.bad.returned(params)

    def keep(self, state: fastopt.MinimizeState) -> None:
        self.accepted.append((state.loss, {name: array.copy() for name, array in state.params.items()}))


@pytest.mark.parametrize("right", [1, 2])
@pytest.mark.parametrize("bad", [bad for bad in FUNCTIONS if bad.returned not in (stepping,)], ids=str)
def test_in_the_middle(bad: BadFunction, right: int) -> None:
    """The parameters are the last accepted ones."""
    params, fun = start(), BadAfterwards(bad, right)
    arrays = dict(params)
    with pytest.raises(bad.error) as raised:
        fastopt.minimize(fun, params, callback=fun.keep, gtol=0, ftol=0)
    assert not [part for part in bad.says if part not in str(raised.value)], str(raised.value)
    accepted = fun.accepted[-1][1] if fun.accepted else start()
    for name, array in arrays.items():
        assert array.reshape(accepted[name].shape).tobytes() == accepted[name].tobytes()


GOOD_LOSSES = {
    "int": lambda loss: round(loss),
    "float32": np.float32,
    "float16": np.float16,
    "longdouble": np.longdouble,
    "0-d": np.array,
    "integer-0-d": lambda loss: np.array(round(loss)),
    "fraction": fractions.Fraction,
}


@pytest.mark.parametrize("kind", GOOD_LOSSES)
def test_losses_that_are_numbers(kind: str) -> None:
    params = start()
    result = fastopt.minimize(lambda params: (GOOD_LOSSES[kind](loss_of(params)), grads_of(params)), params)
    assert result.success
    assert type(result.loss) is float
    assert result.loss < 1e-12


def test_a_list_is_a_pair_too() -> None:
    params = start()
    assert fastopt.minimize(lambda params: [loss_of(params), grads_of(params)], params).loss < 1e-12


class BadCall(NamedTuple):
    """Arguments of minimize, by name, and what the error is and says."""

    what: str
    options: dict[str, Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


CALLS = [
    BadCall("fun is no function", {"fun": 3.0}, TypeError, ("fun=3.0", "function")),
    BadCall("callback is no function", {"callback": 3}, TypeError, ("callback=3", "function")),
    BadCall("jac", {"jac": True}, TypeError, ("'jac'", "loss, grads")),
    BadCall("args", {"args": (1,)}, TypeError, ("'args'", "lambda params")),
    BadCall("tol", {"tol": 1e-3}, TypeError, ("'tol'", "gtol")),
    BadCall("options", {"options": {"maxiter": 3}}, TypeError, ("'options'", "max_iterations")),
    BadCall("x0", {"x0": 1}, TypeError, ("'x0'", "params")),
    BadCall("hessp", {"hessp": 1}, TypeError, ("'hessp'", "hvp")),
    BadCall("maxiter", {"maxiter": 3}, TypeError, ("'maxiter'", "max_iterations")),
    BadCall("max_iter", {"max_iter": 3}, TypeError, ("'max_iter'", "max_iterations")),
    BadCall("maxfun", {"maxfun": 3}, TypeError, ("'maxfun'", "max_evaluations")),
    BadCall("maxcor", {"maxcor": 3}, TypeError, ("'maxcor'", "history")),
    BadCall("history_size", {"history_size": 3}, TypeError, ("'history_size'", "history")),
    BadCall("tolerance_grad", {"tolerance_grad": 3}, TypeError, ("'tolerance_grad'", "gtol")),
    BadCall("line_search_fn", {"line_search_fn": "strong_wolfe"}, TypeError, ("'line_search_fn'", "Thuente")),
    BadCall("lr of lbfgs", {"lr": 0.1}, TypeError, ("'lr'", "line search")),
    BadCall("a wrong letter", {"max_iteratons": 3}, TypeError, ("'max_iteratons'", "'max_iterations'")),
    BadCall("jac of adam", {"method": "adam", "max_iterations": 3, "jac": True}, TypeError, ("'jac'", "loss, grads")),
    BadCall("a wrong letter of adam", {"method": "adam", "max_iterations": 3, "bettas": 1}, TypeError, ("'betas'",)),
    BadCall("adam without an end", {"method": "adam"}, ValueError, ("max_iterations", "Adam")),
    BadCall("adam with a history", {"method": "adam", "max_iterations": 3, "history": 5}, TypeError, ("history=5",)),
    BadCall("adam with a Hessian", {"method": "adam", "max_iterations": 3, "hess": len}, TypeError, ("hess", "newton")),
    BadCall("lbfgs with a Hessian", {"hess": len}, TypeError, ("hess", "newton")),
    BadCall("lbfgs with products", {"hvp": len}, TypeError, ("hvp", "newton")),
    BadCall("newton without", {"method": "newton"}, TypeError, ("hess=", "hvp=", "neither")),
    BadCall("newton with both", {"method": "newton", "hess": len, "hvp": len}, TypeError, ("hess=", "hvp=", "both")),
    BadCall("a Hessian that is a matrix", {"method": "newton", "hess": np.eye(4)}, TypeError, ("hess", "function")),
    BadCall("newton with a history", {"method": "newton", "hess": len, "history": 3}, TypeError, ("history=3",)),
    BadCall("maximize", {"method": "sgd", "max_iterations": 3, "maximize": True}, TypeError, ("maximize", "-loss")),
    BadCall("accumulate", {"method": "sgd", "max_iterations": 3, "accumulate_steps": 2}, TypeError, ("all data",)),
    BadCall("SciPy's name", {"method": "L-BFGS-B"}, ValueError, ("'L-BFGS-B'", "'lbfgs'")),
    BadCall("SciPy's Newton", {"method": "trust-ncg"}, ValueError, ("'trust-ncg'", "'newton'")),
    BadCall("an unknown method", {"method": "adamm"}, ValueError, ("'adamm'", "'adam")),
    BadCall("a nonsense method", {"method": "zzz"}, ValueError, ("'zzz'", "'lbfgs'", "adam")),
    BadCall("another class", {"method": dict}, TypeError, ("method=", "'lbfgs'")),
    BadCall("a number as method", {"method": 3}, TypeError, ("method=3", "'lbfgs'")),
    BadCall("an optimizer", {"method": fastopt.SGD(np.ones(1), lr=1)}, TypeError, ("method=", "class")),
    BadCall("gtol below 0", {"gtol": -1.0}, ValueError, ("gtol=-1.0", "at least 0")),
    BadCall("gtol NaN", {"gtol": float("nan")}, ValueError, ("gtol=nan",)),
    BadCall("ftol text", {"ftol": "small"}, TypeError, ("ftol='small'",)),
    BadCall("iterations below 0", {"max_iterations": -1}, ValueError, ("max_iterations=-1",)),
    BadCall("half iterations", {"max_iterations": 1.5}, TypeError, ("max_iterations=1.5", "whole")),
    BadCall("no evaluations", {"max_evaluations": 0}, ValueError, ("max_evaluations=0",)),
    BadCall("no history", {"history": 0}, ValueError, ("history=0",)),
    BadCall("one bound", {"bounds": 3}, TypeError, ("bounds=3", "pair")),
    BadCall("SciPy's bounds", {"bounds": [(0, 1)] * 4}, TypeError, ("bounds", "pair")),
    BadCall("bounds that cross", {"bounds": (1, 0)}, ValueError, ("bounds", "not above")),
    BadCall("bounds of NaN", {"bounds": (float("nan"), 0)}, ValueError, ("bounds",)),
    BadCall("bounds of another structure", {"bounds": ([np.zeros(2)], None)}, TypeError, ("bounds[0]", "dict")),
    BadCall("bounds of another shape", {"bounds": ({"W": np.zeros(2)}, None)}, ValueError, ("'W'", "(1, 2)")),
    BadCall("arrays of bounds that cross", {"bounds": ({"b": np.ones(2)}, 0)}, ValueError, ("'b'", "bounds")),
    BadCall("NaN in bounds", {"bounds": ({"b": np.array([0, np.nan])}, None)}, ValueError, ("'b'", "NaN", "(1,)")),
    BadCall(
        "bounds that a method has not",
        {"method": "ScheduleFreeSGD", "max_iterations": 3, "bounds": (0, 1)},
        ValueError,
        ("bounds", "ScheduleFreeSGD"),
    ),
    BadCall(
        "tolerances of averages", {"method": "ScheduleFreeSGD", "max_iterations": 3, "gtol": 1}, TypeError, ("gtol=1",)
    ),
    BadCall("an unknown backend", {"backend": "fpga"}, ValueError, ("fpga", "native")),
]


@pytest.mark.parametrize("bad", CALLS, ids=str)
def test_bad_arguments(bad: BadCall) -> None:
    params, calls = start(), []

    def fun(params: dict[str, Any]) -> Any:
        calls.append(1)
        return loss_of(params), grads_of(params)

    options = {"fun": fun, "params": params} | bad.options
    with pytest.raises(bad.error) as raised:
        fastopt.minimize(options.pop("fun"), options.pop("params"), **options)
    assert not [part for part in bad.says if part not in str(raised.value)], str(raised.value)
    assert calls == []
    assert {name: array.tobytes() for name, array in params.items()} == {
        name: array.tobytes() for name, array in start().items()
    }


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


PARAMS = {
    "float16": (np.ones(2, np.float16), TypeError, ("float16", "float32")),
    "integers": (np.ones(2, int), TypeError, ("int64",)),
    "complex": (np.ones(2, complex), TypeError, ("complex128",)),
    "list-of-numbers": ([1.0, 2.0], TypeError, ("'0'", "float")),
    "read-only": (read_only(np.ones(2)), ValueError, ("read-only",)),
    "strided": (np.ones(4)[::2], ValueError, ("contiguous",)),
    "twice": ([(once := np.ones(2)), once], ValueError, ("share memory",)),
    "nothing": ({}, ValueError, ("no array",)),
    "None": (None, TypeError, ("NoneType",)),
    "lr-of-a-group": ([{"params": np.ones(2), "lr": 1.0}], ValueError, ("lr=1.0", "line search")),
    "decay-of-a-group": ([{"params": np.ones(2), "weight_decay": 1.0}], ValueError, ("weight_decay", "loss")),
    "unknown-of-a-group": ([{"params": np.ones(2), "bound": 1.0}], ValueError, ("bound=1.0", "'bounds'")),
    "a-group-and-an-array": ([{"params": np.ones(2)}, np.ones(2)], TypeError, ("param group",)),
    "by-name": (fastopt.group_by({"a": np.ones(1)}, {"*": {"lr": 1}}), ValueError, ("lr=1", "line search")),
}


@pytest.mark.parametrize("kind", PARAMS)
def test_bad_params(kind: str) -> None:
    params, error, says = PARAMS[kind]
    for build in (lambda: fastopt.LBFGS(params), lambda: fastopt.minimize(lambda params: (1.0, params), params)):
        with pytest.raises(error) as raised:
            build()
        assert not [part for part in says if part not in str(raised.value)], str(raised.value)


def test_parameters_on_a_gpu() -> None:
    class OnDevice:
        __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012
        dtype, shape = np.dtype(np.float32), (2,)

    with pytest.raises(ValueError, match=r"'W' is on the GPU.*LBFGS"):
        fastopt.LBFGS({"W": OnDevice()})


class NotFinite(NamedTuple):
    what: str
    loss: float
    bad: dict[str, Any]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


@pytest.mark.parametrize(
    "start_of",
    [
        NotFinite("loss NaN", float("nan"), {}, ("loss is nan",)),
        NotFinite("loss infinite", float("inf"), {}, ("loss is inf",)),
        NotFinite("gradient NaN", 1.0, {"b": np.array([np.nan, 1])}, ("grads: 'b'", "1 elements")),
        NotFinite("gradient infinite", 1.0, {"W": np.array([[np.inf, -np.inf]])}, ("grads: 'W'", "2 elements")),
        NotFinite("both", float("nan"), {"b": np.array([np.nan, 1])}, ("loss is nan", "grads: 'b'")),
        NotFinite("half precision", 1.0, {"b": np.array([np.nan, 1], np.float16)}, ("grads: 'b'", "1 elements")),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_not_finite_at_the_start(method: str, start_of: NotFinite) -> None:
    params = start()
    more = {"max_iterations": 5} if method == "adam" else {}
    result = fastopt.minimize(lambda params: (start_of.loss, grads_of(params) | start_of.bad), params, method, **more)
    assert (result.status, result.success, result.iterations, result.evaluations) == ("nonfinite_start", False, 0, 1)
    assert not [part for part in start_of.says if part not in result.message], result.message
    assert {name: array.tobytes() for name, array in params.items()} == {
        name: array.tobytes() for name, array in start().items()
    }


def test_parameters_that_are_not_finite() -> None:
    params = start()
    params["W"][0, 1] = np.nan
    result = fastopt.minimize(lambda params: (loss_of(params), grads_of(params)), params)
    assert result.status == "nonfinite_start"
    assert "params: 'W' has 1 elements" in result.message


class BadStep(NamedTuple):
    what: str
    do: Callable[[fastopt.LBFGS, Any], Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


@pytest.mark.parametrize(
    "bad",
    [
        BadStep("gradients", lambda opt, p: opt.step(grads_of(p)), TypeError, ("closure", "function")),
        BadStep("the loss alone", lambda opt, p: opt.step(lambda: loss_of(p)), TypeError, ("closure returned", PAIR)),
        BadStep("a number", lambda opt, p: opt.step(3), TypeError, ("closure", "function")),
        BadStep("no such name", lambda opt, p: opt.freeze("c"), ValueError, ("'c'", "['W', 'b']")),
        BadStep(
            "all frozen",
            lambda opt, p: (opt.freeze("*"), opt.step(lambda: (1.0, {}))),
            ValueError,
            ("all arrays are frozen",),
        ),
        BadStep(
            "a step in a step",
            lambda opt, p: opt.step(lambda: opt.step(lambda: (1.0, grads_of(p)))),
            RuntimeError,
            ("a step of this optimizer is running",),
        ),
        BadStep(
            "frozen in a step", lambda opt, p: opt.step(lambda: opt.freeze("W")), RuntimeError, ("freeze", "running")
        ),
        BadStep(
            "read-only by now",
            lambda opt, p: (read_only(p["W"]), opt.step(lambda: (1.0, grads_of(p)))),
            ValueError,
            ("'W'", "read-only"),
        ),
    ],
    ids=str,
)
def test_bad_steps(bad: BadStep) -> None:
    params = start()
    opt = fastopt.LBFGS(params)
    with pytest.raises(bad.error) as raised:
        bad.do(opt, params)
    assert not [part for part in bad.says if part not in str(raised.value)], str(raised.value)
    assert {name: array.tobytes() for name, array in params.items()} == {
        name: array.tobytes() for name, array in start().items()
    }


KEYWORDS = ["lr", "max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size", "line_search_fn"]


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_of_torch(name: str) -> None:
    with pytest.raises(TypeError, match=rf"LBFGS\(\) got an unexpected keyword argument '{name}'; (leave|write)"):
        fastopt.LBFGS(np.ones(2), **{name: 1})


@pytest.mark.parametrize("name", ["lr", "param_groups", "add_param_group", "zero_grad"])
def test_attributes_of_torch(name: str) -> None:
    opt = fastopt.LBFGS(np.ones(2))
    assert not hasattr(opt, name)
    with pytest.raises(AttributeError, match=f"LBFGS has no '{name}': "):
        getattr(opt, name)


def test_history_is_fixed() -> None:
    opt = fastopt.LBFGS(np.ones(2), history=7)
    assert opt.history == 7
    with pytest.raises(AttributeError, match="history"):
        opt.history = 8


@pytest.mark.parametrize("copy_it", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_copies_are_refused(copy_it: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="LBFGS: it can't be copied or pickled"):
        copy_it(fastopt.LBFGS(np.ones(2)))
