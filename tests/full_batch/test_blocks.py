"""Block coordinate descent: dictionary learning, hand-computed cycles, put-backs, limits, interrupts and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastopt

A = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
B = np.array([1.0, -2.0, 0.5])
SOLUTION = np.linalg.solve(A, B)


def split_params() -> dict[str, Any]:
    return {"first": np.zeros(2), "second": {"w": np.zeros(1)}}


def joined(params: Any) -> Any:
    return np.concatenate([params["first"], params["second"]["w"]])


def quadratic(params: Any) -> Any:
    w = joined(params)
    grad = A @ w - B
    return 0.5 * w @ A @ w - B @ w, {"first": grad[:2], "second": {"w": grad[2:]}}


def best_first(params: Any) -> None:
    params["first"][:] = np.linalg.solve(A[:2, :2], B[:2] - A[:2, 2:] @ params["second"]["w"])


def best_second(params: Any) -> None:
    params["second"]["w"][:] = (B[2:] - A[2:, :2] @ params["first"]) / A[2, 2]


def best_element(w: Any, name: str, index: tuple[int, ...]) -> None:
    w[index] += (B - A @ w)[index] / A[index][index]


EXACT = {"first": best_first, "second.*": best_second}

BLOCKS: dict[str, tuple[Any, Any]] = {
    "exact": (EXACT, None),
    "pairs": (list(EXACT.items()), None),
    "patterns": (["first", "second*"], None),
    "patterns by bfgs": (["first", "second*"], "bfgs"),
    "patterns, options": (["first", "second*"], {"max_iterations": 3, "history": 4}),
    "exact and a method": ({"first": best_first, "*.w": "lbfgs"}, None),
    "a class": (["*"], {"method": fastopt.SGD, "lr": 0.1, "max_iterations": 20}),
    "overlap": (["first", "*"], None),
    "coordinates": ("coordinates", None),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_all_ways_find_the_minimum(name: str) -> None:
    blocks, method = BLOCKS[name]
    params, losses = split_params(), []
    result = fastopt.block_coordinate_descent(
        quadratic, params, blocks, method, callback=lambda state: losses.append(state.loss), ftol=0
    )
    assert result.status == "gtol"
    assert result.success
    assert result.grad_norm <= 1e-5
    np.testing.assert_allclose(joined(params), SOLUTION, atol=1e-5)
    assert result.loss == quadratic(params)[0]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == result.iterations > 0


def test_cycles_by_hand() -> None:
    params = split_params()
    states = []
    result = fastopt.block_coordinate_descent(
        quadratic, params, EXACT, max_iterations=2, callback=lambda state: states.append(state)
    )
    w = np.zeros(3)
    for state in states:
        w[:2] = np.linalg.solve(A[:2, :2], B[:2] - A[:2, 2:] @ w[2:])
        w[2] = (B[2] - A[2, :2] @ w[:2]) / A[2, 2]
        np.testing.assert_allclose(state.loss, 0.5 * w @ A @ w - B @ w, rtol=1e-14)
        np.testing.assert_allclose(state.grad_norm, abs(A @ w - B).max(), rtol=1e-9)
        assert state.params is params
        assert state.step_size == 1.0
    np.testing.assert_allclose(joined(params), w, rtol=1e-13)
    assert [state.iterations for state in states] == [1, 2]
    assert (result.status, result.iterations, result.evaluations) == ("max_iterations", 2, 5)


def test_coordinates_of_one_array_by_hand() -> None:
    w = np.zeros(3)
    visited = []

    def best(w: Any, name: str, index: Any) -> None:
        visited.append((name, index))
        best_element(w, name, index)

    def fun(w: Any) -> Any:
        return 0.5 * w @ A @ w - B @ w, A @ w - B

    result = fastopt.block_coordinate_descent(fun, w, "coordinates", best, max_iterations=1)
    expected = np.zeros(3)
    for i in range(3):
        expected[i] = (B[i] - A[i] @ expected + A[i, i] * expected[i]) / A[i, i]
    np.testing.assert_allclose(w, expected, rtol=1e-14)
    assert visited == [("0", (0,)), ("0", (1,)), ("0", (2,))]
    assert result.evaluations == 2


@pytest.mark.parametrize("order", ["C", "F"])
def test_elements_of_any_order_and_none(order: Any) -> None:
    target = np.arange(6.0).reshape(2, 3)
    params = {"matrix": np.zeros((2, 3), order=order), "number": np.array(5.0)}

    def fun(params: Any) -> Any:
        residual = params["matrix"] - target
        return (residual**2).sum() + params["number"] ** 2, {"matrix": 2 * residual, "number": 2 * params["number"]}

    assert fastopt.block_coordinate_descent(fun, params, "coordinates").success
    np.testing.assert_allclose(params["matrix"], target, atol=1e-5)
    np.testing.assert_allclose(params["number"], 0, atol=1e-5)


def lasso(l1: float) -> tuple[Callable[[Any], Any], Callable[..., None], Any]:
    """Return the loss alone, the best element, and a solution by sparse_code."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 8)), rng.normal(size=30)

    def loss(w: Any) -> Any:
        return 0.5 * ((y - X @ w) ** 2).sum() + l1 * abs(w).sum()

    def best(w: Any, name: str, index: Any) -> None:
        column = X[:, index[0]]
        alone = column @ (y - X @ w) + column @ column * w[index]
        w[index] = np.sign(alone) * max(abs(alone) - l1, 0) / (column @ column)

    return loss, best, fastopt.sparse_code(y[None], np.ascontiguousarray(X.T), l1, tol=1e-14)[0]


