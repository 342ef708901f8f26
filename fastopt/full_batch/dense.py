"""The base of the methods with dense algebra: vectors of all elements in double precision, and a search along one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import isfinite
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..arrays.dtypes import FLOAT64, Array
from ..backends.inverse_hessian import Vector
from .method import Method
from .searching import first_step_down, search_along, search_for


class Elements:
    """The elements of some arrays as one vector: each array in C order, one after the other.

    Parameters
    ----------
    arrays : sequence of array
        The user's own.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.size = sum(array.size for array in arrays)

    def slices(self) -> Iterator[tuple[Array, slice]]:
        """Yield each array and where its elements are."""
        begin = 0
        for array in self.arrays:
            yield array, slice(begin, begin + array.size)
            begin += array.size

    def vector_of(self, values: Sequence[Array]) -> Vector:
        """Return the elements of arrays like these, in double precision."""
        vector = np.empty(self.size)
        for (array, at), its in zip(self.slices(), values, strict=True):
            vector[at].reshape(array.shape)[...] = its
        return vector

    def read(self) -> Vector:
        return self.vector_of(self.arrays)

    def of_grads(self, grads: Sequence[Array]) -> Vector:
        """Return the elements of gradients, each in its array's order of memory as :class:`Gradients` has them."""
        return self.vector_of(
            [grad if array.flags.c_contiguous else grad.T for array, grad in zip(self.arrays, grads, strict=True)]
        )

    def write(self, vector: Vector) -> None:
        """Write a vector into the arrays, rounded to their dtypes."""
        with np.errstate(all="ignore"):
            for array, at in self.slices():
                array[...] = vector[at].reshape(array.shape)

    def parts(self, vector: Vector) -> list[Array]:
        """Return a vector as new arrays of these shapes and dtypes."""
        with np.errstate(all="ignore"):
            return [vector[at].reshape(array.shape).astype(array.dtype) for array, at in self.slices()]


class Trial(NamedTuple):
    """A point that was evaluated."""

    slope: float
    grad_max: float
    nonfinite: int
    x: Vector
    g: Vector


class DenseMethod(Method):
    """A method that has its point, gradient and directions as vectors of all elements.

    Attributes
    ----------
    elements : Elements
        Of the arrays that are not frozen.
    x, g : vector
        The accepted point and its gradient.
    """

    #: Why the method has no bounds.
    no_bounds: ClassVar[str] = "its matrix mixes all elements, those at a bound too"

    def __init__(self, params: Any, *, bounds: Any = None, **options: Any) -> None:
        super().__init__(params, bounds=bounds, **options)
        if self.own.bounds is not None:
            raise ValueError(
                f'bounds: {self.title} has none, since {self.no_bounds}; use method="lbfgs", which has them'
            )
        self.elements: Elements
        self.x: Vector
        self.g: Vector

    def prepare(self) -> None:
        self.elements = Elements(self.arrays)
        self.forget()

    def start(self) -> None:
        self.x, self.g = self.elements.read(), self.elements.of_grads(self.gradients.given)

    def put_back(self) -> None:
        self.elements.write(self.x)

    def keep(self, trial: Trial) -> None:
        """Record an accepted point."""
        self.x, self.g = trial.x, trial.g

    def dot(self, left: Vector, right: Vector) -> float:
        return self.parts.backend.dot(left, right)

    def move_to(self, vector: Vector) -> int:
        """Write a point into the parameters; return how many elements differ from the accepted point."""
        self.moving()
        self.elements.write(vector)
        return int(np.count_nonzero(self.elements.read() != self.x))

    def check_same_point(self, what: str) -> None:
        """Raise if the function of this name has changed parameters."""
        if self.elements.read().tobytes() != self.x.tobytes():
            raise ValueError(f"params: changed by {what}; return the result, and leave the change to {self.title}")

    def trial(self, direction: Vector) -> Trial:
        """Read the point that was just evaluated."""
        g = self.elements.of_grads(self.gradients.given)
        nonfinite = int(np.count_nonzero(~np.isfinite(g)))
        return Trial(self.dot(g, direction), float(np.abs(g).max()), nonfinite, self.elements.read(), g)

    def go_down(self) -> str | None:
        """Search along the gradient, as :meth:`go_along` does."""
        return self.go_along(-self.g, first_step_down(self.dot(self.g, self.g), self.grad_norm))

    def go_along(self, direction: Vector, first_step: float) -> str | None:
        """Search along a direction, and accept the point found.

        Returns None, "line_search" or "max_evaluations", as :meth:`iterate` does.
        """
        slope = self.dot(self.g, direction)
        if not isfinite(slope):  # the direction has overflowed
            return "line_search"
        ray = Ray(self, direction)
        search = search_for(self, self.loss, slope, first_step)
        found = search_along(self, ray, search, ray.try_step(first_step))
        if found is not None:
            keep = partial(self.keep, found.trial) if found.is_read else None
            self.accept(found.loss, found.trial.grad_max, found.step_size, keep)
            return None if found.is_read else "max_evaluations"
        if self.evaluations_left == 0:
            return "max_evaluations"
        self.undo_move()
        return "line_search"


class Ray:
    """The points along a direction from a method's accepted point."""

    def __init__(self, method: DenseMethod, direction: Vector) -> None:
        self.method, self.direction = method, direction

    def try_step(self, step_size: float) -> int:
        with np.errstate(all="ignore"):
            return self.method.move_to(self.method.x + step_size * self.direction)

    def read(self) -> Trial:
        return self.method.trial(self.direction)


def gigabytes(size: int) -> str:
    return f"{size * FLOAT64.itemsize / 1e9:.3g} GB"
