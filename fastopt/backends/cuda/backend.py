"""The CUDA backend: nothing here waits for the device, but to raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...arithmetic.rules import Rule
from ..backend import Arrays, Backend, Counts, Limits, Refuse
from ..table import Extras, HyperRow, LimitedUnits, Present, Reading, Source, Trust
from . import arrays
from .adafactor import Factored
from .table import CudaTable, stream_handle


class CudaBackend(Backend):
    name = "cuda"
    on_host = False
    ops = arrays

    def table(
        self,
        params: Arrays,
        slots: Sequence[Arrays],
        extras: Extras = None,
        rules: Sequence[Rule] = (),
        counts: Counts | None = None,
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
        limits: Limits | None,
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

    def limit_norms(self, table: CudaTable, rows: Sequence[HyperRow], units: Sequence[LimitedUnits]) -> None:
        table.hold_norms(rows, units)

    def step_by_trust(
        self,
        table: CudaTable,
        rows: Sequence[HyperRow],
        norm_rows: Sequence[HyperRow],
        update: Source,
        trusts: Sequence[Trust],
        present: Present,
        ratios: Sequence[Any],
    ) -> None:
        table.set_trust_ratios(norm_rows, update, trusts, ratios)
        table.step(rows)

    def adafactor(self, table: CudaTable, slots: Sequence[Sequence[Any]]) -> Factored:
        return Factored(table, slots)


BACKEND = CudaBackend()
