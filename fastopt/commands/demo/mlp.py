"""A multilayer perceptron in plain NumPy: ReLU layers, softmax cross entropy, gradients by hand.

The parameters are a dict of layers, ``{"hidden1": {"W": ..., "b": ...}, ...}``, and so are the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Layers = dict[str, dict[str, Floats]]


def init(rng: np.random.Generator, sizes: Sequence[int], dtype: DTypeLike = np.float32) -> Layers:
    """Draw He-initialised parameters.

    Parameters
    ----------
    rng : numpy.random.Generator
        The source of the weights.
    sizes : sequence of int
        The number of inputs, of units in each hidden layer, and of classes.
    dtype : dtype, optional
        The floating-point type of every array.

    Returns
    -------
    Layers
        ``"hidden1"``, ``"hidden2"``, ..., ``"out"``, each with weights ``"W"`` and biases ``"b"``.
    """
    names = [f"hidden{i}" for i in range(1, len(sizes) - 1)] + ["out"]
    return {
        name: {
            "W": rng.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs)).astype(dtype),
            "b": np.zeros(outputs, dtype),
        }
        for name, inputs, outputs in zip(names, sizes[:-1], sizes[1:], strict=True)
    }


def forward(params: Layers, x: Floats) -> list[Floats]:
    """Return the input of every layer, in order, then the logits."""
    *hidden, out = params.values()
    activations = [x]
    for layer in hidden:
        activations.append(np.maximum(activations[-1] @ layer["W"] + layer["b"], 0))
    return [*activations, activations[-1] @ out["W"] + out["b"]]


def loss_and_grads(params: Layers, x: Floats, labels: Labels) -> tuple[float, Layers]:
    """Return the mean cross entropy of a batch and its gradient, in the structure of `params`."""
    *inputs, logits = forward(params, x)
    rows = np.arange(len(labels))
    # Subtract the largest logit so that exp cannot overflow.
    logits -= logits.max(axis=1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -float(log_probs[rows, labels].mean())

    delta = np.exp(log_probs)
    delta[rows, labels] -= 1
    delta /= len(labels)
    grads: Layers = {}
    for name, a in zip(reversed(params), reversed(inputs), strict=True):
        grads[name] = {"W": a.T @ delta, "b": delta.sum(axis=0)}
        # For ReLU, a > 0 is the derivative of the activation that made a.
        delta = (delta @ params[name]["W"].T) * (a > 0)
    return loss, grads


def accuracy(params: Layers, x: Floats, labels: Labels) -> float:
    """Return the fraction of rows of `x` whose largest logit is that of the label."""
    return float((forward(params, x)[-1].argmax(axis=1) == labels).mean())
