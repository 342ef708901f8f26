"""The matrix of BFGS in memory that csrc/bfgs.c updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...arrays.memory import address, aligned
from .. import threads
from ..inverse_hessian import PANEL_ROWS, Matrix, Vector, panels, rows_in_memory
from .library import DOUBLE, ffi, lib


class NativeInverseHessian:
    """The panels one after the other. One pass over them is one call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows = rows_in_memory(size)
        sizes = [(end - first) * end for first, end in panels(self.rows)]
        self.count = len(sizes)
        #: Where each panel begins, and the end.
        self.places = np.cumsum([0, *sizes])
        self.memory = zeros(self.places[-1])
        self.panels = ffi.new("fo_array[]", self.count)
        chunks = 0
        for panel, place, length in zip(self.panels, self.places.tolist(), sizes, strict=False):
            panel.param = ffi.cast("void *", address(self.memory) + 8 * place)
            panel.length, panel.first_chunk = length, chunks
            panel.dtype = panel.param_dtype = DOUBLE
            chunks += -(-length // lib.FO_CHUNK)
        #: s, w, y, g.
        self.vectors = zeros(4 * self.rows).reshape(4, -1)
        self.products = np.zeros((2, self.rows))
        self.columns = zeros(PANEL_ROWS * self.count * (self.count - 1))
        self.arguments = ffi.new("fo_bfgs_vectors *", [doubles(vector) for vector in self.vectors])
        self.results = doubles(self.columns), doubles(self.products)

    def reset(self, scale: float) -> None:
        self.memory[:] = 0
        for (first, end), place in zip(panels(self.rows), self.places.tolist(), strict=False):
            rows = end - first
            square = self.memory[place + first * rows :][: rows * rows]
            square[:: rows + 1] = scale

    def update_and_multiply(self, s: Vector, w: Vector, y: Vector, g: Vector) -> tuple[Vector, Vector]:
        self.vectors[:, : self.size] = s, w, y, g
        lib.fo_bfgs_pass(self.panels, self.count, self.rows, self.arguments, *self.results, threads.get_num_threads())
        y_product, g_product = self.products[:, : self.size].copy()
        return y_product, g_product

    def dense(self) -> Matrix:
        matrix = np.zeros((self.rows, self.rows))
        for (first, end), place in zip(panels(self.rows), self.places.tolist(), strict=False):
            for begin, width in blocks(first, end):
                block = self.memory[place + begin * (end - first) :][: (end - first) * width].reshape(-1, width)
                matrix[first:end, begin : begin + width] = block
                matrix[begin : begin + width, first:end] = block.T
        return matrix[: self.size, : self.size]


def blocks(first: int, end: int) -> Iterator[tuple[int, int]]:
    """Return the first column and the width of the blocks of a panel."""
    for begin in range(0, first, lib.FO_PANEL_COLUMNS):
        yield begin, min(lib.FO_PANEL_COLUMNS, first - begin)
    yield first, end - first


def zeros(size: int) -> Vector:
    """Return zeros that begin at a cache line."""
    values: Vector = aligned(8 * size).view(np.float64)
    values[:] = 0
    return values


def dot(left: Vector, right: Vector) -> float:
    """Return the sum of the products of two vectors, as numpy/bfgs.py does."""
    return float(lib.fo_dot(doubles(left), doubles(right), left.size))


def doubles(values: Vector) -> object:
    """Return the address of an array's numbers for C; the array must outlive it."""
    return ffi.from_buffer("double[]", values)
