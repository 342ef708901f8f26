"""The NumPy backend."""

from __future__ import annotations

from collections.abc import Sequence

from ...arithmetic.rules import Rule
from ..backend import Arrays, Counts
from ..table import Extras
from . import axis_sums
from .host import HostBackend
from .table import MAX_THREADS, NumpyTable


class NumpyBackend(HostBackend):
    name = "numpy"
    add_runs = staticmethod(axis_sums.add_runs)

    def table(
        self,
        params: Arrays,
        slots: Sequence[Arrays],
        extras: Extras = None,
        rules: Sequence[Rule] = (),
        counts: Counts | None = None,
    ) -> NumpyTable:
        return NumpyTable(params, slots, extras)

    def most_threads(self) -> int:
        return MAX_THREADS


BACKEND = NumpyBackend()
