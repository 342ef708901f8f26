"""One read of all gradients before a step: clip factors, the global norm, and whether all elements are finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..table import HyperRow
from .compiling import compiled
from .kernels import clip_all, clip_arrays, decide
from .launches import launch
from .layout import COMPUTE_DTYPES, THREADS
from .memory import HostCopy, Upload, address, empty, upload
from .numbers import DeviceNorms, DeviceNumber
from .table import CudaTable, NextStep


class GradReader:
    """Reads the gradients of one table, and keeps what it needs on the device from step to step."""

    def __init__(self) -> None:
        self.limits: Upload | None = None
        self.last_limits: npt.NDArray[np.float64] | None = None
        self.norms: DeviceNorms | None = None
        self.counter: NonfiniteCounter | None = None

    def read(
        self,
        table: CudaTable,
        hyper_rows: Sequence[HyperRow],
        limits: npt.NDArray[np.float64] | None,
        global_limit: float | None,
        count_nonfinite: bool,
    ) -> DeviceNumber | None:
        """Set the clip factors and guards of the next step, on the device; return the global norm if it is limited."""
        table.next = NextStep()
        if limits is None and global_limit is None and not count_nonfinite:
            return None
        norm, guard = None, 0
        with table.in_stream() as stream:
            if limits is not None or count_nonfinite:
                table.add_squares(hyper_rows, stream)
            if count_nonfinite:
                self.counter = self.counter or NonfiniteCounter(table)
                guard = self.counter.count(table, stream)
            if limits is not None:
                self.clip_arrays(table, limits, stream)
                table.next = NextStep(clips_arrays=True)
            if global_limit is not None:
                if limits is not None or not count_nonfinite:
                    table.add_squares(hyper_rows, stream)
                norm = self.clip_all(table, global_limit, stream)
        table.next = NextStep(limits is not None, global_limit is not None, guard)
        return norm

    def clip_arrays(self, table: CudaTable, limits: npt.NDArray[np.float64], stream: Any) -> None:
        """Set the clip factor of each array."""
        if self.last_limits is None or not np.array_equal(limits, self.last_limits):
            self.limits = upload(limits, self.limits, stream)
            self.last_limits = limits
        factors = [table.factor_addresses(dtype)[0] for dtype in COMPUTE_DTYPES[::-1]]
        kernel, blocks = compiled(table.device, clip_arrays), -(-table.count // THREADS)
        launch(kernel, blocks, THREADS, stream, table.sums, self.limits, table.count, *factors)

    def clip_all(self, table: CudaTable, limit: float, stream: Any) -> DeviceNumber:
        """Set the clip factor of all arrays together; return the norm."""
        self.norms = self.norms or DeviceNorms()
        norm, at = self.norms.following()
        factors = [table.factor_addresses(dtype)[1] for dtype in COMPUTE_DTYPES[::-1]]
        launch(compiled(table.device, clip_all), 1, 1, stream, table.sums, table.count, float(limit), at, *factors)
        return norm

    def nonfinite_counts(self) -> npt.NDArray[np.float64]:
        """Return how many elements of each gradient were not finite when they were last counted; waits for that."""
        assert self.counter is not None
        return self.counter.copy.values()

    def verdict(self) -> DeviceNumber:
        """Return whether all gradients were finite when they were last counted."""
        return DeviceNumber(lambda: not self.nonfinite_counts().any())


class NonfiniteCounter:
    """The counts of elements that are not finite, on their way to the host, and the guards of the next step."""

    def __init__(self, table: CudaTable) -> None:
        self.counts, self.guards = empty(table.count, "float64"), empty(2, "int64")
        self.copy = HostCopy(self.counts, table.device)

    def count(self, table: CudaTable, stream: Any) -> int:
        """Add up the counts of the chunks, and start their copy to the host; return the address of the guards."""
        table.add_chunks(table.plan.partial_counts, self.counts, stream)
        launch(compiled(table.device, decide), 1, 1, stream, self.counts, table.count, self.guards)
        self.copy.start(stream)
        return address(self.guards)
