"""Write an optimizer of your own: a rule, its scalars, and a class that names its options.

The rule below steps by momentum divided by its own magnitude, softened by eps: the sign of the momentum where it is
large, and a smooth transition where it is small. Schedules, clipping, decay, averages, saving and the rest work as for
any other optimizer. Needs fastopt only:

    python examples/own_rule.py
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt.rules import absolute


class SoftSignScalars(NamedTuple):
    momentum: float
    one_minus_momentum: float
    lr: float
    eps: float


# A rule is arithmetic and nothing else. Its arguments are its scalars h, the parameter p, the gradient g and its slots,
# here m; it returns the new parameter and slots. Every number in it is a scalar (h.one_minus_momentum, not
# 1 - h.momentum), so that it is computed in double precision once, and cast to the dtype of the parameters.
def soft_sign(h: SoftSignScalars, p: Any, g: Any, m: Any) -> tuple[Any, Any]:
    m = h.momentum * m + h.one_minus_momentum * g
    p = p - h.lr * (m / (absolute(m) + h.eps))
    return p, m


class SoftSign(fastopt.Optimizer):
    """``m = momentum * m + (1 - momentum) * g``, then ``p -= lr * m / (abs(m) + eps)``."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        **common: Any,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options, **common)

    def rule(self, group: dict[str, Any]) -> Any:
        return soft_sign

    def hyper(self, group: dict[str, Any], step: int) -> SoftSignScalars:
        return SoftSignScalars(group["momentum"], 1 - group["momentum"], group["lr"], group["eps"])


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
