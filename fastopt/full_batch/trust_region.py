"""Newton's method with products of the Hessian: Steihaug's conjugate gradients in a trust region."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import frexp, inf, isfinite, ldexp, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array, is_float
from ..arrays.memory import described
from ..backends.inverse_hessian import Vector
from .dense import DenseMethod
from .line_search import FLOAT32_ROUNDING

#: A trial is accepted if its decrease is above this fraction of that of the model. Below the second the radius shrinks,
#: above the third it grows if the step ended at it; by these factors.
LEAST_RATIO, POOR_RATIO, GOOD_RATIO = 0.15, 0.25, 0.75
SHRINKING, GROWING = 0.25, 2.0

#: How many steps are tried from a point; each rejected one has at most a quarter of the length.
MOST_TRIALS = 40

#: The radius grows no further: its square must not overflow.
MOST_RADIUS = 1e150

#: Decreases below this fraction of the loss are rounding.
ROUNDING = 1e-12


class Step(NamedTuple):
    """A step in the trust region, and how much it lowers the quadratic model."""

    step: Vector
    decrease: float
    #: Whether it ends at the radius.
    is_at_edge: bool


class TrustRegion(DenseMethod):
    """Newton's method in a trust region: the step minimizes ``g'd + d'H d / 2`` over ``|d| <= radius``, approximately.

    Steihaug's conjugate gradients find it. They need products of the Hessian with vectors alone, and stop at a residual
    of ``min(1/2, sqrt(|g|)) |g|``, at negative curvature, or at the radius. The radius is ``max(1, |x|)`` at first.
    Where the loss's decrease is below 0.25 of the model's, the radius becomes a quarter of it; above 0.75, twice, if
    the step ended there. A step is accepted above 0.15.

    Parameters
    ----------
    hvp : callable
        ``hvp(params, v)`` returns the Hessian at the parameters times v; both in the structure of the parameters.

    The others, and errors, are those of :func:`fastopt.minimize`; there are no bounds.

    Sources: Steihaug, The conjugate gradient method and trust regions in large scale optimization (1983); Nocedal and
    Wright, Numerical Optimization (2006), algorithms 4.1 and 7.2; the numbers are those of SciPy's trust-ncg.
    """

    searches = "in a trust region, however small,"
    no_bounds = "its steps mix all elements, those at a bound too"

    def __init__(
        self,
        params: Any,
        *,
        hvp: Callable[[Any, Any], Any],
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__(params, bounds=bounds, gtol=gtol, ftol=ftol, backend=backend)
        self.hvp = hvp
        self.radius = 0.0

    def start(self) -> None:
        super().start()
        if not self.radius > 0:
            self.radius = min(max(1.0, self.norm(self.x)), MOST_RADIUS)

    def forget(self) -> None:
        self.radius = 0.0

    def norm(self, vector: Vector) -> float:
        return sqrt(self.dot(vector, vector))

    def iterate(self) -> str | None:
        for _ in range(MOST_TRIALS):
            step, decrease, is_at_edge = self.best_step()
            if self.evaluations_left == 0:
                return "max_evaluations"
            if self.move_to(point_along(self.x, 1.0, step)) == 0:
                return "line_search"
            loss = self.evaluate()
            trial = self.trial(step)
            ratio = self.ratio(loss, decrease, trial.g) if trial.nonfinite == 0 else -inf
            if ratio < POOR_RATIO:
                self.radius = SHRINKING * (self.radius if isfinite(loss) else min(self.radius, self.norm(step)))
            elif ratio > GOOD_RATIO and is_at_edge:
                self.radius = min(GROWING * self.radius, MOST_RADIUS)
            if ratio > LEAST_RATIO:
                self.accept(loss, trial.grad_max, 1.0, partial(self.keep, trial))
                return None
            self.undo_move()
        return "line_search"

    def ratio(self, loss: float, decrease: float, g: Vector) -> float:
        """Return the ratio of the loss's decrease to that of the model, or 1 where both are rounding and g shrinks."""
        rounding = (FLOAT32_ROUNDING if self.is_single_loss else ROUNDING) * abs(self.loss)
        if not isfinite(loss):
            return -inf
        if decrease <= rounding and loss - self.loss <= rounding and self.norm(g) < self.norm(self.g):
            return 1.0
        return (self.loss - loss) / decrease if decrease > 0 else -inf

    def best_step(self) -> Step:
        """Return Steihaug's step. Gradient and Hessian are divided by the gradient's size: no square vanishes."""
        radius, scale = self.radius, ldexp(0.5, frexp(self.grad_norm)[1])
        g = self.g / scale
        square = self.dot(g, g)
        goal = min(0.5, sqrt(sqrt(square) * scale)) * sqrt(square)
        step, step_product = np.zeros_like(g), np.zeros_like(g)  # and the Hessian times the step
        residual, direction = g, -g
        for _ in range(2 * g.size + 10):
            product = self.product(direction, scale)
            curvature = self.dot(direction, product)
            is_inside = False
            if 0 < curvature < inf:
                length = square / curvature
                longer = point_along(step, length, direction)
                is_inside = self.norm(longer) < radius
            if not is_inside:
                length = self.length_to_edge(step, direction, radius)
                longer = point_along(step, length, direction)
            step, step_product = longer, point_along(step_product, length, product)
            if not is_inside:
                break
            residual = point_along(residual, length, product)
            last_square, square = square, self.dot(residual, residual)
            if not sqrt(square) > goal:
                break
            direction = point_along(-residual, square / last_square, direction)
        self.check_same_point("hvp")
        decrease = -(self.dot(g, step) + 0.5 * self.dot(step, step_product)) * scale
        return Step(step, decrease, not is_inside)

    def length_to_edge(self, step: Vector, direction: Vector, radius: float) -> float:
        """Return how far along the direction a step inside the radius meets it."""
        a, b, c = self.dot(direction, direction), self.dot(step, direction), self.dot(step, step) - radius**2
        root = sqrt(max(b * b - a * c, 0.0))
        return -c / (b + root) if b > 0 else (root - b) / a

    def product(self, vector: Vector, scale: float) -> Vector:
        """Return the Hessian, divided by a number, times a vector."""
        parameters = self.parts.parameters
        parts: list[Any] = [np.zeros_like(array) for array in parameters.arrays]
        for i, part in zip(self.places, self.elements.parts(vector), strict=True):
            parts[i] = part
        self.moving()  # the function may change parameters by mistake, or be interrupted
        built, given = parameters.structure(parts), self.given_params
        if parameters.is_grouped:
            vectors = [{"params": like(group["params"], each)} for group, each in zip(given, built, strict=True)]
        else:
            vectors = like(given, built)
        returned = self.hvp(given, vectors)
        leaves = parameters.leaves(returned, "hvp")
        product = self.elements.vector_of(
            [
                checked_product(name, self.parts.backend.ops.as_array(f"hvp: {name!r}", leaves[i]), array)
                for i, name, array in zip(self.places, self.names, self.arrays, strict=True)
            ]
        )
        with np.errstate(all="ignore"):
            product /= scale
        return product


