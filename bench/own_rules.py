"""Three optimizers that nobody has."""

from typing import Any

import fastopt
from fastopt.rules import maximum, minimum, sign, sqrt, where


@fastopt.optimizer(lr=1e-3, betas=(0.9, 0.99), most=1.0)
def ClippedLion(h: Any, p: Any, g: Any, m: Any) -> Any:
    """Lion whose momentum stays within bounds."""
    beta1, beta2 = h.betas
    p = p - h.lr * sign(beta1 * m + (1 - beta1) * g)
    m = minimum(maximum(beta2 * m + (1 - beta2) * g, -h.most), h.most)
    return p, m


@fastopt.optimizer(lr=1e-3, beta=0.9, keep=0.99, eps=1e-8)
def Lamprey(h: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    """Momentum over the largest gradients of late, half of it where the two disagree."""
    m = h.beta * m + (1 - h.beta) * g
    v = maximum(h.keep * v, g**2)
    p = p - h.lr * where(m * g > 0, m, 0.5 * m) / (sqrt(v) + h.eps)
    return p, m, v


@fastopt.optimizer(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, most=1.0)
def BoundedAdam(h: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    """Adam without bias correction, whose steps are at most ``lr * most``."""
    beta1, beta2 = h.betas
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    p = p - h.lr * maximum(minimum(m / (sqrt(v) + h.eps), h.most), -h.most)
    return p, m, v
