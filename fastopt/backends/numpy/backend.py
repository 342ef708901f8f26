"""The NumPy backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...arithmetic.rules import Rule
from ...arrays.dtypes import Array
from ..host import HostBackend
from ..table import ArrayExtras
from . import axis_sums
from .table import MOST_THREADS, NumpyTable


class NumpyBackend(HostBackend):
    name = "numpy"
    add_runs = staticmethod(axis_sums.add_runs)

    def table(
        self,
        params: Sequence[Array],
        slots: Sequence[Sequence[Array]],
        extras: Sequence[ArrayExtras] | None = None,
        *,
        rules: Sequence[Rule] = (),
        counts: npt.NDArray[np.int64] | None = None,
    ) -> NumpyTable:
        return NumpyTable(params, slots, extras)

    def most_threads(self) -> int:
        return MOST_THREADS


BACKEND = NumpyBackend()
