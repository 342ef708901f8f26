"""The instructions of kernels that plain Python can't say: memory at addresses, and calls of element functions.

:mod:`simulator` has the same functions for Numba's simulator. Addresses and indices are int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial, reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from ...arithmetic import halves
from ...arithmetic.dither import SCALE_BLOCK
from ...arithmetic.pipeline import Factors
from .layout import ADDRESSES, ELEMENT_FUNCTIONS, ITEM_SIZES, LENGTH, NUMBER, WARP, ElementFunction, Place
from .tracing import FLOAT_OPERATIONS, I1, I16, I32, I64, LLVM_TYPES, Lanes, converted

ALL_OF_WARP, BUTTERFLY = I32(-1), I32(3)
BLOCK_SHIFT = I64(SCALE_BLOCK.bit_length() - 1)


def on_device(function: Callable[..., Any]) -> Any:
    """Return an intrinsic. Numba calls the function with types, to get a signature and a function that emits code."""
    return intrinsic(function)


def emitted(signature: Any, emit: Callable[..., Any]) -> tuple[Any, Callable[..., Any]]:
    """Return an intrinsic whose instructions ``emit`` appends: it gets the builder and the values of the arguments."""
    return signature, lambda context, builder, _, args: emit(builder, *args)


def are_constants(*kinds: Any) -> bool:
    """Return whether Numba gave the values of these arguments; it does so when it asks again after None."""
    return all(isinstance(kind, types.Literal) for kind in kinds)


# Memory.


def pointer_to(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer(addrspace=1))


def load_word(builder: Any, address: Any) -> Any:
    return builder.load(pointer_to(builder, address, I64), align=8)


def pieces(builder: Any, address: Any, index: Any, count: int, dtype: str) -> list[tuple[Any, int, int]]:
    """Return pointers to vectors of at most 16 bytes that hold ``count`` elements, their lengths and alignments."""
    size = ITEM_SIZES[dtype]
    length = min(count, 16 // size)
    kind = ir.VectorType(LLVM_TYPES[dtype], length) if length > 1 else LLVM_TYPES[dtype]
    start = builder.add(address, builder.mul(index, I64(size)))
    return [
        (pointer_to(builder, builder.add(start, I64(first * size)), kind), length, length * size)
        for first in range(0, count, length)
    ]


def load(builder: Any, address: Any, index: Any, count: int, dtype: str) -> list[Any]:
    values = []
    for pointer, length, alignment in pieces(builder, address, index, count, dtype):
        piece = builder.load(pointer, align=alignment)
        values += [builder.extract_element(piece, I32(k)) for k in range(length)] if length > 1 else [piece]
    return values


def store(builder: Any, values: Sequence[Any], address: Any, index: Any, dtype: str) -> None:
    values = list(values)
    for pointer, length, alignment in pieces(builder, address, index, len(values), dtype):
        mine = [values.pop(0) for _ in range(length)]
        piece = mine[0]
        if length > 1:
            piece = ir.Constant(pointer.type.pointee, ir.Undefined)
            for k, value in enumerate(mine):
                piece = builder.insert_element(piece, value, I32(k))
        builder.store(piece, pointer, align=alignment)


@on_device
def words(_: Any, address: Any, count: Any) -> Any:
    """Return this many int64 at an address, as a tuple."""
    if not are_constants(count):
        return None
    result = types.UniTuple(types.int64, count.literal_value)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        steps = [builder.add(args[0], I64(8 * k)) for k in range(count.literal_value)]
        return context.make_tuple(builder, result, [load_word(builder, step) for step in steps])

    return result(address, count), code


@on_device
def real(_: Any, like: Any, address: Any) -> Any:
    """Return the number at an address, of the dtype of ``like``."""

    def emit(builder: Any, like_value: Any, at: Any) -> Any:
        return builder.load(pointer_to(builder, at, like_value.type), align=like.bitwidth // 8)

    return emitted(like(like, address), emit)


@on_device
def put(_: Any, address: Any, value: Any) -> Any:
    """Write a number to an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], pointer_to(builder, args[0], args[1].type), align=value.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(address, value), code


# Numbers.


@on_device
def number_like(_: Any, like: Any, value: Any) -> Any:
    """Return a number rounded to the dtype of ``like``."""
    return emitted(like(like, value), lambda builder, _, number: converted(builder, number, value.name, like.name))


@on_device
def times(_: Any, a: Any, b: Any) -> Any:
    """Return a product that is never fused with an addition."""
    return emitted(a(a, b), FLOAT_OPERATIONS["multiply"])


