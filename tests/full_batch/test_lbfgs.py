"""LBFGS.step: one iteration of L-BFGS; resetting, freezing, groups; against the textbook and itself."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from full_batch.functions import bowl, rosenbrock, rosenbrock_start

import fastopt
from fastopt.full_batch.line_search import LineSearch


def two_loops(grad: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """The direction as the textbook has it: Nocedal and Wright, algorithm 7.4."""
    q, alphas = grad.copy(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - (y @ q) / (s @ y)) * s
    return -q


@pytest.mark.parametrize("history", [1, 3, 10])
def test_the_textbook(history: int) -> None:
    """Each iteration: the two-loop recursion on vectors, the same line search, the pair's rule."""
    x, mine = rosenbrock_start(12), rosenbrock_start(12)
    opt, pairs = fastopt.LBFGS(x, history=history, ftol=0), []
    loss, grad = rosenbrock(mine)
    for _ in range(25):
        direction = two_loops(grad, pairs)
        search = LineSearch(loss, grad @ direction, 1.0 if pairs else min(1.0, 1 / np.sqrt(grad @ grad)))
        while search.status is None:
            trial = mine + search.step_size * direction
            loss, new_grad = rosenbrock(trial)
            search.report(loss, new_grad @ direction)
        assert search.status == "accepted"
        pairs = [*pairs, (trial - mine, new_grad - grad)][-history:]
        mine, grad = trial, new_grad
        state = opt.step(lambda: rosenbrock(x))
        assert state.step_size == pytest.approx(search.step_size, rel=1e-3)
        np.testing.assert_allclose(x, mine, rtol=1e-4, atol=1e-4)
    assert opt.iterations == 25


def test_steps_are_those_of_minimize() -> None:
    x, other = rosenbrock_start(), rosenbrock_start()
    opt = fastopt.LBFGS(x)
    states: list[Any] = []
    result = fastopt.minimize(rosenbrock, other, callback=lambda state: states.append((*state[:5], state.status)))
    for expected in states:
        state = opt.step(lambda: rosenbrock(x))
        assert (*state[:5], state.status) == expected
    assert x.tobytes() == other.tobytes()
    assert (opt.loss, opt.grad_norm, opt.iterations, opt.evaluations) == result[:4]
    assert (opt.loss, opt.grad_norm, opt.step_size) == (state.loss, state.grad_norm, state.step_size)


def test_one_evaluation_as_a_rule() -> None:
    x = rosenbrock_start(100)
    opt = fastopt.LBFGS(x)
    assert np.isnan(opt.loss)
    assert opt.step(lambda: rosenbrock(x)).evaluations == 2
    for _ in range(49):
        state = opt.step(lambda: rosenbrock(x))
    assert 51 <= state.evaluations <= 65


def test_steps_at_the_minimum() -> None:
    """They say so again, and evaluate nothing."""
    x = np.ones(2)
    opt = fastopt.LBFGS(x)
    for _ in range(3):
        state = opt.step(lambda: bowl(x))
        while state.status is None:
            state = opt.step(lambda: bowl(x))
    before = opt.evaluations
    assert opt.step(lambda: bowl(x))[3:] == (*state[3:],)
    assert opt.evaluations == before


@pytest.mark.parametrize("keep_history", [False, True])
def test_reset(keep_history: bool) -> None:
    """Other data: the next step evaluates before it moves; without its history it begins down the gradient."""
    x, shift = rosenbrock_start(4), np.zeros(4)

    def closure() -> Any:
        loss, grad = rosenbrock(x - shift)
        seen.append(x.tobytes())
        return loss, grad

    seen: list[bytes] = []
    opt = fastopt.LBFGS(x, ftol=0)
    for _ in range(5):
        opt.step(closure)
    evaluations = opt.evaluations
    shift += 0.01
    before, (_, grad) = x.copy(), rosenbrock(x - shift)
    opt.reset(keep_history=keep_history)
    assert np.isnan(opt.loss)
    assert np.isnan(opt.grad_norm)
    assert opt.iterations == 5
    seen.clear()
    state = opt.step(closure)
    assert seen[0] == before.tobytes()
    assert state.evaluations >= evaluations + 2
    assert state.iterations == 6
    assert state.loss == rosenbrock(x - shift)[0]
    step = x - before
    angle = step @ grad / np.sqrt((step @ step) * (grad @ grad))
    assert (angle < -1 + 1e-9) == (not keep_history)


