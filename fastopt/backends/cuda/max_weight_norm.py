"""Max-norm regularisation on a GPU, with the bits of the host's backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..table import HyperRow, LimitedUnits
from .compiling import compiled
from .launches import launch
from .layout import CHUNKS_PER_BLOCK, ITEM_SIZES, NUMPY_DTYPES
from .memory import Upload, empty, upload
from .sum_kernels import UNIT_THREADS, norm_factors, shrink_kernel
from .table import CudaTable
from .unit_sums import UnitSums


class NormLimits:
    """Limits the norms of units of one table's arrays."""

    def __init__(self) -> None:
        #: The units, and the launches and axes that they are for.
        self.units: UnitSums | None = None
        self.units_for: Any = None

    def limit(self, table: CudaTable, hyper_rows: Sequence[HyperRow], limited: Sequence[LimitedUnits]) -> None:
        """Multiply the units whose norm is above their array's limit by limit / norm, unless the step is not done."""
        axes = {each.number: each.axes for each in limited}
        limits = {each.number: each.limit for each in limited}
        with table.in_stream() as stream:
            if self.units is None or self.units_for != (table.plan.key, axes):
                self.units_for = None  # until all is made: memory may run out in between
                self.units = UnitSums(table, axes, stream)
                self.factors = {dtype: empty(self.units.count, dtype) for dtype in ("float64", "float32")}
                self.limits: list[Upload | None] = [None] * len(self.units.parts)
                self.last_limits: dict[int, float] = {}
                self.units_for = table.plan.key, axes
            if limits != self.last_limits:
                for k, part in enumerate(self.units.parts):
                    self.limits[k] = upload(np.array([limits[i] for i in part.numbers]), self.limits[k], stream)
                self.last_limits = limits
            self.shrink(table, self.units, hyper_rows, stream)

    def shrink(self, table: CudaTable, units: UnitSums, hyper_rows: Sequence[HyperRow], stream: Any) -> None:
        units.add_squares(table, hyper_rows, stream)
        for part, limits in zip(units.parts, self.limits, strict=True):
            places = part.rows, part.entries
            kernel = compiled(table.device, norm_factors)
            both = self.factors.values()
            launch(kernel, part.blocks, CHUNKS_PER_BLOCK, stream, *places, units.partials, limits, *both)
            dtype = table.plan.launches[part.launch].dtype
            like, kernel = NUMPY_DTYPES[dtype](0), compiled(table.device, shrink_kernel, dtype)
            numbers = self.factors[dtype], table.next.guard
            launch(kernel, part.blocks, UNIT_THREADS, stream, like, ITEM_SIZES[dtype], *places, *numbers)
