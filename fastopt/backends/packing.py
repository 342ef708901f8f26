"""The contract of packing: arrays that lie one after the other in a vector, as csrc/fastopt.h says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arrays.dtypes import Array

#: The beginning of a sum, as in csrc/fastopt.h: what it is already, zero, or its first row.
FROM_SUMS, FROM_ZERO, FROM_ROW = 0, 1, 2


class Rows(NamedTuple):
    """Rows of numbers to add: ``((beginning + rows[0] * scale) + rows[1] * scale) + ...``."""

    #: Vectors of one length. One None at most: the row of the arrays themselves.
    vectors: Sequence[Array | None]
    #: That of all rows: float32, float64 or half precision.
    dtype: np.dtype[Any]
    scale: float
    #: One of those above.
    beginning: int


class PackedArrays(Protocol):
    """Arrays as one vector, which is nowhere as a whole. They stay where they are as long as this is used.

    Attributes
    ----------
    arrays : sequence of (array or None)
        Contiguous, in the order of their memory. None stands for zeros.
    """

    arrays: Sequence[Array | None]

    def pack(self, begin: int, into: Array) -> None:
        """Write the elements from ``begin`` on into an array, in its dtype.

        Numbers become float32 on their way to float16 and bfloat16, and are rounded to nearest, ties to even.
        """

    def unpack(self, begin: int, values: Array) -> None:
        """Write values into the elements from ``begin`` on, of arrays of their dtype."""

    def accumulate(self, begin: int, rows: Rows, sums: Array) -> None:
        """Add rows into sums of their length, in the dtype of the sums; None is the elements from ``begin`` on."""


class Packing(Protocol):
    """Makes vectors of arrays of the same sizes."""

    def of(self, arrays: Sequence[Array | None]) -> PackedArrays:
        """Return these arrays as one vector."""
