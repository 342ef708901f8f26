"""Layers of neural networks with backward passes by hand, for the scripts of the gallery.

A layer's arrays are the dict ``params``. ``backward(dy)`` takes the gradient with respect to what ``forward`` returned
last, puts the gradients with respect to the arrays into the dict ``grads``, and returns the one with respect to the
input. A net of layers has nested dicts, which an optimizer takes as they are:

    net = Net([Dense(rng, 64, 32), ReLU(), Dense(rng, 32, 10)])
    opt = fastopt.AdamW(net.params, lr=0.01)
    loss, dlogits = softmax_cross_entropy(net.forward(x), labels)
    net.backward(dlogits)
    opt.step(net.grads)

The first axis of an input counts the examples. Images are (examples, channels, height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fastopt
from fastopt import init as initial


class Layer:
    """The base of all layers: one without arrays."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.grads: dict[str, Any] = {}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        raise NotImplementedError

    def backward(self, dy: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Net(Layer):
    """Layers one after the other; a list names them "0", "1", and so on. A net is a layer, too."""

    def __init__(self, layers: dict[str, Layer] | list[Layer]) -> None:
        if isinstance(layers, list):
            layers = {str(number): layer for number, layer in enumerate(layers)}
        self.layers = layers
        self.params = {name: layer.params for name, layer in layers.items() if layer.params}
        self.grads = {name: layer.grads for name, layer in layers.items() if layer.params}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        for layer in self.layers.values():
            x = layer.forward(x, train)
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        for layer in reversed(self.layers.values()):
            dy = layer.backward(dy)
        return dy


class Dense(Layer):
    """``y = x @ W + b`` for inputs of any number of axes; `init` is a function of :mod:`fastopt.init`."""

    def __init__(
        self,
        rng: np.random.Generator,
        inputs: int,
        outputs: int,
        init: Callable[..., np.ndarray] = initial.he_normal,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        self.params = {"W": init(rng, (inputs, outputs), dtype=dtype), "b": np.zeros(outputs, dtype)}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        x_rows, dy_rows = self.x.reshape(-1, self.x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        self.grads["W"] = x_rows.T @ dy_rows
        self.grads["b"] = dy_rows.sum(axis=0)
        return dy @ self.params["W"].T


class Conv2D(Layer):
    """Filters of `size` x `size` pixels, an odd number; zeros around the image keep its height and width."""

    def __init__(
        self,
        rng: np.random.Generator,
        channels: int,
        filters: int,
        size: int = 3,
        init: Callable[..., np.ndarray] = initial.he_normal,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        shape = (filters, channels, size, size)
        self.params = {"W": init(rng, shape, layout="out_in", dtype=dtype), "b": np.zeros(filters, dtype)}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        W = self.params["W"]
        self.windows = windows_of(x, W.shape[-1])
        y = np.tensordot(self.windows, W, axes=((1, 4, 5), (1, 2, 3))) + self.params["b"]
        return y.transpose(0, 3, 1, 2)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        W = self.params["W"]
        self.grads["W"] = np.tensordot(dy, self.windows, axes=((0, 2, 3), (0, 2, 3)))
        self.grads["b"] = dy.sum(axis=(0, 2, 3))
        turned = W[:, :, ::-1, ::-1]
        return np.tensordot(windows_of(dy, W.shape[-1]), turned, axes=((1, 4, 5), (0, 2, 3))).transpose(0, 3, 1, 2)


def windows_of(x: np.ndarray, size: int) -> np.ndarray:
    """Return the window around each pixel: (examples, channels, height, width, size, size), without a copy of each."""
    margin = size // 2
    wide = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    return sliding_window_view(wide, (size, size), axis=(2, 3))


class MaxPool2D(Layer):
    """The largest value of each square of `size` x `size` pixels, which must fill the image."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        examples, channels, height, width = x.shape
        squares = x.reshape(examples, channels, height // self.size, self.size, width // self.size, self.size)
        largest = squares.max(axis=(3, 5), keepdims=True)
        is_largest = squares == largest
        self.share = is_largest / is_largest.sum(axis=(3, 5), keepdims=True, dtype=x.dtype)
        return largest[:, :, :, 0, :, 0]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        examples, channels, height, width = dy.shape
        dx = dy[:, :, :, None, :, None] * self.share
        return dx.reshape(examples, channels, height * self.size, width * self.size)


class Flatten(Layer):
    """Each example as one row."""

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy.reshape(self.shape)


class Dropout(Layer):
    """In training, each value is 0 with the probability `rate`, and the others grow by ``1 / (1 - rate)`` (inverted).

    So the mean stays the same, and afterwards nothing is left to do.
    """

    def __init__(self, rng: np.random.Generator, rate: float) -> None:
        super().__init__()
        self.rng = rng
        self.rate = rate

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        kept = self.rng.random(x.shape) >= self.rate if train else np.ones(x.shape, bool)
        self.factor = (kept / (1 - self.rate if train else 1)).astype(x.dtype)
        return x * self.factor

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.factor


class BatchNorm(Layer):
    """Each feature with mean 0 and variance 1 over the batch, then times ``gamma`` plus ``beta``.

    A feature is a column of a 2-D input, or a channel of images. After training, the running averages of mean and
    variance take the place of the batch's: ``running = momentum * running + (1 - momentum) * batch``.
    """

    def __init__(self, features: int, momentum: float = 0.9, eps: float = 1e-5, dtype: type = np.float32) -> None:
        super().__init__()
        self.params = {"gamma": np.ones(features, dtype), "beta": np.zeros(features, dtype)}
        self.running = {"mean": np.zeros(features, dtype), "variance": np.ones(features, dtype)}
        self.momentum = momentum
        self.eps = eps

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.train = train
        self.axes = (0, *range(2, x.ndim))
        if train:
            batch = {"mean": x.mean(axis=self.axes), "variance": x.var(axis=self.axes)}
            for name, value in batch.items():
                self.running[name] *= self.momentum
                self.running[name] += (1 - self.momentum) * value
        else:
            batch = self.running
        self.scale = along_features(1 / np.sqrt(batch["variance"] + self.eps), x.ndim)
        self.normal = (x - along_features(batch["mean"], x.ndim)) * self.scale
        return along_features(self.params["gamma"], x.ndim) * self.normal + along_features(self.params["beta"], x.ndim)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        self.grads["gamma"] = (dy * self.normal).sum(axis=self.axes)
        self.grads["beta"] = dy.sum(axis=self.axes)
        dnormal = dy * along_features(self.params["gamma"], dy.ndim)
        if self.train:  # the batch's mean and variance depend on x, too
            dnormal = (
                dnormal
                - dnormal.mean(axis=self.axes, keepdims=True)
                - self.normal * (dnormal * self.normal).mean(axis=self.axes, keepdims=True)
            )
        return dnormal * self.scale


def along_features(values: np.ndarray, ndim: int) -> np.ndarray:
    """Return `values`, one for each feature, in the shape that meets axis 1 of an array with `ndim` axes."""
    return values.reshape(-1, *(1,) * (ndim - 2))


class Recurrent(Layer):
    """``h = tanh(x[:, t] @ U + h @ W)`` for each time t, from zeros; returns the last h.

    The input is (examples, times, inputs). `init` makes W.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        inputs: int,
        outputs: int,
        init: Callable[..., np.ndarray] = initial.orthogonal,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        U = initial.xavier_normal(rng, (inputs, outputs), dtype=dtype)
        self.params = {"U": U, "W": init(rng, (outputs, outputs), dtype=dtype)}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.x = x
        self.h = [np.zeros((len(x), len(self.params["W"])), x.dtype)]
        for time in range(x.shape[1]):
            self.h.append(np.tanh(x[:, time] @ self.params["U"] + self.h[-1] @ self.params["W"]))
        return self.h[-1]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        for name, array in self.params.items():
            self.grads[name] = np.zeros_like(array)
        dx = np.empty_like(self.x)
        for time in reversed(range(self.x.shape[1])):
            dz = dy * (1 - self.h[time + 1] ** 2)
            self.grads["U"] += self.x[:, time].T @ dz
            self.grads["W"] += self.h[time].T @ dz
            dx[:, time] = dz @ self.params["U"].T
            dy = dz @ self.params["W"].T
        return dx


class Activation(Layer):
    """The base of functions of each value; ``forward`` keeps their derivative, which is all that ``backward`` needs."""

    derivative: np.ndarray

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.derivative


class LeakyReLU(Activation):
    """x where it is positive, and `slope` times x elsewhere."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.derivative = np.where(x > 0, 1, self.slope).astype(x.dtype)
        return x * self.derivative


class ReLU(LeakyReLU):
    """x where it is positive, and 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__(0.0)


class RReLU(Activation):
    """A leaky ReLU whose slope is drawn anew for each value in training, and is the mean of them afterwards."""

    def __init__(self, rng: np.random.Generator, low: float = 1 / 8, high: float = 1 / 3) -> None:
        super().__init__()
        self.rng = rng
        self.low = low
        self.high = high

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        slope = self.rng.uniform(self.low, self.high, x.shape) if train else (self.low + self.high) / 2
        self.derivative = np.where(x > 0, 1, slope).astype(x.dtype)
        return x * self.derivative


class PReLU(Activation):
    """A leaky ReLU that learns its slope, the parameter ``alpha``: one for each of `features`, or one for all."""

    def __init__(self, slope: float = 0.25, features: int = 1, dtype: type = np.float32) -> None:
        super().__init__()
        self.params = {"alpha": np.full(features, slope, dtype)}

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        self.x = x
        self.derivative = np.where(x > 0, 1, along_features(self.params["alpha"], x.ndim)).astype(x.dtype)
        return x * self.derivative

    def backward(self, dy: np.ndarray) -> np.ndarray:
        of_features = (dy * np.minimum(self.x, 0)).sum(axis=(0, *range(2, dy.ndim)))
        alpha = self.params["alpha"]
        self.grads["alpha"] = of_features if len(alpha) > 1 else of_features.sum(keepdims=True)
        return super().backward(dy)


class ELU(Activation):
    """x where it is positive, and ``alpha * (exp(x) - 1)`` elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        negative = self.alpha * np.expm1(np.minimum(x, 0))
        self.derivative = np.where(x > 0, 1, negative + self.alpha).astype(x.dtype)
        return np.where(x > 0, x, negative)


class Sigmoid(Activation):
    """``1 / (1 + exp(-x))``."""

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        y = 0.5 * (1 + np.tanh(0.5 * x))  # the same, without overflow
        self.derivative = y * (1 - y)
        return y


class Tanh(Activation):
    """The hyperbolic tangent."""

    def forward(self, x: np.ndarray, train: bool = True) -> np.ndarray:
        y = np.tanh(x)
        self.derivative = 1 - y * y
        return y


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of ``-log(softmax(logits)[label])``, and its gradient. The last axis of `logits` is the class."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    labels = labels[..., None]
    of_labels = np.take_along_axis(log_probabilities, labels, axis=-1)
    dlogits = np.exp(log_probabilities)
    np.put_along_axis(dlogits, labels, np.exp(of_labels) - 1, axis=-1)
    return -float(of_labels.mean()), dlogits / labels.size


def squared_error(y: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean of the squares of ``y - target``, and its gradient."""
    error = y - target
    return float((error**2).mean()), 2 * error / error.size


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of examples whose label has the largest logit."""
    return float((logits.argmax(axis=-1) == labels).mean())


def decayed_loss(layer: Layer, x: np.ndarray, labels: np.ndarray, decay: float) -> tuple[float, dict[str, np.ndarray]]:
    """Return the cross-entropy plus ``decay / 2`` times the squares of all the layer's values, and its gradients."""
    loss, dlogits = softmax_cross_entropy(layer.forward(x), labels)
    layer.backward(dlogits)
    loss += 0.5 * decay * sum(float((p**2).sum()) for p in layer.params.values())
    return loss, {name: grad + decay * layer.params[name] for name, grad in layer.grads.items()}


def train(net: Layer, opt: fastopt.Optimizer, x: np.ndarray, labels: np.ndarray, batches: Iterable[Any]) -> np.ndarray:
    """Make a step with the cross-entropy of each of `batches`, which index x and labels, and return the losses."""
    losses = []
    for batch in batches:
        loss, dlogits = softmax_cross_entropy(net.forward(x[batch]), labels[batch])
        net.backward(dlogits)
        opt.step(net.grads)
        losses.append(loss)
    return np.array(losses)
