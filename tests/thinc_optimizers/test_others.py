"""The other optimizers for thinc: the bits of their classes, their options by name, and points to evaluate at."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import fastopt

thinc = pytest.importorskip("fastopt.thinc")
api = pytest.importorskip("thinc.api")

#: One is for matrices alone, and models have biases; one finds one rate from all arrays.
REFUSED = ("Muon", "Prodigy")
OTHERS = [name for name in fastopt.optimizers.__all__ if name not in ("Adam", "RAdam", "SGD", *REFUSED)]
every_other = pytest.mark.parametrize("name", OTHERS)
SHAPES = ((5, 4), (3,))


def arrays(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def resolved(name: str, **options: Any) -> Any:
    return api.registry.resolve({"optimizer": {"@optimizers": f"fastopt.{name}.v1", **options}})["optimizer"]


def trained(optimizer: Any, steps: range = range(6), weights: list[Any] | None = None) -> list[Any]:
    weights = arrays(0) if weights is None else weights
    for step in steps:
        for i, (array, gradient) in enumerate(zip(weights, arrays(step + 1), strict=True)):
            optimizer((i, "W"), array, gradient)
            assert not gradient.any()
        optimizer.step_schedules()
    return weights


def test_each_optimizer_of_fastopt_is_there() -> None:
    assert dir(thinc) == sorted(["Optimizer", *fastopt.optimizers.__all__])
    for name in OTHERS:
        function = getattr(thinc, name)
        assert function is getattr(thinc, name)
        assert pickle.loads(pickle.dumps(function)) is function
    with pytest.raises(AttributeError, match="has no attribute 'AdamV'"):
        thinc.AdamV  # noqa: B018


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_need_all_arrays(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: it .*; take another optimizer"):
        resolved(name)


@every_other
def test_bits_of_the_class(name: str) -> None:
    """With the options of a config, where numbers in a row are lists; each array has an optimizer of its own."""
    cls = getattr(fastopt, name)
    options: dict[str, Any] = {"weight_decay": 0.1, "clip_norm": 1.0}
    if name == "SparseAdam":
        del options["weight_decay"]
    if "betas" in inspect.signature(cls).parameters:
        options["betas"] = [0.5, 0.75, 0.5] if name == "Adan" else [0.5, 0.75]
    optimizer = resolved(name, learn_rate=[0.1, 0.05], **options)
    expected = arrays(0)
    opts = [cls(array, lr=0.1, **options) for array in expected]
    for step in range(6):
        for opt, gradient in zip(opts, arrays(step + 1), strict=True):
            opt.param_groups[0]["lr"] = 0.1 if step == 0 else 0.05
            opt.step(gradient)
    for found, wanted in zip(trained(optimizer), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@every_other
def test_copies_go_on_with_the_same_bits(name: str) -> None:
    expected = trained(resolved(name))
    optimizer = resolved(name)
    weights = trained(optimizer, range(3))
    for found, wanted in zip(
        trained(pickle.loads(pickle.dumps(optimizer)), range(3, 6), weights), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@every_other
def test_averages(name: str) -> None:
    """thinc's; those of Schedule-Free are the points that it finds itself."""
    optimizer = resolved(name, learn_rate=0.01)
    weights = arrays(0)
    expected = [np.zeros_like(array) for array in weights]
    for step in range(4):
        trained(optimizer, range(step, step + 1), weights)
        for average, array in zip(expected, weights, strict=True):
            decay = min(0.9999, (2 + step) / (11 + step))
            average -= np.float32(1 - decay) * (average - array)
    before = [array.copy() for array in weights]
    found = optimizer.averages
    assert list(found) == [(0, "W"), (1, "W")]
    for array, copy in zip(weights, before, strict=True):
        np.testing.assert_array_equal(array, copy)  # Schedule-Free has found its points in them
    if name.startswith("ScheduleFree"):
        twin = arrays(0)
        opts = [getattr(fastopt, name)(array, lr=0.01) for array in twin]
        for step in range(4):
            for opt, gradient in zip(opts, arrays(step + 1), strict=True):
                opt.step(gradient)
        for opt in opts:
            opt.eval()
        expected = twin
        assert not np.array_equal(expected[0], weights[0])
    for average, wanted in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(average, wanted, rtol=1e-5, atol=1e-6)
    assert resolved(name, use_averages=False).averages is None


@every_other
def test_a_filled_config_has_the_defaults(name: str) -> None:
    """spaCy writes them all into the config that it saves, and reads that one again."""
    filled = api.registry.fill({"optimizer": {"@optimizers": f"fastopt.{name}.v1", "learn_rate": 0.01}})
    assert filled["optimizer"]["use_averages"] is True
    assert "clip_global_norm" not in filled["optimizer"]
    text = api.Config(filled).to_str()
    assert "clip_value = null" in text
    again = api.registry.resolve(api.Config().from_str(text))["optimizer"]
    for found, wanted in zip(trained(again), trained(resolved(name, learn_rate=0.01)), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clip_global_norm": 1.0}, "Lion: clip_global_norm is an option of a whole step, .* clip_norm"),
        ({"clipnorm": 1.0}, "for 'clipnorm' write 'clip_norm'"),
        ({"ema_decay": 0.9}, "ema_decay is an option of a whole step"),
    ],
)
def test_options_that_are_not_there(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        thinc.Lion(0.01, **options)
    with pytest.raises(api.ConfigValidationError, match=next(iter(options))):
        resolved("Lion", **options)


def test_options_out_of_range_are_errors_of_the_config() -> None:
    with pytest.raises(ValueError, match=r"betas\[1\]=1\.5: expected"):
        resolved("Lion", betas=[0.9, 1.5])
    optimizer = resolved("Lion", learn_rate=0.1)
    optimizer.learn_rate = -1.0
    with pytest.raises(ValueError, match=r"learn_rate=-1\.0: expected"):
        trained(optimizer)


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_the_points_of_schedule_free_are_there_in_a_copy(name: str) -> None:
    """Before its first update too: a pipeline is evaluated with them."""
    optimizer = resolved(name, learn_rate=0.1)
    weights = trained(optimizer)
    copied = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(optimizer))))
    expected = optimizer.averages
    assert list(copied.averages) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(copied.averages[key], array)
    trained(copied, range(6, 7), weights)
    assert not any(np.array_equal(copied.averages[key], array) for key, array in expected.items())


def test_rounding_of_replaced_arrays_goes_on() -> None:
    """Each array keeps its own random bits."""
    pytest.importorskip("ml_dtypes")
    options: Any = {"learn_rate": 0.01, "state_dtype": "bfloat16"}
    expected = trained(resolved("Adagrad", **options))
    optimizer = resolved("Adagrad", **options)
    weights = [array.copy() for array in trained(optimizer, range(3))]
    for found, wanted in zip(trained(optimizer, range(3, 6), weights), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_state_in_8_bits() -> None:
    """Each array has random bits of its own."""
    optimizer = resolved("AdamW", state_dtype="uint8")
    weights = [np.ones(5000, np.float32), np.ones(5000, np.float32)]
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradient = rng.normal(size=5000).astype(np.float32)
        for i, array in enumerate(weights):
            optimizer((i, "W"), array, gradient.copy())
    assert not np.array_equal(*weights)
    np.testing.assert_allclose(*weights, atol=1e-2)
