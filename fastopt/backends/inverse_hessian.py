"""The matrix of BFGS: its interface, and how it is cut into panels; csrc/bfgs.c is the kernel."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float64]

#: The rows of a panel, and the running sums of a row, as in csrc/fastopt.h.
PANEL_ROWS = 64
PANEL_LANES = 8


class InverseHessian(Protocol):
    """A symmetric matrix in double precision.

    A panel is PANEL_ROWS rows, up to the last column of the square on the diagonal. The product with a vector is the
    panel's part of it plus, for the columns before the square, the parts of the panels below, added in their order. The
    elements of a row are added in PANEL_LANES running sums, those of a column in the order of the rows.
    """

    @property
    def size(self) -> int: ...

    def reset(self, scale: float) -> None:
        """Make it the identity times this number."""

    def update_and_multiply(self, s: Vector, w: Vector, y: Vector, g: Vector) -> tuple[Vector, Vector]:
        """Add s w' + w s', and return the products with y and with g, in one pass."""

    def dense(self) -> Matrix:
        """Return a copy of all its elements."""


def rows_in_memory(size: int) -> int:
    """Return how many rows the memory has for a matrix of this size; the others are never read."""
    return -(-size // PANEL_LANES) * PANEL_LANES


def panels(rows: int) -> list[tuple[int, int]]:
    """Return the first row of each panel, and the row behind it."""
    return [(first, min(first + PANEL_ROWS, rows)) for first in range(0, rows, PANEL_ROWS)]
