"""Sparse coding by coordinate descent: what a backend gets. csrc/coordinates.h has the same numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.memory import aligned
from .table import LANES

#: The most sweeps over the atoms in use before a jump, and a look at all atoms.
SWEEPS = 8

#: How many codes a jump takes at most.
COMPACT = 128

#: A code is left out of a jump where its pivot is not above this part of its diagonal element: float32 rounds there.
PIVOT = 1e-6

#: How close to the threshold of the atoms that come into use: a part of the way up to the largest correlation.
ENTRY = 0.5

#: Sweeps end when the largest violation is below this part of that of the atoms not in use,
COARSE = 0.2

#: or when it makes up this part of the duality gap that is allowed.
FINE = 0.4


class Coding(NamedTuple):
    """The problem of finding each row's codes h, which minimize ``|y - D'h|^2 / 2 + l1 |h|_1 + l2 |h|^2 / 2``.

    All arrays are contiguous, and those named (.., stride) are as :func:`padded` returns them.
    """

    #: (n, features), of float32 or float64.
    rows: Array
    #: (features, stride): the transpose of D, in double precision.
    dictionary: npt.NDArray[np.float64]
    #: (atoms, stride), in the dtype of the rows: D D'.
    gram: Array
    #: (atoms,), in the dtype of the rows: ``1 / (gram[i, i] + l2)``, or 0 for an atom whose code stays 0.
    inverse: Array
    l1: float
    l2: float
    #: A row is solved when its duality gap is not above this times y'y.
    tolerance: float
    #: Violations up to this are rounding: no jump is worth while.
    jump_above: float
    #: The most sweeps over the atoms in use of a row.
    max_iterations: int
    #: Whether no code is negative.
    positive: bool


def padded_copy(matrix: Array, dtype: Any) -> Array:
    """Return a copy of a matrix with columns of zeros added, so that all vectors of its rows are whole and aligned."""
    into = empty_padded(len(matrix), matrix.shape[1], dtype)
    into[:, : matrix.shape[1]] = matrix
    into[:, matrix.shape[1] :] = 0
    return into


def empty_padded(rows: int, columns: int, dtype: Any) -> Array:
    """Return an array for a matrix of this shape, padded."""
    stride = -(-columns // LANES) * LANES
    memory: Array = aligned(rows * stride * np.dtype(dtype).itemsize).view(dtype)
    return memory.reshape(rows, stride)
