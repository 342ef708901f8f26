"""The contract of packing: arrays that lie one after the other in a vector, as csrc/fastopt.h says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..arrays.dtypes import Array

#: The beginning of a sum, as in csrc/fastopt.h: what it is already, zero, or its first row.
FROM_SUMS, FROM_ZERO, FROM_ROW = 0, 1, 2


class Packing(Protocol):
    """Copies arrays into their places in a vector, and back. Arrays are contiguous, in the order of their memory."""

    def keep(self, arrays: Sequence[Array]) -> None:
        """Remember where these arrays are, for calls that pass this very sequence; no array may move until then."""

    def pack(self, arrays: Sequence[Array | None], vector: Array, begin: int, end: int) -> None:
        """Write elements ``begin`` to ``end`` of the vector, in its dtype; those of None are zeros.

        Numbers become float32 on their way to float16 and bfloat16, and are rounded to nearest, ties to even.
        """

    def unpack(self, vector: Array, arrays: Sequence[Array], begin: int, end: int) -> None:
        """Write elements ``begin`` to ``end`` of the vector into arrays of its dtype."""
