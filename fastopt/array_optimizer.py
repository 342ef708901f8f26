"""The base of the optimizers that need more of an array than its elements: numbers of the whole array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from . import rules
from .arrays import Array, check_slot, in_memory_order
from .backends import Hyper, Source, Table
from .backends.numpy import NumpyTable
from .hyperparameters import Group
from .optimizer import Optimizer
from .pass_options import PLAIN_OPTIONS
from .rules import Rule
from .structure import Branch


class Direction(NamedTuple):
    """Which way an array is to go, against its sign, and how far."""

    way: Array
    step_size: float


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

    runs_on_gpu = False
    # A step is more than one pass, or its pass is not of the gradients.
    refused = frozenset({*PLAIN_OPTIONS, "half"}) - {"nonfinite"}

    #: The numbers of an array that are kept in its state, and what they are before its first step.
    numbers: ClassVar[Mapping[str, float]] = {}

    def _add(self, addition: Branch, groups: Sequence[Group], group_of: Mapping[str, int]) -> None:
        super()._add(addition, groups, group_of)
        for state in self.state.values():
            for number, value in self.numbers.items():
                state.setdefault(number, np.full((), value))

    def _number_rows(self, table: Table) -> None:
        places = np.flatnonzero(self._gradients.present)
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


class DirectionOptimizer(ArrayOptimizer):
    """An optimizer that makes of each gradient, as a whole, a direction, and goes along it: the elementwise pass is
    SGD's.

    The directions are made in NumPy, whatever the backend, from gradients that are scaled, clipped and decayed already.
    """

    def slots(self, param: Array) -> Mapping[str, tuple[int, ...]]:
        """Return the names and shapes of an array's slots, which begin as 0."""
        raise NotImplementedError

    def direction(self, group: Group, step: int, param: Array, g: Array, state: Mapping[str, Array]) -> Direction:
        """Return which way an array is to go, and how far, with its state brought up to date."""
        raise NotImplementedError

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]:
        return tuple(self.slots(param))

    def new_slot(self, group: Group, slot: str, param: Array) -> Array:
        return np.zeros(self.slots(param)[slot], param.dtype)

    def rule(self, group: Group) -> Rule:
        return rules.sgd

    def hyper(self, group: Group, step: int) -> rules.SGDScalars:
        return rules.SGDScalars(group["lr"])

    def _new_table(self) -> Table:
        table = super()._new_table()
        self._prepared = NumpyTable([in_memory_order(param) for param in self._params], [()] * len(self._params))
        self._own_slots = [
            {slot: self._own_slot(name, slot, self.new_slot({}, slot, param)) for slot in self.slots(param)}
            for name, param in zip(self._names, self._params, strict=True)
        ]
        return table

    def _own_slot(self, name: str, slot: str, zeros: Array) -> Array:
        """Return a slot of the state, checked, or these zeros where there is none yet."""
        values = self.state[name].get(slot)
        if values is None:
            self._new_slots.append((name, slot, zeros))
            return zeros
        check_slot(f"state[{name!r}][{slot!r}]", values, zeros, zeros.dtype)
        return values

    def _run(self, table: Table, groups: Sequence[Group], hypers: list[Hyper]) -> None:
        self._prepared.set_grads(self._gradients.given)
        self._prepared.array_clip[:] = table.array_clip
        directions: list[Array | None] = [None] * len(self._params)
        rows = []
        for row, (i, (k, step)) in enumerate(zip(self._arrays_of_rows, self._rows, strict=True)):
            param, state = self._params[i], self._own_slots[i]
            with np.errstate(all="ignore"):
                flat_grad = self._prepared.block_of("grad", [(i, 0, param.size)], hypers[row])
                g = flat_grad.reshape(in_memory_order(param).shape)
                g = g if param.flags.c_contiguous else g.T
                way, step_size = self.direction(groups[k], step + 1, param, g, state)
            directions[i] = np.asarray(way, order="C" if param.flags.c_contiguous else "F")
            scalars = rules.SGDScalars(step_size)
            rows.append(
                hypers[row]._replace(grad_scale=1.0, clip_value=np.inf, global_clip=1.0, l2=0.0, scalars=scalars)
            )
        table.array_clip[:] = 1
        table.set_grads([None if way is None else in_memory_order(way) for way in directions])
        table.step(rows)
        table.set_grads(self._gradients.given)
