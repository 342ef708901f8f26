"""A line search on parameters: evaluating at the trials that it asks for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

from .line_search import FLOAT32_ROUNDING, MAX_STEP, ROUNDING, LineSearch


class Line(Protocol):
    """The parameters along a direction from the accepted point."""

    def try_step(self, step_size: float) -> int:
        """Move the parameters to this step; return how many elements differ from the accepted point."""

    def read(self) -> Trial:
        """Read the gradients at the trial, which were evaluated."""


class Trial(Protocol):
    """The numbers that are read at a trial."""

    @property
    def slope(self) -> float: ...
    @property
    def grad_max(self) -> float: ...
    @property
    def nonfinite(self) -> int: ...


class Evaluator(Protocol):
    """A method, as far as a search needs it."""

    evaluations_left: int | None
    is_single_loss: bool

    def evaluate(self) -> float: ...


class SearchResult(NamedTuple):
    """A point that a search has found; the parameters are there."""

    loss: float
    trial: Any
    step_size: float
    #: Whether its gradient was the last one read. Else evaluations ran out before it could be read again.
    is_read: bool


def first_step_down(grad_square: float, grad_max: float) -> float:
    """Return the first step along a gradient with this sum of squares and largest element.

    It moves by 1, but by no more than ten times the gradient.
    """
    norm = math.sqrt(grad_square)
    if not 0 < norm < math.inf:  # the squares overflow or vanish
        norm = grad_max
    return min(10.0, 1.0 / norm) if norm > 0 else 1.0


def search_for(
    method: Evaluator, loss: float, slope: float, first_step: float, longest: float = math.inf
) -> LineSearch:
    """Return the search to use from an accepted point with this loss, along a direction with this slope."""
    rounding = max(ROUNDING, FLOAT32_ROUNDING) if method.is_single_loss else ROUNDING
    return LineSearch(loss, slope, first_step, max_step=min(longest, MAX_STEP), rounding=rounding)


def search_along(method: Evaluator, line: Line, search: LineSearch, moved: int) -> SearchResult | None:
    """Evaluate at the trials of a search until it ends; None: it found no point.

    The parameters are at its first trial already, and ``moved`` of their elements differ from the accepted point.
    """
    at, loss = search.step_size, math.nan
    last: Trial | None = None
    best: SearchResult | None = None
    while search.status is None:
        if method.evaluations_left == 0:
            if best is not None:
                line.try_step(best.step_size)
            return best
        if search.step_size != at:
            at = search.step_size
            moved = line.try_step(at)
        if moved == 0:
            search.stop()
            continue
        loss = method.evaluate()
        last = line.read()
        search.report(loss, math.nan if last.nonfinite else last.slope)
        if search.best is not None and search.best.step_size == at and search.best.loss == loss:
            best = SearchResult(loss, last, at, False)
    if search.status == "failed" or last is None:
        return None
    return SearchResult(loss, last, at, True)
