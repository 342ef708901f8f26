"""Early stopping and snapshot ensembles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import everything
from structures import copied, flat, model, same

import fastopt
from fastopt import EarlyStopping, SnapshotEnsemble, schedules


def updates(stopping: EarlyStopping, metrics: list[float], params: Any) -> list[bool]:
    told = []
    for number, metric in enumerate(metrics):
        for array in flat(params):
            array[...] = number
        told.append(stopping.update(metric, params))
    return told


@pytest.mark.parametrize(
    ("options", "metrics", "stops", "best"),
    [
        ({"patience": 1}, [3, 2, 2, 1], [False, False, True, False], 3),
        ({"patience": 2}, [3, 2, 2.5, 2, 2], [False, False, False, True, True], 1),
        ({"patience": 2, "mode": "max"}, [3, 2, 4, 4, 4], [False, False, False, False, True], 2),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.5, 2.4, 2, 1.6], [False, False, False, False, False], 4),
        ({"patience": 2, "min_delta": 0.5, "mode": "max"}, [0, 0.5, 0.6, 1], [False, False, False, False], 2),
        ({"patience": 2}, [math.nan, 2, math.nan, 1, math.inf, math.nan], [False] * 5 + [True], 3),
        ({"patience": 2}, [math.nan, math.nan], [False, True], None),
        ({"patience": 1, "mode": "max"}, [-math.inf, math.inf, 5], [False, False, True], 1),
    ],
)
def test_when_to_stop(options: dict[str, Any], metrics: list[float], stops: list[bool], best: int | None) -> None:
    stopping = EarlyStopping(**options)
    params = model()
    assert updates(stopping, metrics, params) == stops
    assert stopping.best_update == best
    assert stopping.updates == len(metrics)
    assert stopping.stopped == stops[-1]
    if best is None:
        assert stopping.best is None
        with pytest.raises(ValueError, match="there are no best parameters"):
            stopping.restore(params)
    else:
        assert stopping.best == metrics[best]
        stopping.restore(params)
        assert all((array == best).all() for array in flat(params))


@pytest.mark.parametrize("order", ["C", "F"])
def test_restore_writes_in_place_the_same_bits(order: str) -> None:
    rng = np.random.default_rng(0)
    params = [np.asarray(rng.normal(size=(3, 4)), np.float32, order=order), {"b": np.array(-0.0)}]
    kept, arrays = [array.copy(order="K") for array in flat(params)], flat(params)
    opt = fastopt.SGD(params)
    stopping = EarlyStopping(3)
    stopping.update(1.0, params)
    for array in flat(params):
        array += 1
    stopping.update(2.0, params)
    stopping.restore(params)
    assert all(array is before for array, before in zip(flat(params), arrays, strict=True))
    assert [array.tobytes("A") for array in flat(params)] == [array.tobytes("A") for array in kept]
    assert flat(stopping.best_params)[0].flags.f_contiguous == (order == "F")
    opt.step([np.ones((3, 4)), {"b": np.array(1.0)}])


def test_restore_into_other_parameters() -> None:
    stopping = EarlyStopping(3)
    stopping.update(1.0, {"a": np.ones(2), "b": np.ones(3)})
    for others in (
        {"a": np.zeros(2), "b": np.zeros(2)},
        {"a": np.zeros(2), "c": np.zeros(3)},
        {"a": np.zeros(2), "b": np.zeros(3, np.float32)},
    ):
        with pytest.raises(ValueError, match="these are not the same parameters: "):
            stopping.restore(others)
        assert not any(array.any() for array in others.values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_optimizer_goes_on_from_what_was_restored(dtype: str) -> None:
    """Its float32 masters of half-precision parameters, and its copies, follow."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="the optional extra checkpoint")
    params = {"a": np.ones(3).astype(dtype), "b": np.ones(2).astype(dtype)}
    copies = {"a": np.ones(3, np.float16), "b": None} if dtype == "float32" else None
    opt = fastopt.SGD(params, lr=0.25, copy_to=copies)
    grads = {"a": np.ones(3), "b": np.full(2, 2.0**-12)}
    stopping = EarlyStopping(3)
    stopping.update(1.0, params["a"])
    for _ in range(2):
        opt.step(grads)
    stopping.restore(params["a"], opt)
    assert params["a"].astype(float).tolist() == [1.0] * 3
    assert copies is None or copies["a"].tolist() == [1.0] * 3
    for _ in range(2):
        opt.step(grads)
    assert params["a"].astype(float).tolist() == [0.5] * 3
    assert dtype == "float32" or opt.state["b"]["master"].tolist() == [1 - 2.0**-12] * 2, "another master stays"
    before = everything([], opt), params["a"].tobytes()
    with pytest.raises(ValueError, match=r"restore: \['0'\] are not parameters of this optimizer; give the one that"):
        stopping.restore(params["a"].copy(), opt)
    assert (everything([], opt), params["a"].tobytes()) == before


def test_one_array() -> None:
    param = np.ones(2)
    stopping = EarlyStopping(3)
    stopping.update(1.0, param)
    param[...] = 5
    stopping.restore(param)
    assert param.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["run.npz", "run.safetensors"])
