"""Numbers in a dtype that may not hold them: rounded up or down, so that a bound is never exceeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import FLOAT32, Array

#: A bfloat16 number is a float32 one without these bits.
LOW_BITS = np.uint32(0xFFFF)


def rounded_up(values: npt.NDArray[Any], dtype: str) -> Array:
    """Return the least numbers of this dtype that are not below ``values``, in its compute dtype.

    ``values`` are of float64, or another float dtype of NumPy's; none is NaN.
    """
    with np.errstate(all="ignore"):
        if dtype != "bfloat16":
            rounded = next_up_where_below(values.astype(dtype), values)
            return rounded if dtype == "float64" else rounded.astype(FLOAT32)
        bits = next_up_where_below(values.astype(FLOAT32), values).view(np.uint32)
        is_between, is_positive = bits & LOW_BITS > 0, bits >> np.uint32(31) == 0
        up: Array = (bits & ~LOW_BITS) + (is_between & is_positive) * (LOW_BITS + np.uint32(1))
        return up.view(FLOAT32)


def rounded_down(values: npt.NDArray[Any], dtype: str) -> Array:
    """Return the greatest numbers of this dtype that are not above ``values``, in its compute dtype."""
    return -rounded_up(-values, dtype)


def next_up_where_below(rounded: Array, values: npt.NDArray[Any]) -> Array:
    """Return ``rounded``, and the next greater number where it is below its value."""
    return np.where(rounded < values, np.nextafter(rounded, rounded.dtype.type(np.inf)), rounded)
