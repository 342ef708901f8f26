"""The bounds of arrays: moving them in, and the projected gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import FLOAT64, Array

#: Elements at a time, so that what is computed on the way stays in cache.
BLOCK = 1 << 14


class Box(NamedTuple):
    """The bounds of an array: for each side a number, or an array of its shape and order of memory."""

    lower: Any
    upper: Any

    def in_place(self, at: slice) -> tuple[Any, Any]:
        """Return the bounds of some of the elements, in their order of memory."""
        lower, upper = (side if isinstance(side, float) else in_a_row(side)[at] for side in self)
        return lower, upper


def in_a_row(array: Array) -> Array:
    """Return a contiguous array as one dimension, in its order of memory, without a copy."""
    return (array if array.flags.c_contiguous else array.T).reshape(-1)


def copies_of(arrays: Sequence[Array]) -> list[Array]:
    """Return copies of contiguous arrays, each as one dimension in its order of memory."""
    return [in_a_row(array).copy() for array in arrays]


def write_back(arrays: Sequence[Array], copies: Sequence[Array]) -> None:
    """Write such copies into their arrays."""
    for array, copy in zip(arrays, copies, strict=True):
        in_a_row(array)[...] = copy


def blocks(array: Array) -> Iterator[slice]:
    for begin in range(0, array.size, BLOCK):
        yield slice(begin, begin + BLOCK)


def move_in(array: Array, box: Box) -> int:
    """Move the elements outside the bounds to the nearest bound; return how many there were. NaN stays."""
    flat, count = in_a_row(array), 0
    for at in blocks(flat):
        lower, upper = box.in_place(at)
        values = flat[at]
        for bound, is_outside in ((lower, values < lower), (upper, values > upper)):
            np.copyto(values, bound, where=is_outside)  # np.clip gives some zeros another sign
            count += int(np.count_nonzero(is_outside))
    return count


def largest_projected(arrays: Sequence[Array], grads: Sequence[Array], boxes: Sequence[Box | None]) -> float:
    """Return the largest absolute element of ``x - clip(x - g)``, or of ``g`` without bounds; NaN if there is one.

    The gradients are in their arrays' order of memory.
    """
    largest = 0.0
    with np.errstate(all="ignore"):
        for array, grad, box in zip(arrays, grads, boxes, strict=True):
            flat, g = in_a_row(array), in_a_row(grad)
            for at in blocks(flat):
                part = g[at] if g.dtype.kind == "f" else g[at].astype(FLOAT64)
                if box is not None:
                    x = flat[at].astype(FLOAT64)
                    part = x - np.clip(x - part, *box.in_place(at))
                largest = float(np.maximum(largest, np.maximum(part.max(), -part.min())))  # which keep NaN
    return abs(largest)  # -0.0 is none
