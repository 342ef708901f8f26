"""The part of L-BFGS that has the history of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.history import History, Reading
from .method import Method


class HistoryMethod(Method):
    """A method with a history of pairs.

    Parameters
    ----------
    history : int
        How many pairs to keep.
    **options
        As for :class:`Method`.

    Attributes
    ----------
    pairs : History
        From the first step on.
    reading : Reading
        The gradient of the accepted point.
    """

    def __init__(self, params: Any, history: int, **options: Any) -> None:
        self.size = history
        super().__init__(params, **options)
        self.pairs: History
        #: Whether every element has bounds on both sides: then they, and not the gradient, say how far a step may go.
        self.is_boxed = False
        self.reading: Reading

    @property
    def history(self) -> int:
        """How many pairs are kept; fixed when it is built."""
        return self.size

    def prepare(self) -> None:
        numbers = self.own.bounds
        sides = None if numbers is None else (numbers.lower[self.places], numbers.upper[self.places])
        self.pairs = self.parts.backend.history(self.table, self.size, sides)
        self.is_boxed = all(box is not None and all(np.isfinite(side).all() for side in box) for box in self.boxes)

    def start(self) -> None:
        self.reading = self.pairs.begin()

    def forget(self) -> None:
        self.pairs.forget()

    def put_back(self) -> None:
        self.pairs.put_back()

    def keep(self, reading: Reading) -> None:
        """Record the trial that was read last as the accepted point."""
        self.pairs.accept()
        self.reading = reading
