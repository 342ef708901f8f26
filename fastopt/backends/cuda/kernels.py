"""The kernels over elements, and those that make factors of whole arrays from sums.

Addresses are int64; numbers of elements have the compute dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from ...arithmetic import operations
from ...arithmetic.dither import SCALE_BLOCK
from ...arithmetic.operations import Rule
from ...arithmetic.pipeline import StageScalars
from .compiling import F64, I64, WORK, Definition, kernel, launch_bounds, rule_source, scalars_type, tuple_type
from .device_code import (
    apply,
    apply_block,
    block_in,
    device_function,
    entry_at,
    factors_of,
    is_set,
    put,
    real,
    row_at,
    row_in,
    set_both,
    words,
)
from .elements import KernelOptions, Maker, register, step_of
from .layout import (
    ADDRESSES,
    CHUNK,
    HEAD,
    ITEM_SIZES,
    LENGTH,
    NUMBER,
    THREADS,
    WARP,
    ArrayLayout,
    Work,
    vector_length,
)

#: The greatest finite number of each compute dtype.
GREATEST64, GREATEST32 = (float(np.finfo(dtype).max) for dtype in (np.float64, np.float32))


@device_function
def at_most(value: float, limit: float) -> float:
    """Return the lesser number; NaN stays."""
    return limit if value > limit else value


@device_function
def chunk_of(work: Work, like: Any, row_words: int, item_size: int) -> tuple[int, Any, Any]:
    """Return where the chunk of this block of threads begins, the row of its array, and the array's factors."""
    entry = entry_at(work.chunks, cuda.blockIdx.x)
    begin = block_in(entry) * CHUNK
    row = row_at(work.table, row_in(entry), row_words)
    return begin, row, factors_of(work, like, row, item_size)


def element_key(make: Maker, rule: Rule, options: KernelOptions, layout: ArrayLayout) -> str:
    key = f"{make.__name__} {rule.__module__}.{rule.__qualname__} {layout} {options} {rule_source(rule)}"
    return register(key, make(rule, options, layout), layout)


def element_kernel(make: Maker, rule: Rule, options: KernelOptions, layout: ArrayLayout, scalars: type) -> Definition:
    """Return the kernel that calls on every element the function that ``make`` returns."""
    key, dtype = element_key(make, rule, options, layout), layout.compute_dtype
    arguments = WORK, tuple_type(dtype, StageScalars), scalars_type(dtype, rule, scalars)
    if make is step_of and options.flags.update and any(options.codecs[: len(operations.slots(rule))]):
        return block_kernel(key, options.guarded, layout, arguments)
    return vector_kernel(key, options.guarded, layout, arguments)


def vector_kernel(key: str, guarded: bool, layout: ArrayLayout, arguments: tuple[Any, ...]) -> Definition:
    """Return the kernel of a step: one block for each entry (row << 32 | chunk) of the list of chunks."""
    dtype, row_words = layout.compute_dtype, layout.row_words
    wide, item_size = vector_length(dtype), ITEM_SIZES[dtype]

    @kernel(*arguments, key=key, bounds=launch_bounds(dtype, len(layout.present())))
    def update(work: Work, scalars: Any, h: tuple[float, ...]) -> None:
        if guarded and words(work.guard, 1)[0] != 0:
            return
        begin, row, factors = chunk_of(work, scalars.grad_scale, row_words, item_size)
        size = min(CHUNK, row[LENGTH] - begin)
        head = min(row[HEAD], size)
        vectors = (size - head) // wide
        for i in range(cuda.threadIdx.x, vectors, THREADS):
            apply(key, wide, work, row, begin + head + i * wide, factors, scalars, h)
        # The elements before and behind the vectors, one by one.
        for i in range(cuda.threadIdx.x, size - vectors * wide, THREADS):
            apply(key, 1, work, row, begin + (i if i < head else i + vectors * wide), factors, scalars, h)

    return update


