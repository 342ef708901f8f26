"""The history of L-BFGS: its interface, the numbers of its pairs, and how its vectors lie in memory.

A pair is a step s and the change y of the gradient along it. The numbers are products of these vectors, from which the
two-loop recursion makes the next direction's coefficients; csrc/history.c is the twin of :class:`Pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.memory import CACHE_LINE, address
from .subspace import subspace_coefficients
from .table import CHUNK, LANES

#: The lower and the upper bounds of the arrays, one number for each; infinite: none.
BoundNumbers: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

#: A pair joins the others if its curvature s'y is above this times |s| |y|.
LEAST_CURVATURE = 1e-10

#: How far the next pair is.
NO_DIRECTION, DIRECTED, READ = range(3)

#: The operation that must come before another one of a history.
EARLIER = {"try_step": "direct", "read": "direct or try_step", "accept": "read"}


class Reading(NamedTuple):
    """The numbers that are read at a trial point. Sums are made in double precision, in the order of numpy/lanes.py.

    The free gradient is the gradient with zeros where a bound is active: there its descent leads out of the bounds.
    """

    #: The derivative of the loss by the step size: the product of the gradient with the direction.
    slope: float
    #: s'y of the trial's pair, and the squares of |s| and |y|.
    curvature: float
    s_square: float
    y_square: float
    #: The largest magnitude in the projected gradient x - clip(x - g), without elements that are not finite.
    grad_max: float
    #: The sum of squares of the free gradient.
    grad_square: float
    #: How many elements of the gradient are not finite.
    nonfinite: int


class Move(NamedTuple):
    """The numbers of a direction and the first trial on it."""

    #: The product of the direction with the free gradient at the accepted point.
    slope: float
    #: The sum of squares of the direction.
    d_square: float
    #: How many elements of the parameters changed.
    moved: int
    #: The size of the first trial: as asked for, or shorter where the path along the bounds would not have descended.
    step_size: float
    #: The longest step that stays within the bounds; infinite without bounds.
    longest: float


#: The move of a direction that was not found: its slope is no descent.
NO_MOVE = Move(0.0, 0.0, 0, 0.0, 0.0)


class History(Protocol):
    """The accepted point, a direction from it, and the newest pairs; ``Backend.history`` makes one.

    The arrays are the parameters of a table. All of them have a gradient.

    With bounds, elements stay where a bound is active; the others go to the minimum of the model over them (see
    backends/subspace.py), moved into the bounds. The direction leads straight there. If it does not descend, because of
    the elements that were moved in, it leads to where the first element meets its bound. So all trials on a direction
    lie on a line, and there the pairs' curvature is as good as without bounds.
    """

    #: How many pairs there is room for.
    size: int
    #: The two parts that are saved, between steps.
    pairs: Pairs
    vectors: Vectors
    #: Whether there are bounds.
    has_bounds: bool

    @property
    def count(self) -> int:
        """How many pairs there are."""

    def begin(self) -> Reading:
        """Accept the parameters and the table's gradients as they are, without a pair for the way there."""

    def direct(self, step_size: float) -> Move:
        """Find the direction at the accepted point, and make the first trial on it.

        The direction takes the place of the oldest pair if there is no room for another one. A slope that is not below
        0 says that none was found: then forget the pairs.
        """

    def try_step(self, step_size: float) -> int:
        """Make another trial on the same direction; return how many elements differ from the accepted point."""

    def read(self) -> Reading:
        """Read the table's gradients at the trial.

        Nothing that was accepted is changed: another trial may follow.
        """

    def accept(self) -> bool:
        """Accept the trial that was read last; return whether its pair joins the others."""

    def put_back(self) -> None:
        """Put the parameters back to the accepted point."""

    def forget(self) -> None:
        """Drop all pairs."""


