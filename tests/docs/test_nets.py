"""examples/nets.py and data.py: every gradient against finite differences, and what the layers promise."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from places import ROOT

import fastopt

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.skipif(not (EXAMPLES / "nets.py").exists(), reason="the source tree is not here")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def nets() -> ModuleType:
    return module("nets")


def generator() -> np.random.Generator:
    return np.random.default_rng(1)


ROWS, IMAGES = (7, 5), (3, 2, 4, 6)

#: A function that makes the layer, and the shape of its input.
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "Dense": (lambda nets: nets.Dense(generator(), 5, 4, dtype=float), ROWS),
    "Dense, orthogonal": (lambda nets: nets.Dense(generator(), 5, 4, fastopt.init.orthogonal, dtype=float), ROWS),
    "Dense, of sequences": (lambda nets: nets.Dense(generator(), 5, 4, dtype=float), (2, 3, 5)),
    "Conv2D": (lambda nets: nets.Conv2D(generator(), 2, 3, dtype=float), IMAGES),
    "Conv2D, 5 x 5": (lambda nets: nets.Conv2D(generator(), 2, 3, size=5, dtype=float), IMAGES),
    "MaxPool2D": (lambda nets: nets.MaxPool2D(), IMAGES),
    "Flatten": (lambda nets: nets.Flatten(), IMAGES),
    "Dropout": (lambda nets: nets.Dropout(generator(), 0.4), ROWS),
    "Dropout of images": (lambda nets: nets.Dropout(generator(), 0.4), IMAGES),
    "BatchNorm": (lambda nets: nets.BatchNorm(5, dtype=float), ROWS),
    "BatchNorm of images": (lambda nets: nets.BatchNorm(2, dtype=float), IMAGES),
    "Recurrent": (lambda nets: nets.Recurrent(generator(), 5, 3, dtype=float), (2, 4, 5)),
    "ReLU": (lambda nets: nets.ReLU(), ROWS),
    "LeakyReLU": (lambda nets: nets.LeakyReLU(0.2), IMAGES),
    "RReLU": (lambda nets: nets.RReLU(generator()), ROWS),
    "PReLU": (lambda nets: nets.PReLU(dtype=float), ROWS),
    "PReLU, one for each column": (lambda nets: nets.PReLU(features=5, dtype=float), ROWS),
    "PReLU, one for each channel": (lambda nets: nets.PReLU(features=2, dtype=float), IMAGES),
    "ELU": (lambda nets: nets.ELU(0.7), ROWS),
    "Sigmoid": (lambda nets: nets.Sigmoid(), ROWS),
    "Tanh": (lambda nets: nets.Tanh(), IMAGES),
    "Net": (
        lambda nets: nets.Net(
            [
                nets.Conv2D(generator(), 2, 3, dtype=float),
                nets.BatchNorm(3, dtype=float),
                nets.Tanh(),
                nets.MaxPool2D(),
                nets.Flatten(),
                nets.Net({"inner": nets.Dense(generator(), 18, 4, dtype=float)}),
                nets.Sigmoid(),
            ]
        ),
        IMAGES,
    ),
}


def arrays(structure: dict[str, Any], path: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of nested dicts by their paths."""
    found = {}
    for name, value in structure.items():
        found |= arrays(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def finite_differences(function: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = function()
        array[index] = value - step
        below = function()
        array[index] = value
        result[index] = (above - below) / (2 * step)
    return result


def rewind(layer: Any) -> None:
    """Give every layer that draws numbers the same ones again, and every average the same value."""
    for each in getattr(layer, "layers", {"": layer}).values():
        if hasattr(each, "rng"):
            each.rng = np.random.default_rng(2)
        if hasattr(each, "running"):
            each.running["mean"][:] = 0.3
            each.running["variance"][:] = 1.7


@pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences(nets: ModuleType, name: str, train: bool) -> None:
    make, shape = LAYERS[name]
    layer, rng = make(nets), np.random.default_rng(0)
    x = rng.normal(size=shape)
    for array in arrays(layer.params).values():
        array += 0.1 * rng.normal(size=array.shape)  # no zeros and ones, which would hide a mistake
    rewind(layer)
    weights = rng.normal(size=layer.forward(x, train).shape)

    def loss() -> float:
        rewind(layer)
        return float((weights * layer.forward(x, train)).sum())

    loss()
    gradients = {"x": layer.backward(weights), **arrays(layer.grads)}
    inputs = {"x": x, **arrays(layer.params)}
    assert gradients.keys() == inputs.keys()
    for path, array in inputs.items():
        assert gradients[path].shape == array.shape
        np.testing.assert_allclose(gradients[path], finite_differences(loss, array), rtol=1e-6, atol=1e-8, err_msg=path)


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4)])
def test_gradients_of_losses_are_those_of_finite_differences(nets: ModuleType, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    y, target, labels = rng.normal(size=shape), rng.normal(size=shape), rng.integers(4, size=shape[:-1])
    for function, wanted in ((nets.softmax_cross_entropy, labels), (nets.squared_error, target)):
        differences = finite_differences(lambda function=function, wanted=wanted: function(y, wanted)[0], y)
        np.testing.assert_allclose(function(y, wanted)[1], differences, rtol=1e-6, atol=1e-9)


def test_the_decayed_loss_has_the_gradients_of_finite_differences(nets: ModuleType) -> None:
    rng = np.random.default_rng(0)
    layer, x, labels = nets.Dense(rng, 5, 4, dtype=float), rng.normal(size=ROWS), rng.integers(4, size=7)
    loss, grads = nets.decayed_loss(layer, x, labels, 0.3)
    squares = sum((array**2).sum() for array in layer.params.values())
    assert loss == pytest.approx(nets.softmax_cross_entropy(layer.forward(x), labels)[0] + 0.15 * squares)
    for name, array in layer.params.items():
        differences = finite_differences(lambda: nets.decayed_loss(layer, x, labels, 0.3)[0], array)
        np.testing.assert_allclose(grads[name], differences, rtol=1e-6, atol=1e-9)


def test_losses_by_hand(nets: ModuleType) -> None:
    logits, labels = np.array([[0.0, 0.0], [1000.0, -1000.0]], np.float32), np.array([1, 0])
    loss, dlogits = nets.softmax_cross_entropy(logits, labels)
    assert loss == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(dlogits, [[0.25, -0.25], [0, 0]], atol=1e-7)
    assert nets.squared_error(np.array([1.0, 3.0]), np.array([0.0, 1.0]))[0] == 2.5
    assert nets.accuracy(logits, labels) == 0.5


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Net"])
def test_float32_stays_float32(nets: ModuleType, name: str) -> None:
    make, shape = LAYERS[name]
    layer = make(nets)
    for key, array in layer.params.items():
        layer.params[key] = array.astype(np.float32)
    if hasattr(layer, "running"):
        layer.running = {key: array.astype(np.float32) for key, array in layer.running.items()}
    for train in (True, False):
        y = layer.forward(np.random.default_rng(0).normal(size=shape).astype(np.float32), train)
        assert y.dtype == layer.backward(np.ones_like(y)).dtype == np.float32
        assert {array.dtype for array in layer.grads.values()} <= {np.dtype(np.float32)}


def test_layers_are_float32_unless_told_otherwise(nets: ModuleType) -> None:
    rng = generator()
    layers = [nets.Dense(rng, 5, 4), nets.Conv2D(rng, 2, 3), nets.BatchNorm(5), nets.Recurrent(rng, 5, 4), nets.PReLU()]
    for layer in layers:
        assert {array.dtype for array in layer.params.values()} == {np.dtype(np.float32)}


def test_a_convolution_by_hand(nets: ModuleType) -> None:
    layer = nets.Conv2D(generator(), 2, 3, dtype=float)
    layer.params["b"][:] = [1, 2, 3]
    x = np.random.default_rng(0).normal(size=IMAGES)
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = np.zeros((3, 3, 4, 6))
    for image, out, row, column in np.ndindex(wanted.shape):
        window = wide[image, :, row : row + 3, column : column + 3]
        wanted[image, out, row, column] = (window * layer.params["W"][out]).sum() + layer.params["b"][out]
    np.testing.assert_allclose(layer.forward(x), wanted)


def test_batch_norm_normalises_and_averages(nets: ModuleType) -> None:
    layer = nets.BatchNorm(3, momentum=0.8, dtype=float)
    x = np.random.default_rng(0).normal(2, 3, size=(40, 3))
    y = layer.forward(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(layer.running["mean"], 0.2 * x.mean(axis=0))
    np.testing.assert_allclose(layer.running["variance"], 0.8 + 0.2 * x.var(axis=0))
    before = {name: value.copy() for name, value in layer.running.items()}
    alone = layer.forward(x[:1], train=False)
    np.testing.assert_allclose(alone, (x[:1] - before["mean"]) / np.sqrt(before["variance"] + 1e-5))
    assert all(np.array_equal(layer.running[name], value) for name, value in before.items())


def test_inverted_dropout_keeps_the_mean_and_does_nothing_afterwards(nets: ModuleType) -> None:
    layer = nets.Dropout(generator(), 0.25)
    x = np.ones((400, 100), np.float32)
    y = layer.forward(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(layer.forward(x, train=False), x)


def test_randomized_relu_draws_slopes_in_training_alone(nets: ModuleType) -> None:
    layer = nets.RReLU(generator(), 0.1, 0.5)
    x = np.full((50, 40), -1.0)
    slopes = -layer.forward(x)
    assert slopes.min() >= 0.1
    assert slopes.max() <= 0.5
    assert slopes.std() > 0.1
    np.testing.assert_allclose(layer.forward(x, train=False), -0.3)


def test_an_optimizer_takes_a_net_as_it_is(nets: ModuleType) -> None:
    rng = generator()
    net = nets.Net(
        {
            "hidden": nets.Dense(rng, 5, 16),
            "norm": nets.BatchNorm(16),
            "relu": nets.ReLU(),
            "dropout": nets.Dropout(rng, 0.1),
            "out": nets.Dense(rng, 16, 3),
        }
    )
    assert {name: list(arrays) for name, arrays in net.params.items()} == {
        "hidden": ["W", "b"],
        "norm": ["gamma", "beta"],
        "out": ["W", "b"],
    }
    x = rng.normal(size=(60, 5)).astype(np.float32)
    labels = x[:, :3].argmax(axis=1)
    opt = fastopt.AdamW(net.params, lr=0.01)
    losses = nets.train(net, opt, x, labels, [np.arange(60)] * 100)
    assert net.params["hidden"]["W"] is net.layers["hidden"].params["W"]
    assert losses[-1] < 0.5 * losses[0]


def test_digits_have_a_fixed_split() -> None:
    pytest.importorskip("sklearn")
    digits = module("data").digits
    train_x, train_y, test_x, test_y = digits()
    assert (train_x.shape, train_y.shape, test_x.shape, test_y.shape) == ((1280, 64), (1280,), (517, 64), (517,))
    assert train_x.dtype == test_x.dtype == np.float32
    assert (train_x.min(), train_x.max(), set(train_y)) == (0, 1, set(range(10)))
    few_x, few_y, same_x, _ = digits(100)
    assert np.array_equal(few_x, train_x[:100])
    assert np.array_equal(few_y, train_y[:100])
    assert np.array_equal(same_x, test_x)
    drawn_x, _, same_x, _ = digits(100, generator())
    assert not np.array_equal(drawn_x, few_x)
    assert np.array_equal(same_x, test_x)
    assert {row.tobytes() for row in drawn_x} <= {row.tobytes() for row in train_x}


def test_batches_are_an_epoch() -> None:
    pytest.importorskip("sklearn")
    batches = list(module("data").batches(generator(), 10, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))
