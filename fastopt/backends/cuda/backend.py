"""The CUDA backend: nothing here waits for the device, but to raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...arithmetic.symbols import check_rule
from ...arrays.memory import Extents
from ..backend import Arrays, Backend, Counts, Limits, Refuse
from ..table import Extras, HyperRow, LimitedUnits, Present, Reading, Source, Trust
from . import arrays
from .adafactor import Factored
from .max_weight_norm import NormLimits
from .reading import GradReader
from .streams import stream_handle
from .table import CudaTable
from .trust import TrustRatios


class BackendTable(CudaTable):
    """A table with the passes that work on it besides steps; each keeps what it needs from step to step."""

    def __init__(self, params: Arrays, slots: Sequence[Arrays], extras: Extras) -> None:
        super().__init__(params, slots, extras)
        self.reader, self.norm_limits, self.trust_ratios = GradReader(), NormLimits(), TrustRatios()


class CudaBackend(Backend):
    name = "cuda"
    on_host = False
    ops = arrays

    def extents(self, names: Sequence[str], params: Arrays) -> Extents:
        return arrays.extents(names, params)

    def table(
        self, params: Arrays, slots: Sequence[Arrays], extras: Extras = None, counts: Counts | None = None
    ) -> BackendTable:
        return BackendTable(params, slots, extras)

    def writeable_check(self, arrays: Arrays) -> Callable[[], bool]:
        return lambda: True

    def check_rules(self, table: BackendTable, rows: Sequence[HyperRow]) -> None:
        for row in rows:
            check_rule(row.rule, type(row.scalars))

    def set_stream(self, table: BackendTable, stream: Any) -> None:
        table.stream = None if stream is None else stream_handle(stream)

    def read(
        self,
        table: BackendTable,
        rows: list[HyperRow],
        limits: Limits | None,
        global_limit: float | None,
        nonfinite: str,
        refuse: Refuse,
        skip_above: float,
    ) -> Reading:
        reading = table.reader.read(table, rows, limits, global_limit, nonfinite != "propagate", skip_above)
        if nonfinite == "raise":
            counts = table.reader.nonfinite_counts().astype(np.int64)
            if counts.any():
                refuse(counts)
            if global_limit is None or skip_above == math.inf:
                return reading._replace(verdict=None)
        return reading

    def follow(self, table: BackendTable, reader: BackendTable) -> None:
        table.next, table.factors, table.order, table.stream = reader.next, reader.factors, reader.order, reader.stream

    def limit_norms(self, table: BackendTable, rows: Sequence[HyperRow], units: Sequence[LimitedUnits]) -> None:
        table.norm_limits.limit(table, rows, units)

    def step_by_trust(
        self,
        table: BackendTable,
        rows: Sequence[HyperRow],
        norm_rows: Sequence[HyperRow],
        update: Source,
        trusts: Sequence[Trust],
        present: Present,
        ratios: Sequence[Any],
    ) -> None:
        table.trust_ratios.set(table, norm_rows, update, trusts, ratios)
        table.step(rows)

    def adafactor(self, table: BackendTable, slots: Sequence[Sequence[Any]]) -> Factored:
        return Factored(table, slots)


BACKEND = CudaBackend()
