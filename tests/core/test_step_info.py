"""The facts of a step beside its tuple of four: norms, rates, and a limit that only measures."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from cases import every_dtype, raw
from option_runs import every_backend

import fastopt

pytestmark = pytest.mark.usefixtures("restored")

GRADS = {"W": np.array([[3.0, 4.0]]), "b": np.array([12.0]), "c": None}


def model(dtype: Any = np.float64) -> dict[str, Any]:
    return {"W": np.zeros((1, 2), dtype), "b": np.zeros(1, dtype), "c": np.zeros(2, dtype)}


#: Options, and the global norm and the norms that a step with GRADS tells.
NORMS: list[tuple[dict[str, Any], float | None, dict[str, float] | None]] = [
    ({}, None, None),
    ({"nonfinite": "skip"}, None, None),
    ({"clip_value": 2.0}, None, None),
    ({"clip_global_norm": 1.0}, 13, {"W": 5, "b": 12}),
    ({"clip_global_norm": math.inf}, 13, {"W": 5, "b": 12}),
    ({"skip_above": math.inf}, 13, {"W": 5, "b": 12}),
    ({"clip_global_norm": 1.0, "grad_scale": 0.5, "nonfinite": "skip"}, 26, {"W": 10, "b": 24}),
    ({"clip_norm": 1.0}, None, {"W": 5, "b": 12}),
    ({"clip_norm": math.inf}, None, {"W": 5, "b": 12}),
    ({"clip_norm": 5 * (1 + 1e-6), "skip_above": 8.0}, math.sqrt(50), {"W": 5, "b": 5}),
    ({"clip_norm": 5 * (1 + 1e-6), "clip_value": 3.0, "clip_global_norm": 1.0}, math.sqrt(27), {"W": 18**0.5, "b": 3}),
]


@every_backend
@pytest.mark.parametrize(("options", "norm", "norms"), NORMS, ids=str)
def test_norms(options: dict[str, Any], norm: Any, norms: Any, backend: str) -> None:
    opt = fastopt.SGD(model(), lr=0.1, backend=backend, **options)
    for step in range(1, 6):  # the last of them are planned
        info = opt.step(GRADS)
        assert tuple(info) == (True, None if norm is None else pytest.approx(norm, rel=1e-6), 0.1, step)
        assert info.norms == (None if norms is None else pytest.approx(norms, rel=1e-6))
        assert (info.lrs, info.skipped) == ((0.1,), None)
        if norm is not None:
            assert info.grad_norm == pytest.approx(math.hypot(*info.norms.values()), rel=1e-15)
    earlier = info
    opt.step({"b": np.ones(1)})
    assert earlier.norms == (None if norms is None else pytest.approx(norms, rel=1e-6))


@every_backend
def test_norms_where_gradients_are_accumulated(backend: str) -> None:
    opt = fastopt.SGD(model(), accumulate_steps=2, clip_global_norm=1.0, backend=backend)
    for _ in range(4):
        info = opt.step(GRADS)
        assert (info.grad_norm, info.norms) == (None, None)
        info = opt.step({"W": np.array([[3.0, 4.0]])})
        assert info.norms == {"W": 5, "b": 6}


def test_norms_of_row_sparse_gradients_and_of_arrays_that_were_added_since() -> None:
    opt = fastopt.SGD({"E": np.zeros((5, 2)), "b": np.zeros(1)}, clip_global_norm=1.0)
    info = opt.step(
        {"E": fastopt.RowSparse(np.array([1, 3, 1]), np.array([[1.0, 0], [0, 3], [3, 0]])), "b": np.ones(1)}
    )
    opt.add_param_group({"params": {"new": np.zeros(1)}})
    assert info.norms == {"E": 5, "b": 1}
    assert opt.step({"new": np.ones(1)}).norms == {"new": 1}


@every_backend
@pytest.mark.parametrize("lr", [0.1, lambda step: 0.1 / (1 + step)], ids=["number", "schedule"])
def test_rates_of_all_groups(lr: Any, backend: str) -> None:
    groups = [{"params": [np.zeros(2)]}, {"params": [np.zeros(1)], "lr": 0.3}]
    opt = fastopt.SGD(groups, lr=lr, backend=backend)
    for step in range(6):
        info = opt.step([[np.ones(2)], [np.ones(1)]])
        assert info.lrs == (lr(step) if callable(lr) else lr, 0.3)
        assert info.lr == info.lrs[0]
        opt.param_groups[1]["lr"] = 0.3


@every_backend
@every_dtype
def test_an_infinite_limit_measures_alone(backend: str, dtype: Any) -> None:
    """The factor is 1 for a norm that is infinite or NaN too."""
    for bad in (1.0, 1e30, math.inf, math.nan):
        params, plain = model(dtype), model(dtype)
        opt = fastopt.SGD(params, lr=0.5, momentum=0.9, clip_global_norm=math.inf, clip_norm=math.inf, backend=backend)
        reference = fastopt.SGD(plain, lr=0.5, momentum=0.9, backend=backend)
        for step in range(5):
            grads = {"W": np.array([[3.0, bad if step > 2 else 1]], dtype), "b": np.ones(1, dtype)}
            info = opt.step(copy.deepcopy(grads))
            reference.step(grads)
            assert info.grad_norm == pytest.approx(np.hypot(np.linalg.norm(grads["W"].astype(float)), 1), nan_ok=True)
            for name, array in params.items():
                assert raw(array) == raw(plain[name])


def test_it_is_a_tuple_of_four() -> None:
    opt = fastopt.SGD(
        [{"params": [np.zeros(2)]}, {"params": [np.zeros(1)], "lr": 0.3}], lr=0.1, clip_global_norm=math.inf
    )
    for _ in range(4):
        info = opt.step([[np.array([3.0, 4.0])], [np.zeros(1)]])
        applied, norm, lr, step = info
        assert info == (applied, norm, lr, step) == fastopt.StepInfo(applied=True, grad_norm=5.0, lr=0.1, step=step)
        assert repr(info) == str(info) == f"StepInfo(applied=True, grad_norm=5.0, lr=0.1, step={step})"
        assert hash(info) == hash((True, 5.0, 0.1, step))
        for other in (pickle.loads(pickle.dumps(info)), copy.copy(info), copy.deepcopy(info)):
            assert (other, other.norms, other.lrs, other.skipped) == (info, {"0.0": 5, "1.0": 0}, (0.1, 0.3), None)
    made = fastopt.StepInfo(True, None, 0.1, 1)
    assert (made.norms, made.lrs, made.skipped) == (None, (0.1,), None)


@every_backend
def test_an_infinite_limit_is_saved(backend: str, tmp_path: Any) -> None:
    params = [np.ones(2)]
    opt = fastopt.SGD(
        params, lr=0.1, clip_global_norm=math.inf, clip_norm=math.inf, skip_above=math.inf, backend=backend
    )
    fastopt.save(tmp_path / "run.npz", opt)
    other = fastopt.SGD([np.zeros(2)], backend=backend)
    fastopt.load(tmp_path / "run.npz").restore(other)
    assert (other.clip_global_norm, other.skip_above, other.param_groups[0]["clip_norm"]) == (math.inf,) * 3
