"""Averages of the parameters: what they are, their structure, and swapping them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CASES, built, every_dtype, raw, shown, warm_decay
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


def with_starts() -> list[Any]:
    """Return where an average begins, and the weight of each step."""
    return [
        pytest.param(start, decay, id=f"{start}-{'function' if callable(decay) else decay}")
        for start in ("before", "after", "zero")
        for decay in (0.9, warm_decay)
    ]


@every_backend
@every_dtype
@pytest.mark.parametrize(("start", "decay"), with_starts())
def test_where_the_average_begins(start: Any, decay: Any, dtype: Any, backend: str) -> None:
    """As Keras (after), torch (after) and thinc (zero, with a function) have it; each array counts its own steps."""
    rng = np.random.default_rng(8)
    params = {name: rng.normal(size=(2, 3)).astype(dtype) for name in ("first", "late")}
    opt = fastopt.SGD(params, lr=0.1, ema_decay=decay, ema_start=start, backend=backend)
    expected: dict[str, Any] = {}
    for step in range(8):  # the last of them are planned
        if step == 1:  # before its first step nothing of it is averaged
            params["late"][...] = 7
        params_before = {name: param.copy() for name, param in params.items()}
        opt.step({"first": rng.normal(size=(2, 3)), "late": rng.normal(size=(2, 3)) if step > 1 else None})
        for name, t in (("first", step + 1), ("late", step - 1)):
            if t <= 0:
                np.testing.assert_array_equal(opt.ema[name], params[name])
                continue
            begin = {"before": params_before[name], "after": params[name], "zero": np.zeros((2, 3), dtype)}[start]
            average = expected.setdefault(name, begin)
            weight = dtype(1 - (decay(t) if callable(decay) else decay))
            expected[name] = average + weight * (params[name] - average)
            np.testing.assert_array_equal(opt.ema[name], expected[name])


def test_averages_of_thinc_and_keras_by_hand() -> None:
    """thinc: ``ema -= (1 - d) * (ema - w)``, d from (1+1)/(10+1) on; Keras: ``m * average + (1 - m) * w``, first w."""
    theta = np.array([1.0])
    thinc = fastopt.SGD(theta, lr=1.0, ema_decay=lambda t: min(0.9999, (1 + t) / (10 + t)), ema_start="zero")
    found = []
    for grad in (0.5, -1.0, 0.25):  # the weights are 0.5, 1.5, 1.25
        thinc.step(np.array([grad]))
        found.append(float(thinc.ema[0]))
    first = 9 / 11 * 0.5
    second = first - (1 - 3 / 12) * (first - 1.5)
    assert found == pytest.approx([first, second, second - (1 - 4 / 13) * (second - 1.25)], rel=1e-15)
    theta = np.array([1.0])
    keras = fastopt.SGD(theta, lr=1.0, ema_decay=0.75, ema_start="after")
    found = []
    for grad in (0.5, -1.0, 0.25):
        keras.step(np.array([grad]))
        found.append(float(keras.ema[0]))
    assert found == [0.5, 0.75 * 0.5 + 0.25 * 1.5, 0.75 * 0.75 + 0.25 * 1.25]


@every_dtype
@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_an_average_after_the_first_step_is_torchs(decay: float, dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    rng = np.random.default_rng(9)
    theta = rng.normal(size=50).astype(dtype)
    net = torch.nn.Module()
    net.p = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    theirs, ours = (
        torch.optim.SGD(net.parameters(), lr=0.1),
        fastopt.SGD(theta, lr=0.1, ema_decay=decay, ema_start="after"),
    )
    for _ in range(50):
        grad = rng.normal(size=50).astype(dtype)
        net.p.grad = torch.from_numpy(grad)
        theirs.step()
        averaged.update_parameters(net)
        ours.step(grad)
        tolerance = 1e-12 if dtype is np.float64 else 1e-6
        np.testing.assert_allclose(ours.ema, averaged.module.p.detach().numpy(), rtol=tolerance, atol=tolerance)


@every_backend
def test_a_function_is_asked_for_each_step_of_each_array(backend: str) -> None:
    asked: list[int] = []

    def decay(t: int) -> float:
        asked.append(t)
        return 0.5

    opt = fastopt.SGD([np.zeros(2), np.zeros(2)], ema_decay=decay, backend=backend)
    for step in range(6):
        del asked[:]
        opt.step([np.ones(2), np.ones(2) if step > 1 else None])
        assert sorted(set(asked)) == sorted({step + 1, *([step - 1] if step > 1 else [])})


@every_backend
@pytest.mark.parametrize("wrong", [1.0, -0.1, np.nan, np.inf, None, "0.9", True, [0.9], lambda t: 0.9, 1j], ids=shown)
@pytest.mark.parametrize("at", [1, 5])
def test_a_function_that_returns_no_decay(at: int, wrong: Any, backend: str) -> None:
    params = {"W": np.ones(3), "b": np.ones(2, np.float16)}
    good = [True]
    opt = fastopt.Adam(params, ema_decay=lambda t: 0.9 if t != at or good[0] else wrong, backend=backend)
    grads = {"W": np.ones(3), "b": np.ones(2)}
    for _ in range(at - 1):
        opt.step(grads)
    good[0] = False
    before = all_bytes(opt)
    for _ in range(2):
        message = rf"^the function at an array's step {at}: ema_decay=.*: expected a number from 0 to below 1"
        with pytest.raises((TypeError, ValueError), match=message):
            opt.step(grads)
        assert all_bytes(opt) == before
    good[0] = True
    assert opt.step(grads).step == at


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ema_start": "after"}, "ema_start need ema_decay"),
        ({"ema_start": "zero", "polyak": True}, "ema_start need ema_decay"),
        ({"ema_start": "zero", "polyak": True, "ema_decay": 0.9}, "one of the two averages, got both"),
        ({"ema_start": "never", "ema_decay": 0.9}, "^ema_start='never': expected one of 'before', 'after', 'zero'$"),
        (
            {"ema_start": "after", "ema_decay": 0.9, "ema_bias_correction": True},
            "ema_start='after': expected one of the two",
        ),
        ({"ema_decay": warm_decay, "ema_bias_correction": True}, "expected a number as ema_decay, got a function"),
        ({"ema_decay": 1.0}, "^ema_decay=1.0: expected a number from 0 to below 1, a schedule, or None$"),
    ],
    ids=shown,
)
def test_options_that_do_not_fit_together(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fastopt.SGD(np.zeros(2), **options)


@every_backend
@pytest.mark.parametrize("start", ["after", "zero"])
def test_a_first_step_that_is_skipped_begins_no_average(start: Any, backend: str) -> None:
    theta = np.ones(2)
    opt = fastopt.SGD(
        theta, lr=1.0, ema_decay=0.5, ema_start=start, nonfinite="skip", accumulate_steps=2, backend=backend
    )
    handed_out = opt.ema
    opt.step(np.array([np.nan, 1]))
    assert opt.ema.tolist() == [1, 1]
    for step in range(6):
        opt.step(np.array([2.0, 0]))
        if step == 0:
            assert opt.ema.tolist() == [1, 1]  # it has no step yet
            theta += 1
    assert theta.tolist() == [-4, 2]
    expected = np.array([0.0, 2.0]) if start == "after" else np.array([0.0, 1.0])
    for value in ([-2.0, 2.0], [-4.0, 2.0]):
        expected += 0.5 * (value - expected)
    assert opt.ema.tolist() == handed_out.tolist() == expected.tolist()


@every_backend
@pytest.mark.parametrize("start", ["before", "after", "zero"])
def test_averages_of_functions_go_on(start: Any, backend: str) -> None:
    """A run that is resumed, whose parameters are reloaded, and to which arrays are added: as if it had not stopped."""
    options: dict[str, Any] = {"ema_decay": warm_decay, "ema_start": start, "backend": backend, "momentum": 0.5}
    arrays = [{"W": np.ones(3, np.float16)} for _ in range(2)]
    opt, other = (fastopt.SGD(each, lr=0.1, **options) for each in arrays)
    rng = np.random.default_rng(3)
    for step in range(12):
        grads = {"W": rng.normal(size=3), "new": rng.normal(size=2)}
        for each, params in zip((opt, other), arrays, strict=True):
            if step == 6:
                each.add_param_group({"params": {"new": np.full(2, 3.0)}})
                params["W"][...] = 2
                each.reload_params()
            each.step(grads if step >= 6 else {"W": grads["W"]})
        if step in (0, 4, 9):
            saved, old = other.state_dict(), other
            arrays[1] = {name: array.copy() for name, array in arrays[1].items()}
            other = fastopt.SGD(arrays[1], lr=0.1, **options)
            if step > 6:
                other.add_param_group({"params": {"new": old.params["new"].copy()}})
            other.load_state_dict(saved)
    assert all_bytes(opt) == all_bytes(other)


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
    {"ema_decay": 0.9, "ema_start": "after"},
    {"ema_decay": warm_decay, "ema_start": "zero"},
]


@every_backend
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("options", AVERAGES, ids=shown)
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
    first_weight = 1 - warm_decay(1) if options.get("ema_start") == "zero" else 1
    assert 5.8 < begun / first_weight < 6.1
    params["statistics"][...] = 50
    assert opt.ema["statistics"][0] == begun
