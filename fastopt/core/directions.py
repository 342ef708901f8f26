"""The base of the optimizers that make a direction of a whole gradient and go along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array
from ..arrays.memory import in_memory_order, in_shape_of
from ..backends.table import CLEAR, HyperRow
from ..options.ranges import Group
from .step import Step
from .whole_arrays import ArrayOptimizer
from .workspace import Workspace


class Direction(NamedTuple):
    """The direction of an array's step, opposite in sign, and its size."""

    way: Array
    step_size: float


class DirectionOptimizer(ArrayOptimizer):
    """An optimizer that makes a direction of each gradient, as a whole, and goes along it: the elementwise pass is
    SGD's.

    NumPy makes the directions, whatever the backend of the CPU, from gradients that are scaled, clipped and
    regularized already.
    """

    runs_on_gpu = False

    def slots(self, param: Array) -> Mapping[str, tuple[int, ...]]:
        """Return the names and shapes of an array's slots, which begin as 0."""
        raise NotImplementedError

    def direction(self, group: Group, step: int, param: Array, g: Array, state: Mapping[str, Array]) -> Direction:
        """Return the direction of an array's step, and update its slots in place."""
        raise NotImplementedError

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]:
        return tuple(self.slots(param))

    def slot_shape(self, slot: str, param: Array) -> tuple[int, ...]:
        return self.slots(param).get(slot, param.shape)

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return [np.arange(numbers.shape[1])]

    def rule(self, group: Group) -> Rule:
        return rules.sgd

    def hyper(self, group: Group, step: int) -> rules.SGDScalars:
        return rules.SGDScalars(group["lr"])

    def prepare(self, workspace: Workspace) -> None:
        memory = workspace.memory
        workspace.own = workspace.backend.numpy_table(
            [in_memory_order(each.computed) for each in memory],
            [list(map(in_memory_order, each.slots)) for each in memory],
            [each.extras for each in memory],
        )

    def update(self, step: Step) -> None:
        table, reader, workspace = step.table, step.workspace.own, step.workspace
        given = workspace.gradients.given
        reader.set_grads(given)
        reader.row_numbers[:], reader.array_clip[:] = table.row_numbers, table.array_clip
        ways: list[Array | None] = [None] * len(workspace.memory)
        rows = []
        members = zip(step.hyper_rows, workspace.rows.firsts, step.row_options, workspace.rows.members, strict=True)
        for row, i, group, (_, steps) in members:
            way, step_size = self.direction_of(step, i, row, group, steps + 1)
            is_c_order = step.parts.parameters.arrays[i].flags.c_contiguous
            ways[i] = in_memory_order(np.asarray(way, order="C" if is_c_order else "F"))
            rows.append(along_direction(row, step_size))
        if step.parts.options.zero_grads or step.parts.options.accumulate_steps > 1:
            reader.step([row._replace(stages=CLEAR) for row in step.hyper_rows])
        table.array_clip[:] = 1
        table.set_grads(ways)
        table.step(rows)
        table.set_grads(given)
        reader.forget_grads()

    def direction_of(self, step: Step, i: int, row: HyperRow, group: Group, steps: int) -> Direction:
        """Return the direction of array number ``i``, and update its slots."""
        reader, param = step.workspace.own, step.parts.parameters.arrays[i]
        stored = step.workspace.memory[i].slots
        with np.errstate(all="ignore"):
            slots = {
                name: in_shape_of(slot, reader.slot_values(i, k))
                for k, (name, slot) in enumerate(zip(self.slots(param), stored, strict=True))
            }
            p = in_shape_of(param, reader.param_values(i))
            g = in_shape_of(param, reader.full_gradient(i, row))
            direction = self.direction(group, steps, p, g, slots)
            for k, (values, slot) in enumerate(zip(slots.values(), stored, strict=True)):
                if slot.dtype != values.dtype:
                    reader.write_slot(i, k, in_memory_order(values).reshape(-1), row)
        return direction


def along_direction(row: HyperRow, step_size: float) -> HyperRow:
    """Return the row of SGD along a direction, which was scaled, clipped and regularized when it was made."""
    return row._replace(
        grad_scale=1.0,
        clip_value=np.inf,
        global_clip=1.0,
        l2=0.0,
        scalars=rules.SGDScalars(step_size),
        mean=0.0,
        l1=0.0,
        stages=row.stages & ~CLEAR,
        zero_grads=False,
    )