def test_loss_alone_and_a_lasso() -> None:
    loss, best, solution = lasso(3.0)
    w = np.zeros(8)
    result = fastopt.block_coordinate_descent(loss, w, "coordinates", best, ftol=1e-13)
    np.testing.assert_allclose(w, solution, atol=1e-5)
    assert 0 < np.count_nonzero(w) < 8
    assert result.status == "ftol"
    assert math.isnan(result.grad_norm)
    assert "its gradient is not known" in result.message
    assert "nan" not in result.message


def learn(dtype: str, cycles: int = 60) -> tuple[Any, Any, list[float], Any]:
    """Learn a planted dictionary from samples as first atoms; return both dictionaries, the losses and the result."""
    rng = np.random.default_rng(2)
    planted = rng.normal(size=(12, 10))
    planted /= np.linalg.norm(planted, axis=1, keepdims=True)
    codes = np.where(
        rng.random((600, 12)) < 0.12, rng.choice([-1.0, 1.0], (600, 12)) + 0.3 * rng.normal(size=(600, 12)), 0
    )
    X = (codes @ planted + 0.01 * rng.normal(size=(600, 10))).astype(dtype)
    first = X[np.argsort(-np.linalg.norm(X, axis=1))[:12]]
    params = {"codes": np.zeros((600, 12), dtype), "dictionary": first / np.linalg.norm(first, axis=1, keepdims=True)}
    losses: list[float] = []

    def loss(params: Any) -> float:
        residual = (X - params["codes"] @ params["dictionary"]).astype("f8")
        return float(0.5 * (residual**2).sum() + 0.1 * abs(params["codes"]).sum(dtype="f8"))

    def best_codes(params: Any) -> None:
        params["codes"][...] = fastopt.sparse_code(X, params["dictionary"], 0.1, start=params["codes"])

    def better_atoms(params: Any) -> None:
        C, D = params["codes"], params["dictionary"]
        gram, products = C.T @ C, C.T @ X
        for j in np.flatnonzero(gram.diagonal()):
            atom = D[j] + (products[j] - gram[j] @ D) / gram[j, j]
            D[j] = atom / max(1.0, np.linalg.norm(atom))

    blocks = {"codes": best_codes, "dictionary": better_atoms}
    result = fastopt.block_coordinate_descent(
        loss, params, blocks, callback=lambda state: losses.append(state.loss), max_iterations=cycles, ftol=1e-3
    )
    assert result.loss == loss(params)
    return planted, params["dictionary"], losses, result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dictionary_learning_recovers_a_planted_dictionary(dtype: str) -> None:
    planted, found, losses, result = learn(dtype)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == result.loss < 0.7 * losses[0]
    assert abs(found.astype("f8") @ planted.T).max(axis=0).min() > 0.99


def test_a_rise_is_undone_and_said_once() -> None:
    params = split_params()

    def worse(params: Any) -> None:
        params["first"][:] += 10
        params["second"]["w"][:] += 10  # of another block

    with pytest.warns(UserWarning, match=r"over 'first' has raised the loss from 0 to .*, and was undone") as found:
        result = fastopt.block_coordinate_descent(
            quadratic, params, {"first": worse, "*w": best_second}, max_iterations=3, gtol=0, ftol=0
        )
    assert len(found) == 1
    np.testing.assert_array_equal(params["first"], 0)
    np.testing.assert_array_equal(params["second"]["w"], B[2:] / A[2, 2])
    assert result.loss == quadratic(params)[0]


def test_a_loss_of_nan_is_undone() -> None:
    params = split_params()

    def lost(params: Any) -> None:
        params["first"][:] = np.nan

    with pytest.warns(UserWarning, match="to nan, and was undone"):
        fastopt.block_coordinate_descent(quadratic, params, {"first": lost, "*w": best_second}, max_iterations=2)
    np.testing.assert_array_equal(params["first"], 0)