def block_kernel(key: str, guarded: bool, layout: ArrayLayout, arguments: tuple[Any, ...]) -> Definition:
    """Return the kernel of a step with slots in 8 bits: each warp does SCALE_BLOCK elements at a time."""
    dtype, row_words = layout.compute_dtype, layout.row_words
    wide, item_size = vector_length(dtype), ITEM_SIZES[dtype]

    @kernel(*arguments, key=key)
    def update(work: Work, scalars: Any, h: tuple[float, ...]) -> None:
        if guarded and words(work.guard, 1)[0] != 0:
            return
        begin, row, factors = chunk_of(work, scalars.grad_scale, row_words, item_size)
        lane, first = cuda.threadIdx.x & (WARP - 1), cuda.threadIdx.x // WARP
        for at in range(begin + first * SCALE_BLOCK, min(begin + CHUNK, row[LENGTH]), THREADS // WARP * SCALE_BLOCK):
            # Vectors must be aligned from the first element on, as the blocks are.
            if row[HEAD] == 0 and at + SCALE_BLOCK <= row[LENGTH]:
                apply_block(key, wide, work, row, at + lane * wide, factors, scalars, h)
            else:
                apply_block(key, 1, work, row, at + lane, factors, scalars, h)

    return update


# The kernels of factors.


@kernel(I64, I64, I64, F64, I64)
def decide(reasons: int, count: int, norm: int, skip_above: float, guards: int) -> None:
    """Set two guards: one if the step is skipped, the other if it is not; one thread.

    ``reasons`` has the number of elements of each array that are not finite; behind them comes whether the global norm
    is above ``skip_above``. The address ``norm`` is 0 if it was not read.
    """
    is_above = 0.0
    if norm != 0 and real(0.0, norm) > skip_above:
        is_above = 1.0
    put(reasons + 8 * count, is_above)
    total = is_above
    for i in range(count):
        total += real(total, reasons + 8 * i)
    is_bad = 1 if total > 0.0 else 0
    put(guards, is_bad)
    put(guards + 8, 1 - is_bad)


@kernel(I64, I64, I64, I64, I64, I64)
def clip_arrays(sums: int, limits: int, count: int, norms: int, factors64: int, factors32: int) -> None:
    """Set the norm of each array, and its clip factor as norms.measuring_factor does, in both dtypes."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < count:
        limit = real(0.0, limits + 8 * i)
        norm = math.sqrt(real(0.0, sums + 8 * i))
        factor = limit / (norm + 1e-6)
        if factor > 1.0 or limit == math.inf:
            factor = 1.0
        put(norms + 8 * i, norm)
        set_both(factors64, factors32, i, factor)


@kernel(I64, I64, F64, I64, I64, I64, I64)
def clip_all(sums: int, count: int, limit: float, norm: int, norms: int, factor64: int, factor32: int) -> None:
    """Set the global norm, the norm of each array, and the clip factor of all arrays together: one thread."""
    total = 0.0
    for i in range(count):
        square = real(total, sums + 8 * i)
        total += square
        put(norms + 8 * i, math.sqrt(square))
    root = math.sqrt(total)
    factor = limit / (root + 1e-6)
    if factor > 1.0 or limit == math.inf:
        factor = 1.0
    put(norm, root)
    set_both(factor64, factor32, 0, factor)


@kernel(*[I64] * 5, *[F64] * 3, *[I64] * 5)
def trust(
    table: int,
    row_words: int,
    count: int,
    param_sums: int,
    update_sums: int,
    lr: float,
    coefficient: float,
    eps: float,
    adapt: int,
    guard: int,
    ratios: int,
    rates64: int,
    rates32: int,
) -> None:
    """Set the trust ratio of each array of a launch, as fastopt/optimizers/layerwise.py does, and lr times it.

    ``ratios`` has the addresses that the ratios are written to, unless the guard is set.
    """
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < count:
        number = words(table + 8 * (i * row_words + NUMBER), 1)[0]
        param_norm = math.sqrt(real(0.0, param_sums + 8 * number))
        update_norm = math.sqrt(real(0.0, update_sums + 8 * number))
        ratio = 1.0
        if adapt != 0 and param_norm != 0.0 and update_norm != 0.0:
            ratio = at_most(coefficient * param_norm / (update_norm + eps), GREATEST64)
        if not is_set(guard):
            put(words(ratios + 8 * number, 1)[0], ratio)
        rate = lr * ratio
        put(rates64 + 8 * number, at_most(rate, GREATEST64))
        put(rates32 + 4 * number, np.float32(at_most(rate, GREATEST32)))


@kernel(I64, I64, I64, F64, F64, F64, *[I64] * 4)
def rates(
    table: int,
    row_words: int,
    count: int,
    eps2: float,
    rate: float,
    d: float,
    param_sums: int,
    direction_sums: int,
    rates64: int,
    rates32: int,
) -> None:
    """Set Adafactor's step size of each array of a launch."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < count:
        row = words(table + 8 * i * row_words, ADDRESSES)
        scale = math.sqrt(real(0.0, param_sums + 8 * row[NUMBER]) / row[LENGTH])
        excess = math.sqrt(real(0.0, direction_sums + 8 * row[NUMBER]) / row[LENGTH]) / d
        step_size = (scale if scale > eps2 else eps2) * rate / (excess if excess > 1.0 else 1.0)
        set_both(rates64, rates32, row[NUMBER], step_size)
