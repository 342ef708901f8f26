"""Sums of squares of plain arrays, and sums of rows, on the default backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arithmetic.rules import sgd
from ..arrays.dtypes import Array
from .choosing import choice, host_backend
from .table import HyperRow

#: A row that leaves a gradient as it is.
PLAIN = HyperRow(sgd, 1.0, np.inf, 1.0, 0.0, 1.0, ())


def add_rows(values: Array, order: npt.NDArray[Any], firsts: npt.NDArray[Any]) -> Array:
    """Return sums of rows, as :meth:`fastopt.backends.backend.Backend.add_rows` does."""
    return host_backend(choice(None)).add_rows(values, order, firsts)


def sum_squares(arrays: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each C-contiguous float32 or float64 array, added in double precision."""
    table = host_backend(choice(None)).table(arrays, [()] * len(arrays))
    table.set_grads(arrays)
    sums: npt.NDArray[np.float64] = table.sum_products([PLAIN], "clipped_grad", "clipped_grad")
    return sums
