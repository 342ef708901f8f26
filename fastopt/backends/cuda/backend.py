"""The CUDA backend: nothing here waits for the device, but to raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic.rules import Rule
from ..backend import ArrayOps, Count, Refuse
from ..interrupts import uninterrupted
from ..table import ArrayExtras, HyperRow, LimitedUnits, Reading, Source, Trust
from . import arrays
from .adafactor import Factored
from .table import CudaTable, stream_handle


class CudaBackend:
    name = "cuda"
    on_host = False

    @property
    def ops(self) -> ArrayOps:
        return arrays

    def table(
        self,
        params: Sequence[Any],
        slots: Sequence[Sequence[Any]],
        extras: Sequence[ArrayExtras] | None = None,
        *,
        rules: Sequence[Rule] = (),
        counts: npt.NDArray[np.int64] | None = None,
    ) -> CudaTable:
        return CudaTable(params, slots, extras)

    def writeable_check(self, arrays: Sequence[Any], dtypes: Sequence[Any]) -> Callable[[], bool]:
        return lambda: True

    def set_stream(self, table: CudaTable, stream: Any) -> None:
        table.stream = None if stream is None else stream_handle(stream)

    def read(
        self,
        table: CudaTable,
        rows: list[HyperRow],
        limits: npt.NDArray[np.float64] | None,
        global_limit: float | None,
        nonfinite: str,
        refuse: Refuse,
    ) -> Reading:
        norm = table.read_grads(rows, limits, global_limit, nonfinite != "propagate")
        if nonfinite == "raise":
            counts = table.nonfinite_counts().astype(np.int64)
            if counts.any():
                refuse(counts)
        return Reading(norm, verdict=table.verdict() if nonfinite == "skip" else None)

    def step(self, table: CudaTable, rows: list[HyperRow], count: Count) -> None:
        uninterrupted(partial(table.step, rows), count)

    def accumulate(self, table: CudaTable, rows: list[HyperRow], count: Count) -> None:
        uninterrupted(partial(table.accumulate, rows), count)

    def limit_norms(self, table: CudaTable, rows: Sequence[HyperRow], units: Sequence[LimitedUnits]) -> None:
        table.hold_norms(rows, units)

    def step_by_trust(
        self,
        table: CudaTable,
        rows: Sequence[HyperRow],
        norm_rows: Sequence[HyperRow],
        update: Source,
        trusts: Sequence[Trust],
        present: npt.NDArray[np.bool_],
        ratios: Sequence[Any],
    ) -> None:
        table.set_trust_ratios(norm_rows, update, trusts, ratios)
        table.step(rows)

    def numpy_table(self, params: Sequence[Any], slots: Sequence[Sequence[Any]], extras: Sequence[ArrayExtras]) -> Any:
        raise NotImplementedError("NumPy can't read arrays on a GPU")

    def adafactor(self, table: CudaTable, slots: Sequence[Sequence[Any]]) -> Factored:
        return Factored(table, slots)

    def sum_squares(self, array: Any, axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
        raise NotImplementedError("sums over axes of arrays on a GPU are part of the kernels that use them")


BACKEND = CudaBackend()
