"""
A small network
===============

The network classifies the points of two spirals. The example shows a schedule, clipping by the global norm, weight
decay on the weights alone, and averaged parameters. Needs fastopt only::

    python examples/train_mlp.py
"""

from __future__ import annotations

import numpy as np

import fastopt

STEPS = 500
BATCH = 64


def spirals(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random points of two spirals, and the number of each point's spiral."""
    label = rng.integers(2, size=count)
    angle = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, count))
    radius = angle / (3 * np.pi) + rng.normal(scale=0.04, size=count)
    turned = angle + np.pi * label
    return np.stack([radius * np.cos(turned), radius * np.sin(turned)], axis=1).astype(np.float32), label


def new_params(rng: np.random.Generator) -> dict:
    sizes = {"hidden1": (2, 64), "hidden2": (64, 64), "out": (64, 1)}
    return {
        name: {"W": fastopt.init.he_normal(rng, shape), "b": np.zeros(shape[1], np.float32)}
        for name, shape in sizes.items()
    }


def predict(params: dict, x: np.ndarray) -> list[np.ndarray]:
    """Return the input of each layer, then the logits."""
    layers = [x]
    for name in ("hidden1", "hidden2"):
        layers.append(np.maximum(layers[-1] @ params[name]["W"] + params[name]["b"], 0))
    return [*layers, (layers[-1] @ params["out"]["W"] + params["out"]["b"])[:, 0]]


def gradients(params: dict, x: np.ndarray, label: np.ndarray) -> dict:
    """Return the gradient of the mean logistic loss, in the structure of the parameters."""
    *inputs, logits = predict(params, x)
    delta = ((1 / (1 + np.exp(-logits)) - label) / len(label))[:, None]
    grads = {}
    for name, layer_input in zip(("out", "hidden2", "hidden1"), reversed(inputs), strict=True):
        grads[name] = {"W": layer_input.T @ delta, "b": delta.sum(axis=0)}
        delta = (delta @ params[name]["W"].T) * (layer_input > 0)
    return grads


def accuracy(params: dict, x: np.ndarray, label: np.ndarray) -> float:
    return float(((predict(params, x)[-1] > 0) == label).mean())


def main() -> None:
    rng = np.random.default_rng(0)
    x, label = spirals(rng, 2000)
    x_test, label_test = spirals(rng, 1000)
    params = new_params(rng)
    opt = fastopt.AdamW(
        fastopt.group_by(params, {"*.W": {"weight_decay": 0.01}, "*.b": {"weight_decay": 0.0}}),
        lr=fastopt.schedules.warmup_cosine(0.01, warmup=50, total=STEPS),
        clip_global_norm=1.0,
        ema_decay=0.99,
    )
    for _ in range(STEPS):
        batch = rng.integers(len(x), size=BATCH)
        info = opt.step(gradients(params, x[batch], label[batch]))  # changes the arrays of params in place
        if info.step % 100 == 0:
            print(f"step {info.step}: lr {info.lr:.2g}, test accuracy {accuracy(params, x_test, label_test):.1%}")
    with opt.averaged():  # params has the averages here, and its own values again afterwards
        print(f"averaged parameters: test accuracy {accuracy(params, x_test, label_test):.1%}")


if __name__ == "__main__":
    main()
