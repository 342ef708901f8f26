"""Block coordinate descent: one block of the parameters is minimized after the other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arrays.dtypes import FLOAT32, FLOAT64, Array
from ..arrays.memory import in_memory_order, shown
from ..arrays.structure import is_container
from ..options.group_by import matching
from ..options.ranges import as_number
from .block_arguments import EXPECTED, How, checked_how, checked_pairs
from .box import copies_of, in_a_row, write_back
from .driver import (
    MOST_EVALUATIONS,
    MOST_ITERATIONS,
    Arguments,
    Callback,
    check_callback,
    method_of,
    minimize,
    result_of,
)
from .evaluation import checked_evaluation, checked_loss, is_single
from .method import Method
from .results import MinimizeResult

#: A rise of the loss by a block is rounding up to this many times the resolution of the largest loss so far.
ROUNDING = 1e3


def block_coordinate_descent(
    fun: Callable[[Any], Any],
    params: Any,
    blocks: Mapping[str, How] | Sequence[str] | Sequence[tuple[str, How]] | str,
    method: How | None = None,
    *,
    callback: Callback | None = None,
    max_iterations: int | None = None,
    max_evaluations: int | None = None,
    gtol: float | None = None,
    ftol: float | None = None,
    backend: str | None = None,
) -> MinimizeResult:
    """Minimize a function over one block of its parameters after the other, again and again, changing them in place.

    The loss never rises: where a block's minimizer ends above the loss that it began with, the block is put back. If
    that is more than rounding, a warning says so.

    Parameters
    ----------
    fun : callable
        ``fun(params)`` returns ``(loss, grads)`` as for :func:`fastopt.minimize`; or the loss alone, if all blocks have
        minimizers of their own.
    params : array or structure of arrays
        float32 or float64. ``fun`` and the minimizers get this very object. The name of a single array is ``"0"``.
    blocks : dict, list or str
        A dict, or a list of pairs: glob patterns over the arrays' names as for :func:`fastopt.group_by`, and how to
        minimize over the arrays that match, in this order. A list of patterns: all by ``method``. ``"coordinates"``:
        each element of each array is a block, minimized by ``method``.

        A minimizer of one's own is a function that is called with ``params`` and writes the best values of the block
        into its arrays. For ``"coordinates"`` it is called with ``(params, name, index)`` for each element, and the
        loss is looked at after the last one. Otherwise give a method of :func:`fastopt.minimize`, by name or class, or
        a dict of keywords of minimize, such as ``{"method": "adam", "lr": 0.1, "max_iterations": 10}``: it begins anew
        in each cycle, with the other blocks fixed.
    method : callable, str, class or dict, optional
        How to minimize over blocks that do not say it; default ``"lbfgs"``.
    callback : callable, optional
        As for :func:`fastopt.minimize`, after each cycle. The state's ``step_size`` is 1.
    max_iterations : int, optional
        How many cycles to make at most; default 15,000.
    max_evaluations : int, optional
        How often fun is called at most. Calls by minimizers of your own do not count. Default: no limit.
    gtol : float, optional
        Stop where the largest absolute element of the gradient is at most this after a cycle, if fun returns gradients;
        default 1e-5, where an array is float32 1e-4; 0: off.
    ftol : float, optional
        Stop where a cycle has lowered the loss by at most this; default 2.2e-9, where an array is float32 1e-6; 0: off.
    backend : str, optional
        As for :class:`fastopt.Optimizer`.

    Returns
    -------
    MinimizeResult
        As of :func:`fastopt.minimize`; iterations are cycles. ``grad_norm`` is NaN if fun returns the loss alone.

    Raises
    ------
    TypeError, ValueError
        For arguments that are wrong, for a pattern that matches no array, and for an array in no block. What fun, a
        minimizer or the callback raises comes through. In all cases, as after Ctrl-C, the parameters are those after
        the last whole cycle.
    RuntimeError
        For a backend that can't be had here.

    Warns
    -----
    UserWarning
        If a block's minimizer has raised the loss, or has returned values and changed nothing; once for each block.

    Notes
    -----
    It converges to a minimum where the function is convex and smooth, or where only a sum over the blocks has kinks, as
    ``l1 |w|_1`` has. Elsewhere it may stop at a kink that no single block can leave. Source: Tseng, Convergence of a
    block coordinate descent method for nondifferentiable minimization (2001).

    Examples
    --------
    Dictionary learning: sparse codes for the rows of X, and atoms of length 1 or less that fit them best. The atoms are
    updated one after the other, which is exact for each (Mairal et al., Online dictionary learning for sparse coding,
    2009):

    >>> import numpy as np, fastopt
    >>> rng = np.random.default_rng(0)
    >>> atoms = rng.normal(size=(6, 8))
    >>> atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    >>> X = np.where(rng.random((200, 6)) < 0.3, rng.normal(size=(200, 6)), 0) @ atoms
    >>> params = {"codes": np.zeros((200, 6)), "dictionary": atoms + 0.3 * rng.normal(size=(6, 8))}
    >>> params["dictionary"] /= np.linalg.norm(params["dictionary"], axis=1, keepdims=True)
    >>> def loss(params):
    ...     C, D = params["codes"], params["dictionary"]
    ...     return 0.5 * ((X - C @ D) ** 2).sum() + 0.05 * abs(C).sum()
    >>> def best_codes(params):
    ...     C, D = params["codes"], params["dictionary"]
    ...     C[...] = fastopt.sparse_code(X, D, l1=0.05, start=C)
    >>> def better_atoms(params):
    ...     C, D = params["codes"], params["dictionary"]
    ...     A, B = C.T @ C, C.T @ X
    ...     for j in np.flatnonzero(A.diagonal()):
    ...         atom = D[j] + (B[j] - A[j] @ D) / A[j, j]
    ...         D[j] = atom / max(1.0, np.linalg.norm(atom))
    >>> blocks = {"codes": best_codes, "dictionary": better_atoms}
    >>> result = fastopt.block_coordinate_descent(loss, params, blocks, ftol=1e-3)
    >>> result.status, bool((abs(params["dictionary"] @ atoms.T).max(axis=0) > 0.99).all())
    ('ftol', True)

    A least-squares problem by coordinates, each minimized exactly:

    >>> A, b, w = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([1.0, 1.0]), np.zeros(2)
    >>> def best_element(w, name, index):
    ...     w[index] += (b - A @ w)[index] / A[index][index]
    >>> fun = lambda w: (0.5 * w @ A @ w - b @ w, A @ w - b)
    >>> fastopt.block_coordinate_descent(fun, w, "coordinates", best_element).status, w.round(4)
    ('gtol', array([0.2, 0.4]))
    """
    if not callable(fun):
        raise TypeError(f"fun={shown(fun):.80}: expected a function of the parameters that returns (loss, grads)")
    check_callback(callback)
    max_iterations = as_number("max_iterations", max_iterations, MOST_ITERATIONS)
    max_evaluations = as_number("max_evaluations", max_evaluations, MOST_EVALUATIONS)
    cycles = Cycles(params, blocks, method, gtol=gtol, ftol=ftol, backend=backend)
    cycles.evaluations_left = max_evaluations
    return result_of(cycles, fun, callback, max_iterations)


class Part(NamedTuple):
    """An array of a block as its method gets it; one element if it has a place."""

    name: str
    array: Array
    place: tuple[int, ...] | None = None

    def grad(self, leaf: Any) -> Any:
        """Return this part of a gradient."""
        return leaf if leaf is None or self.place is None else np.asarray(leaf)[self.place].reshape(1)


class Block(Protocol):
    """A part of the parameters that is minimized at once."""

    @property
    def title(self) -> str: ...

    @property
    def needs_grads(self) -> bool: ...

    @property
    def advice(self) -> str:
        """The advice for a user whose loss it has raised."""

    def minimize(self, cycles: Cycles) -> float:
        """Minimize over the block; return the loss."""


class OwnBlock(NamedTuple):
    """A block with a minimizer of the user's own; for coordinates it is called for each of ``elements``."""

    title: str
    minimizer: Callable[..., Any]
    elements: Sequence[tuple[str, Array]] | None = None

    @property
    def needs_grads(self) -> bool:
        return False

    @property
    def advice(self) -> str:
        return "its minimizer may be that of another function than fun"

    def minimize(self, cycles: Cycles) -> float:
        params = cycles.given_params
        if self.elements is None:
            cycles.returned = self.minimizer(params)
        else:
            for name, array in self.elements:
                for index in np.ndindex(array.shape):
                    cycles.returned = self.minimizer(params, name, index)
        cycles.gradients_are_current = True
        return cycles.evaluate()


