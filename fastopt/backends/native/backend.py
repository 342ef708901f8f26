"""The native backend. The C call that makes a step also counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic.operations import Rule
from .. import threads
from ..backend import Arrays, Count, Counts, HyperRows, Rules, Slots
from ..history import BoundNumbers, History
from ..numpy.host import HostBackend
from ..plan import Plan, PlanContents
from ..table import Extras, HyperRow
from . import bfgs, compiling, coordinates, library, ndarrays, plan, windows
from .functions import functions
from .history import NativeHistory
from .packing import NativePacking
from .table import NativeTable, add_rows, add_runs


class NativeBackend(HostBackend):
    name = "native"
    multiply_rows = staticmethod(coordinates.multiply_rows)
    code_rows = staticmethod(coordinates.code_rows)
    add_runs = staticmethod(add_runs)
    dot = staticmethod(bfgs.dot)
    inverse_hessian = staticmethod(bfgs.NativeInverseHessian)
    add_rows = staticmethod(add_rows)
    packing = staticmethod(NativePacking)
    windows = staticmethod(windows.windows)
    same_entries = functions.get("same_entries", HostBackend.same_entries)

    def table(self, params: Arrays, slots: Slots, extras: Extras = None, counts: Counts | None = None) -> NativeTable:
        return NativeTable(params, slots, extras, counts)

    def cannot_run(self, rules: Rules) -> str | None:
        own = [rule for rule in rules if rule not in library.RULES]
        missing = compiling.missing() if own else None
        return None if missing is None else f"the rule {name_of(own[0])} is not one of fastopt's, and {missing}"

    def history(self, table: Any, size: int, numbers: BoundNumbers | None = None) -> History:
        return NativeHistory(table, size, numbers)

    def check_rules(self, table: NativeTable, rows: HyperRows) -> None:
        for row in rows:
            if row.rule not in library.RULES:
                table.own_rule(row.rule, type(row.scalars))

    def addresses(self, arrays: Arrays) -> npt.NDArray[np.uintp]:
        return ndarrays.memory_of(arrays)

    def writeable_check(self, arrays: Arrays) -> Callable[[], bool]:
        return ndarrays.writeable_check(arrays)

    def step(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.step(rows, is_counted=True)

    def accumulate(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.accumulate(rows, is_counted=True)

    @property
    def makes_plans(self) -> bool:  # type: ignore[override]
        return plan.are_made

    def plan(self, table: Any, planned: PlanContents) -> Plan | None:
        if table.reduction is not None and planned.reads_gradients:
            return None  # C has the sums of this table's own arrays alone
        has_layouts = isinstance(planned.arrays.layouts, ndarrays.NativeLayouts)
        are_compiled = all(group.rule in library.RULES or group.rule in table.own_rules for group in planned.groups)
        return plan.NativePlan(table, planned) if has_layouts and are_compiled else None

    def most_threads(self) -> int:
        return threads.MAX_THREADS if library.has_threads() else 1


def name_of(rule: Rule) -> str:
    return str(getattr(rule, "__name__", rule))


BACKEND = NativeBackend()
