"""The base of the optimizers that need more of an array than its elements: numbers of the whole array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .backends import Hyper, Source, Table
from .hyperparameters import Group
from .optimizer import Optimizer


class ArrayOptimizer(Optimizer):
    """An optimizer of which every array has a row of hyperparameters of its own.

    :meth:`hyper` finds the array's numbers beside the options of its group. A subclass may keep numbers in the state
    (``numbers``), and may run the table more than once in a step (``_run``), with sums over whole arrays in between
    (:meth:`Table.sum_products`). The elements themselves always go through rules.

    Attributes
    ----------
    state : dict
        Besides the slots and ``"step"``: the array's numbers (0-d float64).
    """

    #: The numbers of an array that are kept in its state, and what they are before its first step.
    numbers: ClassVar[Mapping[str, float]] = {}

    def _new_table(self) -> Table:
        for state in self.state.values():
            for number, value in self.numbers.items():
                state.setdefault(number, np.full((), value))
        return super()._new_table()

    def _number_rows(self, table: Table) -> None:
        places = np.flatnonzero(self._present)
        table.rows[places] = np.arange(places.size)
        #: Which array each row is of.
        self._arrays_of_rows: list[int] = places.tolist()
        self._rows = [(int(self._group_of[i]), int(self._steps[i])) for i in self._arrays_of_rows]

    def _with_numbers(self, groups: Sequence[Group]) -> list[Group]:
        """Return the options of each row's group, and its array's numbers beside them."""
        return [
            {**groups[group], **{number: float(self.state[self._names[i]][number]) for number in self.numbers}}
            for i, (group, _) in zip(self._arrays_of_rows, self._rows, strict=True)
        ]

    def _hypers(self, groups: Sequence[Group]) -> list[Hyper]:
        return [
            self._hyper(options, self._settled[group].rule, step + 1)
            for options, (group, step) in zip(self._with_numbers(groups), self._rows, strict=True)
        ]

    def _scalars_anew(self, groups: Sequence[Group], hypers: list[Hyper]) -> list[Hyper]:
        """Return the rows with their scalars computed anew, from what the numbers of the arrays are now."""
        return [
            hyper._replace(scalars=self.hyper(options, step + 1))
            for hyper, options, (_, step) in zip(hypers, self._with_numbers(groups), self._rows, strict=True)
        ]

    def _sums(self, table: Table, hypers: list[Hyper], left: Source, right: Source) -> npt.NDArray[np.float64]:
        """Return the sum of the products of two sources' elements, for the array of each row."""
        sums = table.sum_products(hypers, left, right)
        return sums[np.array(self._arrays_of_rows, np.intp)]
