"""Interrupts and exceptions at any moment: the parameters are an accepted point, and the loss is theirs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.full_batch.bfgs import BFGS
from fastopt.full_batch.method import Method
from fastopt.full_batch.newton import Newton
from fastopt.full_batch.trust_region import TrustRegion

#: The folder of the code between whose lines an interrupt comes.
FOLDER = str(Path(fastopt.__file__).parent / "full_batch")

#: All lines take too long for a quick test; a prime meets other lines in each iteration.
every = pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.long)])


def start() -> dict[str, Any]:
    return {"x": np.array([-1.2, 1.0, 0.5]), "y": np.float32([1.0, -0.5, 0.25])}


def fun(params: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Rosenbrock's function, in three pairs."""
    x, y = params["x"], params["y"].astype(float)
    distance = y - x * x
    loss = float((100 * distance**2 + (1 - x) ** 2).sum())
    return loss, {"x": -400 * x * distance - 2 * (1 - x), "y": 200 * distance}


def hess(params: dict[str, Any]) -> Any:
    x, y = params["x"], params["y"].astype(float)
    return np.block([[np.diag(1200 * x * x - 400 * y + 2), np.diag(-400 * x)], [np.diag(-400 * x), 200 * np.eye(3)]])


def hvp(params: dict[str, Any], v: dict[str, Any]) -> dict[str, Any]:
    product = hess(params) @ np.concatenate([v["x"], v["y"]])
    return {"x": product[:3], "y": product[3:]}


METHODS: dict[str, dict[str, Any]] = {
    "lbfgs": {"history": 2},
    "lbfgs-with-bounds": {"history": 2, "bounds": (None, 0.9)},
    "bfgs": {"method": "bfgs"},
    "newton-with-hess": {"method": "newton", "hess": hess},
    "newton-with-hvp": {"method": "newton", "hvp": hvp},
    "adam": {"method": "adam", "lr": 0.05},
    "schedule-free": {"method": "ScheduleFreeSGD", "lr": 1e-3},
}


#: The classes of these methods, to make single steps.
CLASSES: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "lbfgs": (fastopt.LBFGS, METHODS["lbfgs"]),
    "lbfgs-with-bounds": (fastopt.LBFGS, METHODS["lbfgs-with-bounds"]),
    "bfgs": (BFGS, {}),
    "newton-with-hess": (Newton, {"hess": hess}),
    "newton-with-hvp": (TrustRegion, {"hvp": hvp}),
}


def bits(params: dict[str, Any]) -> bytes:
    return b"".join(array.tobytes() for array in params.values())


def minimized(params: dict[str, Any], method: str, **more: Any) -> fastopt.MinimizeResult:
    return fastopt.minimize(more.pop("fun", fun), params, **({"max_iterations": 7} | METHODS[method] | more))


def accepted_points(method: str) -> list[bytes]:
    """Return the accepted points of an undisturbed run, the start and the end too."""
    params = start()
    points = [bits(params)]
    # Bounds move the start in.
    moved_in = start()
    minimized(moved_in, method, max_iterations=0)
    points.append(bits(moved_in))
    minimized(params, method, callback=lambda state: points.append(bits(state.params)))
    return [*points, bits(params)]


