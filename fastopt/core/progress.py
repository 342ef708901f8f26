"""The counts of an optimizer, and the GPU step that may have to be taken back."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import FLOAT64
from ..arrays.memory import Views, shown
from ..backends.backend import Backend
from ..options.ranges import STEPS, check
from .entries import Column, StateDict
from .parameters import Parameters

#: The names of the two numbers of :attr:`Progress.skips` in a saved state.
SKIPS = ("skipped_in_a_row", "skipped_steps")


class NumberHooks(Protocol):
    """The hooks of a group that its arrays' numbers need; ``hooks.py`` describes them."""

    numbers: ClassVar[Mapping[str, float]]
    measured: ClassVar[frozenset[str]]


class Numbers(NamedTuple):
    """The numbers that the arrays at these places have: their values before the first step, and which are measured."""

    initial: Mapping[str, float]
    measured: frozenset[str]
    places: list[int]


class Progress:
    """The counts of steps and calls, and the numbers of whole arrays.

    Parameters
    ----------
    most_numbers : int
        How many numbers an array has at most.

    Attributes
    ----------
    counts : int64 array of shape (2, 1 + arrays)
        In the first row the steps that were applied, and those of each array; in the second the calls that have
        accumulated since, and those of each array.
    steps : int64 array of shape (arrays,)
        The part of ``counts`` that has the steps of each array.
    numbers : float64 array of shape (numbers, arrays)
        The numbers of each array, which are the first ones of its column; further ones are 0.
    kinds : list of Numbers
        The names of the numbers, by arrays that have the same.
    undone : int
        How many steps were taken back.
    skips : int64 array of shape (2,)
        How many steps were skipped in a row by ``nonfinite``, and how many were skipped at all. A planned step sets the
        first to 0 (csrc/python/plan.c).
    """

    def __init__(self, most_numbers: int) -> None:
        self.kinds: list[Numbers] = []
        self.counts: npt.NDArray[np.int64] = np.zeros((2, 1), np.int64)
        self.steps = self.counts[0, 1:]
        self.numbers: npt.NDArray[np.float64] = np.zeros((most_numbers, 0))
        self.undone = 0
        self.skips: npt.NDArray[np.int64] = np.zeros(2, np.int64)
        #: The verdict of a GPU on the last step (:class:`fastopt.backends.table.Reading`), and the counts before it.
        self.pending: tuple[Any, list[npt.NDArray[Any]]] | None = None
        #: Makes it one action to take a step back: another thread may ask for a count meanwhile.
        self._undoing = threading.RLock()

    def add(self, hooks: Sequence[NumberHooks]) -> None:
        """Count for further arrays too, given the hooks of each. All counts and numbers are other arrays then."""
        first, count = self.steps.size, len(hooks)
        self.counts = np.concatenate([self.counts, np.zeros((2, count), np.int64)], axis=1)
        self.steps = self.counts[0, 1:]
        self.numbers = np.concatenate([self.numbers, np.zeros((len(self.numbers), count))], axis=1)
        places: dict[int, list[int]] = {}
        for i, its in enumerate(hooks, start=first):
            places.setdefault(id(its), []).append(i)
        for its_places in places.values():
            its = hooks[its_places[0] - first]
            for row, value in zip(self.numbers, its.numbers.values(), strict=False):
                row[its_places] = value
            self.kinds.append(Numbers(its.numbers, its.measured, its_places))

    @property
    def step_count(self) -> int:
        """How many steps were applied."""
        self.undo_skipped_step()
        return self.counts.item(0)

    @step_count.setter
    def step_count(self, count: int) -> None:
        check("step_count", count, STEPS)
        self.undo_skipped_step()
        self.counts[0, 0] = count

    @property
    def accumulated_calls(self) -> int:
        """Calls since the last applied step."""
        return self.counts.item(1, 0)

    @accumulated_calls.setter
    def accumulated_calls(self, count: int) -> None:
        check("accumulated_calls", count, STEPS)
        self.counts[1, 0] = count

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped."""
        self.undo_skipped_step()
        return self.skips.item(1)

    def skip(self, option: str) -> None:
        """Count a step that was skipped by this option."""
        self.skips += [option == "nonfinite", 1]

    def counts_of_arrays(self, row: int) -> Views:
        """Return the count of each array in a row of the counts, as a part of these."""
        return numbers_in(self.counts, row, np.arange(1, self.counts.shape[1]))

    def numbers_of_arrays(self, k: int, places: Sequence[int]) -> Views:
        """Return number ``k`` of the arrays at these places, as a part of all numbers."""
        return numbers_in(self.numbers, k, np.array(places, np.intp))

    def columns(self, parameters: Parameters, backend: Backend, entries: StateDict) -> list[Column]:
        """Return the counts and numbers that belong into the state of each array, which has these entries so far."""
        names, columns = parameters.names, [Column("step", parameters.names, self.counts_of_arrays(0))]
        for initial_numbers, measured, places in self.kinds:
            its_names, params = [names[i] for i in places], [parameters.arrays[i] for i in places]
            for k, (number, initial) in enumerate(initial_numbers.items()):
                if number not in measured or backend.on_host:
                    columns.append(Column(number, its_names, self.numbers_of_arrays(k, places)))
                    continue
                lacks = [name not in entries or number not in entries[name] for name in its_names]
                new = [backend.ops.full((), initial, FLOAT64, param) for param in compress(params, lacks)]
                columns.append(Column(number, list(compress(its_names, lacks)), new))
        accumulate = [name in entries and "accumulated_calls" in entries[name] for name in names]
        if any(accumulate):
            calls = list(compress(self.counts_of_arrays(1), accumulate))
            columns.append(Column("accumulated_calls", list(compress(names, accumulate)), calls))
        return columns

    def count(self, row: int, present: npt.NDArray[np.bool_], are_all_present: bool) -> None:
        """Count a call in this row of the counts, as csrc/fastopt.h says: at once, without a place for an interrupt."""
        if row == 0 and are_all_present and not self.accumulated_calls:
            self.counts[0] += 1
            return
        counts = self.counts.copy()
        counts[row, 0] += 1
        counts[row, 1:] += present
        if row == 0:
            counts[1] = 0
        self.counts[...] = counts

    def copies(self) -> list[npt.NDArray[Any]]:
        """Return copies of the counts and numbers, to come back to if a GPU skips the step."""
        return [self.counts.copy(), self.numbers.copy(), self.skips.copy()]

    def undo_skipped_step(self) -> None:
        """Take the last step out of the counts if a GPU skipped it; waits until that is known."""
        pending = self.pending
        if pending is None:
            return
        verdict, (counts, numbers, skips) = pending
        skipped = verdict.value
        with self._undoing:
            if self.pending is not pending:
                return
            if skipped is not None:
                self.counts[...] = counts
                self.numbers[...] = numbers
                self.skips[...] = skips
                self.skip(skipped)
                self.undone += 1
            self.pending = None

    def check_saved(
        self, step_count: Any, accumulated_calls: Any, skips: Sequence[Any], accumulate_steps: int
    ) -> list[str]:
        """Return what is wrong with saved counts, for people."""
        wrong = []
        try:
            for name, count in zip(SKIPS, skips, strict=True):
                check(name, count, STEPS)
            check("accumulated_calls", accumulated_calls, STEPS)
            if accumulated_calls >= accumulate_steps:
                raise ValueError(
                    f"accumulated_calls={accumulated_calls}: expected a number below "
                    f"accumulate_steps={accumulate_steps}"
                )
        except (TypeError, ValueError, OverflowError) as error:
            wrong.append(f"options: {error}")
        if not STEPS.holds(step_count):
            wrong.append(f"step_count: expected a number from 0 to 2**62, got {shown(step_count)}")
        return wrong

    def load(self, step_count: int, accumulated_calls: int, skips: Sequence[int]) -> None:
        """Set the counts of the whole optimizer."""
        self.step_count, self.accumulated_calls = step_count, accumulated_calls
        self.skips[...] = skips


def numbers_in(numbers: npt.NDArray[Any], row: int, columns: npt.NDArray[np.intp]) -> Views:
    """Return the number of a row in each of these columns, as an array without axes in the same memory."""
    places = (row * numbers.shape[1] + columns) * numbers.itemsize
    likes, sizes = [np.zeros((), numbers.dtype)] * len(places), np.ones(len(places), np.intp)
    return Views(numbers.dtype, likes, sizes, [(numbers, places)])
