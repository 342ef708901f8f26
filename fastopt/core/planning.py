"""When a plan is made: after a whole step, if the present plan is outdated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..backends.plan import Plan

#: The most whole steps from one plan to the next.
LONGEST_WAIT = 64


class Planning:
    """The present plan, and when the next one is due. It lives as long as the table.

    Attributes
    ----------
    is_possible : bool
        Whether the optimizer's steps can be planned at all.
    plan : Plan or None
        The present plan.
    buffers : dict
        Memory for gradients that are not in their parameter's order, by number of array.
    """

    __slots__ = ("buffers", "is_possible", "plan", "planned_steps", "wait", "whole_steps")

    def __init__(self) -> None:
        self.is_possible = False
        self.plan: Plan | None = None
        self.buffers: dict[int, npt.NDArray[np.uint8]] = {}
        #: How many whole steps there were since the last plan was tried, and with how many the next one is due.
        self.whole_steps, self.wait = 0, 2
        #: How many steps the optimizer had planned when the last plan was tried.
        self.planned_steps = 0

    def is_due(self, planned_steps: int) -> bool:
        """Count a whole step; return whether to make a plan of it."""
        if not self.is_possible or (self.plan is not None and not self.plan.is_outdated()):
            return False
        self.whole_steps += 1
        if self.whole_steps < self.wait:
            return False
        # A plan that soon ends, again and again, costs more than it saves.
        is_useful = planned_steps - self.planned_steps > 3
        self.wait = 1 if is_useful else min(2 * self.wait, LONGEST_WAIT)
        self.whole_steps, self.planned_steps = 0, planned_steps
        return True
