"""The base of the two backends for NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...arithmetic.norms import clip_factor, measuring_factor, total_norm
from ...arrays.dtypes import Array
from ...arrays.memory import Extents, Runs, Views, address, are_writeable, runs_at
from .. import host_arrays
from ..backend import Arrays, Backend, HyperRows, Limits, Refuse, Slots
from ..table import Extras, HyperRow, LimitedUnits, Present, Reading, Source, Table, Trust
from . import axis_sums
from .table import NumpyTable

NOTHING_READ = Reading()

#: The greatest finite number in double precision.
GREATEST = np.finfo(np.float64).max


class HostBackend(Backend):
    """The base of the native and the NumPy backend. Unlike a GPU they read results at once."""

    on_host = True
    ops = host_arrays
    #: Adds the squares of runs to sums.
    add_runs: axis_sums.Adder

    def most_threads(self) -> int:
        """Return how many threads a large step can use."""
        raise NotImplementedError

    def addresses(self, arrays: Arrays) -> npt.NDArray[np.uintp]:
        """Return the address of the memory of each array."""
        if isinstance(arrays, Views):
            return arrays.addresses
        return np.array([address(array) for array in arrays], np.uintp)

    def are_plain_params(self, arrays: Arrays) -> bool:
        return host_arrays.are_plain_params(arrays)

    def extents(self, names: Sequence[str], arrays: Arrays) -> Extents:
        return Extents(names.__getitem__, *self.runs(arrays))

    def runs(self, arrays: Arrays) -> Runs:
        return runs_at(self.addresses(arrays), arrays)

    def slots_like(self, params: Arrays, value: float, dtype: np.dtype[Any]) -> Arrays:
        if len(params) == 1:  # it has no other to share memory with
            return super().slots_like(params, value, dtype)
        return host_arrays.slots_like(params, self.addresses(params), value, dtype)

    def writeable_check(self, arrays: Arrays) -> Callable[[], bool]:
        return lambda: are_writeable(arrays)

    def set_stream(self, table: Any, stream: Any) -> None:
        if stream is not None:
            raise ValueError(f"stream={stream!r}: only steps on a GPU have a stream; leave it unset for NumPy arrays")

    def read(
        self,
        table: Any,
        rows: list[HyperRow],
        limits: Limits | None,
        global_limit: float | None,
        nonfinite: str,
        refuse: Refuse,
        skip_above: float,
    ) -> Reading:
        if table.is_clipped:
            table.array_clip[:] = 1
            table.is_clipped = False
        is_counted = nonfinite != "propagate"
        if limits is None and global_limit is None and not is_counted:
            return NOTHING_READ
        sums = table.sum_products(rows, "clipped_grad", "clipped_grad", is_counted)
        found = is_counted and bool(table.nonfinite.any())
        if found and nonfinite == "raise":
            refuse(table.nonfinite)
        if limits is not None:
            with np.errstate(all="ignore"):
                factors = measuring_factor(np.sqrt(sums), limits)
            table.is_clipped = True  # first: after an interrupt in between, the next step resets the factors
            table.array_clip[:] = factors
        skipped = "nonfinite" if found else None
        if global_limit is None:
            return Reading(None, None if limits is None else partial(np.sqrt, sums), skipped)
        if limits is not None:
            sums = table.sum_products(rows, "clipped_grad", "clipped_grad")
        norm = total_norm(sums)
        factor = 1.0 if global_limit == math.inf else float(clip_factor(norm, global_limit))
        rows[:] = [row._replace(global_clip=factor) for row in rows]
        if skipped is None and norm > skip_above:
            skipped = "skip_above"
        return Reading(norm, partial(np.sqrt, sums), skipped)

    def forget_grads(self, table: Any, forget: Callable[[], None]) -> None:
        forget()
        table.forget_grads()

    def follow(self, table: Any, reader: Any) -> None:
        table.array_clip[:] = reader.array_clip

    def limit_norms(self, table: Any, rows: HyperRows, units: Sequence[LimitedUnits]) -> None:
        for each in units:
            limit_norms(each.weights, each.limit, each.axes, self.add_runs)

    def step_by_trust(
        self,
        table: Table,
        rows: HyperRows,
        norm_rows: HyperRows,
        update: Source,
        trusts: Sequence[Trust],
        present: Present,
        ratios: Any,
    ) -> None:
        row_numbers = table.row_numbers[present]
        param_sums, update_sums = (table.sum_products(norm_rows, each, each)[present] for each in ("param", update))
        lrs, coefficients, eps, adapt = np.array([trust[:4] for trust in trusts]).reshape(-1, 4)[row_numbers].T
        with np.errstate(all="ignore"):
            param_norms, update_norms = np.sqrt(param_sums), np.sqrt(update_sums)
            is_defined = (adapt != 0) & (param_norms != 0) & (update_norms != 0)
            found = np.where(is_defined, coefficients * param_norms / (update_norms + eps), 1.0)
            # An infinite rate times an element that is 0 would be NaN.
            found = np.minimum(found, GREATEST)
            rates = np.minimum(lrs * found, table.greatest[present])
        ratios[present] = found
        table.row_numbers[present] = np.arange(row_numbers.size)
        try:
            pairs = zip(row_numbers.tolist(), rates.tolist(), strict=True)
            table.step([with_rate(rows[k], trusts[k].scaled, rate) for k, rate in pairs])
        finally:
            table.row_numbers[present] = row_numbers

    def numpy_table(self, params: Arrays, slots: Slots, extras: Extras) -> NumpyTable:
        return NumpyTable(params, slots, extras)

    def sum_squares(self, array: Array, axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return axis_sums.sum_squares(array, axes, self.add_runs)


def with_rate(row: HyperRow, scaled: Sequence[str], rate: float) -> HyperRow:
    """Return the row with its ``scaled`` scalars set to this rate."""
    return row._replace(scalars=row.scalars._replace(**dict.fromkeys(scaled, rate)))  # type: ignore[attr-defined]


def limit_norms(p: Array, limit: float, axes: tuple[int, ...], add: axis_sums.Adder) -> None:
    """Multiply in place each unit's weights whose norm is above ``limit`` by ``limit / norm``.

    Weights whose norm is NaN stay as they are.
    """
    with np.errstate(all="ignore"):
        norms = np.sqrt(axis_sums.sum_squares(p, axes, add))
        if (norms > limit).any():
            p *= np.where(norms > limit, limit / norms, 1.0).astype(p.dtype)
