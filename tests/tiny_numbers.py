"""States with numbers below the smallest normal one, shortly before a step in which they are flushed."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastopt.arithmetic import tiny


def with_tiny_numbers(state_dict: dict[str, Any], rng: np.random.Generator, before: int = 2) -> dict[str, Any]:
    """Return a state with tiny numbers, NaN and others in its slots, so many steps before one that flushes.

    Every other array is one step further.
    """
    state = {}
    for number, (name, entries) in enumerate(state_dict["state"].items()):
        state[name] = {slot: sprinkled(slot, values, rng) for slot, values in entries.items()}
        state[name]["step"] = np.array(tiny.FLUSH_STEPS - before + number % 2)
    return {**state_dict, "state": state, "step_count": tiny.FLUSH_STEPS - before + 1}


def sprinkled(slot: str, values: Any, rng: np.random.Generator) -> Any:
    """Return a slot of floats with special numbers at random places; others as they are."""
    if values.ndim == 0 or values.dtype not in (np.float32, np.float64) or slot.endswith("_scale"):
        return values
    smallest = float(np.finfo(values.dtype).smallest_normal)
    least = float(np.finfo(values.dtype).smallest_subnormal)
    specials = [smallest, np.nextafter(smallest, 0, dtype=values.dtype), least, 3 * least, 0.0, np.nan]
    is_signed = (values < 0).any() or slot in ("b", "m", "z", "last", "ema")
    specials += [-special for special in specials] if is_signed else []
    values, places = values.copy(), rng.random(values.shape) < 0.5
    values[places] = rng.choice(np.array(specials, values.dtype), int(places.sum()))
    return values


def tiny_count(values: Any) -> int:
    """Return how many numbers are below the smallest normal one, besides 0."""
    magnitude = np.abs(values)
    return int(((magnitude > 0) & (magnitude < np.finfo(values.dtype).smallest_normal)).sum())