class Pairs:
    """The numbers of the pairs, in memory that csrc/history.c may share. Pair 0 is the oldest one.

    Parameters
    ----------
    size : int
        How many pairs there is room for.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        #: How many pairs there are; which of the two gradients is the accepted one; whether the parameters may differ
        #: from the accepted point; how far the next pair is: NO_DIRECTION, DIRECTED or READ.
        self.state = np.zeros(4, np.int64)
        #: The places of the vectors of each pair, then those that are free: the next pair gets the first of these.
        self.slots = np.arange(size, dtype=np.int64)
        #: By pair: its vector of a step times this is s.
        self.steps = np.ones(size)
        #: s_i'y_j for j >= i, and y_i'y_j. With bounds s_i'y_j for all j, s_i's_j, and the same products of the free
        #: elements alone: s's, s'y, y'y.
        self.sy, self.yy, self.ss = np.zeros((3, size, size))
        self.free = np.zeros((3, size, size))
        #: With bounds: how many elements are at active bounds at the accepted point (-1: not known) and at the trial,
        #: how many differ in that, and of how many of the oldest pairs the products of free elements are known.
        self.active = np.array([-1, 0, 0, 0])
        #: The products of s and y with the free gradient: at the accepted point, and at the trial.
        self.grad_products = np.zeros((2, 2, size))
        #: The size of the step to the trial, the square of the direction, s'y, s's and y'y of the trial; and the step
        #: of which the direction's vector is the way, which is 1 without bounds.
        self.trial = np.zeros(6)
        self.trial[5] = 1.0

    @property
    def count(self) -> int:
        return int(self.state[0])

    @property
    def accepted(self) -> int:
        return int(self.state[1])

    @property
    def is_away(self) -> bool:
        return bool(self.state[2])

    def coefficients(self) -> tuple[float, list[tuple[float, float]]]:
        """Return the coefficients of the direction: of the gradient, and of the vectors s and y of each pair.

        This is the two-loop recursion (Nocedal, 1980) on products, which are known, instead of vectors.
        """
        count = self.count
        sy, yy = self.sy[:count, :count].tolist(), self.yy[:count, :count].tolist()
        s_grad, y_grad = self.grad_products[0, :, :count].tolist()
        alphas, deltas = [0.0] * count, [0.0] * count
        for i in reversed(range(count)):
            q = s_grad[i]
            for j in reversed(range(i + 1, count)):
                q -= alphas[j] * sy[i][j]
            alphas[i] = q / sy[i][i]
        gamma = sy[-1][-1] / yy[-1][-1] if count else 1.0
        for i in range(count):
            r = y_grad[i]
            for j in reversed(range(count)):
                r -= alphas[j] * yy[i][j]
            r *= gamma
            for j in range(i):
                r += deltas[j] * sy[j][i]
            deltas[i] = alphas[i] - r / sy[i][i]
        steps = self.steps[:count].tolist()
        return -gamma, [(-deltas[i] * steps[i], gamma * alphas[i]) for i in range(count)]

    def set_free_products(self, pair: int, products: npt.NDArray[np.float64]) -> None:
        """Set the products of a pair's free s and y with the s and y of all pairs up to it: (pair + 1, 2, 2)."""
        ss, sy, yy = self.free
        upto = slice(pair + 1)
        ss[upto, pair] = ss[pair, upto] = products[:, 0, 0]
        sy[pair, upto] = products[:, 1, 0]
        sy[upto, pair] = products[:, 0, 1]
        yy[upto, pair] = yy[pair, upto] = products[:, 1, 1]

    def subspace_coefficients(self) -> tuple[float, list[tuple[float, float]]] | None:
        """Return these coefficients for the free elements alone, or None if rounding has spoiled the pairs."""
        at = slice(self.count)
        with np.errstate(all="ignore"):
            return subspace_coefficients(
                self.ss[at, at], self.sy[at, at], self.yy[at, at], self.free[:, at, at], self.grad_products[0, :, at]
            )

    def make_room(self) -> None:
        """Drop the oldest pair if there is no room for another one."""
        if self.count == self.size:
            self.slots[:] = np.roll(self.slots, -1)
            self.steps[:-1] = self.steps[1:].copy()
            for products in (self.sy, self.yy, self.ss, *self.free):
                products[:-1, :-1] = products[1:, 1:].copy()
            self.grad_products[0, :, :-1] = self.grad_products[0, :, 1:].copy()
            self.state[0] -= 1
            self.active[3] = max(0, self.active[3] - 1)

    def set_grad_products(self, products: npt.NDArray[np.float64], at: int) -> None:
        """Set the products of pairs' s and y with the gradient: ``at`` 0 at the accepted point, 1 at the trial."""
        count = len(products)
        self.grad_products[at, 0, :count] = self.steps[:count] * products[:, 0]
        self.grad_products[at, 1, :count] = products[:, 1]

    def set_trial(self, step: float, s_square: float, products: npt.NDArray[np.float64]) -> None:
        """Set the numbers of the trial's pair, whose vector of a step times ``step`` is s.

        ``products`` has the shape (count + 1, 2, 2): each pair's s or y, the trial's last, times its y or the gradient.
        """
        new = self.count
        self.steps[new] = step
        self.sy[: new + 1, new] = self.steps[: new + 1] * products[:, 0, 0]
        self.yy[: new + 1, new] = self.yy[new, : new + 1] = products[:, 1, 0]
        self.set_grad_products(products[:, :, 1], 1)
        self.trial[2:5] = self.sy[new, new], s_square, self.yy[new, new]

    def set_s_products(self, products: npt.NDArray[np.float64]) -> None:
        """Set the products of the trial's s, with bounds: with each pair's s and y, the trial's last."""
        new = self.count
        self.ss[: new + 1, new] = self.ss[new, : new + 1] = products[:, 0]
        self.sy[new, : new + 1] = products[:, 1]

    def join(self) -> bool:
        """Accept the trial's numbers; return whether its pair joins the others."""
        joins = is_curved(*self.trial[2:5].tolist())
        self.grad_products[0] = self.grad_products[1]
        known = self.active[3] + (joins and self.active[3] == self.count)
        self.active[:] = self.active[1], 0, 0, 0 if self.active[2] else known
        self.state[:] = self.count + joins, 1 - self.accepted, False, NO_DIRECTION
        return joins

    def forget(self) -> None:
        self.state[0], self.state[3], self.active[3] = 0, NO_DIRECTION, 0

    def check(self, operation: str) -> None:
        """Raise RuntimeError if this operation of a history can't follow the last one."""
        _, _, is_away, stage = self.state.tolist()
        can_follow = {
            "try_step": stage != NO_DIRECTION,
            "read": stage != NO_DIRECTION and is_away,
            "accept": stage == READ,
        }
        if not can_follow[operation]:
            raise RuntimeError(f"history: expected {EARLIER[operation]} before {operation}")


