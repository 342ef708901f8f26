"""The optimizers that the demo shows: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import fastopt

from . import naive


class Method(NamedTuple):
    """One optimizer of the demo: a row of `METHODS`; `rule` is its naive twin."""

    label: str
    optimizer: Callable[..., fastopt.Optimizer]
    rule: naive.Rule
    peak_lr: float
    options: dict[str, Any]


METHODS = [
    Method("SGD", fastopt.SGD, naive.sgd, 0.2, {}),
    Method("SGD momentum", fastopt.SGD, naive.sgd, 0.05, {"momentum": 0.9}),
    Method("SGD Nesterov", fastopt.SGD, naive.sgd, 0.05, {"momentum": 0.9, "nesterov": True}),
    Method("Adagrad", fastopt.Adagrad, naive.adagrad, 0.01, {}),
    Method("RMSprop", fastopt.RMSprop, naive.rmsprop, 1e-3, {}),
    Method("Adam", fastopt.Adam, naive.adam, 1e-3, {}),
    Method("AdamW", fastopt.AdamW, naive.adam, 1e-3, {"weight_decay": 0.01}),
]
