"""Whether a step of an optimizer is running: two at once would tear it."""

from __future__ import annotations

import threading
from typing import NoReturn

import numpy as np
import numpy.typing as npt


class StepLock:
    """The one step of an optimizer that may run.

    Attributes
    ----------
    marks : int64 array of shape (2,)
        1 while a step is running, else 0; how many steps were planned. C reads and writes both (csrc/python/plan.c).
    """

    __slots__ = ("lock", "marks")

    def __init__(self) -> None:
        #: Makes it one action to find that no step is running, and to start one.
        self.lock = threading.Lock()
        self.marks: npt.NDArray[np.int64] = np.zeros(2, np.int64)

    @property
    def planned_steps(self) -> int:
        """How many steps were planned."""
        return self.marks.item(1)

    def refuse(self) -> NoReturn:
        """Raise, since a step is running: in another thread, or around this call (a signal handler, a schedule).

        Raises
        ------
        RuntimeError
        """
        raise RuntimeError(
            "step: another step of this optimizer is running, in another thread or around this call; make one after "
            "the other, or give each thread an optimizer of its own"
        )
