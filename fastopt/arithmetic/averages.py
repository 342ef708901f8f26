"""The weights of averages of the parameters."""

from __future__ import annotations


def ema_weight(decay: float, bias_correction: bool, step: int) -> float:
    """Return the weight of the new parameter in an exponential average, at an array's step number ``step`` (from 1)."""
    return (1.0 - decay) / (1.0 - decay**step) if bias_correction else 1.0 - decay


def polyak_weight(start: int, step: int) -> float:
    """Return the weight of the new parameter in the mean from step number ``start`` on; 1 before that step."""
    return 1.0 / (step - start + 1) if step >= start else 1.0
