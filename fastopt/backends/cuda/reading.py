"""One read of all gradients before a step: clip factors, the global norm, and whether all elements are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..table import HyperRow, Reading
from .compiling import compiled
from .kernels import clip_all, clip_arrays, decide
from .launches import launch
from .layout import COMPUTE_DTYPES, THREADS
from .memory import HostCopy, Upload, address, empty, full, upload
from .numbers import DeviceNorms, DeviceNumber
from .table import CudaTable, NextStep


class GradReader:
    """Reads the gradients of one table, and keeps what it needs on the device from step to step."""

    def __init__(self) -> None:
        self.limits: Upload | None = None
        self.last_limits: npt.NDArray[np.float64] | None = None
        self.norms: DeviceNorms | None = None
        self.guards: Guards | None = None

    def read(
        self,
        table: CudaTable,
        hyper_rows: Sequence[HyperRow],
        limits: npt.NDArray[np.float64] | None,
        global_limit: float | None,
        count_nonfinite: bool,
        skip_above: float,
    ) -> Reading:
        """Set the clip factors and guards of the next step, on the device, and return what was read there."""
        table.next = NextStep()
        if limits is None and global_limit is None and not count_nonfinite:
            return Reading()
        guards = norms = None
        at = guard = 0
        if count_nonfinite or (global_limit is not None and skip_above < math.inf):
            guards = self.guards = self.guards or Guards(table)
        if limits is not None or global_limit is not None:
            self.norms = self.norms or DeviceNorms(table.count)
            norms, at = self.norms.following()
        with table.in_stream() as stream:
            if limits is not None or count_nonfinite:
                table.add_squares(hyper_rows, stream)
            if guards is not None and count_nonfinite:
                guards.count(table, stream)
            if limits is not None:
                self.clip_arrays(table, limits, at + 8, stream)
                table.next = NextStep(clips_arrays=True)
            if global_limit is not None:
                if limits is not None or not count_nonfinite:
                    table.add_squares(hyper_rows, stream)
                self.clip_all(table, global_limit, at, stream)
            if guards is not None:
                guard = guards.decide(table, 0 if global_limit is None else at, skip_above, stream)
        table.next = NextStep(limits is not None, global_limit is not None, guard)
        norm = None if norms is None or global_limit is None else norms.then(first_of)
        of_arrays = None if norms is None else partial(behind_first, norms)
        return Reading(norm, of_arrays, verdict=None if guards is None else guards.verdict())

    def clip_arrays(self, table: CudaTable, limits: npt.NDArray[np.float64], norms: int, stream: Any) -> None:
        """Set the norm and the clip factor of each array."""
        if self.last_limits is None or not np.array_equal(limits, self.last_limits):
            self.limits = upload(limits, self.limits, stream)
            self.last_limits = limits
        factors = [table.factor_addresses(dtype)[0] for dtype in COMPUTE_DTYPES[::-1]]
        kernel, blocks = compiled(table.device, clip_arrays), -(-table.count // THREADS)
        launch(kernel, blocks, THREADS, stream, table.sums, self.limits, table.count, norms, *factors)

    def clip_all(self, table: CudaTable, limit: float, norms: int, stream: Any) -> None:
        """Set the global norm, the norm of each array, and the clip factor of all arrays together."""
        factors = [table.factor_addresses(dtype)[1] for dtype in COMPUTE_DTYPES[::-1]]
        kernel, read = compiled(table.device, clip_all), (table.sums, table.count, float(limit))
        launch(kernel, 1, 1, stream, *read, norms, norms + 8, *factors)

    def nonfinite_counts(self) -> npt.NDArray[np.float64]:
        """Return how many elements of each gradient were not finite when they were last counted; waits for that."""
        assert self.guards is not None
        return self.guards.copy.values()[:-1]


class Guards:
    """The guards of the next step, and the reasons to skip it, on their way to the host (``kernels.decide``)."""

    def __init__(self, table: CudaTable) -> None:
        self.reasons, self.guards = full((table.count + 1,), "float64", "C", 0.0), empty(2, "int64")
        self.copy = HostCopy(self.reasons, table.device)

    def count(self, table: CudaTable, stream: Any) -> None:
        """Add up the chunks' counts of elements that are not finite."""
        table.add_chunks(table.plan.partial_counts, self.reasons, stream)

    def decide(self, table: CudaTable, norm: int, skip_above: float, stream: Any) -> int:
        """Set the guards, and start the copy of the reasons to the host; return the address of the guards."""
        kernel, reasons = compiled(table.device, decide), (self.reasons, table.count)
        launch(kernel, 1, 1, stream, *reasons, norm, float(skip_above), self.guards)
        self.copy.start(stream)
        return address(self.guards)

    def verdict(self) -> DeviceNumber:
        """Return the option by which the step is skipped, or None."""
        return DeviceNumber(self.skipped)

    def skipped(self) -> str | None:
        *counts, is_above = self.copy.values().tolist()
        return "nonfinite" if any(counts) else "skip_above" if is_above else None


def first_of(norms: npt.NDArray[np.float64]) -> float:
    return float(norms[0])


def behind_first(norms: DeviceNumber) -> npt.NDArray[np.float64]:
    return norms.value[1:]  # type: ignore[no-any-return]
