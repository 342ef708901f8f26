"""The NumPy backend."""

from __future__ import annotations

from ..backend import Arrays, Counts, Rules, Slots
from ..table import Extras
from . import axis_sums, row_sums
from .host import HostBackend
from .table import MAX_THREADS, NumpyTable


class NumpyBackend(HostBackend):
    name = "numpy"
    add_runs = staticmethod(axis_sums.add_runs)
    add_rows = staticmethod(row_sums.add_rows)

    def table(
        self, params: Arrays, slots: Slots, extras: Extras = None, rules: Rules = (), counts: Counts | None = None
    ) -> NumpyTable:
        return NumpyTable(params, slots, extras)

    def most_threads(self) -> int:
        return MAX_THREADS


BACKEND = NumpyBackend()
