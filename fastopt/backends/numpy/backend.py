"""The NumPy backend."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...arithmetic import symbols
from ...arithmetic.operations import Rule
from ...arithmetic.pipeline import StageFlags
from ..backend import Arrays, Count, Counts, HyperRows, Slots
from ..history import BoundNumbers, History
from ..table import Extras, HyperRow
from . import axis_sums, bfgs, coordinates, row_sums
from .bounded_history import history_of
from .history import Source
from .host import HostBackend
from .packing import NumpyPacking
from .passes import MAX_THREADS
from .programs import step_program
from .table import NumpyTable


@lru_cache
def check_rule(rule: Rule, scalars: type) -> None:
    """Raise unless a rule with scalars of this type can be traced."""
    symbols.check_rule(rule, scalars)
    step_program(rule, scalars, StageFlags(), False, False, ())


class NumpyBackend(HostBackend):
    name = "numpy"
    multiply_rows = staticmethod(coordinates.multiply_rows)
    code_rows = staticmethod(coordinates.code_rows)
    add_runs = staticmethod(axis_sums.add_runs)
    dot = staticmethod(bfgs.dot)
    inverse_hessian = staticmethod(bfgs.NumpyInverseHessian)
    add_rows = staticmethod(row_sums.add_rows)
    packing = staticmethod(NumpyPacking)

    def table(self, params: Arrays, slots: Slots, extras: Extras = None, counts: Counts | None = None) -> NumpyTable:
        return NumpyTable(params, slots, extras, counts)

    def history(self, table: Any, size: int, numbers: BoundNumbers | None = None) -> History:
        arrays = table.arrays
        source = Source(arrays.params, arrays.lowers, arrays.uppers, lambda: table.grads)
        return history_of(source, size, numbers)

    def check_rules(self, table: Any, rows: HyperRows) -> None:
        for row in rows:
            check_rule(row.rule, type(row.scalars))

    def step(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.step(rows, is_counted=True)

    def accumulate(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.accumulate(rows, is_counted=True)

    def most_threads(self) -> int:
        return MAX_THREADS


BACKEND = NumpyBackend()