def have_bounds(numbers: BoundNumbers | None, arrays: Sequence[Array | None]) -> bool:
    """Return whether there is a bound: of an array, or of single elements."""
    has_numbers = numbers is not None and bool(np.isfinite(numbers).any())
    return has_numbers or any(each is not None for each in arrays)


def check_grads(present: Sequence[bool], count: int) -> None:
    """Raise ValueError unless each of ``count`` arrays has a gradient."""
    if len(present) != count or not all(present):
        raise ValueError(f"history: expected a gradient of each of {count} arrays; {sum(present)} have one")


def is_curved(curvature: float, s_square: float, y_square: float) -> bool:
    """Return whether a pair of these numbers makes the next directions descend, and no coefficient infinite."""
    if not (0 < y_square < math.inf and s_square < math.inf):
        return False
    least = LEAST_CURVATURE * (math.sqrt(s_square) * math.sqrt(y_square))
    return least < curvature < math.inf and curvature / y_square < math.inf


class Vectors:
    """The vectors of a history, by chunks: [chunk][vector][element]. One pass reads a chunk of all vectors at once.

    The vectors of place k are numbers 2 k (s) and 2 k + 1 (y); then come two gradients, the accepted point and, where
    there are bounds, the direction. The length of an array's last chunk is rounded up to whole lanes, with zeros, and
    each array begins at a cache line.

    Parameters
    ----------
    params : sequence of array
        The parameters, flat.
    size : int
        How many pairs there is room for.
    has_bounds : bool
        Whether a direction and a step s differ.
    """

    def __init__(self, params: Sequence[Array], size: int, has_bounds: bool) -> None:
        self.size, self.has_bounds = size, has_bounds
        self.grads = 2 * size, 2 * size + 1
        self.accepted = 2 * size + 2
        self.count = 2 * size + 3 + has_bounds
        lengths = [-(-param.size // LANES) * LANES for param in params]
        sizes = [self.count * length * param.itemsize for length, param in zip(lengths, params, strict=True)]
        starts = np.cumsum([0, *(-(-each // CACHE_LINE) * CACHE_LINE for each in sizes)])
        memory = np.zeros(int(starts[-1]) + CACHE_LINE, np.uint8)
        memory = memory[-address(memory) % CACHE_LINE :]
        #: For each array, all its vectors.
        self.arrays = [
            memory[start : start + size].view(param.dtype)
            for start, size, param in zip(starts[:-1].tolist(), sizes, params, strict=True)
        ]
        self.lengths = [param.size for param in params]

    def direction(self, place: int) -> int:
        """Return the number of the direction's vector, for a pair that will be at this place."""
        return self.count - 1 if self.has_bounds else 2 * place

    def chunks(self, i: int) -> list[Array]:
        """Return an array's vectors as (chunks, vectors, elements): those of whole chunks, and those of the rest."""
        whole = self.lengths[i] // CHUNK
        end = whole * self.count * CHUNK
        parts = self.arrays[i][:end].reshape(whole, self.count, CHUNK), self.arrays[i][end:].reshape(1, self.count, -1)
        return [part for part in parts if part.size]

    def vector(self, i: int, number: int) -> Array:
        """Return a copy of a vector's part of an array, flat."""
        parts = [part[:, number].reshape(-1) for part in self.chunks(i)]
        return np.concatenate(parts)[: self.lengths[i]] if parts else self.arrays[i].copy()

    def set_vector(self, i: int, number: int, values: Array) -> None:
        """Write a vector's part of an array."""
        begin = 0
        for part in self.chunks(i):
            its = values[begin : begin + len(part) * part.shape[2]]
            part[:, number, : its.size // len(part)] = its.reshape(len(part), -1)
            begin += its.size
