"""The base of the optimizers that need more of an array than its elements: numbers of the whole array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import rules
from ..arithmetic.dither import PARAM_STREAM
from ..arithmetic.quantize import Map
from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array, compute_dtype
from ..arrays.memory import in_memory_order
from ..arrays.structure import Branch
from ..backends.numpy.table import Block, NumpyTable, Run
from ..backends.table import CLEAR, UPDATE, HyperRow, Table
from ..options.ranges import Group
from .optimizer import Optimizer


class Direction(NamedTuple):
    """Which way an array is to go, against its sign, and how far."""

    way: Array
    step_size: float


class ArrayOptimizer(Optimizer):
    """An optimizer that keeps numbers of every array, or needs some of whole arrays.

    :meth:`hyper` finds the ``numbers`` of its row's first array beside the options of the group; arrays of one row
    agree in those that ``_apart`` names. A subclass may run the table more than once in a step (``_run``), with sums
    over whole arrays in between (:meth:`Table.sum_products`). The elements themselves always go through rules.

    Attributes
    ----------
    state : dict
        Besides the slots and ``"step"``: the array's numbers (0-d float64).
    """

    #: The numbers of an array that are kept in its state, and what they are before its first step.
    numbers: ClassVar[Mapping[str, float]] = {}

    def __init__(self, params: Any, options: Group, **common: Any) -> None:
        #: By number, then by array.
        self._numbers: npt.NDArray[np.float64] = np.zeros((len(self.numbers), 0))
        super().__init__(params, options, **common)

    def _add(self, addition: Branch, groups: Sequence[Group], group_of: Mapping[str, int]) -> None:
        super()._add(addition, groups, group_of)
        initial = np.array([*self.numbers.values()], np.float64)[:, None]
        added = np.repeat(initial, len(self._params) - self._numbers.shape[1], axis=1)
        self._numbers = np.concatenate([self._numbers, added], axis=1)
        self._keep_numbers()

    def _keep_numbers(self) -> None:
        """Show each array's numbers in its state."""
        for i, name in enumerate(self._names):
            for k, number in enumerate(self.numbers):
                self.state[name].keep(number, self._numbers[k, i : i + 1].reshape(()))

    def _progress(self) -> list[npt.NDArray[Any]]:
        return [*super()._progress(), self._numbers]

    def _apart(self) -> Sequence[npt.NDArray[Any]]:
        return list(self._numbers)

    def _with_numbers(self, groups: Sequence[Group]) -> list[Group]:
        """Return the options of each row's group, and the numbers of its first array beside them."""
        numbers = self._numbers[:, self._first_of_rows].T.tolist()
        return [
            {**groups[group], **dict(zip(self.numbers, its, strict=True))}
            for (group, _), its in zip(self._rows, numbers, strict=True)
        ]

    def _hyper_rows(self, groups: Sequence[Group]) -> list[HyperRow]:
        #: The options and numbers of each row when the step began.
        self._options = self._with_numbers(groups)
        return [
            self._hyper(options, self._settled[group].rule, step + 1)
            for options, (group, step) in zip(self._options, self._rows, strict=True)
        ]


def making_slots(hyper_rows: Sequence[HyperRow]) -> list[HyperRow]:
    """Return the rows of a pass that makes slots, and leaves what is done to the parameter to a later pass."""
    return [hyper._replace(decay=1.0, threshold=0.0, stages=UPDATE) for hyper in hyper_rows]


