"""minimize: why it stops, what it returns, which structures and methods it takes."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from full_batch.functions import bowl, leaves, rosenbrock, rosenbrock_start

import fastopt
from fastopt import optimizers

BACKENDS = [pytest.param("native", marks=needs_native), "numpy"]


def fortran(shape: tuple[int, ...], dtype: Any = float) -> Any:
    return np.zeros(shape, dtype, order="F")


STRUCTURES = {
    "one array": lambda: np.zeros(5),
    "one number": lambda: np.zeros(()),
    "float32": lambda: np.zeros(7, np.float32),
    "a matrix": lambda: np.zeros((3, 4)),
    "Fortran order": lambda: fortran((3, 4)),
    "a dict": lambda: {"W": np.zeros((2, 3)), "b": np.zeros(3)},
    "a list": lambda: [np.zeros(2), np.zeros(4)],
    "a tuple": lambda: (np.zeros(2), np.zeros(4)),
    "nested": lambda: {"a": [np.zeros(2), {"b": np.zeros((2, 2))}], "c": (np.zeros(1),)},
    "mixed dtypes": lambda: {"a": np.zeros(3), "b": np.zeros((2, 2), np.float32), "c": fortran((2, 3), np.float32)},
    "with a number": lambda: [np.zeros(3), np.zeros(()), np.zeros((), np.float32)],
    "with an empty array": lambda: [np.zeros(3), np.zeros((0, 4)), np.zeros(1)],
    "many arrays": lambda: {str(k): np.zeros(k % 20) for k in range(50)},
    "longer than a chunk": lambda: [np.zeros(9000), np.zeros(4097, np.float32)],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures(structure: str, backend: str) -> None:
    params = STRUCTURES[structure]()
    arrays = leaves(params)
    seen = []

    def fun(given: Any) -> Any:
        seen.append(given is params)
        return bowl(given)

    result = fastopt.minimize(fun, params, backend=backend)
    assert result.success, result.message
    assert all(seen)
    assert all(left is right for left, right in zip(arrays, leaves(params), strict=True))
    for array in arrays:
        np.testing.assert_allclose(array, np.resize([1.0, 2.0, 3.0], array.shape), atol=1e-4)
    assert (result.loss, len(seen)) == (bowl(params)[0], result.evaluations)


def test_functions_get_the_structure_that_group_by_got() -> None:
    def fun(params: Any) -> Any:
        return float(params["a"] @ params["a"]), {"a": 2 * params["a"]}

    for options in ({}, {"method": "adam", "lr": 0.1, "max_iterations": 2}):
        fastopt.minimize(fun, fastopt.group_by({"a": np.ones(2)}, {"a": {}}), **options)
    fastopt.block_coordinate_descent(fun, fastopt.group_by({"a": np.ones(2)}, {"a": {}}), ["a"])
    params = {"a": np.ones(2)}
    assert fastopt.LBFGS(fastopt.group_by(params, {"a": {}})).params is params


def test_nothing_to_minimize() -> None:
    result = fastopt.minimize(lambda x: (2.5, np.zeros_like(x)), np.zeros((0, 3)))
    assert result[:5] == (2.5, 0.0, 0, 1, "gtol")


def test_gtol() -> None:
    x = rosenbrock_start()
    result = fastopt.minimize(rosenbrock, x, gtol=1e-3, ftol=0)
    loss, grad = rosenbrock(x)
    assert result.status == "gtol"
    assert result.success
    assert (result.loss, result.grad_norm) == (loss, np.abs(grad).max())
    assert 0 < result.grad_norm <= 1e-3
    assert f"{result.iterations} iterations and {result.evaluations} evaluations" in result.message
    assert f"{result.grad_norm:.3g}, at most gtol=0.001" in result.message


def test_gtol_at_the_start() -> None:
    x = np.ones(4)
    result = fastopt.minimize(rosenbrock, x)
    assert result[:5] == (0.0, 0.0, 0, 1, "gtol")
    assert (
        result.message == "Converged after 0 iterations and 1 evaluation: the gradient's largest element is 0, at "
        "most gtol=1e-05."
    )


def test_gradient_of_zero_ends_without_tolerances() -> None:
    x = np.array([3.0])
    result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), x, gtol=0, ftol=0)
    assert (result.status, result.grad_norm, x.item()) == ("gtol", 0.0, 0.0)
    assert "the gradient is 0" in result.message


@pytest.mark.parametrize(("dtype", "gtol"), [(np.float64, 1e-5), (np.float32, 1e-4)])
def test_default_gtol(dtype: Any, gtol: float) -> None:
    for grad, status in ((np.full(1, gtol * 0.99), "gtol"), (np.full(1, gtol * 1.01), "max_iterations")):
        result = fastopt.minimize(lambda x: (1.0, grad), np.ones(1, dtype), max_iterations=0)  # noqa: B023
        assert result.status == status


@pytest.mark.parametrize(("dtype", "ftol"), [(np.float64, 2.2e-9), (np.float32, 1e-6)])
def test_default_ftol(dtype: Any, ftol: float) -> None:
    """Losses that fall by this much along a slope that never changes."""
    for decrease, status in ((0.99 * ftol, "ftol"), (1.01 * ftol, None)):
        x = np.zeros(1, dtype)
        opt = fastopt.LBFGS(x, gtol=0)
        state = opt.step(lambda: (-decrease * (x.item() > 0), np.array([-decrease])))  # noqa: B023
        assert state.status == status


def test_ftol_is_of_the_decrease() -> None:
    x = rosenbrock_start()
    states: list[fastopt.MinimizeState] = []
    result = fastopt.minimize(rosenbrock, x, gtol=0, ftol=1e-4, callback=states.append)
    losses = [rosenbrock(rosenbrock_start())[0], *(state.loss for state in states)]
    decreases = -np.diff(losses)
    assert result.status == "ftol"
    assert 0 <= decreases[-1] <= 1e-4
    assert not ((decreases[:-1] >= 0) & (decreases[:-1] <= 1e-4)).any()
    assert f"{decreases[-1]:.3g}, at most ftol=0.0001" in result.message


def test_iteration_limits() -> None:
    for count in range(6):
        x, states = rosenbrock_start(), []
        result = fastopt.minimize(rosenbrock, x, max_iterations=count, callback=states.append)
        assert (result.status, result.success, result.iterations) == ("max_iterations", False, count)
        assert result.loss == rosenbrock(x)[0]
        assert [state.iterations for state in states] == list(range(1, count + 1))
        assert [state.status for state in states] == [None] * (count - 1) + ["max_iterations"] * (count > 0)
        assert "max_iterations" in result.message


def overshooting(x: Any) -> tuple[float, Any]:
    """A function whose first steps are far too long: its line searches take several evaluations."""
    values = np.exp(4 * x)
    return float(np.sum(values - 40 * x)), 4 * values - 40


def test_evaluation_limits() -> None:
    """In the middle of a line search the best point is taken; its loss is that of the parameters."""
    start = np.array([-3.0, 2.0, 0.5])
    at_start = overshooting(start)[0]
    iterations = set()
    for count in range(1, 25):
        x, calls = start.copy(), []

        def fun(x: Any) -> Any:
            calls.append(overshooting(x)[0])  # noqa: B023
            return overshooting(x)

        result = fastopt.minimize(fun, x, max_evaluations=count, ftol=0)
        if result.success:
            break
        assert (result.status, result.evaluations, len(calls)) == ("max_evaluations", count, count)
        loss, grad = overshooting(x)
        assert (result.loss, result.grad_norm) == (loss, np.abs(grad).max())
        assert result.loss == min(calls) <= at_start
        assert "max_evaluations" in result.message
        iterations.add(result.iterations)
    else:
        raise AssertionError("it took too long")
    assert len(iterations) < count - 1, "no line search took two evaluations"


@pytest.mark.parametrize("answer", [True, np.True_, StopIteration])
@pytest.mark.parametrize("method", ["lbfgs", "sgd"])
def test_callbacks_that_stop(method: str, answer: Any) -> None:
    x = rosenbrock_start()

    def callback(state: fastopt.MinimizeState) -> Any:
        if state.iterations < 3:
            return False
        if answer is StopIteration:
            raise StopIteration
        return answer

    more = {"lr": 1e-4, "max_iterations": 10} if method == "sgd" else {}
    result = fastopt.minimize(rosenbrock, x, method, callback=callback, **more)
    assert (result.status, result.success, result.iterations) == ("callback", False, 3)
    assert result.loss == rosenbrock(x)[0]
    assert "callback" in result.message


@pytest.mark.parametrize("answer", [None, 0, 1, "stop", [1], np.ones(3)], ids=repr)
def test_other_answers_do_not_stop(answer: Any) -> None:
    assert fastopt.minimize(rosenbrock, rosenbrock_start(), callback=lambda state: answer).success


def test_callbacks_in_the_last_iteration() -> None:
    """The reason to stop is that of the method."""
    result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), np.ones(1), callback=lambda state: True)
    assert result.status == "gtol"


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_states(method: str) -> None:
    x, states = rosenbrock_start(), []

    def callback(state: fastopt.MinimizeState) -> None:
        assert state.params is x
        assert state.loss == rosenbrock(x)[0]
        assert state.grad_norm == np.abs(rosenbrock(x)[1]).max()
        assert state.step_size > 0
        states.append((state.iterations, state.evaluations))

    result = fastopt.minimize(rosenbrock, x, method, callback=callback, max_iterations=9)
    assert [iterations for iterations, _ in states] == list(range(1, 10))
    assert states[-1] == (result.iterations, result.evaluations)
    assert all(second >= first + 1 for (_, first), (_, second) in pairwise(states))


def test_wrong_gradient() -> None:
    x = np.array([3.0, 1.0])
    result = fastopt.minimize(lambda x: (float(x @ x), -2 * x), x)
    assert (result.status, result.success) == ("line_search", False)
    assert x.tolist() == [3.0, 1.0]
    assert result.loss == 10.0
    assert "gradient wrong" in result.message


def test_losses_that_overflow_on_the_way() -> None:
    x = np.array([-3.0, 2.0, 0.5])

    def fun(x: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.exp(50 * x)
            return float(np.sum(values - 150 * x)), 50 * values - 150

    result = fastopt.minimize(fun, x, ftol=0)
    assert result.success
    np.testing.assert_allclose(x, np.log(3) / 50, atol=1e-6)


def test_domains_with_an_end() -> None:
    """The logarithm's barrier: outside, the loss is NaN."""
    x = np.array([0.5, 3.0, 9.0])

    def fun(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return float(np.sum(5 * x - np.log(x))), 5 - 1 / x

    assert fastopt.minimize(fun, x).success
    np.testing.assert_allclose(x, 0.2, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_in_buffers(dtype: Any) -> None:
    """The same arrays in each call, of another dtype than the parameters, strided: the same bits as new ones."""
    found = []
    for is_reused in (False, True):
        x = rosenbrock_start(dtype=dtype)
        buffer = np.zeros((10, 3))

        def fun(x: Any) -> Any:
            loss, grad = rosenbrock(x)
            if not is_reused:  # noqa: B023
                return loss, grad.astype(float)
            buffer[:, 1] = grad  # noqa: B023
            return loss, buffer[:, 1]  # noqa: B023

        result = fastopt.minimize(fun, x)
        found.append((result, x.tobytes()))
    assert found[0] == found[1]


def test_float32_losses() -> None:
    """Rounded to single precision, the loss is flat before the gradient is small."""
    x = rosenbrock_start(2, np.float32)

    def fun(x: Any) -> Any:
        loss, grad = rosenbrock(x)
        return np.float32(loss + 1.0), grad.astype(np.float32)

    result = fastopt.minimize(fun, x, ftol=0)
    assert result.status == "gtol", result.message
    np.testing.assert_allclose(x, 1, atol=1e-3)


#: Bounds on a bowl whose minimum without them is (1, 2, 3, ...).
BOUNDS = {
    "numbers": (0.5, 2.5),
    "one side": (None, 1.5),
    "a structure": ({"a": np.array([0.0, 2.5, -1.0]), "b": None}, {"b": np.full((2, 2), 1.75)}),
    "a fixed element": ({"a": np.array([0.5, 0.0, 0.0])}, {"a": np.array([0.5, 9.0, 9.0])}),
    "all fixed": (1.25, 1.25),
    "infinite": (-np.inf, np.inf),
}


@pytest.mark.filterwarnings("ignore:params. elements outside")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", BOUNDS)
def test_bounds(which: str, dtype: Any, backend: str) -> None:
    params = {"a": np.zeros(3, dtype), "b": np.zeros((2, 2), dtype)}
    bounds: Any = BOUNDS[which]
    result = fastopt.minimize(bowl, params, bounds=bounds, backend=backend)
    assert result.success, result.message
    assert result.loss == bowl(params)[0]
    for name, array in params.items():
        sides = [side[name] if isinstance(side, dict) and name in side else side for side in bounds]
        low, high = (None if isinstance(side, dict) else side for side in sides)
        least = np.resize([1.0, 2.0, 3.0], array.shape)
        expected = least if low is None and high is None else np.clip(least, low, high)
        np.testing.assert_allclose(array, expected, atol=1e-4)
        assert low is None or (array >= low).all()
        assert high is None or (array <= high).all()


def test_bounds_are_rounded_inwards() -> None:
    x = np.zeros(1, np.float32)
    fastopt.minimize(lambda x: (float(-x[0]), np.array([-1.0])), x, bounds=(None, 0.1))
    assert float(x[0]) <= 0.1
    assert float(np.nextafter(x[0], np.float32(1))) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("least", [1e10 - 20, 2e10])
def test_an_element_near_a_bound_is_free(least: float, backend: str) -> None:
    """Near as measured by the bound's magnitude: it may still have a long way to go."""
    x = np.array([1e10 - 50])

    def fun(x: Any) -> Any:
        return float((x - least) @ (x - least)), 2 * (x - least)

    result = fastopt.minimize(fun, x, bounds=(0, 1e10), backend=backend)
    assert result.status == "gtol", result.message
    assert x[0] == min(least, 1e10)


def test_starts_outside_are_moved_in() -> None:
    params = {"a": np.array([-5.0, 0.0, 7.0]), "b": np.array([1.0]), "c": np.array([9.0])}
    with pytest.warns(UserWarning, match=r"2 of 'a', 1 of 'c'") as caught:
        result = fastopt.minimize(bowl, params, bounds=(-1, 2))
    assert caught[0].filename == __file__
    assert "2 of 'a', 1 of 'c'" in result.message
    assert len(caught) == 1


@pytest.mark.parametrize("name", optimizers.__all__)
def test_every_optimizer_by_name_and_class(name: str) -> None:
    """The same bits as its own steps in a loop."""
    cls = getattr(fastopt, name)
    options: dict[str, Any] = {"lr": 1e-3}
    has_modes = name.startswith("ScheduleFree")
    start = {"W": rosenbrock_start(6).reshape(2, 3), "V": rosenbrock_start(2).reshape(2, 1)}

    def fun(params: Any) -> Any:
        found = {name: rosenbrock(each) for name, each in params.items()}
        return sum(loss for loss, _ in found.values()), {name: grad for name, (_, grad) in found.items()}

    expected = {name: array.copy() for name, array in start.items()}
    opt = cls(expected, **options)
    for _ in range(5):
        opt.step(fun(expected)[1])
    if has_modes:
        opt.eval()
    for method in (name, name.lower(), cls):
        params = {name: array.copy() for name, array in start.items()}
        result = fastopt.minimize(fun, params, method, max_iterations=5, **options)
        assert (result.status, result.iterations) == ("max_iterations", 5)
        assert result.evaluations == 6 + has_modes
        assert result.loss == fun(params)[0]
        assert all(params[name].tobytes() == expected[name].tobytes() for name in params)


def test_first_order_bounds_groups_and_schedules() -> None:
    params = [{"params": [np.zeros(3)], "lr": 0.05}, {"params": np.zeros(3), "lr": fastopt.schedules.cosine(0.1, 1000)}]

    def fun(groups: Any) -> Any:
        (first,), second = groups[0]["params"], groups[1]["params"]
        (loss, grad), (loss2, grad2) = bowl(first), bowl(second)
        return loss + loss2, [[grad], grad2]

    result = fastopt.minimize(fun, params, fastopt.SGD, bounds=(None, 2.0), max_iterations=500, ftol=0)
    assert result.success
    np.testing.assert_allclose(params[0]["params"][0], [1, 2, 2], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("method", ["adam", "ScheduleFreeAdamW"])
def test_evaluation_limits_of_first_order(method: str, count: int) -> None:
    x, calls = rosenbrock_start(), []

    def fun(x: Any) -> Any:
        calls.append(1)
        return rosenbrock(x)

    result = fastopt.minimize(fun, x, method, max_iterations=100, max_evaluations=count, lr=1e-3)
    assert (result.status, result.evaluations) == ("max_evaluations", len(calls))
    # Two evaluations are too few for an iteration and one at the averages.
    assert len(calls) == count or (method, count, len(calls)) == ("ScheduleFreeAdamW", 2, 1)
    assert result.loss == rosenbrock(x)[0]


def test_progress() -> None:
    pytest.importorskip("tqdm", reason="needs tqdm")
    out = io.StringIO()
    bar = fastopt.progress(file=out)
    result = fastopt.minimize(rosenbrock, rosenbrock_start(), callback=bar, max_iterations=12)
    text = out.getvalue()
    assert f"loss {result.loss:.6g}" in text
    assert "12/12" in text
    assert text.endswith("\n")


def test_progress_of_a_loop_and_after_an_exception() -> None:
    pytest.importorskip("tqdm", reason="needs tqdm")
    x, out = rosenbrock_start(), io.StringIO()
    bar, opt = fastopt.progress(file=out, desc="mine"), fastopt.LBFGS(x)
    state = opt.step(lambda: rosenbrock(x))
    while state.status is None:
        state = opt.step(lambda: rosenbrock(x))
        bar(state)
    assert "mine" in out.getvalue()
    assert out.getvalue().endswith("\n")

    def fun(x: Any, calls: list[int] = []) -> Any:  # noqa: B006
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return rosenbrock(x)

    with pytest.raises(KeyboardInterrupt):
        fastopt.minimize(fun, rosenbrock_start(), callback=bar)
    assert out.getvalue().endswith("\n")


def test_progress_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        fastopt.progress()


FUNCTIONS = {
    "rosenbrock": (rosenbrock, rosenbrock_start(10)),
    "bowl": (bowl, np.zeros(40)),
    "overshooting": (overshooting, np.array([-3.0, 2.0, 0.5])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scipy(name: str) -> None:
    """As many evaluations, and the same minimum."""
    optimize = pytest.importorskip("scipy.optimize", reason="needs SciPy")
    fun, start = FUNCTIONS[name]
    options = {"gtol": 1e-6, "ftol": 0, "maxiter": 1000, "maxfun": 2000}
    theirs = optimize.minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
    x = start.copy()
    ours = fastopt.minimize(fun, x, gtol=1e-6, ftol=0)
    assert ours.success
    assert ours.evaluations <= 1.25 * theirs.nfev + 3
    np.testing.assert_allclose(x, theirs.x, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    fun, start = FUNCTIONS[name]
    parameter = torch.nn.Parameter(torch.tensor(start))
    options = {"history_size": 10, "line_search_fn": "strong_wolfe", "tolerance_grad": 1e-6, "tolerance_change": 0}
    opt, calls = torch.optim.LBFGS([parameter], max_iter=1000, max_eval=2000, **options), []

    def closure() -> Any:
        loss, grad = fun(parameter.detach().numpy())
        parameter.grad = torch.tensor(grad)
        calls.append(loss)
        return loss

    opt.step(closure)
    x = start.copy()
    ours = fastopt.minimize(fun, x, gtol=1e-6, ftol=0)
    assert ours.evaluations <= 1.25 * len(calls) + 3
    np.testing.assert_allclose(x, parameter.detach().numpy(), atol=1e-4)
