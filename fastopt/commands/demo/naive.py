"""The same optimizers as textbook NumPy: readable, with a new array for every operation.

The demo compares fastopt with them. A rule takes one parameter, its gradient, its state (an empty dict before the
first step) and the step number, from 1; it changes the parameter in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .mlp import Floats, Layers

State = dict[str, Floats]
Rule = Callable[..., None]


def sgd(
    p: Floats, g: Floats, state: State, t: int, *, lr: float, momentum: float = 0.0, nesterov: bool = False
) -> None:
    """Gradient descent, optionally with momentum (heavy ball or Nesterov)."""
    if momentum:
        b = state["b"] = momentum * state.get("b", 0.0) + g
        g = g + momentum * b if nesterov else b
    p -= lr * g


def adagrad(p: Floats, g: Floats, state: State, t: int, *, lr: float, eps: float = 1e-10) -> None:
    """Adagrad (Duchi, Hazan, Singer 2011)."""
    state["sum"] = state.get("sum", 0.0) + g**2
    p -= lr * g / (np.sqrt(state["sum"]) + eps)


def rmsprop(p: Floats, g: Floats, state: State, t: int, *, lr: float, alpha: float = 0.99, eps: float = 1e-8) -> None:
    """RMSprop (Tieleman, Hinton 2012)."""
    state["v"] = alpha * state.get("v", 0.0) + (1 - alpha) * g**2
    p -= lr * g / (np.sqrt(state["v"]) + eps)


def adam(
    p: Floats,
    g: Floats,
    state: State,
    t: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """Adam (Kingma, Ba 2015); with weight decay, decoupled: AdamW (Loshchilov, Hutter 2019)."""
    beta1, beta2 = betas
    if weight_decay:
        p -= lr * weight_decay * p
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)


class Optimizer:
    """Apply a rule to every array of a network, one after the other.

    Parameters
    ----------
    rule : Rule
        One of this file's functions.
    params : Layers
        Changed in place by `step`.
    lr : float or callable
        The learning rate, or a schedule: a function of the step, from 0.
    **options
        Passed to the rule, such as ``momentum``.
    """

    def __init__(self, rule: Rule, params: Layers, lr: float | Callable[[int], float], **options: Any) -> None:
        self.rule, self.params, self.lr, self.options = rule, params, lr, options
        self.state: dict[tuple[str, str], State] = {(layer, name): {} for layer in params for name in params[layer]}
        self.t = 0

    def step(self, grads: Layers) -> None:
        """Take one step."""
        lr = self.lr(self.t) if callable(self.lr) else self.lr
        self.t += 1
        for (layer, name), state in self.state.items():
            self.rule(self.params[layer][name], grads[layer][name], state, self.t, lr=lr, **self.options)
