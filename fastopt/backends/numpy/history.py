"""The history of L-BFGS in NumPy; csrc/history.c is the twin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves
from ...arrays.dtypes import FLOAT64, Array, is_bfloat16
from .. import threads
from ..history import (
    DIRECTED,
    NO_DIRECTION,
    READ,
    Move,
    Pairs,
    Reading,
    Vectors,
    check_grads,
)
from ..interrupts import uninterrupted
from ..table import CHUNK, LANES
from .lanes import fold_lanes
from .passes import MAX_THREADS, WORK_OF_A_THREAD
from .workers import map_threaded

T = TypeVar("T")

#: So many chunks are worked on at once: few enough for a vector's part to stay in the L2 cache.
BATCH = 16


class Source(NamedTuple):
    """The arrays of a table, flat: the parameters, and the bounds of each element or None."""

    params: Sequence[Array]
    lowers: Sequence[Array | None]
    uppers: Sequence[Array | None]
    #: Returns the gradients, of any float dtype.
    grads: Callable[[], Sequence[Array | None]]


class Piece(NamedTuple):
    """Some chunks of an array: its elements [begin, end)."""

    array: int
    begin: int
    end: int
    #: Their vectors, as (chunks, vectors, elements).
    vectors: Array

    def whole(self, number: int) -> Array:
        """Return a vector's chunks, with the zeros at their ends."""
        return self.vectors[:, number]

    def of(self, flat: Array) -> Array:
        """Return this piece of a flat array, by chunks."""
        return flat[self.begin : self.end].reshape(len(self.vectors), -1)

    def vector(self, number: int) -> Array:
        return self.vectors[:, number, : (self.end - self.begin) // len(self.vectors)]

    def with_zeros(self, values: Array) -> Array:
        """Return values by chunks with zeros at their ends."""
        return np.pad(values, [(0, 0), (0, self.vectors.shape[2] - values.shape[1])])


class NumpyHistory:
    """See ``backends/history.py``. Without bounds."""

    #: Whether the direction has a vector of its own.
    has_bounds = False

    def __init__(self, source: Source, size: int) -> None:
        self.source, self.size = source, size
        self.pairs = Pairs(size)
        self.vectors = Vectors(source.params, size, self.has_bounds)
        self.pieces = list(cut(self.vectors))

    @property
    def count(self) -> int:
        return self.pairs.count

    def begin(self) -> Reading:
        self.check_grads()
        return result_of(self.begin_now)

    def direct(self, step_size: float) -> Move:
        return result_of(partial(self.direct_now, step_size))

    def try_step(self, step_size: float) -> int:
        self.pairs.check("try_step")
        return result_of(partial(self.try_now, step_size))

    def read(self) -> Reading:
        self.pairs.check("read")
        self.check_grads()
        return result_of(self.read_now)

    def accept(self) -> bool:
        self.pairs.check("accept")
        return result_of(self.pairs.join)

    def put_back(self) -> None:
        result_of(self.put_back_now)

    def forget(self) -> None:
        self.pairs.forget()

    def check_grads(self) -> None:
        check_grads([grad is not None for grad in self.source.grads()], len(self.source.params))

    def begin_now(self) -> Reading:
        pairs, numbers = self.pairs, self.numbers_of_pairs(self.count)
        read = partial(self.begin_piece, self.vectors.grads[pairs.accepted], numbers)
        sums, largest, nonfinite = self.reading(read, len(numbers) + 1)
        pairs.set_grad_products(sums[:-1, 1].reshape(-1, 2), 0)
        pairs.state[2:] = False, NO_DIRECTION
        return Reading(0.0, 0.0, 0.0, 0.0, largest, float(sums[-1, 1]), nonfinite)

    def direct_now(self, step_size: float) -> Move:
        pairs, numbers = self.pairs, self.numbers_of_pairs(self.count)
        of_grad, of_pairs = pairs.coefficients()
        terms = list(zip(numbers, [each for two in of_pairs for each in two], strict=True))
        pairs.make_room()
        pairs.trial[0], pairs.state[2:] = step_size, (True, DIRECTED)
        grad = self.vectors.grads[pairs.accepted]
        found = self.over_pieces(partial(self.direct_piece, grad, of_grad, terms, self.direction()), len(numbers))
        ((slope, d_square),) = total([sums for sums, _ in found], 1).tolist()
        pairs.trial[1] = d_square
        return Move(slope, d_square, sum(moved for _, moved in found), step_size, math.inf)

    def try_now(self, step_size: float) -> int:
        self.pairs.trial[0], self.pairs.state[2:] = step_size, (True, DIRECTED)
        return sum(self.over_pieces(partial(self.move, self.direction()), 1))

    def read_now(self) -> Reading:
        pairs, count = self.pairs, self.count
        numbers, direction = self.numbers_of_pairs(count + 1), self.direction()
        grads = self.vectors.grads[pairs.accepted], self.vectors.grads[1 - pairs.accepted]
        read = partial(self.read_piece, grads, numbers, direction)
        sums, largest, nonfinite = self.reading(read, len(numbers) + 1)
        products = sums[: len(numbers)].reshape(-1, 2, 2)
        slope, (step, d_square) = float(products[-1, 0, 1]), pairs.trial[:2].tolist()
        pairs.set_trial(step, step * step * d_square, products)
        pairs.state[3] = READ
        grad_square = float(sums[len(numbers), 1])
        curvature, s_square, y_square = pairs.trial[2:5].tolist()
        return Reading(slope, curvature, s_square, y_square, largest, grad_square, nonfinite)

    def put_back_now(self) -> None:
        pairs = self.pairs
        for piece in self.pieces if pairs.is_away else ():
            self.values(piece)[...] = piece.vector(self.vectors.accepted)
        pairs.state[2:] = False, min(pairs.state[3], DIRECTED)

    def begin_piece(self, accepted: int, numbers: list[int], piece: Piece) -> tuple[Array, float, int]:
        """Take the gradient; return the products of these vectors, and its own, with the gradient (twice)."""
        grad = self.take_grad(piece, accepted)
        own = piece.whole(accepted)
        return dots([*map(piece.whole, numbers), own], own, own), *largest_of(grad, grad)

    def direct_piece(
        self, accepted: int, of_grad: float, terms: list[tuple[int, float]], direction: int, piece: Piece
    ) -> tuple[Array, int]:
        """Make the direction and a trial; return the sums of a move for each chunk, and how many elements moved."""
        piece.vector(self.vectors.accepted)[...] = self.values(piece)
        piece.vector(direction)[...] = combination(of_grad, terms, piece.vector(accepted), piece)
        own = piece.whole(direction)
        return dots([own], piece.whole(accepted), own), self.move(direction, piece)

    def move(self, direction: int, piece: Piece) -> int:
        """Make a trial; return how many elements differ from the accepted point."""
        accepted, x = piece.vector(self.vectors.accepted), self.values(piece)
        x[...] = accepted.astype(FLOAT64) + self.pairs.trial[0] * piece.vector(direction).astype(FLOAT64)
        return int(np.count_nonzero(x != accepted))

    def read_piece(
        self, grads: tuple[int, int], numbers: list[int], direction: int, piece: Piece
    ) -> tuple[Array, float, int]:
        """Take the gradient and make the pair (the last two of ``numbers``); return the products of these vectors.

        Each is multiplied by the pair's y and by the gradient. The vectors are followed by the gradient.
        """
        grad, own = self.take_grad(piece, grads[1]), piece.whole(numbers[-1])
        piece.vector(numbers[-1])[...] = grad - piece.vector(grads[0])
        whole = piece.whole(grads[1])
        return dots([*map(piece.whole, numbers), whole], own, whole), *largest_of(grad, grad)

    def take_grad(self, piece: Piece, number: int) -> Array:
        """Copy a piece of the gradient into this vector, and return it."""
        grad = self.source.grads()[piece.array]
        assert grad is not None
        its = piece.of(grad)
        taken = piece.vector(number)
        taken[...] = halves.to_float32(its) if is_bfloat16(its.dtype) else its
        return taken

    def values(self, piece: Piece) -> Array:
        """Return a piece of the parameters."""
        return piece.of(self.source.params[piece.array])

    def numbers_of_pairs(self, count: int) -> list[int]:
        """Return the numbers of the vectors of the first ``count`` pairs, the oldest first."""
        return [number for slot in self.pairs.slots[:count].tolist() for number in (2 * slot, 2 * slot + 1)]

    def direction(self) -> int:
        return self.vectors.direction(int(self.pairs.slots[self.count]))

    def reading(
        self, function: Callable[[Piece], tuple[Array, float, int]], length: int
    ) -> tuple[npt.NDArray[np.float64], float, int]:
        """Return the sums, the largest magnitude and the number of elements that are not finite of all pieces."""
        found = self.over_pieces(function, length)
        sums = total([products for products, _, _ in found], length)
        return sums, max((largest for _, largest, _ in found), default=0.0), sum(count for _, _, count in found)

    def over_pieces(self, function: Callable[[Piece], T], vectors: int) -> list[T]:
        """Call a function that reads so many vectors with every piece; return the results in their order."""
        work = sum(self.vectors.lengths) * (1 + vectors)
        useful = min(threads.get_num_threads(), MAX_THREADS, max(1, work // WORK_OF_A_THREAD))
        return map_threaded(lambda thread, piece: function(piece), self.pieces, useful)


def result_of(function: Callable[[], T]) -> T:
    """Return the result of a function, which Ctrl-C does not interrupt."""
    results: list[T] = []
    uninterrupted(lambda: results.append(function()))
    return results[0]


def combination(of_grad: float, terms: Sequence[tuple[int, float]], grad: Array, piece: Piece) -> Array:
    """Return a multiple of a gradient and multiples of vectors, by number, added in their order, in its dtype."""
    sums = of_grad * grad.astype(FLOAT64)
    for number, factor in terms:
        sums += factor * piece.vector(number).astype(FLOAT64)
    return sums.astype(grad.dtype)


def cut(vectors: Vectors) -> Iterator[Piece]:
    """Cut the arrays into pieces."""
    for i, size in enumerate(vectors.lengths):
        whole = vectors.chunks(i)
        begin = 0
        for part in whole:
            for k in range(0, len(part), BATCH):
                batch = part[k : k + BATCH]
                end = min(size, begin + len(batch) * CHUNK)
                yield Piece(i, begin, end, batch)
                begin = end


def dots(vectors: Sequence[Array], first: Array, second: Array) -> npt.NDArray[np.float64]:
    """Return the products of vectors with two others, of shape (chunks, vectors, 2); csrc/fastopt.h has the order.

    All of them have the shape (chunks, elements), whole lanes.
    """
    others = [in_rows(first), in_rows(second)]
    sums = np.empty((len(first), len(vectors), 2))
    product = np.empty_like(others[0])
    for k, vector in enumerate(vectors):
        values = in_rows(vector)
        for j, other in enumerate(others):
            np.multiply(values, other, out=product)
            # NumPy adds in index order along any axis but the last.
            lanes = np.add.reduce(product.reshape(len(product), -1), axis=0)
            sums[:, k, j] = fold_lanes(lanes.reshape(-1, LANES))
    return sums


def in_rows(chunks: Array) -> npt.NDArray[np.float64]:
    """Return chunks in double precision; row k has the k-th LANES of each."""
    rows: npt.NDArray[np.float64] = np.empty((chunks.shape[1] // LANES, len(chunks), LANES))
    rows[...] = chunks.reshape(len(chunks), -1, LANES).swapaxes(0, 1)
    return rows


def total(sums: Sequence[npt.NDArray[np.float64]], length: int) -> npt.NDArray[np.float64]:
    """Return the sum of all chunks of pieces of shape (chunks, length, 2), in index order."""
    # np.add.reduce would not add in index order where the sums of a chunk are one number.
    sum_of_all: npt.NDArray[np.float64] = np.cumsum(np.concatenate([np.zeros((1, length, 2)), *sums]), axis=0)[-1]
    return sum_of_all


def largest_of(grad: Array, projection: Array) -> tuple[float, int]:
    """Return the largest finite magnitude in the projected gradient, and how many elements are not finite."""
    magnitudes = np.abs(projection)
    largest = np.max(magnitudes, initial=0.0, where=magnitudes <= np.finfo(grad.dtype).max)
    return float(largest), int(np.count_nonzero(grad - grad != 0))