class DirectionOptimizer(ArrayOptimizer):
    """An optimizer that makes of each gradient, as a whole, a direction, and goes along it: the elementwise pass is
    SGD's.

    The directions are made in NumPy, whatever the backend of the CPU, from gradients that are scaled, clipped and
    decayed already.
    """

    runs_on_gpu = False

    def slots(self, param: Array) -> Mapping[str, tuple[int, ...]]:
        """Return the names and shapes of an array's slots, which begin as 0."""
        raise NotImplementedError

    def direction(self, group: Group, step: int, param: Array, g: Array, state: Mapping[str, Array]) -> Direction:
        """Return which way an array is to go, and how far, with its slots brought up to date in place."""
        raise NotImplementedError

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]:
        return tuple(self.slots(param))

    def _apart(self) -> Sequence[npt.NDArray[Any]]:
        return [np.arange(len(self._params))]

    def rule(self, group: Group) -> Rule:
        return rules.sgd

    def hyper(self, group: Group, step: int) -> rules.SGDScalars:
        return rules.SGDScalars(group["lr"])

    def _slot(self, name: str, computed: Array, group: Group, slot: str) -> tuple[Array, tuple[Map, Array] | None]:
        shape = self.slots(computed)[slot]
        if shape == computed.shape:
            return super()._slot(name, computed, group, slot)
        zeros = np.zeros(shape, compute_dtype(computed.dtype))
        return self._kept(name, slot, zeros, zeros.dtype, zeros.copy), None

    def _new_table(self) -> Table:
        table = super()._new_table()
        slots = [[in_memory_order(slot) for slot in its] for its in self._slots]
        self._prepared = NumpyTable([in_memory_order(computed) for computed in self._computed], slots, self._extras)
        return table

    def _run(self, table: Table, groups: Sequence[Group], hyper_rows: list[HyperRow]) -> None:
        prepared, given = self._prepared, self._gradients.given
        prepared.set_grads(given)
        prepared.row_numbers[:], prepared.array_clip[:] = table.row_numbers, table.array_clip
        ways: list[Array | None] = [None] * len(self._params)
        rows = []
        for hyper, i, (k, step) in zip(hyper_rows, self._first_of_rows, self._rows, strict=True):
            way, step_size = self._direction_of(i, hyper, groups[k], step + 1)
            ways[i] = in_memory_order(np.asarray(way, order="C" if self._params[i].flags.c_contiguous else "F"))
            rows.append(
                hyper._replace(
                    grad_scale=1.0,
                    clip_value=np.inf,
                    global_clip=1.0,
                    l2=0.0,
                    scalars=rules.SGDScalars(step_size),
                    mean=0.0,
                    l1=0.0,
                    stages=hyper.stages & ~CLEAR,
                    zero_grads=False,
                )
            )
        if self.pass_options.zero_grads or self.pass_options.accumulate_steps > 1:
            prepared.step([hyper._replace(stages=CLEAR) for hyper in hyper_rows])
        table.array_clip[:] = 1
        table.set_grads(ways)
        table.step(rows)
        table.set_grads(given)

    def _direction_of(self, i: int, hyper: HyperRow, group: Group, step: int) -> Direction:
        """Return the direction of array number ``i``, with its slots brought up to date."""
        prepared, param = self._prepared, self._params[i]
        blocks = [Block(prepared, [Run(i, 0, slot.size)]) for slot in self._slots[i]]
        slots: dict[str, Array] = {}
        with np.errstate(all="ignore"):
            for k, (name, slot) in enumerate(zip(self.slots(param), self._slots[i], strict=True)):
                slots[name] = in_shape_of(slot, prepared.loaded(blocks[k], blocks[k].slots[k], k))
            whole = Block(prepared, [Run(i, 0, param.size)])
            p = in_shape_of(param, prepared.loaded(whole, whole.param, PARAM_STREAM))
            g = in_shape_of(param, prepared.whole_grad(i, hyper))
            direction = self.direction(group, step, p, g, slots)
            for k, (values, slot) in enumerate(zip(slots.values(), self._slots[i], strict=True)):
                if slot.dtype != values.dtype:
                    flat = in_memory_order(values).reshape(-1)
                    prepared.store(blocks[k], blocks[k].slots[k], k, flat, hyper)
        return direction


def in_shape_of(array: Array, flat: Array) -> Array:
    """Return elements in the order of an array's memory as an array of its shape."""
    shaped = flat.reshape(in_memory_order(array).shape)
    return shaped if array.flags.c_contiguous else shaped.T
