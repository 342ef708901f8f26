"""Sparse coding: each row as a sum of few atoms of a dictionary."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import FLOAT32, FLOAT64, Array
from ..arrays.memory import described
from ..backends.backend import Backend
from ..backends.choosing import backend_for
from ..backends.coordinates import Coding, empty_padded, padded_copy
from ..backends.table import LANES
from ..options.names import with_advice
from ..options.ranges import NON_NEGATIVE, OPTIONAL, POSITIVE, Range, as_number, check

#: The default of ``tol``: in double and in single precision.
DOUBLE_TOLERANCE, SINGLE_TOLERANCE = 1e-8, 1e-6

#: Violations of this many times the resolution of l1 are rounding.
ROUNDING = 64

ITERATIONS = Range(1, 2**31, whole=True)

#: How many products of numbers one call of a backend makes at most, roughly: Ctrl-C waits for its end.
WORK_OF_A_CALL = 1 << 28

#: The Gram matrix is made in this many parts, and of each only what is right of it: 9/16 of all.
PARTS_OF_GRAM = 8

#: How many rows one call of a backend gets at least.
LEAST_ROWS = 64

#: About how many elements of the Gram matrix's rows one element of a row's codes costs, besides the products.
WORK_OF_A_CODE = 1024

#: A row is worth this many rows of the Gram matrix: a solver without that matrix sweeps about so often.
ATOMS_PER_ROW = 50

#: Below this many products the Gram matrix takes a moment whatever the number of rows.
SMALL_GRAM = 2e9

#: How many rows a warning names.
MOST_NAMED = 5

#: The advice for scikit-learn's keywords.
OF_SCIKIT_LEARN: Mapping[str, str] = {
    "alpha": "write l1, which is sparse_encode's alpha, and a Lasso's alpha * features",
    "l1_ratio": "write l1 and l2: l1 = alpha * l1_ratio * features, l2 = alpha * (1 - l1_ratio) * features",
    "D": "write dictionary",
    "y": "write X, with a row for each target",
    "init": "write start",
    "code_init": "write start",
    "max_iter": "write max_iterations",
    "n_jobs": "leave it out; fastopt.set_num_threads sets the number of threads",
    "algorithm": "leave it out: coordinate descent finds the codes",
    "gram": "leave it out: the Gram matrix is made where it pays",
    "cov": "leave it out",
    "copy_cov": "leave it out",
    "check_input": "leave it out",
    "verbose": "leave it out",
    "fit_intercept": "leave it out: subtract the means from X first",
    "n_nonzero_coefs": "leave it out: a larger l1 uses fewer atoms",
}


@with_advice(OF_SCIKIT_LEARN)
def sparse_code(
    X: Array,
    dictionary: Array,
    l1: float,
    *,
    l2: float = 0.0,
    positive: bool = False,
    start: Array | None = None,
    tol: float | None = None,
    max_iterations: int = 10_000,
    backend: str | None = None,
) -> Array:
    """Write each row of X as a combination of few atoms: the rows C that minimize a lasso for each row of X.

    ``|X - C D|^2 / 2 + l1 |C|_1 + l2 |C|^2 / 2``, by coordinate descent on the Gram matrix ``D D'``: over the atoms in
    use, one after the other, ``c_j = S(d_j'(x - D'c) + d_j'd_j c_j, l1) / (d_j'd_j + l2)`` with the soft threshold
    ``S(t, l1) = sign(t) max(|t| - l1, 0)``; other atoms come into use while their ``|d_j'(x - D'c)|`` is above ``l1``.
    Where a few sweeps are not enough, a Newton step on the codes that are not 0 goes to the best ones with their signs.

    Codes have the same bits for every number of threads, on every machine, and in the NumPy backend. A row's codes do
    not depend on the other rows.

    Parameters
    ----------
    X : array of shape (n, features)
        float32 or float64.
    dictionary : array of shape (atoms, features)
        The atoms d_j as rows, in the dtype of X. An atom is not used if its sum of squares is 0 or underflows.
    l1 : float
        Above 0: the larger, the fewer atoms are used. From ``abs(X @ dictionary.T).max()`` on all codes are 0.
    l2 : float, default 0.0
        At least 0: the elastic net.
    positive : bool, default False
        Whether codes must not be negative.
    start : array of shape (n, atoms), optional
        Where to begin: codes of similar rows or of a similar dictionary. It is not changed. Default: zeros, as for rows
        whose objective is larger there than at zeros. Negative numbers in it count as zeros if ``positive``.
    tol : float, optional
        A row is done when its duality gap is at most ``tol * |x|^2``, or when no code changes any more. Default 1e-8 as
        in scikit-learn, and for float32 1e-6.
    max_iterations : int, default 10,000
        The most sweeps over the atoms that a row uses. Rows that are not done by then are named in a warning.
    backend : str, optional
        As for :class:`fastopt.Optimizer`.

    Returns
    -------
    array of shape (n, atoms)
        The codes C, in C order and in the dtype of X.

    Raises
    ------
    TypeError
        If an array is not of float32 or float64, or not of the dtype of X, or masked.
    ValueError
        If shapes do not fit, for values that are not finite or whose squares are not, and for options out of their
        ranges.
    RuntimeError
        For a backend that can't be had here.

    Warns
    -----
    UserWarning
        If rows are not done after ``max_iterations``. And if the Gram matrix is the wrong way: for few rows and many
        atoms it takes most of the time.

    Notes
    -----
    scikit-learn's ``sparse_encode(X, dictionary, algorithm="lasso_cd", alpha=l1)`` finds the same codes. Its ``Lasso``
    and ``ElasticNet`` call the ``features`` here samples, the atoms features, and divide the first term by the number
    of samples: ``alpha * l1_ratio`` is ``l1 / features`` and ``alpha * (1 - l1_ratio)`` is ``l2 / features``.

    Sources: Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via coordinate descent
    (2010), with covariance updates; Lee et al., Efficient sparse coding algorithms (2007) for the Newton step; Kim et
    al., An interior-point method for large-scale l1-regularized least squares (2007) for the gap.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> dictionary = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> X = np.array([[0.6, 0.8], [2.0, 0.0]])
    >>> fastopt.sparse_code(X, dictionary, l1=0.1).round(6)
    array([[0. , 0. , 0.9],
           [1.9, 0. , 0. ]])
    """
    rows = checked_matrix("X", X, "(n, features)", None)
    atoms = checked_matrix("dictionary", dictionary, "(atoms, features)", rows.dtype)
    if atoms.shape[1] != rows.shape[1]:
        raise ValueError(
            f"dictionary has shape {atoms.shape} and X {rows.shape}: expected as many features, the second axis, in "
            "both; give the atoms as rows, as scikit-learn's components_"
        )
    dtype, shape = rows.dtype, (len(rows), len(atoms))
    l1, l2 = number_in_dtype("l1", l1, POSITIVE, dtype), number_in_dtype("l2", l2, NON_NEGATIVE, dtype)
    check("positive", positive, None)
    tol = as_number("tol", tol, OPTIONAL)
    if tol is None:
        tol = SINGLE_TOLERANCE if dtype == FLOAT32 else DOUBLE_TOLERANCE
    max_iterations = as_number("max_iterations", max_iterations, ITERATIONS)
    codes = np.zeros(shape, dtype) if start is None else codes_to_start_from(start, shape, dtype, bool(positive))
    chosen = backend_for(backend, ["X"], [rows])
    if 0 in (*shape, rows.shape[1]):
        return np.zeros(shape, dtype)
    warn_of_few_rows(*shape, rows.shape[1], dtype)
    coding = problem(chosen, rows, atoms, l2)._replace(
        l1=l1,
        tolerance=tol,
        jump_above=ROUNDING * float(np.finfo(dtype).eps) * l1,
        max_iterations=max_iterations,
        positive=bool(positive),
    )
    gaps = np.zeros(len(rows))
    for part in parts(len(rows), len(atoms) * (rows.shape[1] + WORK_OF_A_CODE)):
        gaps[part] = chosen.code_rows(coding._replace(rows=rows[part]), codes[part])
    warn_of_gaps(gaps, tol, max_iterations)
    return codes


def checked_matrix(name: str, value: Any, form: str, dtype: np.dtype[Any] | None) -> Array:
    """Return a matrix in C order, of float32 or float64, or of this dtype; raise if it is none or not finite."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {described(value)}; expected a NumPy array of shape {form}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; give {name}.filled(0), or its rows that have no gaps")
    if value.dtype not in ((FLOAT32, FLOAT64) if dtype is None else (dtype,)):
        expected, remedy = ("float32 or float64", "np.float64") if dtype is None else (f"{dtype}, as X", f"np.{dtype}")
        raise TypeError(f"{name} has dtype {value.dtype}; expected {expected}: write {name}.astype({remedy})")
    if value.ndim != 2:
        advice = f"; for one row write {name}[None]" if value.ndim == 1 else ""
        raise ValueError(f"{name} has shape {value.shape}; expected {form}{advice}")
    count = int(np.count_nonzero(~np.isfinite(value)))
    if count:
        raise ValueError(f"{name} has {count} elements that are not finite; expected numbers alone")
    return np.ascontiguousarray(value)