class MethodBlock(NamedTuple):
    """A block that a method of minimize works on."""

    title: str
    parts: Sequence[Part]
    options: Mapping[str, Any]

    @property
    def needs_grads(self) -> bool:
        return True

    @property
    def advice(self) -> str:
        return "its method overshoots: give it a smaller lr, or more iterations"

    @property
    def arrays(self) -> dict[str, Array]:
        return {part.name: part.array for part in self.parts}

    def check(self) -> None:
        """Raise if minimize would not take these options."""
        options = dict(self.options)
        common = {name: options.pop(name, None) for name in ("bounds", "gtol", "ftol")}
        method, history = options.pop("method"), options.pop("history", 10)
        hess, hvp, most = (options.pop(name, None) for name in ("hess", "hvp", "max_iterations"))
        callback, evaluations = (options.pop(name, None) for name in ("callback", "max_evaluations"))
        try:
            check_callback(callback)
            as_number("max_iterations", most, MOST_ITERATIONS)
            as_number("max_evaluations", evaluations, MOST_EVALUATIONS)
            method_of(method, self.arrays, Arguments(history, hess, hvp, most, options), common)
        except (TypeError, ValueError) as error:
            raise type(error)(f"blocks: {self.title!r}: {error}") from error

    def minimize(self, cycles: Cycles) -> float:
        cycles.gradients_are_current = False
        left = cycles.evaluations_left
        limits = [] if left is None else [left - 1]  # one is for the end of the cycle
        limits += filter(None, [self.options.get("max_evaluations")])
        options = {**self.options, "max_evaluations": min(limits, default=None)}
        result = minimize(partial(self.loss_and_grads, cycles), self.arrays, **options)
        cycles.count(result.evaluations)
        if left is not None and result.evaluations == left - 1:
            cycles.is_cut = True
        return result.loss

    def loss_and_grads(self, cycles: Cycles, arrays: Any) -> tuple[Any, dict[str, Any]]:
        """Return what fun returns, with the gradients of this block alone."""
        assert cycles.closure is not None
        returned = cycles.closure()
        grads = checked_evaluation(cycles.caller, returned).grads
        parameters = cycles.parts.parameters
        leaves = dict(zip(parameters.names, parameters.leaves(grads, "grads"), strict=True))
        return returned[0], {part.name: part.grad(leaves[part.name]) for part in self.parts}