@on_device
def offset_of(_: Any, index: Any, axes: Any, count: Any) -> Any:
    """Return how far an element of some axes lies behind the first; ``axes``: pairs of words, length and step."""

    def emit(builder: Any, first: Any, at_axes: Any, axis_count: Any) -> Any:
        index, offset = (cgutils.alloca_once_value(builder, value) for value in (first, I64(0)))
        last = builder.sub(axis_count, I64(1))
        with cgutils.for_range(builder, last) as loop:
            at = builder.add(at_axes, builder.mul(loop.index, I64(16)))
            length, step = load_word(builder, at), load_word(builder, builder.add(at, I64(8)))
            rest = builder.load(index)
            place = builder.mul(builder.urem(rest, length), step)
            builder.store(builder.add(builder.load(offset), place), offset)
            builder.store(builder.udiv(rest, length), index)
        step = load_word(builder, builder.add(at_axes, builder.add(builder.mul(last, I64(16)), I64(8))))
        return builder.add(builder.load(offset), builder.mul(builder.load(index), step))

    return emitted(types.int64(index, axes, count), emit)


# Element functions.


def unpacked(builder: Any, kind: Any, value: Any) -> Any:
    """Return the numbers of a tuple, by their names if it has any."""
    numbers = cgutils.unpack_tuple(builder, value, kind.count)
    return kind.instance_class(*numbers) if isinstance(kind, types.NamedUniTuple) else numbers