def test_a_rise_by_rounding_is_silent() -> None:
    params = split_params()
    params["first"][:], params["second"]["w"][:] = SOLUTION[:2], SOLUTION[2:]
    before = joined(params)

    def by_rounding(params: Any) -> None:
        params["first"][:] *= 1 + 1e-9

    fastopt.block_coordinate_descent(
        quadratic, params, {"first": by_rounding, "*w": best_second}, max_iterations=5, gtol=0, ftol=0
    )
    assert quadratic(params)[0] <= quadratic({"first": before[:2], "second": {"w": before[2:]}})[0]


def best_second_returned(params: Any) -> Any:
    return {"second": {"w": (B[2:] - A[2:, :2] @ params["first"]) / A[2, 2]}}


def best_element_returned(w: Any, name: str, index: tuple[int, ...]) -> Any:
    return w[index] + (B - A @ w)[index] / A[index][index]


def test_values_that_a_minimizer_returns_are_not_lost_without_a_word() -> None:
    with pytest.warns(
        UserWarning, match=r"over 'second.\*' has returned values and changed nothing; write them"
    ) as found:
        fastopt.block_coordinate_descent(
            quadratic, split_params(), {"first": best_first, "second.*": best_second_returned}
        )
    assert len(found) == 1
    with pytest.warns(UserWarning, match="over 'coordinates' has returned values"):
        fastopt.block_coordinate_descent(
            lambda w: 0.5 * w @ A @ w - B @ w, np.zeros(3), "coordinates", best_element_returned
        )


def test_a_minimizer_may_return_what_it_has_changed() -> None:
    def first_returned(params: Any) -> Any:
        best_first(params)
        return params["first"]

    def second_returned(params: Any) -> Any:
        best_second(params)
        return params

    params = split_params()
    for _ in range(2):  # the second run begins at the minimum
        fastopt.block_coordinate_descent(quadratic, params, {"first": first_returned, "second.*": second_returned})


def test_a_method_that_overshoots_gets_other_advice_than_a_minimizer() -> None:
    blocks = {"*": {"method": "sgd", "lr": 10.0, "max_iterations": 1}}
    with pytest.warns(UserWarning, match="has raised the loss .* undone; its method overshoots: give it a smaller lr"):
        fastopt.block_coordinate_descent(quadratic, split_params(), blocks)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 9, 20])
@pytest.mark.parametrize("name", ["exact", "patterns", "coordinates"])
def test_limit_of_evaluations_is_kept(name: str, most: int) -> None:
    blocks, method = BLOCKS[name]
    calls = 0

    def fun(params: Any) -> Any:
        nonlocal calls
        calls += 1
        return quadratic(params)

    params = split_params()
    result = fastopt.block_coordinate_descent(fun, params, blocks, method, max_evaluations=most, gtol=0, ftol=0)
    assert result.status == "max_evaluations"
    assert result.evaluations == calls <= most
    assert result.loss == quadratic(params)[0]
    np.testing.assert_allclose(result.grad_norm, abs(A @ joined(params) - B).max(), atol=1e-15)


def test_callback_stops() -> None:
    params = split_params()
    result = fastopt.block_coordinate_descent(
        quadratic, params, EXACT, callback=lambda state: state.iterations == 2, gtol=0, ftol=0
    )
    assert (result.status, result.iterations) == ("callback", 2)


def test_start_that_is_not_finite() -> None:
    params = split_params()
    params["first"][0] = np.nan
    result = fastopt.block_coordinate_descent(quadratic, params, EXACT)
    assert result.status == "nonfinite_start"
    assert "'first' has" in result.message
    assert fastopt.block_coordinate_descent(lambda w: w.sum(), np.array([np.inf]), {"*": print}).status == (
        "nonfinite_start"
    )


@pytest.mark.parametrize("name", ["patterns", "patterns by bfgs", "exact and a method"])
def test_a_cycle_that_max_evaluations_cuts_is_no_convergence(name: str) -> None:
    least = 0.5 * SOLUTION @ A @ SOLUTION - B @ SOLUTION
    for most in range(1, 40):
        result = fastopt.block_coordinate_descent(quadratic, split_params(), *BLOCKS[name], max_evaluations=most)
        assert result.evaluations <= most
        assert result.loss - least < 1e-6 if result.success else result.status == "max_evaluations"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("name", ["exact", "patterns", "coordinates"])
def test_an_exception_leaves_the_last_cycle(name: str, error: type[BaseException]) -> None:
    blocks, method = BLOCKS[name]
    full = split_params()
    points = [joined(full)]
    total = fastopt.block_coordinate_descent(
        quadratic, full, blocks, method, callback=lambda state: points.append(joined(full)), max_iterations=3
    ).evaluations
    for last in range(1, total + 1, 2):
        calls, cycles = 0, 0

        def fun(params: Any, last: int = last) -> Any:
            nonlocal calls
            calls += 1
            if calls == last:
                raise error("stop")
            return quadratic(params)

        def count(state: Any) -> None:
            nonlocal cycles
            cycles = state.iterations

        params = split_params()
        with pytest.raises(error):
            fastopt.block_coordinate_descent(fun, params, blocks, method, callback=count, max_iterations=3)
        np.testing.assert_array_equal(joined(params), points[cycles])


