"""Adafactor: second moments in the memory of a row and a column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.memory import in_memory_order
from ..backends.table import AdafactorScalars, adafactor_floors
from ..core.directions import Direction, DirectionOptimizer
from ..core.step import Step
from ..core.workspace import Workspace
from ..options.common import Common, Unpack
from ..options.ranges import NON_NEGATIVE, NON_POSITIVE, OPTIONAL, Allowed, Group, Range, Schedulable

#: Sums the squares of an array over these axes.
SumSquares: TypeAlias = Callable[[Array, tuple[int, ...]], npt.NDArray[np.float64]]

#: Elements of a block: few enough for temporaries to stay in cache.
ROW_BLOCK = 16384


class Adafactor(DirectionOptimizer):
    r"""Adafactor, as ``torch.optim.Adafactor``: a matrix's second moment from the means of its rows and columns.

    For step ``t`` from 1; means over the last axis (rows) and the last but one (columns), of arrays with two or more
    axes::

        w = t ** beta2_decay
        row_var += w * (row means of g * g - row_var)
        col_var += w * (column means of g * g - col_var)
        v = row_var * col_var / max(mean of row_var, eps1)
        u = g / sqrt(max(v, eps1**2))
        p -= max(eps2, rms(p)) * min(lr, 1 / sqrt(t)) / max(1, rms(u) / d) * u

    For other arrays ``v`` is the ``variance`` itself: ``variance += w * (g * g - variance)``. ``rms`` is the root mean
    square.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    beta2_decay : float <= 0, default -0.8
    eps : pair of float >= 0, default (None, 1e-3)
        ``eps1`` (None: the machine epsilon of the array's dtype) and ``eps2``.
    d : float >= 1, default 1.0
        The largest root mean square of ``u``.
    weight_decay : float >= 0, default 0.0
        Decoupled, or L2 with ``decoupled=False``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, of O(rows + columns), in the dtype of the parameter: ``row_var`` of shape (..., rows, 1) and ``col_var`` of
    shape (..., 1, columns); for arrays with fewer than two axes ``variance``, with the shape of its parameter. A step
    allocates ``u``, which is as large as the gradient, and frees it (on a GPU its memory is reused). Means are added in
    double precision in a fixed order, with the same bits on every machine. ``state_dtype`` is an error: there is little
    to store in fewer bits.

    Source: Shazeer and Stern, arXiv 1804.04235;
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adafactor.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> W = np.ones((300, 200), np.float32)
    >>> opt = fastopt.Adafactor(W)
    >>> info = opt.step(np.full((300, 200), 2.0))
    >>> round(float(W[0, 0]), 6), opt.state_bytes       # 4 * (300 + 200) + 8 for the step count
    (0.99, 2008)
    """

    runs_on_gpu = True
    refused: ClassVar[Mapping[str, str]] = {"state_dtype": "its state is of O(rows + columns) already"}
    ranges: ClassVar[Mapping[str, Allowed]] = {
        "beta2_decay": NON_POSITIVE,
        "eps": (OPTIONAL, NON_NEGATIVE),
        "d": Range(1.0),
    }

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    def slots(self, param: Array) -> Mapping[str, tuple[int, ...]]:
        shape = tuple(param.shape)
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return super().row_keys(numbers) if self.parts.backend.on_host else []

    def prepare(self, workspace: Workspace) -> None:
        if workspace.backend.on_host:
            super().prepare(workspace)
            return
        in_order = workspace.backend.ops.in_memory_order
        slots = [list(map(in_order, memory.slots)) for memory in workspace.memory]
        workspace.own = workspace.backend.adafactor(workspace.table, slots)

    def update(self, step: Step) -> None:
        if step.parts.backend.on_host:
            super().update(step)
            return
        scalars = []
        for group, (_, steps) in zip(step.row_options, step.workspace.rows.members, strict=True):
            eps1, eps2 = group["eps"]
            weight, rate = self.weight(group, steps + 1), self.rate(group, steps + 1)
            scalars.append(AdafactorScalars(weight, eps1, eps2, rate, group["d"]))
        step.workspace.own.step(step.table, step.hyper_rows, scalars)

    def weight(self, group: Group, step: int) -> float:
        """Return the weight of a step's squares in their means."""
        return float(float(step) ** group["beta2_decay"])

    def rate(self, group: Group, step: int) -> float:
        """Return the step size before it is scaled by the parameter's size and the direction's."""
        return float(min(group["lr"], 1.0 / math.sqrt(step)))

    def direction(self, group: Group, step: int, param: Array, g: Array, state: Mapping[str, Array]) -> Direction:
        if param.size == 0:
            return Direction(g, 0.0)
        eps1, eps2 = group["eps"]
        floors = adafactor_floors(eps1, param.dtype)
        weight = self.weight(group, step)
        sums = self.parts.backend.sum_squares
        if param.ndim < 2:
            approach(state["variance"], np.square(g, dtype=np.float64), weight)
            u = g / np.sqrt(np.maximum(state["variance"], param.dtype.type(floors[1])))
        else:
            u = factored(g, state["row_var"], state["col_var"], weight, floors, sums)
        step_size = max(eps2, math.sqrt(mean_square(param, sums))) * self.rate(group, step)
        return Direction(u, step_size / max(1.0, math.sqrt(mean_square(u, sums)) / group["d"]))


def approach(values: Array, goal: Array, weight: float) -> None:
    """Move ``values`` in place this part of the way to ``goal``, in double precision."""
    values[...] = (1.0 - weight) * values.astype(np.float64) + weight * goal


def mean_square(array: Array, sum_squares: SumSquares) -> float:
    """Return the mean of the squares of all elements, as they lie in memory."""
    memory = in_memory_order(array)
    return float(sum_squares(memory, tuple(range(array.ndim))).reshape(()) / array.size)


def blocks(matrices: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield runs of whole matrices, or of rows of one matrix where it is larger than a block."""
    if rows * columns <= ROW_BLOCK:
        run = max(1, ROW_BLOCK // (rows * columns))
        for i in range(0, matrices, run):
            yield slice(i, i + run), slice(None)
        return
    run = max(1, ROW_BLOCK // columns)
    for i in range(matrices):
        for row in range(0, rows, run):
            yield slice(i, i + 1), slice(row, row + run)


def factored(
    g: Array, row_var: Array, col_var: Array, weight: float, floors: tuple[float, float], sum_squares: SumSquares
) -> Array:
    """Update the means; return ``u`` of an array with two or more axes, in its order of memory."""
    rows, columns = g.shape[-2:]
    approach(row_var, sum_squares(g, (g.ndim - 1,)) / columns, weight)
    approach(col_var, sum_squares(g, (g.ndim - 2,)) / rows, weight)
    matrices = np.ascontiguousarray(g).reshape(-1, rows, columns)
    r, c = row_var.reshape(-1, rows, 1), col_var.reshape(-1, 1, columns)
    # In index order.
    mean = np.cumsum(r, axis=1, dtype=np.float64)[:, -1:] / rows
    least_mean, least = floors
    mean = np.maximum(mean, least_mean).astype(g.dtype)
    u = np.empty_like(matrices)
    for batch, band in blocks(*matrices.shape):
        v = np.maximum(r[batch, band] * c[batch] / mean[batch], g.dtype.type(least))
        np.divide(matrices[batch, band], np.sqrt(v, out=v), out=u[batch, band])
    return np.asarray(u.reshape(g.shape), order="C" if g.flags.c_contiguous else "F")
