"""The native backend. The C call that makes a step also counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import threads
from ..backend import Arrays, Count, Counts, Rules, Slots
from ..numpy.host import HostBackend
from ..plan import Plan, PlanContents
from ..table import Extras, HyperRow
from . import library, ndarrays, plan
from .table import NativeTable, add_rows, add_runs


class NativeBackend(HostBackend):
    name = "native"
    add_runs = staticmethod(add_runs)
    add_rows = staticmethod(add_rows)

    def table(
        self, params: Arrays, slots: Slots, extras: Extras = None, rules: Rules = (), counts: Counts | None = None
    ) -> NativeTable:
        for rule in rules:
            if rule not in library.RULES:
                raise ValueError(
                    f'the rule {getattr(rule, "__name__", rule)} is not among the compiled ones; use backend="numpy"'
                )
        return NativeTable(params, slots, extras, counts)

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
        has_layouts = isinstance(planned.arrays.layouts, ndarrays.NativeLayouts)
        return plan.NativePlan(table, planned) if has_layouts else None

    def most_threads(self) -> int:
        return threads.MAX_THREADS if library.has_threads() else 1


BACKEND = NativeBackend()