def test_an_exception_of_a_minimizer_leaves_the_last_cycle() -> None:
    params = split_params()

    def fails(params: Any) -> None:
        params["second"]["w"][:] = 7
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fastopt.block_coordinate_descent(quadratic, params, {"first": best_first, "*w": fails})
    np.testing.assert_array_equal(joined(params), 0)


def test_progress_shows_cycles(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    fastopt.block_coordinate_descent(quadratic, split_params(), EXACT, callback=fastopt.progress())
    assert "loss -" in capsys.readouterr().err


def run(blocks: Any = EXACT, method: Any = None, fun: Any = quadratic, **options: Any) -> Any:
    params = split_params()
    try:
        return fastopt.block_coordinate_descent(fun, params, blocks, method, **options)
    finally:
        np.testing.assert_array_equal(joined(params), 0)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "fun is no function": (lambda: run(fun=3), TypeError, "fun=3: expected a function"),
    "callback is no function": (lambda: run(callback=3), TypeError, "callback=3"),
    "no block": (lambda: run({}), ValueError, "blocks: there is none"),
    "a name": (lambda: run("first"), ValueError, r"blocks='first': expected .* write \['first'\]"),
    "a number": (lambda: run(3), TypeError, "blocks: expected a dict .* of type int"),
    "a list of numbers": (lambda: run([3]), TypeError, "expected pairs of a pattern and a minimizer, got 3"),
    "a key of another type": (lambda: run({3: best_first}), TypeError, "expected pairs"),
    "no array": (lambda: run({"third": best_first, "*": "lbfgs"}), ValueError, "no array's name matches 'third'"),
    "an array in no block": (lambda: run({"first": best_first}), ValueError, r"no pattern matches \['second.w'\]"),
    "a minimizer of None": (lambda: run({"*": None}), TypeError, r"blocks: '\*': expected a function .* got None"),
    "unknown method": (lambda: run(["*"], "lbgfs"), ValueError, r"blocks: '\*': method='lbgfs'"),
    "unknown option": (lambda: run({"*": {"histroy": 3}}), TypeError, r"blocks: '\*': .*history"),
    "adam without an end": (lambda: run(["*"], "adam"), ValueError, "max_iterations"),
    "unknown method of elements": (lambda: run("coordinates", "lbgfs"), ValueError, r"'first\[0\]': method="),
    "numbers beside a method": (
        lambda: run([3, 4], "bfgs"),
        TypeError,
        "expected pairs of a pattern and a minimizer, got 3",
    ),
    "a block's callback": (lambda: run({"*": {"callback": 3}}), TypeError, r"blocks: '\*': callback=3"),
    "a block's iterations": (
        lambda: run({"*": {"max_iterations": -1}}),
        ValueError,
        r"blocks: '\*': max_iterations=-1",
    ),
    "a block's evaluations": (
        lambda: run({"*": {"max_evaluations": 0}}),
        ValueError,
        r"blocks: '\*': max_evaluations=0",
    ),
    "method beside a dict": (lambda: run(EXACT, "lbfgs"), TypeError, "leave method out"),
    "method beside pairs": (lambda: run(list(EXACT.items()), "lbfgs"), TypeError, "leave method out"),
    "negative gtol": (lambda: run(gtol=-1), ValueError, "gtol=-1"),
    "half an iteration": (lambda: run(max_iterations=0.5), TypeError, "max_iterations=0.5"),
    "loss alone for a method": (
        lambda: run(["*"], fun=lambda params: quadratic(params)[0]),
        TypeError,
        "fun returned the loss alone",
    ),
    "no loss": (lambda: run(fun=lambda params: None), TypeError, "fun returned a loss of type NoneType"),
    "a loss for each": (lambda: run(fun=lambda params: params["first"]), TypeError, r"shape \(2,\) as the loss"),
    "a loss that ends": (lambda: run(fun=lambda params: (1.0,)), ValueError, "fun returned 1 values"),
    "other gradients": (lambda: run(fun=lambda params: (1.0, {"third": 2})), ValueError, "third"),
    "the parameters as gradients": (lambda: run(fun=lambda params: (1.0, params)), ValueError, "grads: 'first'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    call, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        call()


def test_half_precision_is_refused() -> None:
    with pytest.raises(TypeError, match="block_coordinate_descent needs float32 or float64"):
        fastopt.block_coordinate_descent(lambda w: w.sum(), np.zeros(3, "f2"), {"*": print})
