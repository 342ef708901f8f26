"""The accepted point of a full-batch method, which no interrupt loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Point(NamedTuple):
    """An accepted point. Its parameters are in the user's arrays, or ``put_back`` can write them there."""

    loss: float
    grad_norm: float
    step_size: float
    iterations: int


class AcceptedPoint:
    """The part of :class:`Method` that knows its accepted point.

    An interrupt may come between any two lines. So ``point`` is written at once, and three more attributes say how far
    things are by being that very object: while ``moved_from is point`` the parameters may be anywhere; unless ``settled
    is point`` the method has to be started again from the parameters as they are, and if ``half_kept is point`` it may
    be in the middle of a change.
    """

    def __init__(self) -> None:
        self.point: Point | None = None
        self.moved_from: Point | None = None
        self.settled: Point | None = None
        self.half_kept: Point | None = None

    def put_back(self) -> None:
        """Write the accepted point into the parameters. It may be called again after an interrupt."""
        raise NotImplementedError

    def moving(self) -> None:
        """Say that the parameters are about to leave the accepted point, which :meth:`put_back` knows by now."""
        self.moved_from = self.point

    def accept(self, loss: float, grad_norm: float, step_size: float, keep: Callable[[], Any] | None) -> None:
        """Make the parameters as they are the accepted point.

        ``keep`` records what belongs to it. None: the gradients here are not known, and the next iteration has to
        evaluate them.
        """
        self.point = point = Point(loss, grad_norm, step_size, self.iterations + 1)
        if keep is not None:
            self.half_kept = point
            keep()
            self.settled = point

    @property
    def is_moved(self) -> bool:
        """Whether the parameters may be elsewhere than at the accepted point."""
        return self.moved_from is not None and self.moved_from is self.point

    @property
    def is_torn(self) -> bool:
        """Whether an interrupt came while the accepted point was recorded."""
        return self.half_kept is not None and self.half_kept is self.point is not self.settled

    def undo_move(self) -> None:
        """Put the accepted point back."""
        self.put_back()
        self.moved_from = None

    @property
    def loss(self) -> float:
        """The loss of the parameters as they are; NaN before the first step."""
        return math.nan if self.point is None else self.point.loss

    @property
    def grad_norm(self) -> float:
        """The largest absolute element of the (projected) gradient there; NaN before the first step."""
        return math.nan if self.point is None else self.point.grad_norm

    @property
    def step_size(self) -> float:
        """How far along its direction the last iteration went; 0 before the first."""
        return 0.0 if self.point is None else self.point.step_size

    @property
    def iterations(self) -> int:
        """How many iterations were made."""
        return 0 if self.point is None else self.point.iterations
