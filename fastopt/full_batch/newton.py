"""Newton's method with the Hessian matrix."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from ..arrays.dtypes import FLOAT64, is_float
from ..arrays.memory import described
from ..backends.inverse_hessian import Matrix, Vector
from .dense import DenseMethod, Elements

#: The first shift, as a fraction of the Hessian's largest element, and the factor from one to the next.
FIRST_SHIFT, GROWTH = 1e-8, 10.0

#: The least pivot, as a fraction of the element that elimination has made it from: below it is rounding. And the least
#: eigenvalue, as a fraction of the largest.
LEAST_PIVOT, LEAST_EIGENVALUE = 1e-10, 1e-10

#: Rows of a triangle that are solved at once.
BLOCK = 64


class Newton(DenseMethod):
    """Newton's method: the direction solves ``(H + tau I) d = -g``.

    tau is 0 if H is positive definite, else the first of a growing series for which Cholesky's factorization succeeds.
    Where the line search finds no point along that, the direction is ``-|H|^-1 g``, with the absolute values of H's
    eigenvalues. The linear algebra is NumPy's LAPACK in double precision: its bits differ between machines.

    Parameters
    ----------
    hess : callable
        ``hess(params)`` returns the Hessian at the parameters, a square matrix over all elements: arrays raveled in C
        order, one after the other in the order of their names. Only its lower triangle is read.

    The others, and errors, are those of :func:`fastopt.minimize`; there are no bounds.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 3.3.
    """

    searches = "along Newton's direction, nor with the absolute values of the eigenvalues,"

    def __init__(
        self,
        params: Any,
        *,
        hess: Callable[[Any], Any],
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(params, bounds=bounds, gtol=gtol, ftol=ftol, backend=backend)
        self.hess = hess

    def iterate(self) -> str | None:
        matrix = self.hessian()
        status = self.go_along(shifted_direction(matrix, self.g), 1.0)
        if status == "line_search":
            status = self.go_along(eigenvalue_direction(matrix, self.g), 1.0)
        return status

    def hessian(self) -> Matrix:
        """Return the Hessian at the accepted point, over the arrays that are not frozen."""
        parameters = self.parts.parameters
        self.moving()  # the function may change parameters by mistake, or be interrupted
        returned = self.parts.backend.ops.as_array("hess: what it returned", self.hess(self.given_params))
        matrix = checked_hessian(returned, Elements(parameters.arrays), parameters.names)
        self.check_same_point("hess")
        if len(self.places) == len(parameters.arrays):
            return matrix
        is_free = np.repeat(
            np.isin(np.arange(len(parameters.arrays)), self.places), [array.size for array in parameters.arrays]
        )
        return matrix[np.ix_(is_free, is_free)]


def checked_hessian(returned: Any, elements: Elements, names: list[str]) -> Matrix:
    """Return the lower triangle of a Hessian in double precision, with zeros above.

    Raises
    ------
    TypeError
        If it is not a float array.
    ValueError
        If it is not a square matrix over all elements, or has elements in its lower triangle that are not finite.
    """
    size = elements.size
    expected = f"expected one NumPy array of shape ({size}, {size})"
    if not isinstance(returned, np.ndarray) or isinstance(returned, np.ma.MaskedArray):
        remedy = "; a sparse matrix has .toarray()" if hasattr(returned, "toarray") else ""
        raise TypeError(
            f"hess returned a value {described(returned)}; {expected}, over all elements: arrays raveled in C order, "
            f"one after the other in the order of their names{remedy}"
        )
    if not is_float(returned.dtype):
        raise TypeError(f"hess returned an array of {returned.dtype}; {expected} and of a float dtype")
    if returned.shape != (size, size):
        remedy = f"; write .reshape({size}, {size})" if returned.size == size**2 else ""
        raise ValueError(
            f"hess returned an array of shape {returned.shape}; {expected}, over the elements of "
            f"{shown_sizes(elements, names)}{remedy}"
        )
    with np.errstate(all="ignore"):
        lower: Matrix = np.tril(np.array(returned, FLOAT64))
    are_finite = np.isfinite(lower)
    if not are_finite.all():
        bad = np.argwhere(~are_finite)
        row, column = bad[0].tolist()
        where = f"{name_at(row, elements, names)!r} and {name_at(column, elements, names)!r}"
        raise ValueError(
            f"hess returned {len(bad)} elements that are not finite in its lower triangle, the first at "
            f"[{row}, {column}] (of {where}); loss and gradient are finite at this point, so correct hess, or use "
            'method="lbfgs"'
        )
    return lower


def shown_sizes(elements: Elements, names: list[str]) -> str:
    sizes = [f"{name!r} ({array.size})" for name, array in zip(names[:8], elements.arrays, strict=False)]
    return ", ".join([*sizes, *(["..."] if len(names) > 8 else [])])


def name_at(place: int, elements: Elements, names: list[str]) -> str:
    """Return the name of the array that has this element."""
    return next(name for name, (_, at) in zip(names, elements.slices(), strict=True) if place < at.stop)


def shifted_direction(hessian: Matrix, g: Vector) -> Vector:
    """Return ``-(H + tau I)^-1 g`` with the first tau for which no pivot of Cholesky is rounding.

    As all functions here it reads the lower triangle of H alone.
    """
    largest = float(np.abs(hessian).max())
    diagonal = hessian.diagonal().copy()
    least = float(diagonal.min())
    shift = 0.0 if least > 0 else FIRST_SHIFT * largest - least
    shifted = hessian.copy()
    while largest > 0 and isfinite(shift):
        np.fill_diagonal(shifted, diagonal + shift)
        factor = cholesky(shifted)
        if factor is not None and (factor.diagonal() ** 2 >= LEAST_PIVOT * (diagonal + shift)).all():
            return if_finite(-cholesky_solve(factor, g), g)
        shift = max(GROWTH * shift, FIRST_SHIFT * largest)
    return -g


def cholesky(matrix: Matrix) -> Matrix | None:
    """Return the lower triangular factor; None if the matrix is not positive definite."""
    try:
        return np.linalg.cholesky(matrix).astype(FLOAT64, copy=False)
    except np.linalg.LinAlgError:
        return None


def cholesky_solve(factor: Matrix, b: Vector) -> Vector:
    """Return x with L L' x = b. NumPy has no triangular solver, so it is made of small ones."""
    x: Vector = b.copy()
    blocks = [slice(begin, begin + BLOCK) for begin in range(0, b.size, BLOCK)]
    for at in blocks:
        x[at] = np.linalg.solve(factor[at, at], x[at] - factor[at, : at.start] @ x[: at.start])
    for at in reversed(blocks):
        x[at] = np.linalg.solve(factor[at, at].T, x[at] - factor[at.stop :, at].T @ x[at.stop :])
    return x


def eigenvalue_direction(hessian: Matrix, g: Vector) -> Vector:
    """Return ``-|H|^-1 g``: eigenvalues by their absolute values, none below a small number."""
    try:
        values, vectors = np.linalg.eigh(hessian)
    except np.linalg.LinAlgError:
        return -g
    values = np.abs(values)
    largest = float(values.max())
    if largest == 0:
        return -g
    with np.errstate(all="ignore"):
        direction = -(vectors @ ((vectors.T @ g) / np.maximum(values, LEAST_EIGENVALUE * largest)))
    return if_finite(direction, g)


def if_finite(direction: Vector, g: Vector) -> Vector:
    """Return a direction, or -g if it or its slope has overflowed."""
    with np.errstate(all="ignore"):
        return direction if isfinite(float(direction @ g)) else -g