def number_in_dtype(name: str, value: Any, allowed: Range, dtype: np.dtype[Any]) -> float:
    """Return a number as this dtype has it."""
    number = as_number(name, value, allowed)
    with np.errstate(all="ignore"):
        found = float(dtype.type(number))
    if not allowed.holds(found):
        raise ValueError(f"{name}={number}: expected {allowed} in {dtype}; scale X and {name}, or use float64")
    return found


def codes_to_start_from(start: Any, shape: tuple[int, int], dtype: np.dtype[Any], positive: bool) -> Array:
    """Return a copy of the codes to start from."""
    given = checked_matrix("start", start, "(n, atoms)", dtype)
    if given.shape != shape:
        raise ValueError(f"start has shape {given.shape}; expected {shape}, a row for each of X")
    return np.maximum(given, 0) if positive else given.copy()


def problem(backend: Backend, rows: Array, atoms: Array, l2: float) -> Coding:
    """Return the problem, with the Gram matrix, and numbers to be set.

    Raises
    ------
    ValueError
        If squares or products overflow.
    """
    dtype = rows.dtype
    transposed = padded_copy(atoms.T, FLOAT64)
    squares = [float(backend.sum_squares(each, (1,)).max(initial=0.0)) for each in (rows, atoms)]
    most = float(np.finfo(dtype).max) / 4
    for name, square, limit in zip(("X", "dictionary"), squares, (float(np.finfo(FLOAT64).max), most), strict=True):
        if not square < limit:
            raise ValueError(f"{name} has a row whose sum of squares is {square:.3g}, too large for {dtype}; scale it")
    if math.sqrt(squares[0]) * math.sqrt(squares[1]) > most:
        raise ValueError(f"X and dictionary have products that are too large for {dtype}; scale them")
    gram = gram_matrix(backend, atoms, transposed)
    with np.errstate(all="ignore"):
        inverse = 1 / (np.diagonal(gram) + dtype.type(l2))
    inverse[~np.isfinite(inverse)] = 0
    return Coding(rows, transposed, gram, inverse, 0.0, l2, 0.0, 0.0, 1, False)