class Cycles(Method):
    """Block coordinate descent as a full-batch method: an iteration is a cycle over the blocks.

    Parameters
    ----------
    params, blocks, method
        Those of :func:`block_coordinate_descent`.
    **common
        Those of :class:`Method`.

    Attributes
    ----------
    has_grads : bool or None
        Whether fun returns gradients; None: the first evaluation will tell.
    gradients_are_current : bool
        Whether the last evaluation was at the parameters as they are.
    is_cut : bool
        Whether ``max_evaluations`` has ended this cycle, or a block in it.
    """

    def __init__(
        self,
        params: Any,
        blocks: Any,
        method: How | None,
        *,
        gtol: float | None = None,
        ftol: float | None = None,
        backend: str | None = None,
    ) -> None:
        self.title = "block_coordinate_descent"
        super().__init__(params, gtol=gtol, ftol=ftol, backend=backend)
        parameters = self.parts.parameters
        self.blocks = blocks_of(dict(zip(parameters.names, parameters.arrays, strict=True)), blocks, method)
        self.caller = "fun"
        self.has_grads = True if any(block.needs_grads for block in self.blocks) else None
        self.gradients_are_current = self.is_cut = False
        #: The accepted point, and the largest loss so far.
        self.copies: list[Array] = []
        self.largest = 0.0
        #: The value that a minimizer of the user's own has returned.
        self.returned: Any = None
        #: The blocks of which a warning was given.
        self.warned: set[str] = set()
        has_single = any(array.dtype == FLOAT32 for array in parameters.arrays)
        self.rounding = ROUNDING * float(np.finfo(FLOAT32 if has_single else FLOAT64).eps)

    def start(self) -> None:
        self.copies = copies_of(self.arrays)

    def put_back(self) -> None:
        write_back(self.arrays, self.copies)

    def keep(self) -> None:
        """Record the parameters as they are."""
        for copy, array in zip(self.copies, self.arrays, strict=True):
            copy[...] = in_a_row(array)

    def iterate(self) -> str | None:
        self.moving()
        loss = self.loss
        self.largest = max(self.largest, abs(loss))
        self.gradients_are_current = True
        self.is_cut = False
        for k, block in enumerate(self.blocks):
            # One evaluation is for the end of the cycle.
            if self.evaluations_left is not None and self.evaluations_left < 2:
                if k == 0:
                    return "max_evaluations"
                self.is_cut = True
                break
            loss = self.minimize(block, loss)
        if self.has_grads and not self.gradients_are_current:
            loss = self.evaluate()
        self.accept(loss, self.projected_norm(), 1.0, self.keep)
        return "max_evaluations" if self.is_cut else None

    def minimize(self, block: Block, loss: float) -> float:
        """Minimize over a block from a point with this loss, and put it back if that is above; return the loss."""
        before, self.returned = copies_of(self.arrays), None
        found = block.minimize(self)
        if found == loss and self.has_returned_values():
            self.warn(
                block, "has returned values and changed nothing; write them into the arrays: params[...][...] = ..."
            )
        if found <= loss:
            return found
        write_back(self.arrays, before)
        self.gradients_are_current = False
        if not found <= loss + self.rounding * self.largest:
            rise = f"has raised the loss from {loss:.6g} to {found:.6g}, and was undone"
            self.warn(block, f"{rise}; {block.advice}")
        return loss

    def has_returned_values(self) -> bool:
        """Return whether a minimizer has returned arrays, or an element, other than the user's own."""
        own = [self.given_params, *self.parts.parameters.arrays]
        is_value = isinstance(self.returned, (np.ndarray, np.floating)) or (
            is_container(self.returned) and not isinstance(self.returned, MinimizeResult)
        )
        return is_value and not any(self.returned is each for each in own)

    def warn(self, block: Block, text: str) -> None:
        """Warn, once for each block."""
        if block.title not in self.warned:
            self.warned.add(block.title)
            warnings.warn(
                f"block_coordinate_descent: minimizing over {block.title!r} {text}", UserWarning, stacklevel=3
            )

    def evaluate(self) -> float:
        if self.has_grads:
            return super().evaluate()
        closure = self.closure
        assert closure is not None
        returned = closure()
        if self.has_grads is None and isinstance(returned, (tuple, list)):
            self.has_grads = True
            try:
                self.closure = lambda: returned
                return super().evaluate()
            finally:
                self.closure = closure
        self.has_grads = False
        self.count(1)
        self.is_single_loss = is_single(returned)
        self.gradients.given = [None] * len(self.arrays)
        self.own.check_in_place()
        return checked_loss(self.caller, returned, {})

    def count(self, evaluations: int) -> None:
        """Count evaluations."""
        self.evaluations += evaluations
        if self.evaluations_left is not None:
            self.evaluations_left -= evaluations

    def projected_norm(self) -> float:
        return super().projected_norm() if self.has_grads else math.nan


