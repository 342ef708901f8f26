"""The native backend. It counts a step in the C call that makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...arithmetic.rules import Rule
from ...arrays.dtypes import Array
from .. import threads
from ..backend import Arrays, Count, Counts
from ..numpy.host import HostBackend
from ..table import Extras, HyperRow
from . import library, ndarrays
from .table import NativeTable, add_runs


class NativeBackend(HostBackend):
    name = "native"
    add_runs = staticmethod(add_runs)

    def table(
        self,
        params: Arrays,
        slots: Sequence[Arrays],
        extras: Extras = None,
        rules: Sequence[Rule] = (),
        counts: Counts | None = None,
    ) -> NativeTable:
        for rule in rules:
            if rule not in library.RULES:
                raise ValueError(f'the rule {rule.__name__} is not among the compiled ones; use backend="numpy"')
        return NativeTable(params, slots, extras, counts)

    def writeable_check(self, arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> Callable[[], bool]:
        return ndarrays.writeable_check(arrays, dtypes)

    def step(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.step(rows, is_counted=True)

    def accumulate(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        table.accumulate(rows, is_counted=True)

    def most_threads(self) -> int:
        return threads.MOST if library.has_threads() else 1


BACKEND = NativeBackend()
