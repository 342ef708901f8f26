"""The history of L-BFGS with bounds in NumPy; csrc/history.c is the twin."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import FLOAT64, Array
from ..history import (
    DIRECTED,
    NO_MOVE,
    READ,
    BoundNumbers,
    History,
    Move,
    Reading,
    have_bounds,
)
from .history import NumpyHistory, Piece, Source, combination, dots, largest_of, total


class Bounds(NamedTuple):
    """The bounds of a piece's elements, in the parameter's dtype."""

    lower: Array
    upper: Array

    def active(self, x: Array, grad: Array) -> npt.NDArray[np.bool_]:
        """Return where an element is at a bound, and the descent along the gradient leads out."""
        active: npt.NDArray[np.bool_] = ((x <= self.lower) & (grad > 0)) | ((x >= self.upper) & (grad < 0))
        return active

    def clip(self, x: Array) -> Array:
        raised = np.where(x < self.lower, self.lower, x)
        return np.where(raised > self.upper, self.upper, raised)

    def projection(self, x: Array, grad: Array) -> Array:
        """Return x - clip(x - grad), without the rounding of its differences."""
        grad = np.where(grad > x - self.lower, x - self.lower, grad)
        return np.where(grad < x - self.upper, x - self.upper, grad)

    def excess(self, x: Array, d: Array, step_size: float) -> float:
        """Return by how much a step is longer than the way to the first bound on it; 0: there is no bound."""
        bound = np.where(d > 0, self.upper, self.lower)
        with np.errstate(all="ignore"):
            ratios = np.abs(step_size * d) / np.abs(bound - x)  # NaN where both are 0
        return float(np.fmax.reduce(ratios, axis=None, initial=0.0))


class BoundedHistory(NumpyHistory):
    """See ``backends/history.py``. Here s, and the direction to the first trial, are differences of parameters."""

    has_bounds = True

    def __init__(self, source: Source, size: int, numbers: BoundNumbers | None) -> None:
        super().__init__(source, size)
        self.numbers = numbers

    def begin_now(self) -> Reading:
        reading = super().begin_now()
        self.pairs.active[:] = -1, 0, 0, 0
        return reading

    def direct_now(self, step_size: float) -> Move:
        pairs, numbers = self.pairs, self.numbers_of_pairs(self.count)
        found = self.coefficients(numbers)
        if found is None:
            return NO_MOVE
        of_grad, of_pairs = found
        terms = list(zip(numbers, [each for two in of_pairs for each in two], strict=True))
        pairs.make_room()
        slope, d_square, moved, excess = self.lead(of_grad, terms, step_size)
        if not slope < 0 and 1 < excess < math.inf:
            self.put_back_now()
            step_size /= excess
            slope, d_square, moved, excess = self.lead(of_grad, terms, step_size)
        longest = math.inf if excess == 0 else step_size / min(excess, 1.0)
        with np.errstate(all="ignore"):  # the square of a very short step vanishes
            of_unit = np.array([slope, d_square]) / [step_size, step_size * step_size]
        return Move(float(of_unit[0]), float(of_unit[1]), moved, step_size, longest)

    def coefficients(self, numbers: list[int]) -> tuple[float, list[tuple[float, float]]] | None:
        """Return the coefficients of the gradient and the pairs in the direction."""
        pairs = self.pairs
        if self.count == 0:
            return pairs.coefficients()
        if pairs.active[0] != 0 and pairs.active[3] < self.count:
            self.find_free_products(numbers)
        return pairs.coefficients() if pairs.active[0] == 0 else pairs.subspace_coefficients()

    def find_free_products(self, numbers: list[int]) -> None:
        """Find the products of the pairs' free elements, and how many elements are not free."""
        pairs, known = self.pairs, int(self.pairs.active[3])
        grad = self.vectors.grads[pairs.accepted]
        found = self.over_pieces(partial(self.free_piece, grad, numbers, known), len(numbers) ** 2)
        lengths = [2 * pair + 2 for pair in range(known, self.count)]
        sums = total([products for products, _ in found], sum(lengths))
        for pair, products in zip(range(known, self.count), np.split(sums, np.cumsum(lengths[:-1])), strict=True):
            pairs.set_free_products(pair, products.reshape(-1, 2, 2))
        pairs.active[0], pairs.active[3] = sum(active for _, active in found), self.count

    def lead(self, of_grad: float, terms: list[tuple[int, float]], step_size: float) -> tuple[float, float, int, float]:
        """Make the first trial and the direction to it; return its slope and square, how many elements moved, and by
        how much the step is longer than the way to the first bound."""
        pairs = self.pairs
        pairs.trial[0], pairs.trial[5], pairs.state[2:] = step_size, step_size, (True, DIRECTED)
        grad = self.vectors.grads[pairs.accepted]
        lead = partial(self.lead_piece, grad, of_grad, terms, self.direction())
        found = self.over_pieces(lead, len(terms))
        ((slope, d_square),) = total([sums for sums, _, _ in found], 1).tolist()
        pairs.trial[:2] = 1.0, d_square
        return slope, d_square, sum(moved for _, moved, _ in found), max((most for _, _, most in found), default=0.0)

    def try_now(self, step_size: float) -> int:
        return super().try_now(step_size / float(self.pairs.trial[5]))

    def read_now(self) -> Reading:
        pairs, count = self.pairs, self.count
        numbers, direction = self.numbers_of_pairs(count + 1), self.direction()
        grads = self.vectors.grads[pairs.accepted], self.vectors.grads[1 - pairs.accepted]
        read = partial(self.read_piece, grads, numbers, direction)
        length = len(numbers)
        sums, largest, nonfinite = self.reading(read, 2 * length + 2)
        with_s = sums[length + 1 : -1].reshape(-1, 2, 2)
        pairs.set_trial(1.0, float(with_s[-1, 0, 0]), sums[:length].reshape(-1, 2, 2))
        pairs.set_s_products(with_s[:, :, 0])
        pairs.set_free_products(count, with_s)  # right if the same elements are free: s is 0 elsewhere
        pairs.active[1:3] = sums[-1, 1], sums[length, 0]
        pairs.state[3] = READ
        slope, grad_square = float(sums[-1, 0]) / float(pairs.trial[5]), float(sums[length, 1])
        curvature, s_square, y_square = pairs.trial[2:5].tolist()
        return Reading(slope, curvature, s_square, y_square, largest, grad_square, nonfinite)

    def begin_piece(self, accepted: int, numbers: list[int], piece: Piece) -> tuple[Array, float, int]:
        """Take the gradient; return the products of these vectors, and its own, with the free gradient (twice)."""
        grad, bounds, x = self.take_grad(piece, accepted), self.bounds(piece), self.values(piece)
        free = piece.with_zeros(without(grad, bounds.active(x, grad)))
        products = dots([*map(piece.whole, numbers), free], free, free)
        return products, *largest_of(grad, bounds.projection(x, grad))

    def free_piece(self, accepted: int, numbers: list[int], known: int, piece: Piece) -> tuple[Array, int]:
        """Return the products of the free elements of pairs, from one on, and how many elements are not free."""
        active = self.bounds(piece).active(self.values(piece), piece.vector(accepted))
        products = []
        for pair in range(known, self.count):
            s, y = (
                piece.with_zeros(without(piece.vector(number), active)) for number in numbers[2 * pair : 2 * pair + 2]
            )
            products.append(dots([piece.whole(number) for number in numbers[: 2 * pair + 2]], s, y))
        return np.concatenate([np.zeros((len(piece.vectors), 0, 2)), *products], axis=1), int(np.count_nonzero(active))

    def lead_piece(
        self, accepted: int, of_grad: float, terms: list[tuple[int, float]], direction: int, piece: Piece
    ) -> tuple[Array, int, float]:
        """Make the first trial and the direction to it; return the sums of a move for each chunk, how many elements
        moved, and the excess of the step."""
        x, grad, bounds = self.values(piece), piece.vector(accepted), self.bounds(piece)
        active = bounds.active(x, grad)
        free, d = without(grad, active), piece.vector(direction)
        d[...] = without(combination(of_grad, terms, free, piece), active)
        excess = bounds.excess(x.astype(FLOAT64), d.astype(FLOAT64), float(self.pairs.trial[0]))
        piece.vector(self.vectors.accepted)[...] = x
        moved = self.move(direction, piece)
        d[...] = x - piece.vector(self.vectors.accepted)
        own = piece.whole(direction)
        return dots([own], piece.with_zeros(free), own), moved, excess

    def move(self, direction: int, piece: Piece) -> int:
        super().move(direction, piece)
        x = self.values(piece)
        x[...] = self.bounds(piece).clip(x)
        return int(np.count_nonzero(x != piece.vector(self.vectors.accepted)))

    def read_piece(
        self, grads: tuple[int, int], numbers: list[int], direction: int, piece: Piece
    ) -> tuple[Array, float, int]:
        """Take the gradient and make the pair (the last two of ``numbers``); return the products of these vectors.

        Each is multiplied by the pair's y and by the free gradient. The free gradient's row follows; instead of its
        product with y it has the number of elements that are free at one of the two points alone. Then each vector is
        multiplied by s and by the free y, and the direction by the gradient; beside it stands the number of elements
        that are not free.
        """
        grad, old, bounds = self.take_grad(piece, grads[1]), piece.vector(grads[0]), self.bounds(piece)
        x, accepted = self.values(piece), piece.vector(self.vectors.accepted)
        s, y = numbers[-2:]
        piece.vector(s)[...] = x - accepted
        piece.vector(y)[...] = grad - old
        active = bounds.active(x, grad)
        free, vectors = piece.with_zeros(without(grad, active)), [*map(piece.whole, numbers)]
        products = dots([*vectors, free], piece.whole(y), free)
        products[:, -1, 0] = np.count_nonzero(active != bounds.active(accepted, old), axis=1)
        free_y = piece.with_zeros(without(piece.vector(y), active))
        with_s = dots(vectors, piece.whole(s), free_y)
        slope = dots([piece.whole(direction)], piece.whole(grads[1]), piece.whole(grads[1]))
        slope[:, 0, 1] = np.count_nonzero(active, axis=1)
        return np.concatenate([products, with_s, slope], axis=1), *largest_of(grad, bounds.projection(x, grad))

    def bounds(self, piece: Piece) -> Bounds:
        dtype, i = piece.vectors.dtype.type, piece.array
        low, high = (-math.inf, math.inf) if self.numbers is None else (side[i] for side in self.numbers)
        lower, upper = np.asarray(dtype(low)), np.asarray(dtype(high))
        lowers, uppers = self.source.lowers[i], self.source.uppers[i]
        if lowers is not None:
            lower = np.where(piece.of(lowers) > lower, piece.of(lowers), lower)
        if uppers is not None:
            upper = np.where(piece.of(uppers) < upper, piece.of(uppers), upper)
        return Bounds(lower, upper)


def without(values: Array, at: npt.NDArray[np.bool_]) -> Array:
    """Return values with zeros at these places."""
    values = values.copy()
    values[at] = 0
    return values


def history_of(source: Source, size: int, numbers: BoundNumbers | None) -> History:
    """Return a history of this size, with bounds if there are any."""
    if have_bounds(numbers, [*source.lowers, *source.uppers]):
        return BoundedHistory(source, size, numbers)
    return NumpyHistory(source, size)