def like(given: Any, built: Any) -> Any:
    """Return a structure of dicts and lists in containers of the types that the parameters have.

    JAX, for one, takes a list and a tuple for different structures.
    """
    if isinstance(built, Mapping):
        return {key: like(given[key], each) for key, each in built.items()}
    if not isinstance(built, list):
        return built
    children = [like(child, each) for child, each in zip(given, built, strict=True)]
    if not isinstance(given, tuple):
        return children
    return type(given)(*children) if hasattr(given, "_fields") else tuple(children)


def point_along(point: Vector, length: float, direction: Vector) -> Vector:
    """Return point + length * direction."""
    with np.errstate(all="ignore"):
        return point + length * direction


def checked_product(name: str, leaf: Any, param: Array) -> Array:
    """Return the part of a Hessian-vector product that belongs to a parameter.

    Raises
    ------
    TypeError, ValueError
        If it is not a float array of the parameter's shape, or has elements that are not finite.
    """
    if isinstance(leaf, (np.floating, float)):
        leaf = np.asarray(leaf)
    if not isinstance(leaf, np.ndarray) or isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"hvp: {name!r} is {described(leaf)}; expected a float NumPy array of shape {param.shape}")
    if not is_float(leaf.dtype):
        raise TypeError(f"hvp: {name!r} has dtype {leaf.dtype}; expected a float dtype")
    if leaf.shape != param.shape:
        raise ValueError(f"hvp: {name!r} has shape {leaf.shape}; its parameter has shape {param.shape}")
    count = int(np.count_nonzero(~np.isfinite(leaf)))
    if count:
        raise ValueError(
            f"hvp: {name!r} has {count} elements that are not finite; loss and gradient are finite at this point, so "
            'correct hvp, or use method="lbfgs"'
        )
    return leaf