class Interrupt:
    """Raises at the n-th line that is run in a folder."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            self.number -= 1
            if self.number == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], Any], number: int) -> bool:
    """Make a call that is interrupted at a line; return whether there was one of this number."""
    before = sys.gettrace()
    sys.settrace(Interrupt(number))
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore:params. elements outside")
@every
@pytest.mark.parametrize("method", METHODS)
def test_minimize_between_any_two_lines(method: str, every: int) -> None:
    points = accepted_points(method)
    number, count = 1, 0
    while True:
        params = start()
        if not interrupted(lambda: minimized(params, method), number):  # noqa: B023
            break
        assert bits(params) in points, number
        number, count = number + every, count + 1
    assert count > 10
    assert bits(params) == points[-1]


@pytest.mark.filterwarnings("ignore:params. elements outside")
@every
@pytest.mark.parametrize("method", CLASSES)
def test_steps_between_any_two_lines(method: str, every: int) -> None:
    """The loss belongs to the parameters, and the next steps go on from there."""
    cls, options = CLASSES[method]
    bounds = options.get("bounds")

    def build() -> tuple[dict[str, Any], Method]:
        params = start()
        return params, cls(params, **options)

    def steps(opt: Method, params: dict[str, Any]) -> None:
        for _ in range(5):
            opt.step(lambda: fun(params))

    number, count = 1, 0
    while True:
        params, opt = build()
        if not interrupted(lambda: steps(opt, params), number):  # noqa: B023
            break
        before, (loss, _), iterations = bits(params), fun(params), opt.iterations
        assert np.isnan(opt.loss) or opt.loss == loss, number
        was_started = not np.isnan(opt.loss)
        steps(opt, params)
        assert opt.loss == fun(params)[0] < loss, number
        assert opt.iterations == iterations + 5, number
        assert was_started or before in (bits(start()), bits(clipped(start(), bounds))), number
        number, count = number + every, count + 1
    assert count > 10


def clipped(params: dict[str, Any], bounds: Any) -> dict[str, Any]:
    return {name: array if bounds is None else np.clip(array, *bounds) for name, array in params.items()}


class Raising:
    """A function that raises in its n-th call, after it was evaluated."""

    def __init__(self, number: int, raise_it: Callable[[], Any]) -> None:
        self.number, self.raise_it = number, raise_it

    def __call__(self, params: dict[str, Any]) -> Any:
        self.number -= 1
        result = fun(params)
        if self.number == 0:
            self.raise_it()
        return result


def control_c() -> None:
    signal.raise_signal(signal.SIGINT)


def mistake() -> None:
    raise ZeroDivisionError("a mistake in fun")


@pytest.fixture
def _default_handler() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_default_handler")
@pytest.mark.filterwarnings("ignore:params. elements outside")
@pytest.mark.parametrize(("raise_it", "error"), [(control_c, KeyboardInterrupt), (mistake, ZeroDivisionError)])
@pytest.mark.parametrize("method", METHODS)
def test_at_every_evaluation(method: str, raise_it: Callable[[], Any], error: type[BaseException]) -> None:
    points, number = accepted_points(method), 1
    evaluations = minimized(start(), method).evaluations
    for number in range(1, evaluations + 1):
        params = start()
        with pytest.raises(error):
            minimized(params, method, fun=Raising(number, raise_it))
        assert bits(params) in points, number
    assert evaluations > 7


@pytest.mark.usefixtures("_default_handler")
@pytest.mark.filterwarnings("ignore:params. elements outside")
@pytest.mark.parametrize(("raise_it", "error"), [(control_c, KeyboardInterrupt), (mistake, ZeroDivisionError)])
@pytest.mark.parametrize("method", METHODS)
def test_in_the_callback(method: str, raise_it: Callable[[], Any], error: type[BaseException]) -> None:
    """The parameters are those of the state that the callback got."""
    for number in range(1, 8):
        params, states = start(), []

        def callback(state: fastopt.MinimizeState) -> None:
            states.append((state.loss, bits(state.params)))  # noqa: B023
            if state.iterations == number:  # noqa: B023
                raise_it()

        with pytest.raises(error):
            minimized(params, method, callback=callback)
        assert states[-1] == (fun(params)[0], bits(params))


def test_start_that_was_moved_in_is_put_back() -> None:
    params = start()
    with pytest.warns(UserWarning, match="moved to the nearest bound"), pytest.raises(ZeroDivisionError):
        minimized(params, "lbfgs-with-bounds", fun=Raising(1, mistake))
    assert bits(params) == bits(start())


@pytest.mark.filterwarnings("error")
def test_warnings_that_are_errors_move_nothing() -> None:
    params = start()
    with pytest.raises(UserWarning, match=r"1 of 'x', 1 of 'y'"):
        minimized(params, "lbfgs-with-bounds")
    assert bits(params) == bits(start())
