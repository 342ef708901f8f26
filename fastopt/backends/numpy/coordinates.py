"""Sparse coding by coordinate descent in NumPy, many rows at once; csrc/coordinates_template.h is the twin.

Atoms come into use when their correlation with the residual, ``q = D (y - D'h)``, is large. Sweeps then minimize over
one atom in use after the other. Where a few sweeps are not enough, a jump goes to the best codes with the present
signs. In between, all of q is computed from h again, which gives the duality gap and the next atoms. No row has an
effect on another one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import FLOAT64, Array
from .. import threads
from ..coordinates import COARSE, COMPACT, ENTRY, FINE, PIVOT, SWEEPS, Coding
from ..table import LANES
from .axis_sums import add_runs, sum_squares
from .passes import MAX_THREADS
from .workers import map_threaded

#: Elements of the correlations of the rows that are solved at once.
BLOCK = 1 << 17


def multiply_rows(rows: Array, dictionary: npt.NDArray[np.float64]) -> Array:
    """Return the products of rows with a dictionary (features, stride), summed in double precision, feature by feature.

    They are rounded once, to the dtype of the rows.
    """
    products = np.empty((len(rows), dictionary.shape[1]), rows.dtype)

    def multiply(thread: int, block: slice) -> None:
        sums, part = np.zeros(products[block].shape), rows[block].astype(FLOAT64)
        for column, row in zip(part.T, dictionary, strict=True):
            sums += column[:, None] * row
        products[block] = sums

    map_threaded(multiply, blocks_of(products), number_of_threads())
    return products


def code_rows(coding: Coding, codes: Array) -> npt.NDArray[np.float64]:
    """Solve all rows: ``codes`` (n, atoms) are the start, then the result.

    Returns for each row what is left of the duality gap at ``max_iterations``, divided by y'y; 0 if it is solved.
    """
    gaps = np.empty(len(codes))
    products = multiply_rows(coding.rows, coding.dictionary)

    def solve(thread: int, block: slice) -> None:
        part = coding._replace(rows=coding.rows[block])
        gaps[block] = Rows(part, products[block], codes[block]).solve()

    map_threaded(solve, blocks_of(products), number_of_threads())
    return gaps


def blocks_of(products: Array) -> list[slice]:
    count = max(1, BLOCK // products.shape[1])
    return [slice(begin, begin + count) for begin in range(0, len(products), count)]


def number_of_threads() -> int:
    return min(threads.get_num_threads(), MAX_THREADS)


class Rows:
    """Some rows of a problem, while they are solved. Atoms in use are in the order in which they came into use.

    Parameters
    ----------
    coding : Coding
    c : array of shape (n, stride)
        D y of each row.
    codes : array of shape (n, atoms)
        The start, then the result.
    """

    def __init__(self, coding: Coding, c: Array, codes: Array) -> None:
        self.coding, self.c, self.codes = coding, c, codes
        self.dtype = c.dtype
        self.l1, self.l2 = self.dtype.type(coding.l1), self.dtype.type(coding.l2)
        #: -1, or for positive codes 0: the magnitude of q is the greater one of q and this times q.
        self.sign = self.dtype.type(0 if coding.positive else -1)
        self.diagonal = np.diagonal(coding.gram).copy()
        self.weight = self.diagonal + self.l2
        count = len(c)
        self.square = sum_squares(coding.rows, (1,), add_runs)[:, 0]
        self.gaps = np.zeros(count)
        #: How many atoms are in use in each row; which; and their codes.
        self.counts = np.zeros(count, np.intp)
        self.atoms = np.zeros((count, 0), np.intp)
        self.h = np.zeros((count, 0), self.dtype)
        #: How many sweeps were made.
        self.sweeps = np.zeros(count, np.intp)
        #: Whether nothing has changed since all atoms were looked at.
        self.is_new = np.zeros(count, bool)
        self.target = np.zeros(count, self.dtype)
        #: The correlations; between two looks only those of the atoms in use count.
        self.q = np.empty_like(c)
        self.use_atoms(np.arange(count), (codes != 0) & (self.square > 0)[:, None])
        self.h[self.in_use()] = codes[np.repeat(np.arange(count), self.counts), self.atoms[self.in_use()]]

    def solve(self) -> npt.NDArray[np.float64]:
        """Write the codes; return what is left of the gaps."""
        live = np.arange(len(self.c))
        while live.size:
            live = self.look(live)
            self.sweep_until_flat(live)
        return self.gaps

    def in_use(self) -> npt.NDArray[np.bool_]:
        """Return which places of ``atoms`` and ``h`` are used."""
        used: npt.NDArray[np.bool_] = np.arange(self.atoms.shape[1]) < self.counts[:, None]
        return used

    def use_atoms(self, rows: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_]) -> None:
        """Take the chosen atoms of these rows into use, in the order of their numbers."""
        places = self.counts[rows][:, None] + np.cumsum(chosen, axis=1) - 1
        self.counts[rows] += chosen.sum(axis=1)
        more = max(self.counts.max(initial=0) - self.atoms.shape[1], 0)
        self.atoms, self.h = (np.pad(each, [(0, 0), (0, more)]) for each in (self.atoms, self.h))
        of_row, atom = np.nonzero(chosen)
        self.atoms[rows[of_row], places[of_row, atom]] = atom

    def magnitude(self, values: Array) -> Array:
        other = values * self.sign
        return np.where(values > other, values, other)

    def look(self, live: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Look at all atoms, finish the rows whose gap is small enough, and return the others."""
        coding, most = self.coding, int(self.counts[live].max(initial=0))
        q = self.c[live]
        for s in range(most):
            some = np.flatnonzero(self.h[live, s] != 0)
            rows = live[some]
            q[some] += -self.h[rows, s, None] * coding.gram[self.atoms[rows, s]]
        self.q[live] = q
        hc, hq, h_sum, h_square = np.zeros((4, live.size))
        used = np.zeros(live.size, self.dtype)
        for s in range(most):
            is_used = self.counts[live] > s
            rows, places = live[is_used], np.flatnonzero(is_used)
            h, atoms = self.h[rows, s], self.atoms[rows, s]
            p = self.q[rows, atoms]
            size = self.magnitude(p - self.l2 * h)
            in_double = h.astype(FLOAT64)
            hc[places] += in_double * self.c[rows, atoms].astype(FLOAT64)
            hq[places] += in_double * p.astype(FLOAT64)
            h_sum[places] += np.abs(in_double)
            h_square[places] += in_double * in_double
            used[places] = np.where(used[places] > size, used[places], size)
            q[places, atoms] = 0
        unused = largest_of(self.magnitude(q))
        largest = np.where(used > unused, used, unused).astype(FLOAT64)
        square = self.square[live]
        allowed = coding.tolerance * square
        scale = np.where(largest > coding.l1, coding.l1 / largest, 1.0)
        residual = square - hc - hq  # |y - D'h|^2
        objective = 0.5 * (np.where(residual > 0, residual, 0.0) + coding.l2 * h_square) + coding.l1 * h_sum
        is_worse = (self.counts[live] > 0) & (self.sweeps[live] == 0) & ~(objective <= 0.5 * square)
        if is_worse.any():  # such a start is worse than zeros; far away even rounding would show
            self.counts[live[is_worse]] = 0
            self.h[live[is_worse]] = 0
            return self.look(live)
        gap = 0.5 * (1 + scale * scale) * (residual + coding.l2 * h_square) + coding.l1 * h_sum - scale * (square - hc)
        is_done = (gap <= allowed) | (self.is_new[live] & (self.sweeps[live] > 0) & (unused <= self.l1))
        is_last = ~is_done & (self.sweeps[live] >= coding.max_iterations)
        self.gaps[live[is_last]] = gap[is_last] / square[is_last]
        self.write_codes(live[is_done | is_last])

        goes_on = ~(is_done | is_last)
        live, q, unused = live[goes_on], q[goes_on], unused[goes_on]
        has_more = unused > self.l1
        entry = self.l1 + self.dtype.type(ENTRY) * (unused - self.l1)
        size = self.magnitude(q)[:, : len(coding.gram)]
        self.use_atoms(live, has_more[:, None] & ((size > entry[:, None]) | (size == unused[:, None])))
        coarse = np.where(has_more, COARSE * (unused - self.l1).astype(FLOAT64), 0.0)
        h_sum = h_sum[goes_on]
        fine = np.where(h_sum > 0, FINE * allowed[goes_on] / h_sum, 0.0)
        self.target[live] = np.where(coarse > fine, coarse, fine)
        self.is_new[live] = True
        return live

    def write_codes(self, rows: npt.NDArray[np.intp]) -> None:
        used = self.in_use()[rows]
        self.codes[rows] = 0
        self.codes[np.repeat(rows, self.counts[rows]), self.atoms[rows][used]] = self.h[rows][used]

    def sweep_until_flat(self, live: npt.NDArray[np.intp]) -> None:
        """Sweep over the atoms in use of each of these rows until no violation is above its target."""
        for k in range(SWEEPS):
            if not live.size:
                return
            largest = self.sweep(live)
            self.sweeps[live] += 1
            self.is_new[live] &= largest == 0
            is_flat = largest <= self.target[live]
            ends = (k == SWEEPS - 1) | (self.sweeps[live] >= self.coding.max_iterations)
            for row in live[~is_flat & ends & (largest.astype(FLOAT64) > self.coding.jump_above)]:
                self.jump(row)
            live = live[~is_flat & ~ends]

    def jump(self, row: int) -> None:
        """Go to the codes that are the best ones with the present signs, and zeros where they are.

        Or on the way there to where the first code becomes 0. The objective is quadratic there, and falls.
        """
        places = np.flatnonzero(self.h[row, : self.counts[row]])
        if places.size > COMPACT:
            return
        atoms, h = self.atoms[row, places], self.h[row, places].astype(FLOAT64)
        matrix = self.coding.gram[np.ix_(atoms, atoms)].astype(FLOAT64)
        matrix[np.diag_indices_from(matrix)] += float(self.l2)
        is_above = h > 0
        signed_l1 = np.where(is_above, float(self.l1), -float(self.l1))
        move = self.q[row, atoms].astype(FLOAT64) - float(self.l2) * h - signed_l1
        factor(matrix)
        solve(matrix, move)
        following = h + move
        crosses = (following > 0) != is_above
        crossing = np.where(crosses, h / np.where(crosses, h - following, 1.0), 1.0)
        part = min(1.0, *crossing.tolist())
        following = h + part * move
        is_zero = (crosses & (crossing <= part)) | ((following > 0) != is_above)
        self.h[row, places] = np.where(is_zero, 0.0, following)
        self.is_new[row] = False

    def sweep(self, live: npt.NDArray[np.intp]) -> Array:
        """Minimize over one atom in use after the other; return the largest change of a correlation by that."""
        largest = np.zeros(live.size, self.dtype)
        negative_l1 = self.dtype.type(np.inf) if self.coding.positive else self.l1
        for s in range(int(self.counts[live].max(initial=0))):
            is_used = self.counts[live] > s
            rows = live[is_used]
            atoms, h = self.atoms[rows, s], self.h[rows, s]
            alone = self.q[rows, atoms] + self.diagonal[atoms] * h
            above, below = alone - self.l1, alone + negative_l1
            best = (np.where(above > 0, above, 0) + np.where(below < 0, below, 0)) * self.coding.inverse[atoms]
            change = best - h
            self.h[rows, s] = best
            self.q[rows] -= change[:, None] * self.coding.gram[atoms]
            violation = np.abs(change * self.weight[atoms])
            largest[is_used] = np.where(largest[is_used] > violation, largest[is_used], violation)
        return largest


