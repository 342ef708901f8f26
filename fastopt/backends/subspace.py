"""The direction of L-BFGS in the subspace of the free parameters: its coefficients, from products of vectors.

With B the matrix of L-BFGS, the direction is ``-B_FF^-1 g_F``: the step to the minimum of the model over the free
parameters, the others fixed. That is not the free part of ``-B^-1 g``. B is made of the pairs as they are, so they
serve whichever parameters are free; only the products of their free parts have to be made again when others are.
csrc/subspace.c is the twin.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float64]


def subspace_coefficients(
    ss: Matrix, sy: Matrix, yy: Matrix, free: Matrix, grad_products: Matrix
) -> tuple[float, list[tuple[float, float]]] | None:
    """Return the coefficients of the direction: of the gradient, and of the vectors s and y of each pair.

    None: rounding has made the matrix indefinite. All operations are done one by one in the order written, by rows.

    Parameters
    ----------
    ss, sy, yy : (m, m)
        The products of the pairs: s_i's_j, s_i'y_j, y_i'y_j.
    free : (3, m, m)
        The same of their free parts.
    grad_products : (2, m)
        Those of s and y with the gradient's free part.

    Notes
    -----
    ``B = theta I + A A' - C C'`` with ``a_i = y_i / sqrt(s_i'y_i)`` and ``c_i = B_i s_i / sqrt(s_i'B_i s_i)``, B_i made
    of the pairs before i. By the formula of Sherman, Morrison and Woodbury ``B_FF^-1 g = (g - A u - C v) / theta``,
    restricted to the free parameters, with ``[theta I + A'A, A'C; C'A, C'C - theta I] [u; v] = [A'g; C'g]``. The first
    block and its Schur complement, with the opposite sign, are positive definite: two factorizations by Cholesky.
    """
    count = len(ss)
    theta = yy[-1, -1] / sy[-1, -1]
    roots = np.sqrt(sy.diagonal())
    found = curved_columns(theta, ss, sy, roots)
    if found is None:
        return None
    of_s, of_y = found
    free_ss, free_sy, free_yy = free
    s_grad, y_grad = grad_products
    with_s = times(of_s, free_ss) + times(of_y, free_sy.T)  # c_i's_j
    with_y = times(of_s, free_sy) + times(of_y, free_yy)
    aa = free_yy / (roots[:, None] * roots)
    ac = (with_y / roots).T
    cc = times(with_s, of_s.T) + times(with_y, of_y.T)
    identity = theta * np.eye(count)
    upper = cholesky(identity + aa)
    if upper is None:
        return None
    solved = forward(upper, np.column_stack([ac, y_grad / roots]))
    ac, rest = solved[:, :-1], solved[:, -1]
    lower = cholesky((identity - cc) + times(ac.T, ac))
    if lower is None:
        return None
    c_grad = times(of_s, s_grad[:, None]) + times(of_y, y_grad[:, None])
    v = backward(lower, forward(lower, times(ac.T, rest[:, None]) - c_grad))
    u = backward(upper, rest[:, None] - times(ac, v))
    s_factors = times(of_s.T, v)[:, 0] / theta
    y_factors = (times(of_y.T, v)[:, 0] + u[:, 0] / roots) / theta
    if not (np.isfinite(s_factors).all() and np.isfinite(y_factors).all()):
        return None
    return -1.0 / theta, list(zip(s_factors.tolist(), y_factors.tolist(), strict=True))


def curved_columns(theta: float, ss: Matrix, sy: Matrix, roots: Matrix) -> tuple[Matrix, Matrix] | None:
    """Return the coefficients of each c_i: row i those of the vectors s, and of the vectors y."""
    count = len(ss)
    of_s, of_y = np.zeros((2, count, count))
    for i in range(count):
        of_s[i, i] = theta
        for j in range(i):
            c_s = 0.0  # c_j's_i
            for k in range(j + 1):
                c_s += float(of_s[j, k]) * float(ss[k, i])
                c_s += float(of_y[j, k]) * float(sy[i, k])
            of_s[i] -= c_s * of_s[j]
            of_y[i] -= c_s * of_y[j]
            of_y[i, j] += sy[i, j] / (roots[j] * roots[j])
        square = 0.0
        for k in range(i + 1):
            square += float(of_s[i, k]) * float(ss[k, i])
            square += float(of_y[i, k]) * float(sy[i, k])
        if not 0.0 < square < math.inf:
            return None
        root = math.sqrt(square)
        of_s[i] /= root
        of_y[i] /= root
    return of_s, of_y


def times(a: Matrix, b: Matrix) -> Matrix:
    """Return a matrix product, of which the terms are added in index order."""
    product: Matrix = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        product += a[:, k, None] * b[k]
    return product


def cholesky(matrix: Matrix) -> Matrix | None:
    """Return the lower triangular L of ``L L'``, or None if the matrix is not positive definite."""
    rest = matrix.copy()
    for k in range(len(rest)):
        pivot = float(rest[k, k])
        if not 0.0 < pivot < math.inf:
            return None
        rest[k:, k] /= math.sqrt(pivot)
        rest[k + 1 :, k + 1 :] -= rest[k + 1 :, k, None] * rest[k + 1 :, k]
    lower: Matrix = np.tril(rest)
    return lower


def forward(lower: Matrix, right: Matrix) -> Matrix:
    """Return the solution of ``L x = right``."""
    x: Matrix = right.copy()
    for k in range(len(x)):
        x[k] /= lower[k, k]
        x[k + 1 :] -= lower[k + 1 :, k, None] * x[k]
    return x


def backward(lower: Matrix, right: Matrix) -> Matrix:
    """Return the solution of ``L' x = right``."""
    x: Matrix = right.copy()
    for k in reversed(range(len(x))):
        x[k] /= lower[k, k]
        x[:k] -= lower[k, :k, None] * x[k]
    return x
