"""
An optimizer of your own
========================

An optimizer is a rule, and the options that the rule reads.

The rule below steps by momentum divided by its own magnitude, softened by eps: the sign of the momentum where it is
large, and a smooth transition where it is small. Schedules, clipping, decay, averages, saving and the rest work as for
any other optimizer. Needs fastopt only; with llvmlite (the extra "rules") the rule is compiled::

    python examples/own_rule.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastopt
from fastopt.rules import absolute


# A rule is arithmetic and nothing else. Its arguments are its numbers h, the parameter p, the gradient g and its slots,
# here m; it returns the new parameter and slots.
@fastopt.optimizer(lr=0.01, momentum=0.9, eps=1e-3)
def SoftSign(h: Any, p: Any, g: Any, m: Any) -> Any:
    """``m = momentum * m + (1 - momentum) * g``, then ``p -= lr * m / (abs(m) + eps)``."""
    m = h.momentum * m + (1 - h.momentum) * g
    p = p - h.lr * m / (absolute(m) + h.eps)
    return p, m


def main() -> None:
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(256, 3)), np.array([1.0, -2.0, 0.5])
    w = np.zeros(3)
    opt = SoftSign(w, lr=fastopt.schedules.cosine(0.05, total=200), clip_global_norm=1.0)
    for _ in range(200):
        opt.step(x.T @ (x @ w - x @ true) / len(x))
    print(f"found {w.round(3)}, wanted {true}; slots: {list(opt.state['0'])}")


if __name__ == "__main__":
    main()