def factor(matrix: npt.NDArray[np.float64]) -> None:
    """Factor a matrix A = U'U in place: its upper part becomes U.

    A row that depends on those before it, nearly, is left out: 0 is on its diagonal.
    """
    least = PIVOT * np.diagonal(matrix)
    for k, u in enumerate(matrix):
        if not u[k] > least[k]:
            u[k] = 0
            continue
        u[k:] /= np.sqrt(u[k])
        matrix[k + 1 :, k + 1 :] -= u[k + 1 :, None] * u[k + 1 :]


def solve(matrix: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> None:
    """Solve U'U x = b; x takes the place of b, and is 0 where a row is left out."""
    for k, u in enumerate(matrix):
        b[k] = b[k] / u[k] if u[k] > 0 else 0.0
        b[k + 1 :] -= b[k] * u[k + 1 :]
    for k in reversed(range(len(b))):
        b[k] = b[k] / matrix[k, k] if matrix[k, k] > 0 else 0.0
        b[:k] -= b[k] * matrix[:k, k]


def largest_of(sizes: Array) -> Array:
    """Return the greatest of each row, at least 0, compared in the order of the C kernel: it decides what NaN does."""
    lanes = np.zeros((len(sizes), LANES), sizes.dtype)
    for begin in range(0, sizes.shape[1], LANES):
        part = sizes[:, begin : begin + LANES]
        lanes = np.where(lanes > part, lanes, part)
    largest = np.zeros(len(sizes), sizes.dtype)
    for lane in lanes.T:
        largest = np.where(largest > lane, largest, lane)
    return largest
