"""The contents of a plan: all that a step like the last one compares and uses. The core gathers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..arithmetic.rules import Rule
from ..arrays.structure import Branch
from ..options.ranges import Allowed, Group


class Plan(Protocol):
    """A step like the last one, as one call: ``plan.run(plan.address, hooks, grads)`` returns its StepInfo.

    The call returns None, and has changed nothing, if something is not as it was.
    """

    run: Callable[[int, Any, Any], Any]
    address: int

    def is_outdated(self) -> bool:
        """Return whether the plan makes no step any more."""

    def end(self) -> None:
        """Make no step any more."""


class RowSource(Protocol):
    """The functions that a planned step calls in Python."""

    def check_option(self, k: int, name: str, value: Any) -> bool:
        """Take over an option that was written into group number ``k``; return False if the plan ends with it."""

    def options_at(self, k: int, step_count: int) -> Group:
        """Return the options of group number ``k``, with its schedules evaluated."""

    def row_at(self, hooks: Any, values: Group, step: int) -> tuple[Any, ...]:
        """Return the rule's scalars, l2, decay, l1, cautious, threshold, average_weight and dither of arrays' rows.

        The arrays are those of which this is step number ``step``, from 1.
        """


class PlanGroup(NamedTuple):
    """A group of options."""

    #: The user's dict, and the names and values that it has.
    group: Group
    entries: Group
    #: The options as a step uses them; the plan changes them.
    values: Group
    #: The values that each option may be given, if the plan goes on with it.
    allowed: dict[str, Allowed]
    #: The options that change more of a row than the rule's scalars.
    changing_rows: Set[str]
    rule: Rule
    #: Whether a slot begins as a copy of the parameter.
    has_copies: bool
    #: The names of the options that are schedules.
    scheduled: Sequence[str]
    #: Whether more of a row than the rule's scalars depends on the step.
    has_new_rows: bool
    #: The scalars are the same from this step on.
    same_from: int
    #: The rows' ``flush`` in a step in which that is due.
    flush: int
    #: The greatest norm of an array.
    limit: float
    #: The fields of its rows that stay.
    grad_scale: float
    clip_value: float
    mean: float


class PlanArrays(NamedTuple):
    """The arrays and their gradients."""

    params: Sequence[Any]
    #: Those of all arrays that the table uses, but the gradients.
    layouts: Any
    root: Branch
    is_single: bool
    is_grouped: bool
    group_of: npt.NDArray[np.int64]
    is_frozen: Sequence[bool]
    #: The numbers that bound each array.
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    #: The runs of memory that a step writes, in order.
    starts: npt.NDArray[np.uintp]
    stops: npt.NDArray[np.uintp]
    #: Memory for gradients that are not in their parameter's order, by number of array.
    buffers: dict[int, npt.NDArray[np.uint8]]


class PlanContents(NamedTuple):
    """All of a plan."""

    arrays: PlanArrays
    groups: Sequence[PlanGroup]
    #: Dicts in which the plan looks for a change: an attribute's dict, and what it has.
    whole_options: tuple[dict[str, Any], dict[str, Any]]
    frozen: tuple[dict[str, Any], Any]
    param_groups: tuple[dict[str, Any], list[Group]]
    source: RowSource
    step_info: type
    #: Those of :class:`fastopt.core.turns.Turns`.
    marks: npt.NDArray[np.int64]
    queue: list[Any]
    #: Room for so many rows.
    rows: int
    zero_grads: bool
    accumulate_steps: int
    clips_arrays: bool
    global_limit: float | None
    #: A step whose global norm is above this is none of the plan's.
    skip_above: float
    counts_nonfinite: bool
    #: The names of all arrays, for the norms of a StepInfo.
    names: tuple[str, ...]
    #: Its first number counts the steps that were skipped in a row; each step sets it to 0.
    skips: npt.NDArray[np.int64]

    @property
    def reads_gradients(self) -> bool:
        """Whether a step reads all gradients before it changes anything."""
        return self.clips_arrays or self.global_limit is not None or self.counts_nonfinite
