"""Averages of the parameters: what they are, their structure, and swapping them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CASES, built, raw
from option_runs import all_bytes, every_backend

import fastopt

pytestmark = pytest.mark.usefixtures("restored")


def test_polyak_is_the_mean_from_its_start() -> None:
    rng = np.random.default_rng(4)
    theta = rng.normal(size=9)
    opt = fastopt.SGD({"a": {"W": theta}}, lr=0.1, polyak=True, polyak_start=3)
    seen = []
    for _ in range(6):
        opt.step({"a": {"W": rng.normal(size=9)}})
        seen.append(theta.copy())
        np.testing.assert_allclose(opt.ema["a"]["W"], np.mean(seen[2:], axis=0) if len(seen) > 2 else theta, rtol=1e-14)


def test_ema_bias_correction_is_the_weighted_mean() -> None:
    rng = np.random.default_rng(5)
    theta = rng.normal(size=9)
    opt = fastopt.SGD(theta, lr=0.1, ema_decay=0.8, ema_bias_correction=True)
    weighted, weights = 0.0, 0.0
    for _ in range(6):
        opt.step(rng.normal(size=9))
        weighted, weights = 0.8 * weighted + 0.2 * theta, 0.8 * weights + 0.2
        np.testing.assert_allclose(opt.ema, weighted / weights, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"copy_to": BFLOAT16}, {"params": BFLOAT16}, {"params": np.dtype(np.float16)}])
def test_averaged_swaps_in_place_and_back(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    opt = built(CASES[0], [rng.normal(size=(4, 3)).astype(np.float32)], {**options, "ema_decay": 0.5})
    opt.step([rng.normal(size=(4, 3))])
    arrays = [array for array in (*opt.parts.parameters.arrays, *opt.parts.parameters.copies) if array is not None]
    before, expected = all_bytes(opt), [opt.ema[0].astype(array.dtype) for array in arrays]
    with pytest.raises(RuntimeError, match="the body"), opt.averaged():  # noqa: PT012
        for array, average in zip(arrays, expected, strict=True):
            assert raw(array) == raw(average)
        with pytest.raises(ValueError, match="leave averaged"):
            opt.step([None])
        with pytest.raises(ValueError, match="already"), opt.averaged():
            pass
        raise RuntimeError("the body")
    assert all_bytes(opt) == before


def test_ema_has_the_parameters_structure() -> None:
    params = {"a": [np.ones(2), np.ones(3, np.float32)], "b": np.asfortranarray(np.ones((2, 3)))}
    opt = fastopt.Adam(params, ema_decay=0.9)
    assert {name: kind for name, kind in (("a", list), ("b", np.ndarray)) if type(opt.ema[name]) is kind}.keys() == {
        "a",
        "b",
    }
    assert opt.ema["b"].shape == (2, 3)
    assert opt.ema["a"][1].dtype == np.float32
    with pytest.raises(ValueError, match="keeps no average"):
        _ = fastopt.Adam(params).ema


def test_mean_of_snapshots() -> None:
    snapshots = [{"W": np.float32([1, 5]), "b": [np.float64(k) * np.ones(1)]} for k in range(3)]
    mean = fastopt.averaging.mean(snapshots)
    np.testing.assert_array_equal(mean["W"], np.float32([1, 5]))
    np.testing.assert_array_equal(mean["b"][0], [1.0])
    with pytest.raises(ValueError, match="empty"):
        fastopt.averaging.mean([])
    with pytest.raises(ValueError, match="has shape"):
        fastopt.averaging.mean([np.ones(2), np.ones(3)])


AVERAGES: list[dict[str, Any]] = [
    {"ema_decay": 0.9},
    {"ema_decay": 0.9, "ema_bias_correction": True},
    {"polyak": True},
    {"polyak": True, "polyak_start": 3},
    {"ema_decay": 0.9, "accumulate_steps": 2},
]


@every_backend
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("options", AVERAGES, ids=str)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_arrays_without_a_step_have_no_average(options: Any, dtype: Any, is_frozen: bool, backend: str) -> None:
    """Such as running statistics, which the user writes: they are what they are at the moment, in a file too."""
    params = {"W": np.ones(2, dtype), "statistics": np.zeros(3, dtype)}
    opt = fastopt.SGD(params, lr=0.1, backend=backend, **options)
    other = fastopt.SGD({name: array.copy() for name, array in params.items()}, backend=backend, **options)
    if is_frozen:
        opt.freeze("statistics")
    for i in range(1, 7):
        opt.step({"W": np.ones(2), "statistics": np.ones(3) if is_frozen else None})
        params["statistics"][...] = i
        other.load_state_dict(opt.state_dict())
        other.params["statistics"][...] = i
        for each in (opt, other):
            assert each.ema["statistics"].tolist() == [i] * 3
            assert each.state_dict()["state"]["statistics"]["ema"].tolist() == [i] * 3
            with each.averaged():
                assert each.params["statistics"].tolist() == [i] * 3
                assert each.params["W"].tolist() == each.ema["W"].astype(dtype).tolist()
                each.params["statistics"][...] = 50
            assert each.params["statistics"].tolist() == [i] * 3
    opt.unfreeze()
    for _ in range(options.get("accumulate_steps", 1)):
        opt.step({"W": np.ones(2), "statistics": np.ones(3)})
    begun = opt.ema["statistics"][0]
    assert 5.8 < begun < 6.1
    params["statistics"][...] = 50
    assert opt.ema["statistics"][0] == begun
