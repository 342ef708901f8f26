"""What who comes from SciPy or torch writes first: errors that say what to write here."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt


def bowl(x: Any) -> Any:
    return float(x @ x), 2 * x


class SciPyBounds(NamedTuple):
    """As scipy.optimize.Bounds."""

    lb: Any
    ub: Any
    keep_feasible: bool = False


@pytest.mark.parametrize(
    ("bounds", "remedy"),
    [
        ([(0, 1), (0, None), (None, 2)], "of SciPy's list of pairs make two: an array of all lower bounds"),
        (SciPyBounds(0, 1), r"write \(bounds.lb, bounds.ub\)"),
        ((1, 2, 3), "each a number or None, or None for both$"),
        ([], "each a number or None, or None for both$"),
    ],
    ids=["pairs", "Bounds", "three", "none"],
)
def test_bounds_of_scipy(bounds: Any, remedy: str) -> None:
    x = np.ones(3)
    with pytest.raises(TypeError, match=remedy):
        fastopt.minimize(bowl, x, bounds=bounds)
    assert x.tolist() == [1, 1, 1]


def test_two_pairs_of_scipy_are_no_bounds_of_an_array() -> None:
    with pytest.raises(
        TypeError, match=r"bounds\[0\]: '0' has a value of type tuple; expected a number, None, or an array"
    ):
        fastopt.minimize(bowl, np.ones(2), bounds=[(0, 1), (0, 1)])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("zero_grad", "the closure returns the gradients"),
        ("param_groups", "its groups have no options"),
        ("lr", "the line search finds the step size"),
    ],
)
def test_attributes_of_torch(name: str, remedy: str) -> None:
    opt = fastopt.LBFGS(np.ones(3))
    with pytest.raises(AttributeError, match=f"LBFGS has no '{name}': {remedy}"):
        getattr(opt, name)
    with pytest.raises(AttributeError, match=f"LBFGS has no '{name}': {remedy}"):
        setattr(opt, name, 0.1)


def test_progress_that_was_not_called() -> None:
    with pytest.raises(TypeError, match=r"progress makes a callback: callback=fastopt.progress\(\)"):
        fastopt.minimize(bowl, np.ones(3), callback=fastopt.progress)
    with pytest.raises(ValueError, match="total=-1"):
        fastopt.progress(-1)


def test_dir_is_what_users_use() -> None:
    class Mine(fastopt.LBFGS):
        def report(self) -> str:
            return self.message

    opt = Mine(np.ones(3))
    names = [name for name in dir(opt) if not name.startswith("__")]
    assert {"report", "step", "reset", "loss", "history", "message"} <= set(names)
    assert not {"accept", "iterate", "table", "lr"} & set(names)
    assert all(hasattr(opt, name) for name in names)
