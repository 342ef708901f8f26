"""Powers of numbers that a user or a file chose."""

from __future__ import annotations

import math


def power(base: float, exponent: float) -> float:
    """Return ``base**exponent`` of a base of at least 0; infinity where it is beyond double precision."""
    try:
        result: float = float(base) ** float(exponent)
        return result
    except OverflowError:
        return math.inf
