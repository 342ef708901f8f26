"""The matrix of BFGS in NumPy; csrc/bfgs.c has the same bits."""

from __future__ import annotations

import numpy as np

from ..inverse_hessian import PANEL_LANES, Matrix, Vector, panels, rows_in_memory
from ..table import CHUNK, LANES
from .lanes import fold_lanes


class NumpyInverseHessian:
    """The panels as one array each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows = rows_in_memory(size)
        self.panels = [np.zeros((end - first, end)) for first, end in panels(self.rows)]

    def reset(self, scale: float) -> None:
        for (first, end), panel in zip(panels(self.rows), self.panels, strict=True):
            panel[...] = 0
            panel[np.arange(end - first), np.arange(first, end)] = scale

    def update_and_multiply(self, s: Vector, w: Vector, y: Vector, g: Vector) -> tuple[Vector, Vector]:
        vectors = np.zeros((4, self.rows))
        vectors[:, : self.size] = s, w, y, g
        s, w, *factors = vectors
        products = np.zeros((2, self.rows))
        with np.errstate(all="ignore"):
            for (first, end), panel in zip(panels(self.rows), self.panels, strict=True):
                rows = slice(first, end)
                panel += np.multiply.outer(s[rows], w[:end]) + np.multiply.outer(w[rows], s[:end])
                for factor, product in zip(factors, products, strict=True):
                    product[rows] = sums_of_rows(panel, factor[:end])
                    product[:first] += np.add.reduce(panel[:, :first] * factor[rows, None], axis=0)
        return products[0, : self.size], products[1, : self.size]

    def dense(self) -> Matrix:
        matrix = np.zeros((self.rows, self.rows))
        for (first, end), panel in zip(panels(self.rows), self.panels, strict=True):
            matrix[first:end, :end] = panel
            matrix[:end, first:end] = panel.T
        return matrix[: self.size, : self.size]


def sums_of_rows(panel: Matrix, factor: Vector) -> Vector:
    """Return the product of a panel with a vector: the elements of a row in their running sums."""
    products = np.empty(panel.shape[::-1])
    np.multiply(panel.T, factor[:, None], out=products)
    # NumPy adds in index order along any axis but the last. This is several times as fast as along the middle one of
    # three with a short last one.
    lanes = np.add.reduce(products.reshape(-1, PANEL_LANES * len(panel)), axis=0)
    sums: Vector = fold_lanes(lanes.reshape(PANEL_LANES, -1).T)
    return sums


def dot(left: Vector, right: Vector) -> float:
    """Return the sum of the products, in the order of lanes.py."""
    total = 0.0
    with np.errstate(all="ignore"):
        for begin in range(0, left.size, CHUNK):
            size = min(CHUNK, left.size - begin)
            products = np.zeros(-(-size // LANES) * LANES)
            np.multiply(left[begin : begin + size], right[begin : begin + size], out=products[:size])
            lanes = np.add.reduce(products.reshape(-1, LANES), axis=0)
            total += float(fold_lanes(lanes[None])[0])
    return total
