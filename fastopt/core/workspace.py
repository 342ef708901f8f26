"""The table, and all that lives as long as it: the gradients that it reads, its rows, its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.layouts import Layouts
from ..arrays.memory import Views
from ..backends.backend import Backend
from ..backends.layouts import layouts_of
from ..backends.table import ArrayExtras
from .bounds import NO_BOUNDS, NumberBounds
from .entries import Column
from .gradients import Gradients
from .layout_errors import Where, check_layouts
from .parameters import Parameters
from .planning import Planning
from .progress import Progress
from .row_sparse import Buffers
from .rows import Rows
from .slots import Memory, Slots


class Workspace:
    """A table, and all that must be made again with it.

    Attributes
    ----------
    table : Table
        As ``fastopt.backends.table`` describes it.
    gradients, rows, memory
        See their classes.
    layouts : Layouts or None
        Those of all arrays that the table uses, but the gradients; None on a GPU.
    are_writeable : callable
        Returns whether all parameters can be written.
    is_one_call : bool
        Whether the optimizer's update is one pass over the table.
    own : object
        For the optimizer: :meth:`Hooks.prepare` sets it, :meth:`Hooks.update` uses it.
    bounds : NumberBounds
        The numbers that bound each array.
    planning : Planning
        The plan of the next step.
    buffers : dict
        The memory for copies of the rows that row-sparse gradients touch.
    """

    __slots__ = (
        "are_writeable",
        "backend",
        "bounds",
        "buffers",
        "gradients",
        "is_one_call",
        "layouts",
        "memory",
        "own",
        "planning",
        "rows",
        "table",
        "where",
    )

    def __init__(
        self,
        backend: Backend,
        table: Any,
        gradients: Gradients,
        memory: Memory,
        are_writeable: Callable[[], bool],
        is_one_call: bool,
        layouts: Layouts | None,
        where: Where,
    ) -> None:
        self.backend, self.table, self.gradients, self.memory = backend, table, gradients, memory
        self.are_writeable = are_writeable
        self.rows = Rows()
        self.bounds = NO_BOUNDS
        self.is_one_call = is_one_call
        self.layouts, self.where = layouts, where
        self.planning = Planning()
        self.buffers: Buffers = {}
        self.own: Any = None

    def check_layouts(self) -> None:
        """Raise if an array that the table uses was changed in place by more than its values."""
        check_layouts(self.layouts, self.where)

    def take_bounds(self, bounds: NumberBounds) -> None:
        """Use other numbers as bounds of the arrays; rows are made again."""
        self.rows.history, self.bounds = b"", bounds

    def forget_grads(self) -> None:
        """Keep no gradient alive after a step, where the backend has read it."""
        self.backend.forget_grads(self.table, self.gradients.forget)


def make_workspace(
    backend: Backend, parameters: Parameters, slots: Slots, progress: Progress, is_one_call: bool
) -> Workspace:
    """Make a table of the arrays whose memory ``slots`` has prepared."""
    written = slots.written(parameters.extents, backend) if backend.on_host else parameters.extents
    table = make_table(backend, slots.memory, progress.counts)
    gradients = Gradients(
        backend.ops, backend.add_rows, parameters.names, parameters.arrays, written, slots.options.zero_grads
    )
    computed = slots.memory.computed
    if are_in_order(backend, computed) and all(map(is_, computed, parameters.arrays)):
        gradients.begin(table)
    are_writeable = backend.writeable_check(parameters.arrays)
    layouts, where = None, parameters.where
    if backend.on_host:
        columns = slots.columns(parameters, progress)
        views = [column for column in columns if isinstance(column.arrays, Views)]
        others = [column for column in columns if not isinstance(column.arrays, Views)]
        copies = [copy for copy in parameters.copies if copy is not None]
        state = [list(chain.from_iterable(column.arrays for column in others)), *(column.arrays for column in views)]
        layouts = layouts_of([parameters.arrays, copies, *state], 2, slots.state.visible)
        where = partial(where_is, parameters, others, views)
    return Workspace(backend, table, gradients, slots.memory, are_writeable, is_one_call, layouts, where)


def make_table(backend: Backend, memory: Memory, counts: npt.NDArray[np.int64] | None = None) -> Any:
    """Return a table over the memory of every array; counted calls update ``counts``."""
    in_order, computed, slots, extras = backend.ops.in_memory_order, memory.computed, memory.slots, memory.extras
    is_in_order = are_in_order(backend, computed)
    return backend.table(
        computed if is_in_order else list(map(in_order, computed)),
        slots if is_in_order else [list(map(in_order, each)) for each in slots],
        [extras.get(i, ArrayExtras()) for i in range(len(computed))] if extras else None,
        counts,
    )


def are_in_order(backend: Backend, arrays: Sequence[Any]) -> bool:
    """Return whether these are NumPy arrays in C order."""
    return backend.on_host and all(array.flags.c_contiguous for array in arrays)


def where_is(
    parameters: Parameters, others: Sequence[Column], views: Sequence[Column], k: int, i: int
) -> tuple[str, str]:
    """Return what errors call an array of the parameters, of their copies, or of the state, and since when it is so."""
    if k < 2:
        return parameters.where(k, i)
    slot, name = [(slot, name) for slot, names, _ in (others if k == 2 else [views[k - 3]]) for name in names][i]
    return f"state[{name!r}][{slot!r}]", "before"