def test_a_reset_before_the_first_step() -> None:
    x = np.zeros(3)
    opt = fastopt.LBFGS(x)
    opt.reset()
    opt.reset(keep_history=True)
    assert opt.step(lambda: bowl(x)).iterations == 1


def test_parameters_moved_between_steps() -> None:
    """After reset the run goes on from there, and never back."""
    x = rosenbrock_start(4)
    opt = fastopt.LBFGS(x)
    opt.step(lambda: rosenbrock(x))
    x[...] = 1.25
    opt.reset()
    with pytest.raises(ZeroDivisionError):
        opt.step(lambda: 1 / 0)
    assert x.tolist() == [1.25] * 4
    assert opt.step(lambda: rosenbrock(x)).loss < rosenbrock(np.full(4, 1.25))[0]


def params_of_three() -> dict[str, Any]:
    return {"a": rosenbrock_start(4), "b": rosenbrock_start(4), "c": np.zeros(2)}


def loss_of_three(params: dict[str, Any]) -> Any:
    """With gradients of all arrays."""
    (loss, grad), (loss2, grad2) = rosenbrock(params["a"]), rosenbrock(params["b"])
    return loss + 2 * loss2, {"a": grad, "b": 2 * grad2, "c": np.full(2, np.nan)}


@pytest.mark.parametrize("given", ["all", "None", "missing", "the parameter"])
def test_frozen_arrays_are_left_out(given: str) -> None:
    """The same bits as without them, whatever their gradient is."""
    params, alone = params_of_three(), {"b": rosenbrock_start(4)}
    opt, other = fastopt.LBFGS(params), fastopt.LBFGS(alone)
    assert opt.freeze("[ac]") == ["a", "c"]
    assert opt.frozen == ["a", "c"]

    def closure() -> Any:
        _, grads = loss_of_three(params)
        if given == "None":
            grads |= {"a": None, "c": None}
        elif given == "missing":
            del grads["a"], grads["c"]
        elif given == "the parameter":
            grads["a"] = params["a"]
        return 2 * rosenbrock(params["b"])[0], grads

    for _ in range(8):
        state = opt.step(closure)
        expected = other.step(lambda: (2 * rosenbrock(alone["b"])[0], {"b": 2 * rosenbrock(alone["b"])[1]}))
        assert state[:5] == expected[:5]
    assert params["b"].tobytes() == alone["b"].tobytes()
    assert params["a"].tobytes() == params_of_three()["a"].tobytes()


def test_other_arrays_are_frozen_in_between() -> None:
    """The pairs are forgotten: the next step goes down the gradient of what is left."""
    params = params_of_three()
    opt = fastopt.LBFGS(params, ftol=0)
    opt.freeze("c")
    for _ in range(3):
        opt.step(lambda: loss_of_three(params))
    opt.freeze("a")
    before, a = params["b"].copy(), params["a"].tobytes()
    _, grads = loss_of_three(params)
    evaluations = opt.evaluations
    state = opt.step(lambda: loss_of_three(params))
    step = params["b"] - before
    cosine = step @ grads["b"] / np.sqrt((step @ step) * (grads["b"] @ grads["b"]))
    assert cosine == pytest.approx(-1)
    assert params["a"].tobytes() == a
    assert state.iterations == 4
    assert state.evaluations >= evaluations + 2
    assert opt.unfreeze("a") == ["a"]
    assert opt.frozen == ["c"]
    opt.step(lambda: loss_of_three(params))
    assert params["a"].tobytes() != a


