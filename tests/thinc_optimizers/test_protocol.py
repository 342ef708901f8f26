"""The demands of thinc's models on an optimizer: arrays in place, averages by key, other arrays, copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from importlib import metadata
from typing import Any

import numpy as np
import pytest

import fastopt

thinc_optimizers = pytest.importorskip("thinc.optimizers", reason="compares with the live thinc")
thinc = pytest.importorskip("fastopt.thinc")
api = pytest.importorskip("thinc.api")

KEY = (3, "W")


def arrays(size: int = 6) -> tuple[Any, Any]:
    return np.linspace(-1, 1, size, dtype=np.float32), np.linspace(1, 2, size, dtype=np.float32)


def steps(optimizer: Any, weights: Any, count: int) -> Any:
    for _ in range(count):
        optimizer(KEY, weights, arrays(weights.size)[1].reshape(weights.shape))
        optimizer.step_schedules()
    return weights


def test_arrays_change_in_place_and_come_back() -> None:
    optimizer, (weights, gradient) = thinc.Adam(0.1), arrays()
    found = optimizer(KEY, weights, gradient)
    assert found[0] is weights
    assert found[1] is gradient
    assert not gradient.any()
    assert not np.array_equal(weights, arrays()[0])
    assert isinstance(optimizer, thinc_optimizers.Optimizer)  # as spaCy's schema of a config demands


def test_an_empty_gradient_is_no_step() -> None:
    optimizer, empty = thinc.Adam(0.1), np.zeros(0, np.float32)
    assert optimizer(KEY, empty, empty)[0] is empty
    assert not optimizer.nr_update
    assert not optimizer.averages


@pytest.mark.parametrize("name", ["Adam", "RAdam", "SGD"])
def test_arguments_are_those_of_thinc(name: str) -> None:
    ours = api.registry.optimizers.get(f"fastopt.{name}.v1")
    assert ours is getattr(thinc, name)
    theirs = inspect.signature(api.registry.optimizers.get(f"{name}.v1")).parameters
    found = inspect.signature(ours).parameters
    assert {key: each.default for key, each in found.items()} == {key: each.default for key, each in theirs.items()}
    assert {key: each.kind for key, each in found.items()} == {key: each.kind for key, each in theirs.items()}


def test_entry_points() -> None:
    found = metadata.entry_points(group="thinc_optimizers")
    names = {each.name: each.load().__name__ for each in found if each.name.startswith("fastopt.")}
    assert names == {f"fastopt.{name}.v1": name for name in fastopt.optimizers.__all__}


def test_a_config_resolves() -> None:
    text = {
        "@optimizers": "fastopt.Adam.v1",
        "learn_rate": {"@schedules": "warmup_linear.v1", "initial_rate": 0.1, "warmup_steps": 2, "total_steps": 4},
    }
    optimizer = api.registry.resolve({"optimizer": text})["optimizer"]
    rates = []
    for _ in range(5):
        rates.append(optimizer.learn_rate)
        optimizer.step_schedules()
    assert rates == [0.0, 0.05, 0.1, 0.05, 0.0]


@pytest.mark.parametrize("schedule", ["text", [], iter(())])
def test_a_wrong_schedule_is_the_error_of_thinc(schedule: Any) -> None:
    with pytest.raises(ValueError, match="Invalid schedule for 'learn_rate'"):
        thinc.Adam(schedule)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"learn_rate": -1.0}, ValueError, "learn_rate=-1.0: expected"),
        ({"learn_rate": 0.1, "beta2": 1.0}, ValueError, "beta2=1.0: expected"),
        ({"learn_rate": 0.1, "grad_clip": [1.0, -1.0]}, ValueError, "grad_clip=-1.0: expected"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: type[Exception], text: str) -> None:
    optimizer, (weights, gradient) = thinc.Adam(**options), arrays()
    with pytest.raises(error, match=text):  # noqa: PT012
        if "grad_clip" in options:
            optimizer.step_schedules()
        optimizer(KEY, weights, gradient)
    np.testing.assert_array_equal([weights, gradient], arrays())


def test_a_learning_rate_that_is_no_number() -> None:
    for optimizer in (thinc.Adam(0.1), thinc.Lion(0.1)):
        optimizer.learn_rate = None
        with pytest.raises(TypeError, match=r"learn_rate=None: expected a finite number"):
            optimizer(KEY, *arrays())


def test_arrays_that_are_replaced_keep_their_state() -> None:
    """A view of the same memory, as torch's tensors give in each update; a copy, as a loaded model has."""
    expected = steps(thinc.Adam(0.1, L2=0.1), arrays()[0], 6)
    optimizer, (weights, _) = thinc.Adam(0.1, L2=0.1), arrays()
    steps(optimizer, weights, 2)
    steps(optimizer, weights[:], 2)
    average = optimizer.averages[KEY]
    other = steps(optimizer, weights.copy(), 2)
    np.testing.assert_array_equal(other, expected)
    assert average is not optimizer.averages[KEY]
    twin = thinc.Adam(0.1, L2=0.1)
    steps(twin, arrays()[0], 6)
    np.testing.assert_array_equal(optimizer.averages[KEY], twin.averages[KEY])