def test_both_go_on_from_a_file(tmp_path: Path, name: str) -> None:
    params = model()
    stopping, ensemble = EarlyStopping(3, mode="max"), SnapshotEnsemble(2)
    for metric in (1.0, 2.0, 1.5):
        stopping.update(metric, params)
        ensemble.update(params, metric)
    extra = {"stopping": stopping.state_dict(), "ensemble": ensemble.state_dict()}
    fastopt.save(tmp_path / name, params=params, extra=extra)
    loaded = fastopt.load(tmp_path / name).extra
    other, other_ensemble = EarlyStopping(1), SnapshotEnsemble(1)
    other.load_state_dict(loaded["stopping"])
    other_ensemble.load_state_dict(loaded["ensemble"])
    assert same(vars(other), vars(stopping))
    assert same(other_ensemble.state_dict(), ensemble.state_dict())
    assert other.update(1.0, params) is False
    assert other.update(1.0, params) is True
    for each in (other, other_ensemble):
        with pytest.raises(ValueError, match="state_dict: expected that of a"):
            each.load_state_dict({"x": 1})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(0), ValueError, "patience=0: expected a whole number of at least 1"),
        (lambda: EarlyStopping(True), ValueError, "patience=True"),
        (lambda: EarlyStopping(1.5), TypeError, "patience=1.5: expected a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: EarlyStopping(1, -1), ValueError, "min_delta=-1: expected a finite number of at least 0"),
        (lambda: EarlyStopping(1, math.nan), ValueError, "min_delta=nan"),
        (lambda: EarlyStopping(1, mode="low"), ValueError, "mode='low': expected one of 'min', 'max'"),
        (lambda: SnapshotEnsemble(0), ValueError, "size=0: expected a whole number of at least 1"),
        (lambda: SnapshotEnsemble(1, "low"), ValueError, "mode='low'"),
        (lambda: SnapshotEnsemble(1, schedule=3), TypeError, "schedule=3: expected a schedule"),  # type: ignore[arg-type]
        (lambda: SnapshotEnsemble(1).average_params(), ValueError, "there is no snapshot yet"),
        (lambda: SnapshotEnsemble(1).average_predictions(len), ValueError, "there is no snapshot yet"),  # type: ignore[arg-type]
        (lambda: SnapshotEnsemble(1).update([]), TypeError, "without a schedule, give the metric"),
        (
            lambda: SnapshotEnsemble(1, schedule=schedules.constant(1)).update([], 0.5),
            TypeError,
            "with a schedule, give step",
        ),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("mode", "expected"), [("min", [1.0, 2.0, 2.0]), ("max", [5.0, 4.0, 3.0])])
def test_the_best_are_kept(mode: str, expected: list[float]) -> None:
    ensemble = SnapshotEnsemble(3, mode)
    params = [np.zeros(2)]
    for number, metric in enumerate([4.0, 2.0, math.nan, 5.0, 1.0, 2.0, 3.0]):
        params[0][...] = number
        ensemble.update(params, metric)
    assert ensemble.metrics == expected
    kept = {1.0: [4], 2.0: [1, 5], 5.0: [3], 4.0: [0], 3.0: [6]}
    for snapshot, metric in zip(ensemble.snapshots, ensemble.metrics, strict=True):
        assert snapshot[0][0] in kept[metric]
    assert len({snapshot[0][0] for snapshot in ensemble.snapshots}) == 3
    assert ensemble.average_params()[0][0] == np.mean([snapshot[0][0] for snapshot in ensemble.snapshots])


@pytest.mark.parametrize(("T_mult", "ends"), [(1, [4, 8, 12, 16, 20, 24, 28]), (2, [4, 12, 28])])
def test_the_ends_of_cosine_cycles_are_kept(T_mult: int, ends: list[int]) -> None:
    schedule = schedules.cosine_restarts(0.1, 4, T_mult)
    ensemble = SnapshotEnsemble(2, schedule=schedule)
    param = np.ones(1)
    opt = fastopt.SGD(param, lr=schedule)
    found = []
    for _ in range(30):
        opt.step(np.ones(1))
        if ensemble.update(param, step=opt.step_count):
            found.append(opt.step_count)
    assert found == ends
    assert ensemble.metrics == ends[-2:]


def test_averages_keep_structure_dtype_and_do_not_touch_the_snapshots() -> None:
    params = model()
    ensemble = SnapshotEnsemble(3)
    for metric in (1.0, 2.0, 3.0):
        for array in flat(params):
            array += metric
        ensemble.update(params, metric)
    before = [copied(snapshot) for snapshot in ensemble.snapshots]
    average = ensemble.average_params()
    assert same(ensemble.snapshots, before)
    for k, array in enumerate(flat(average)):
        columns = [flat(snapshot)[k] for snapshot in ensemble.snapshots]
        assert (array.dtype, array.shape) == (columns[0].dtype, columns[0].shape)
        np.testing.assert_allclose(array, np.mean(columns, axis=0), rtol=1e-6)
    fastopt.SGD(average)
    x = np.ones((2, 4))
    predictions = ensemble.average_predictions(lambda params: x @ params["hidden"]["W"] + params["hidden"]["b"])
    expected = np.mean([x @ each["hidden"]["W"] + each["hidden"]["b"] for each in ensemble.snapshots], axis=0)
    np.testing.assert_allclose(predictions, expected)
