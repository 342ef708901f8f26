"""zero_grads: whose arrays are cleared, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16
from option_runs import every_backend

import fastopt

pytestmark = pytest.mark.usefixtures("restored")


@every_backend
def test_zero_grads_clears_the_callers_arrays(backend: str) -> None:
    room = np.ones((6, 2))
    grads = {
        "plain": np.ones(5, np.float32),
        "strided": room[:, 0],
        "between": room[:, 1],
        "half": np.ones(5, np.float16),
        "brain": np.ones(5, BFLOAT16),
        "swapped": np.ones(5, ">f4"),
        "long": np.ones(5, np.longdouble),
        "fortran": np.asfortranarray(np.ones((3, 4))),
    }
    params = {name: np.zeros(grad.shape, np.float32) for name, grad in grads.items()}
    opt = fastopt.SGD(params, lr=1.0, zero_grads=True, backend=backend)
    for _ in range(2):
        opt.step(grads)
    assert all((param == -1).all() for param in params.values())
    assert {name: grad for name, grad in grads.items() if not (grad == 0).all()} == {}
    skipping = fastopt.SGD(np.zeros(2), zero_grads=True, nonfinite="skip", backend=backend)
    grad = np.array([1, np.nan])
    assert not skipping.step(grad).applied
    assert not grad.any()


@pytest.mark.parametrize("make", ["read-only", "twice", "overlap", "scalar", "strided over a parameter"])
def test_zero_grads_refuses(make: str) -> None:
    room = np.ones(40)
    params = {"a": room[:8], "b": np.zeros(8)}
    grads: dict[str, Any] = {"a": np.ones(8), "b": np.ones(8)}
    message = "share memory"
    if make == "read-only":
        grads["b"].flags.writeable = False
        message = "'b' is read-only"
    elif make == "twice":
        grads["b"] = grads["a"]
    elif make == "overlap":
        grads["a"], grads["b"] = room[20:28], room[24:32]
    elif make == "scalar":
        params, grads, message = {"a": np.zeros(())}, {"a": np.float64(1)}, "can't clear"
    else:
        grads["b"], message = room[:32:4], "overlaps the memory"
    opt = fastopt.SGD(params, zero_grads=True)
    before = [param.tobytes() for param in params.values()] + [np.asarray(grad).tobytes() for grad in grads.values()]
    with pytest.raises((ValueError, TypeError), match=message):
        opt.step(grads)
    after = [param.tobytes() for param in params.values()] + [np.asarray(grad).tobytes() for grad in grads.values()]
    assert after == before


def test_zero_grads_clears_values_that_were_converted_and_refuses_what_it_can_not_clear() -> None:
    opt = fastopt.SGD([np.ones((4, 2)), np.ones(3)], zero_grads=True)
    values, beside = np.ones((3, 2), np.float16), np.ones(3)
    opt.step([fastopt.RowSparse(np.array([1, 2, 1]), values), beside])
    assert not values.any()
    assert not beside.any()
    values[...] = 1
    values.flags.writeable = False
    with pytest.raises(ValueError, match="'0' is read-only"):
        opt.step([fastopt.RowSparse(np.array([1, 2, 1]), values), beside])
    both = np.ones(6)
    with pytest.raises(ValueError, match="share memory"):
        opt.step([fastopt.RowSparse(np.array([1, 2]), both[:4].reshape(2, 2)), both[3:]])