def test_an_array_of_another_shape_is_an_error_each_time() -> None:
    """As in thinc: its state does not fit, and is not lost."""
    optimizer = thinc.Adam(0.1)
    steps(optimizer, arrays()[0], 2)
    other, gradient = arrays(7)
    for _ in range(2):
        with pytest.raises(ValueError, match="shape"):
            optimizer(KEY, other, gradient)
    np.testing.assert_array_equal([other, gradient], arrays(7))
    expected = steps(thinc.Adam(0.1), arrays()[0], 3)
    again = steps(thinc.Adam(0.1), arrays()[0], 2)
    np.testing.assert_array_equal(steps(optimizer, again, 1), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
@pytest.mark.parametrize("use_averages", [False, True])
def test_copies_go_on_with_the_same_bits(copied: Any, use_averages: bool) -> None:
    options: Any = {"L2": 0.1, "use_averages": use_averages}
    expected = steps(thinc.Adam(0.1, **options), arrays()[0], 6)
    optimizer, (weights, _) = thinc.Adam(0.1, **options), arrays()
    steps(optimizer, weights, 3)
    other, others_weights = copied(copied(optimizer)), weights.copy()
    if use_averages:
        np.testing.assert_array_equal(other.averages[KEY], optimizer.averages[KEY])
    steps(optimizer, weights, 3)
    steps(other, others_weights, 3)
    np.testing.assert_array_equal(weights, expected)
    np.testing.assert_array_equal(others_weights, expected)
    assert other.nr_update == {KEY: 6}


def test_a_model_of_thinc() -> None:
    """Averages stand in for the parameters in ``use_params``, and training goes on behind it."""

    def trained(optimizer: Any) -> list[Any]:
        rng, found = np.random.default_rng(2), []
        model = api.Linear(nO=3, nI=5)
        model.initialize()
        model.set_param("W", rng.normal(size=(3, 5)).astype(np.float32))
        for _ in range(10):
            x = rng.normal(size=(8, 5)).astype(np.float32)
            y, backprop = model.begin_update(x)
            backprop(y - x[:, :3])
            model.finish_update(optimizer)
            optimizer.step_schedules()
            with model.use_params(optimizer.averages):
                found.append(model.predict(x))
        return [*found, model.get_param("W")]

    for expected, found in zip(trained(thinc_optimizers.Adam(0.1)), trained(thinc.Adam(0.1)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_a_key_twice_in_an_update() -> None:
    """Two components that share a layer update it twice, the second time with a gradient of zero."""
    theirs, ours = thinc_optimizers.Adam(0.1), thinc.Adam(0.1)
    (expected, _), (found, _) = arrays(), arrays()
    for optimizer, weights in ((theirs, expected), (ours, found)):
        for _ in range(3):
            gradient = arrays()[1]
            optimizer(KEY, weights, gradient)
            optimizer(KEY, weights, gradient)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_torch_module_in_a_model_of_thinc() -> None:
    """Its tensors come as new views in each update, and its gradients are cleared right after each call."""
    torch = pytest.importorskip("torch")

    def trained(optimizer: Any) -> Any:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
        model = api.PyTorchWrapper(module)
        rng = np.random.default_rng(2)
        for _ in range(10):
            for parameter in module.parameters():  # backward() takes seconds to import what it never uses
                parameter.grad = torch.from_numpy(rng.normal(size=parameter.shape).astype(np.float32))
            model.finish_update(optimizer)
            optimizer.step_schedules()
        return module[0].weight.detach().numpy()

    expected, found = trained(thinc_optimizers.Adam(0.1)), trained(thinc.Adam(0.1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
