"""The history of L-BFGS in C: csrc/history.c. Each operation is one call, which Ctrl-C can't interrupt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arrays.memory import address
from .. import threads
from ..history import BoundNumbers, Move, Pairs, Reading, Vectors, check_grads, have_bounds
from ..table import CHUNK
from .library import ffi, lib
from .table import NativeTable

#: More rows of sums for each chunk only cost memory.
MOST_ROWS = 240


class NativeHistory:
    """See ``backends/history.py``."""

    def __init__(self, table: NativeTable, size: int, numbers: BoundNumbers | None = None) -> None:
        params, _, extras = table.owners
        arrays = [bound for each in extras or () for bound in (each.lower, each.upper)]
        infinite = np.full(table.count, math.inf)
        self.table, self.size = table, size
        self.has_bounds = have_bounds(numbers, arrays)
        self.pairs = pairs = Pairs(size)
        self.vectors = vectors = Vectors([param.reshape(-1) for param in params], size, self.has_bounds)
        chunks = sum(-(-length // CHUNK) for length in vectors.lengths)
        # So many that the products of the free elements of up to 15 pairs come from one pass.
        rows = 4 * size + 2 if not self.has_bounds else max(4 * size + 2, min(size * (size + 1), MOST_ROWS))
        lower, upper = (np.ascontiguousarray(side, np.float64) for side in numbers or (-infinite, infinite))
        memory: dict[str, Any] = {
            "vectors": np.array([address(array) for array in vectors.arrays], np.uintp),
            "lower": lower,
            "upper": upper,
            "state": pairs.state,
            "slots": pairs.slots,
            "steps": pairs.steps,
            "sy": pairs.sy,
            "yy": pairs.yy,
            "ss": pairs.ss,
            "free": pairs.free,
            "active": pairs.active,
            "grad_products": pairs.grad_products,
            "trial": pairs.trial,
            "numbers": np.zeros(2 * size + 2, np.int64),
            "factors": np.zeros(2 * size + 2),
            "scratch": np.zeros(size * (8 * size + 5) if self.has_bounds else 0),
            "totals": np.zeros((rows, 2)),
            "partials": np.zeros((chunks, rows + 1, 2)),
        }
        self.memory = memory
        self.struct = ffi.new("fo_history *")
        for name, array in memory.items():
            setattr(self.struct, name, ffi.cast("void *", address(array)))
        self.struct.arrays, self.struct.grads, self.struct.count = table.arrays, table.grads, table.count
        self.struct.has_bounds, self.struct.vector_count, self.struct.size = self.has_bounds, vectors.count, size
        self.struct.rows = rows
        self.struct.first_grad, self.struct.second_grad = vectors.grads
        self.struct.accepted = vectors.accepted
        self.struct.direction = vectors.count - 1 if self.has_bounds else -1
        table.cut(table.sizes)  # a state that was loaded has a direction before there are gradients
        self.result = ffi.new("double[]", len(Reading._fields))

    @property
    def count(self) -> int:
        return self.pairs.count

    def begin(self) -> Reading:
        check_grads(self.table.present, self.table.count)
        lib.fo_history_begin(self.struct, threads.get_num_threads(), self.result)
        return self.reading()

    def direct(self, step_size: float) -> Move:
        lib.fo_history_direct(self.struct, step_size, threads.get_num_threads(), self.result)
        slope, d_square, moved, step_size, longest = ffi.unpack(self.result, len(Move._fields))
        return Move(slope, d_square, int(moved), step_size, longest)

    def try_step(self, step_size: float) -> int:
        self.pairs.check("try_step")
        return int(lib.fo_history_try_step(self.struct, step_size, threads.get_num_threads()))

    def read(self) -> Reading:
        self.pairs.check("read")
        check_grads(self.table.present, self.table.count)
        lib.fo_history_read(self.struct, threads.get_num_threads(), self.result)
        return self.reading()

    def accept(self) -> bool:
        self.pairs.check("accept")
        return bool(lib.fo_history_accept(self.struct))

    def put_back(self) -> None:
        lib.fo_history_put_back(self.struct, threads.get_num_threads())

    def forget(self) -> None:
        self.pairs.forget()

    def reading(self) -> Reading:
        *sums, nonfinite = ffi.unpack(self.result, len(Reading._fields))
        return Reading._make([*sums, int(nonfinite)])