def all_lanes(builder: Any, kinds: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Return the numbers of tuples as an element function sees them."""
    found = []
    for kind, value in zip(kinds, values, strict=True):
        lanes = [Lanes(builder, [number]) for number in cgutils.unpack_tuple(builder, value, kind.count)]
        found.append(kind.instance_class(*lanes) if isinstance(kind, types.NamedUniTuple) else lanes)
    return found


def place_of(builder: Any, kind: Any, work: Any, row: Any, indices: Sequence[Any]) -> Place:
    key = unpacked(builder, kind, work).dither_key
    return Place(Lanes(builder, [key]), Lanes(builder, [row[NUMBER]]), Lanes(builder, indices))


def traced(
    builder: Any, entry: ElementFunction, count: int, row: Any, starts: Sequence[Any], place: Place, *numbers: Any
) -> list[Any]:
    """Read all values, convert them, call the function; return its results.

    ``count`` values are read from each of the starts on; of scales, that of the first start's block.
    """
    block = builder.lshr(starts[0], BLOCK_SHIFT)
    values = []
    for at, (dtype, is_scale) in zip(row[ADDRESSES:], entry.dtypes.memory(), strict=True):
        places = [(block, 1)] if is_scale else [(start, count) for start in starts]
        read = [x for index, many in places for x in load(builder, at, index, many, dtype)]
        values.append(Lanes(builder, [converted(builder, x, dtype, entry.dtypes.compute_dtype) for x in read]))
    factors, scalars, h = numbers
    return list(entry.function(Factors(*factors), scalars, h, place, *values))


def stored_form(builder: Any, result: Any, computed: str, dtype: str, count: int) -> list[Any]:
    """Return a result of an element function as it lies in memory."""
    if not isinstance(result, Lanes):
        kind = LLVM_TYPES[dtype]
        return [ir.Constant(kind, 0 if kind == I16 else 0.0)] * count
    lanes: Any = result
    if dtype == "bfloat16" and lanes.dtype != np.uint16:
        lanes = halves.nearest(lanes)
    if dtype in ("uint8", "bfloat16"):
        return list(lanes.values)
    return [converted(builder, value, computed, dtype) for value in lanes.values]


@on_device
def apply(_: Any, key: Any, count: Any, work: Any, row: Any, index: Any, factors: Any, scalars: Any, h: Any) -> Any:
    """Call an element function on ``count`` elements from an index on, and write the results."""
    if not are_constants(key, count):
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        entry, length = ELEMENT_FUNCTIONS[key.literal_value], count.literal_value
        words, numbers = unpacked(builder, row, args[3]), all_lanes(builder, (factors, scalars, h), args[5:])
        indices = [builder.add(args[4], I64(k)) for k in range(length)]
        place = place_of(builder, work, args[2], words, indices)
        results = traced(builder, entry, length, words, [args[4]], place, *numbers)
        for at, dtype, result in zip(words[ADDRESSES:], entry.dtypes.present(), results, strict=True):
            if result is not None:
                stored = stored_form(builder, result, entry.dtypes.compute_dtype, dtype, length)
                store(builder, stored, at, args[4], dtype)
        return context.get_dummy_value()

    return types.none(key, count, work, row, index, factors, scalars, h), code


@on_device
def apply_block(
    _: Any, key: Any, count: Any, work: Any, row: Any, index: Any, factors: Any, scalars: Any, h: Any
) -> Any:
    """Do the same with one SCALE_BLOCK for all threads of a warp, each of which reads ``count`` elements at a time."""
    if not are_constants(key, count):
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        entry, length = ELEMENT_FUNCTIONS[key.literal_value], count.literal_value
        words, numbers = unpacked(builder, row, args[3]), all_lanes(builder, (factors, scalars, h), args[5:])
        runs = range(0, SCALE_BLOCK, length * WARP)
        starts = [builder.add(args[4], I64(first)) for first in runs]
        are_there = [builder.icmp_signed("<", start, words[LENGTH]) for start in starts]
        read = starts
        if length == 1:
            # Behind the end the last element is read again, which changes no maximum.
            last = builder.sub(words[LENGTH], I64(1))
            read = [builder.select(*each, last) for each in zip(are_there, starts, strict=True)]
        offsets = Lanes(builder, [I32(first + k) for first in runs for k in range(length)])
        place = place_of(builder, work, args[2], words, [args[4]])
        place = place._replace(offsets=offsets, largest=largest_of_warp)
        results = traced(builder, entry, length, words, read, place, *numbers)
        memory, computed, total = [], entry.dtypes.compute_dtype, length * len(starts)
        for at, (dtype, is_scale), result in zip(words[ADDRESSES:], entry.dtypes.memory(), results, strict=True):
            if result is not None:
                memory.append((at, dtype, stored_form(builder, result, computed, dtype, total), is_scale))
        # All threads have read before one writes: a scale, and the last element, are read by many.
        wait_for_warp(builder)
        with builder.if_then(builder.icmp_signed("==", builder.and_(args[4], I64(SCALE_BLOCK - 1)), I64(0))):
            for at, dtype, values, is_scale in memory:
                if is_scale:
                    store(builder, values, at, builder.lshr(args[4], BLOCK_SHIFT), dtype)
        for k, (start, is_there) in enumerate(zip(starts, are_there, strict=True)):
            with builder.if_then(is_there) if length == 1 else nullcontext():
                for at, dtype, values, is_scale in memory:
                    if not is_scale:
                        store(builder, values[k * length : (k + 1) * length], at, start, dtype)
        return context.get_dummy_value()

    return types.none(key, count, work, row, index, factors, scalars, h), code


@on_device
def product(_: Any, key: Any, work: Any, row: Any, index: Any, factors: Any, scalars: Any) -> Any:
    """Return the product of the first two results for one element, in float64, and how many others are not finite."""
    if not are_constants(key):
        return None
    pair = types.Tuple((types.float64, types.int64))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        entry = ELEMENT_FUNCTIONS[key.literal_value]
        words, numbers = unpacked(builder, row, args[2]), all_lanes(builder, (factors, scalars), args[4:])
        place = place_of(builder, work, args[1], words, [args[3]])
        left, right, *others = traced(builder, entry, 1, words, [args[3]], place, *numbers, ())
        wide = [converted(builder, each.values[0], entry.dtypes.compute_dtype, "float64") for each in (left, right)]
        count = I64(0)
        for other in others:
            magnitude = FLOAT_OPERATIONS["absolute"](builder, other.values[0])
            is_bad = builder.not_(builder.fcmp_ordered("<", magnitude, ir.Constant(magnitude.type, math.inf)))
            count = builder.add(count, builder.zext(is_bad, I64))
        return context.make_tuple(builder, pair, [FLOAT_OPERATIONS["multiply"](builder, *wide), count])

    return pair(key, work, row, index, factors, scalars), code


# The threads of a warp.


def greater(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned(">", a, b), a, b)


def largest_of_warp(lanes: Lanes) -> Lanes:
    """Return the greatest uint32 of all threads of a warp, which exchange theirs."""
    builder = lanes.builder
    found = reduce(partial(greater, builder), lanes.values)
    kind = ir.FunctionType(ir.LiteralStructType((I32, I1)), [I32] * 5)
    shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
    distance = WARP // 2
    while distance:
        numbers = ALL_OF_WARP, BUTTERFLY, found, I32(distance), I32(WARP - 1)
        found = greater(builder, found, builder.extract_value(builder.call(shuffle, numbers), 0))
        distance //= 2
    return Lanes(builder, [found])


def wait_for_warp(builder: Any) -> None:
    """Let no thread go on before all threads of its warp are here; then each sees the writes of the others."""
    kind = ir.FunctionType(ir.VoidType(), [I32])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.bar.warp.sync"), [ALL_OF_WARP])