def blocks_of(arrays: Mapping[str, Array], blocks: Any, method: How | None) -> list[Block]:
    """Return the blocks, checked."""
    if isinstance(blocks, str):
        if blocks != "coordinates":
            raise ValueError(f"blocks={blocks!r}: {EXPECTED}; for one block write [{blocks!r}]")
        return list(blocks_of_elements(arrays, checked_how("coordinates", method or "lbfgs")))
    pairs = checked_pairs(blocks, method)
    found: list[Block] = []
    left = list(arrays)
    for pattern, how in pairs:
        try:
            names = matching(pattern, list(arrays))
        except ValueError as error:
            raise ValueError(f"blocks: {error}") from None
        left = [name for name in left if name not in names]
        checked = checked_how(pattern, how)
        if callable(checked):
            found.append(OwnBlock(pattern, checked))
        else:
            block = MethodBlock(pattern, [Part(name, arrays[name]) for name in names], checked)
            block.check()
            found.append(block)
    if left:
        raise ValueError(
            f"blocks: no pattern matches {left}; add a block for each array, or leave arrays that stay as they are out "
            "of the parameters"
        )
    return found


def blocks_of_elements(
    arrays: Mapping[str, Array], how: Callable[..., Any] | Mapping[str, Any]
) -> Iterator[OwnBlock | MethodBlock]:
    """Yield a block for each element, or one block of all if they have a minimizer of their own."""
    if callable(how):
        yield OwnBlock("coordinates", how, list(arrays.items()))
        return
    is_checked = False
    for name, array in arrays.items():
        is_c_order = in_memory_order(array) is array
        flat = in_a_row(array)
        for i in range(array.size):
            index = np.unravel_index(i, array.shape, "C" if is_c_order else "F") if array.ndim else ()
            place = tuple(map(int, index))
            block = MethodBlock(f"{name}[{', '.join(map(str, place))}]", [Part(name, flat[i : i + 1], place)], how)
            if not is_checked:
                block.check()
                is_checked = True
            yield block