def test_groups() -> None:
    """Their arrays are those of one structure; each group may have its bounds."""
    groups = [{"params": {"W": np.zeros(3)}, "bounds": (None, 1.5)}, {"params": [np.zeros(2), np.zeros(())]}]
    opt = fastopt.LBFGS(groups)
    assert opt.params is groups

    def closure() -> Any:
        (loss, grad), (loss2, grads) = bowl(groups[0]["params"]), bowl(groups[1]["params"])
        return loss + loss2, [grad, grads]

    state = opt.step(closure)
    while state.status is None:
        state = opt.step(closure)
    assert state.params is groups
    np.testing.assert_allclose(groups[0]["params"]["W"], [1, 1.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(groups[1]["params"][0], [1, 2], atol=1e-5)


def test_groups_by_name() -> None:
    params = {"W": np.zeros(3), "b": np.zeros(2)}
    opt = fastopt.LBFGS(fastopt.group_by(params, {"W": {"bounds": (None, 1.5)}, "*": {}}))
    state = opt.step(lambda: bowl(params))
    while state.status is None:
        state = opt.step(lambda: bowl(params))
    np.testing.assert_allclose(params["W"], [1, 1.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(params["b"], [1, 2], atol=1e-5)


@needs_native
@pytest.mark.filterwarnings("ignore:params. elements outside")
@pytest.mark.parametrize("bounds", [None, (-1.0, 0.9)], ids=["free", "bounded"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_on_both_backends(dtype: Any, bounds: Any) -> None:
    found = []
    for backend in ("native", "numpy"):
        params = {"x": rosenbrock_start(5000, dtype), "y": rosenbrock_start(17, dtype)}

        def closure() -> Any:
            parts = {name: rosenbrock(each) for name, each in params.items()}  # noqa: B023
            return sum(loss for loss, _ in parts.values()), {name: grad for name, (_, grad) in parts.items()}

        opt = fastopt.LBFGS(params, history=3, bounds=bounds, backend=backend)
        assert opt.backend == backend
        states = [opt.step(closure)[:5] for _ in range(8)]
        found.append((states, [array.tobytes() for array in params.values()]))
    assert found[0] == found[1]


def test_two_threads() -> None:
    """A second step at once is refused; the first one goes on."""
    x, errors = rosenbrock_start(), []
    opt, inside, go_on = fastopt.LBFGS(x), threading.Event(), threading.Event()

    def slow() -> Any:
        inside.set()
        assert go_on.wait(60)
        return rosenbrock(x)

    thread = threading.Thread(target=lambda: opt.step(slow))
    thread.start()
    assert inside.wait(60)
    for call in (lambda: opt.step(lambda: rosenbrock(x)), opt.reset, lambda: opt.freeze("*")):
        try:
            call()
        except RuntimeError as error:
            errors.append(str(error))
    go_on.set()
    thread.join()
    assert len(errors) == 3
    assert all("running in another thread" in error for error in errors)
    assert opt.iterations == 1


def test_no_closure_and_no_gradient_outlive_a_step() -> None:
    x = rosenbrock_start()
    alive: list[Any] = []

    def closure() -> Any:
        loss, grad = rosenbrock(x)
        alive.append(weakref.ref(grad))
        return loss, grad

    opt = fastopt.LBFGS(x)
    for _ in range(3):
        opt.step(closure)
        assert [each for each in alive if each() is not None] == []
    assert opt.closure is None


def test_messages_of_steps() -> None:
    x = rosenbrock_start()
    opt = fastopt.LBFGS(x, bounds=(-2, 0.5))
    with pytest.warns(UserWarning, match="5 of '0'"):
        state = opt.step(lambda: rosenbrock(x))
    assert (state.status, opt.message) == (None, "")
    while state.status is None:
        state = opt.step(lambda: rosenbrock(x))
    assert opt.message.startswith(f"Converged after {opt.iterations} iterations and {opt.evaluations} evaluations")
    assert f"projected gradient's largest element is {opt.grad_norm:.3g}" in opt.message
    assert "5 of '0'" in opt.message
    opt.reset()
    state = opt.step(lambda: (np.nan, np.zeros(10)))
    assert state.status == "nonfinite_start"
    assert "the loss is nan" in opt.message


def test_repr() -> None:
    opt = fastopt.LBFGS({"W": np.zeros((2, 3)), "b": np.zeros(3)}, history=5)
    opt.freeze("b")
    assert repr(opt) == (
        "LBFGS(2 arrays, 9 elements, 1 frozen, history=5, gtol=1e-05, ftol=2.2e-09, iterations=0, loss=nan, "
        f"backend={opt.backend!r})"
    )


@pytest.mark.parametrize("seed", [68, 261, 533])
def test_little_left_of_a_direction_within_bounds_is_no_convergence(seed: int) -> None:
    """Clipped to the bounds, a direction may lower the loss by next to nothing, far from the minimum."""
    rng = np.random.default_rng(seed)
    n = 15
    root = rng.normal(size=(n, n))
    hessian, target = root @ root.T + 1e-3 * np.eye(n), 10 * rng.normal(size=n)
    low = np.where(rng.random(n) < 0.2, -np.inf, rng.normal(size=n) - 1)
    high = np.where(np.isfinite(low), low, 0) + 3 * rng.random(n)
    x = np.clip(3 * rng.normal(size=n), low, high)

    def fun(x: Any) -> Any:
        return float(0.5 * x @ hessian @ x - target @ x), hessian @ x - target

    loss = fastopt.minimize(fun, x, bounds=(low, high)).loss
    assert loss == pytest.approx(fastopt.minimize(fun, x, bounds=(low, high), gtol=1e-8, ftol=0).loss, rel=1e-5)