def gram_matrix(backend: Backend, atoms: Array, transposed: npt.NDArray[np.float64]) -> Array:
    """Return the products of all atoms with each other, padded: those below the diagonal are copies of those above."""
    gram = empty_padded(len(atoms), len(atoms), atoms.dtype)
    for part in parts(len(atoms), len(atoms) * atoms.shape[1], PARTS_OF_GRAM):
        others = np.ascontiguousarray(transposed[:, part.start :])
        gram[part, part.start :] = backend.multiply_rows(atoms[part], others)
        gram[part.stop :, part] = gram[part, part.stop : len(atoms)].T
    return gram


def parts(count: int, work: int, least: int = 1) -> Iterator[slice]:
    """Yield all rows in parts, of which each does not take long; ``work`` is that of a row.

    There are ``least`` parts or more where they can have enough rows for the threads.
    """
    size = max(LEAST_ROWS, min(WORK_OF_A_CALL // max(work, 1), -(-count // least)) // LANES * LANES)
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def warn_of_few_rows(rows: int, atoms: int, features: int, dtype: np.dtype[Any]) -> None:
    """Say so if the Gram matrix costs more than a solver that does without it."""
    if atoms <= ATOMS_PER_ROW * rows or float(atoms) ** 2 * features <= SMALL_GRAM:
        return
    warnings.warn(
        f"sparse_code: {rows} {'row is' if rows == 1 else 'rows are'} too few to pay for the Gram matrix of {atoms} "
        f"atoms, which has {atoms**2 * dtype.itemsize / 1e9:.2g} GB and takes most of the time; give many rows at "
        "once, or solve a single lasso without it: sklearn.linear_model.Lasso(l1 / features, fit_intercept=False)"
        ".fit(dictionary.T, X.T), with l2 ElasticNet",
        UserWarning,
        stacklevel=4,  # past with_advice
    )


def warn_of_gaps(gaps: npt.NDArray[np.float64], tol: float, max_iterations: int) -> None:
    """Name the rows that are not done."""
    left = np.flatnonzero(gaps != 0)
    if not left.size:
        return
    worst = left[np.argmax(np.where(np.isnan(gaps[left]), np.inf, gaps[left]))]
    named = ", ".join(map(str, left[:MOST_NAMED].tolist())) + (", ..." if left.size > MOST_NAMED else "")
    warnings.warn(
        f"sparse_code: {left.size} of {gaps.size} rows are not done after max_iterations={max_iterations}: {named}; "
        f"the largest duality gap is {gaps[worst]:.3g} times |x|^2, of row {worst}, and tol={tol:g}; give a larger "
        "tol, max_iterations, l1 or l2, or these codes as start",
        UserWarning,
        stacklevel=4,  # past with_advice
    )
