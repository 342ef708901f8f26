"""BFGS with a dense inverse Hessian."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..backends.history import LEAST_CURVATURE
from ..backends.inverse_hessian import InverseHessian, Vector
from .dense import DenseMethod, Trial, gigabytes

#: With more elements the matrix would need more than 1.6 GB; L-BFGS needs no more evaluations.
MOST_ELEMENTS = 20_000


class Pair(NamedTuple):
    """A step s, the change y of the gradient along it, s'y and y'y."""

    s: Vector
    y: Vector
    curvature: float
    y_square: float


class BFGS(DenseMethod):
    """BFGS: the direction is ``-H g``, with H the inverse Hessian that all steps and changes of the gradient make.

    After a step s with the change y of the gradient, ``rho = 1 / s'y``::

        H <- (I - rho s y') H (I - rho y s') + rho s s' = H + s w' + w s'
        w  = rho (1 + rho y'H y) / 2 s - rho H y

    Before the first one, H is ``s'y / y'y I``. An iteration reads H once: one pass makes the last update, and
    multiplies the result by the new y and the new gradient. The new update of the direction is then one of vectors.

    Parameters and errors are those of :func:`fastopt.minimize`; there are no bounds, and at most 20,000 elements.

    Sources: Nocedal and Wright, Numerical Optimization (2006), 6.1; the scale of the first matrix is (6.20).
    """

    def __init__(
        self,
        params: Any,
        *,
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(params, bounds=bounds, gtol=gtol, ftol=ftol, backend=backend)
        size = sum(array.size for array in self.parts.parameters.arrays)
        if size > MOST_ELEMENTS:
            raise ValueError(
                f"params: {size:,} elements in all; BFGS keeps half of their square, {gigabytes(size**2 // 2)}, and "
                f'takes at most {MOST_ELEMENTS:,} elements: use method="lbfgs", which keeps some vectors and needs '
                "about as many evaluations"
            )
        #: None while there is no pair yet: then H is the identity.
        self.matrix: InverseHessian | None = None
        #: The s and w that the matrix lacks.
        self.update: tuple[Vector, Vector] | None = None
        #: The last step, while no update was made of it.
        self.pair: Pair | None = None
        #: Whether the matrix may be in the middle of a change.
        self.is_changing = False

    def forget(self) -> None:
        self.matrix = self.update = self.pair = None

    def keep(self, trial: Trial) -> None:
        with np.errstate(all="ignore"):
            s, y = trial.x - self.x, trial.g - self.g
        pair = Pair(s, y, self.dot(s, y), self.dot(y, y))
        least = LEAST_CURVATURE * sqrt(self.dot(s, s)) * sqrt(pair.y_square)
        is_fine = pair.y_square > 0 and isfinite(pair.curvature) and pair.curvature > least
        self.pair = pair if is_fine else None
        super().keep(trial)

    def iterate(self) -> str | None:
        if self.is_changing:
            self.forget()
        self.is_changing = True
        direction = self.direction()
        self.is_changing = False
        if self.matrix is not None:
            status = self.go_along(direction, 1.0)
            if status != "line_search":
                return status
            self.forget()
        return self.go_down()

    def direction(self) -> Vector:
        """Return -H g; makes the last update, and the next one of the last pair."""
        g, pair = self.g, self.pair
        if self.matrix is None:
            if pair is None:
                return -g
            self.matrix = self.parts.backend.inverse_hessian(g.size)
            self.matrix.reset(pair.curvature / pair.y_square)
        s, w = self.update or (np.zeros_like(g),) * 2
        y_product, g_product = self.matrix.update_and_multiply(s, w, g if pair is None else pair.y, g)
        self.update = None
        if pair is not None:
            s, rho = pair.s, 1.0 / pair.curvature
            with np.errstate(all="ignore"):
                w = (0.5 * rho * (1.0 + rho * self.dot(pair.y, y_product))) * s - rho * y_product
                g_product += self.dot(w, g) * s + self.dot(s, g) * w
            self.update, self.pair = (s, w), None
        return -g_product
