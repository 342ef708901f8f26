"""All that is specific to numba-cuda: the kernels, how a rule gets into one, memory, streams, the simulator's shims.

A rule is compiled by calling it: at compile time :class:`Lanes` stand for its arguments, and each operation on them
appends instructions to the kernel. Multiplications round by themselves, so that none is fused with an addition: the
bits are those of the other backends. In the simulator (``NUMBA_ENABLE_CUDASIM=1``) the same rule gets NumPy arrays.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import cuda
from numba.cuda import config, types

from ...arithmetic import halves
from ...arithmetic.dither import SCALE_BLOCK as BLOCK

SIMULATED = bool(config.ENABLE_CUDASIM)

#: As in csrc/fastopt.h: what makes a norm's bits. CHUNK is also what one block of threads updates.
CHUNK = 4096
LANES = 16

#: Threads of a block that updates a chunk, chunks of a block that adds squares; the simulator starts them one by one.
THREADS = 2 if SIMULATED else 256
CHUNKS_A_BLOCK = 1 if SIMULATED else 16

#: Threads that exchange numbers without shared memory; together they do BLOCK elements where slots are in 8 bits.
WARP = 1 if SIMULATED else 32
TILE = 256

#: The words (int64) of a table's row: length, elements before the first aligned one, array number, first chunk; then
#: the addresses of what the array has, the parameter and the gradient first, the scales of slots in 8 bits last.
ROW_HEAD = 4

NUMPY_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "uint8": np.uint8,
}
ITEM_SIZES: dict[str, int] = {name: np.dtype(dtype).itemsize for name, dtype in NUMPY_DTYPES.items()}


class Traced(NamedTuple):
    """What a kernel does to the elements of one run: a function on values, and how they lie in memory.

    ``function(factors, stages, h, place, *values)`` gets a value for each address of a row, converted to the dtype that
    is computed in, and returns one for each: None for what is not written, 0 for what is cleared. A value is rounded to
    the nearest of its memory's dtype, unless it is of the bits that are to lie there. Codes are not converted.
    """

    function: Callable[..., Sequence[Any]]
    computed: str
    dtypes: tuple[str, ...]
    #: Whether to do nothing where the number at ``Work.guard`` is not 0.
    guarded: bool = False
    #: How many of the last addresses are of scales, one for each BLOCK elements.
    scales: int = 0

    def lengths(self) -> tuple[int, ...]:
        """Return how many elements have one value, by the addresses."""
        return (1,) * (len(self.dtypes) - self.scales) + (BLOCK,) * self.scales


class Factors(NamedTuple):
    """What the device found out in this step, for an array."""

    clip: Any
    global_clip: Any
    rate: Any


class Place(NamedTuple):
    """Where elements are: unsigned 64-bit numbers, for the random bits of rounding."""

    key: Any
    array: Any
    indices: Any
    #: Where they are all in one BLOCK: uint32, how far they are behind the first, which is the only index then.
    offsets: Any = None
    #: There too: returns the greatest uint32 of all elements of the block.
    largest: Callable[[Any], Any] | None = None


MASK = 2**64 - 1


class Work(NamedTuple):
    """What all kernels over elements get first: addresses, and the key of random bits."""

    table: int
    chunks: int
    clips: int
    global_clip: int
    rates: int
    guard: int
    dither_key: int


#: What the string in a kernel stands for: Numba's cache on disk tells kernels apart by their constants.
TRACED: dict[str, Traced] = {}


def width(dtype: str) -> int:
    """Return how many elements 16 bytes hold."""
    return 16 // ITEM_SIZES[dtype]


if SIMULATED:

    def memory(address: int, index: int, count: int, dtype: str) -> npt.NDArray[Any]:
        size = ITEM_SIZES[dtype]
        buffer: Any = (ctypes.c_char * (count * size)).from_address(int(address) + int(index) * size)
        return np.frombuffer(buffer, NUMPY_DTYPES[dtype])

    def read_as(values: npt.NDArray[Any], dtype: str, to: str) -> npt.NDArray[Any]:
        if dtype == "uint8":
            return values
        if dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(NUMPY_DTYPES[to])

    def words(address: int, count: int) -> tuple[int, ...]:
        return tuple((ctypes.c_int64 * count).from_address(int(address)))

    def real(like: Any, address: int) -> Any:
        if isinstance(like, np.float32):
            return np.float32(ctypes.c_float.from_address(int(address)).value)
        return float(ctypes.c_double.from_address(int(address)).value)

    def put(address: int, value: Any) -> None:
        kinds: dict[type, Any] = {np.float32: ctypes.c_float, int: ctypes.c_int64}
        kinds.get(type(value), ctypes.c_double).from_address(int(address)).value = value

    def number_like(like: Any, value: float) -> Any:
        with np.errstate(all="ignore"):
            return np.float32(value) if isinstance(like, np.float32) else float(value)

    def times(a: Any, b: Any) -> Any:
        with np.errstate(all="ignore"):
            return a * b

    def offset_of(index: int, axes: int, count: int) -> int:
        offset = 0
        for k in range(count - 1):
            length, step = words(axes + 16 * k, 2)
            index, place = divmod(index, length)
            offset += place * step
        return offset + index * words(axes + 16 * (count - 1), 2)[1]

    def simulated(
        key: str, count: int, work: Work, row: Any, index: int, factors: Any, stages: Any, h: Any, largest: Any = None
    ) -> tuple[list[Any], Sequence[Any]]:
        """Return the memory of so many elements, and what the function makes of them."""
        entry = TRACED[key]
        arrays = [
            memory(at, index // length, count if length == 1 else 1, dtype)
            for at, dtype, length in zip(row[ROW_HEAD:], entry.dtypes, entry.lengths(), strict=True)
        ]
        values = [read_as(a, dtype, entry.computed) for a, dtype in zip(arrays, entry.dtypes, strict=True)]
        key_bits, number, first = (np.array([each], np.uint64) for each in (work.dither_key & MASK, row[2], index))
        offsets = np.arange(count, dtype=np.uint32)
        place = Place(key_bits, number, first + offsets)
        if largest is not None:
            place = Place(key_bits, number, first, offsets, largest)
        with np.errstate(all="ignore"):
            return arrays, entry.function(Factors(*factors), stages, h, place, *values)

    def apply(
        key: str, count: int, work: Work, row: Any, index: int, factors: Any, stages: Any, h: Any, largest: Any = None
    ) -> None:
        arrays, results = simulated(key, count, work, row, index, factors, stages, h, largest)
        for array, dtype, result in zip(arrays, TRACED[key].dtypes, results, strict=True):
            if result is not None:
                is_nearest = dtype == "bfloat16" and getattr(result, "dtype", None) == np.float32
                with np.errstate(all="ignore"):
                    array[...] = halves.nearest(result) if is_nearest else result

    def apply_block(key: str, count: int, work: Work, row: Any, index: int, factors: Any, stages: Any, h: Any) -> None:
        apply(key, min(BLOCK, row[0] - index), work, row, index, factors, stages, h, lambda values: values.max())

    def product(key: str, work: Work, row: Any, index: int, factors: Any, stages: Any) -> tuple[float, int]:
        _, (left, right, *others) = simulated(key, 1, work, row, index, factors, stages, ())
        with np.errstate(all="ignore"):
            product = float(np.float64(left[0]) * np.float64(right[0]))
        return product, sum(0 if np.isfinite(other[0]) else 1 for other in others)

else:
    from llvmlite import ir
    from numba.cuda import cgutils, dispatcher
    from numba.cuda.extending import intrinsic

    I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
    HALF, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
    ALL_OF_WARP, BUTTERFLY = I32(-1), I32(3)
    BLOCK_SHIFT = I64(BLOCK.bit_length() - 1)
    LLVM_TYPES = {
        "float32": FLOAT,
        "float64": DOUBLE,
        "float16": HALF,
        "bfloat16": I16,
        "uint8": I8,
        "uint16": I16,
        "int32": I32,
        "uint32": I32,
        "uint64": I64,
        "bool": ir.IntType(1),
    }
    DTYPES = {kind: np.dtype(name) for name, kind in LLVM_TYPES.items() if name != "bfloat16"}

    def called(builder: Any, name: str, *values: Any) -> Any:
        """Call one of LLVM's functions for the GPU, of operands and a result of one type."""
        kind = values[0].type
        suffix = "f" if kind == FLOAT else "d"
        function = ir.FunctionType(kind, [kind] * len(values))
        return builder.call(cgutils.get_or_insert_function(builder.module, function, f"{name}.{suffix}"), values)

    def picked(builder: Any, sign: str, a: Any, b: Any) -> Any:
        """Return the first where it is greater (or less), or NaN; NumPy's maximum (or minimum)."""
        is_first = builder.or_(builder.fcmp_ordered(sign, a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(is_first, a, b)

    def signed(builder: Any, a: Any) -> Any:
        """Return -1, 0 (of either zero), 1, or the number itself where it is NaN; NumPy's sign."""
        result = builder.select(builder.fcmp_unordered("uno", a, a), a, ir.Constant(a.type, 0.0))
        for sign, one in ((">", 1.0), ("<", -1.0)):
            is_so = builder.fcmp_ordered(sign, a, ir.Constant(a.type, 0.0))
            result = builder.select(is_so, ir.Constant(a.type, one), result)
        return result

    #: What a rule may do, by the names of NumPy's functions. Multiplication by the name that is never fused.
    FLOAT_OPERATIONS: dict[str, Callable[..., Any]] = {
        "add": lambda builder, a, b: builder.fadd(a, b),
        "subtract": lambda builder, a, b: builder.fsub(a, b),
        "multiply": lambda builder, a, b: called(builder, "llvm.nvvm.mul.rn", a, b),
        "divide": lambda builder, a, b: builder.fdiv(a, b),
        "negative": lambda builder, a: builder.fsub(ir.Constant(a.type, -0.0), a),
        "absolute": lambda builder, a: called(builder, "llvm.nvvm.fabs", a),
        "sign": signed,
        "sqrt": lambda builder, a: called(builder, "llvm.nvvm.sqrt.rn", a),
        "maximum": lambda builder, a, b: picked(builder, ">", a, b),
        "minimum": lambda builder, a, b: picked(builder, "<", a, b),
        "greater": lambda builder, a, b: builder.fcmp_ordered(">", a, b),
        "less": lambda builder, a, b: builder.fcmp_ordered("<", a, b),
    }
    #: The same of whole numbers: all without sign, but for minimum, which is of int32.
    WHOLE_OPERATIONS: dict[str, Callable[..., Any]] = {
        "minimum": lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b),
        "add": lambda builder, a, b: builder.add(a, b),
        "multiply": lambda builder, a, b: builder.mul(a, b),
        "bitwise_and": lambda builder, a, b: builder.and_(a, b),
        "bitwise_or": lambda builder, a, b: builder.or_(a, b),
        "bitwise_xor": lambda builder, a, b: builder.xor(a, b),
        "left_shift": lambda builder, a, b: builder.shl(a, b),
        "right_shift": lambda builder, a, b: builder.lshr(a, b),
        "greater": lambda builder, a, b: builder.icmp_unsigned(">", a, b),
        "less": lambda builder, a, b: builder.icmp_unsigned("<", a, b),
    }

    def operation(builder: Any, name: str, *values: Any) -> Any:
        """Put one of the operations on values of one type into the kernel."""
        if name == "where":
            return builder.select(*values)
        operations = FLOAT_OPERATIONS if values[0].type in (FLOAT, DOUBLE) else WHOLE_OPERATIONS
        if name not in operations:
            raise NotImplementedError(f"rules: {name} is not among the operations of CUDA kernels")
        return operations[name](builder, *values)

    class Lanes:
        """Numbers of one dtype in a kernel that is being built: one, or as many as are read at once."""

        def __init__(self, builder: Any, values: Sequence[Any]) -> None:
            self.builder = builder
            self.values = values

        @property
        def dtype(self) -> np.dtype[Any]:
            return DTYPES[self.values[0].type]

        def __getitem__(self, which: slice) -> Lanes:
            return Lanes(self.builder, self.values[which])

        def astype(self, dtype: Any) -> Lanes:
            """Return numbers without sign, or whether something is so, in another dtype; floats as int32."""
            to, of = LLVM_TYPES[np.dtype(dtype).name], self.values[0].type
            if to in (FLOAT, DOUBLE):
                cast = self.builder.uitofp
            elif of in (FLOAT, DOUBLE):
                cast = self.builder.fptosi
            else:
                cast = self.builder.zext if to.width > of.width else self.builder.trunc
            return Lanes(self.builder, [cast(value, to) for value in self.values])

        def view(self, dtype: Any) -> Lanes:
            """Return the bits as numbers of another dtype of the same size."""
            to = LLVM_TYPES[np.dtype(dtype).name]
            return Lanes(self.builder, [self.builder.bitcast(value, to) for value in self.values])

        def __array_ufunc__(self, function: Any, method: str, *operands: Any) -> Lanes:
            if method != "__call__":
                raise NotImplementedError(f"rules: {function.__name__}.{method} is not done in CUDA kernels")
            kind = next(o for o in reversed(operands) if isinstance(o, Lanes)).values[0].type
            lanes = [self.constant(function, operand, kind) for operand in operands]
            count = max(len(each.values) for each in lanes)
            spread = [each.values if len(each.values) == count else [*each.values] * count for each in lanes]
            name = function.__name__
            return Lanes(self.builder, [operation(self.builder, name, *each) for each in zip(*spread, strict=True)])

        def constant(self, function: Any, operand: Any, kind: Any) -> Lanes:
            """Return an operand as lanes: whole numbers, and those of float32, are exact in every dtype."""
            if isinstance(operand, Lanes):
                return operand
            if isinstance(operand, (int, np.unsignedinteger, np.float32)):
                is_float = kind in (FLOAT, DOUBLE)
                return Lanes(self.builder, [ir.Constant(kind, float(operand) if is_float else int(operand))])
            raise TypeError(
                f"rules: {function.__name__} with {operand!r}: numbers must come from the scalars of the rule"
            )

        def __array_function__(self, function: Any, types: Any, operands: Any, names: Any) -> Lanes:
            return self.__array_ufunc__(function, "__call__", *operands)

        def __add__(self, other: Any) -> Lanes:
            return np.add(self, other)  # type: ignore[no-any-return, call-overload]

        def __radd__(self, other: Any) -> Lanes:
            return np.add(other, self)  # type: ignore[no-any-return, call-overload]

        def __sub__(self, other: Any) -> Lanes:
            return np.subtract(self, other)  # type: ignore[no-any-return, call-overload]

        def __rsub__(self, other: Any) -> Lanes:
            return np.subtract(other, self)  # type: ignore[no-any-return, call-overload]

        def __mul__(self, other: Any) -> Lanes:
            return np.multiply(self, other)  # type: ignore[no-any-return, call-overload]

        def __rmul__(self, other: Any) -> Lanes:
            return np.multiply(other, self)  # type: ignore[no-any-return, call-overload]

        def __truediv__(self, other: Any) -> Lanes:
            return np.divide(self, other)  # type: ignore[no-any-return, call-overload]

        def __rtruediv__(self, other: Any) -> Lanes:
            return np.divide(other, self)  # type: ignore[no-any-return, call-overload]

        def __gt__(self, other: Any) -> Lanes:
            return np.greater(self, other)  # type: ignore[no-any-return, call-overload]

        def __lt__(self, other: Any) -> Lanes:
            return np.less(self, other)  # type: ignore[no-any-return, call-overload]

        def __and__(self, other: Any) -> Lanes:
            return np.bitwise_and(self, other)  # type: ignore[no-any-return, call-overload]

        def __or__(self, other: Any) -> Lanes:
            return np.bitwise_or(self, other)  # type: ignore[no-any-return, call-overload]

        def __xor__(self, other: Any) -> Lanes:
            return np.bitwise_xor(self, other)  # type: ignore[no-any-return, call-overload]

        def __lshift__(self, other: Any) -> Lanes:
            return np.left_shift(self, other)  # type: ignore[no-any-return, call-overload]

        def __rshift__(self, other: Any) -> Lanes:
            return np.right_shift(self, other)  # type: ignore[no-any-return, call-overload]

        def __neg__(self) -> Lanes:
            return np.negative(self)  # type: ignore[no-any-return]

        def __abs__(self) -> Lanes:
            return np.absolute(self)  # type: ignore[no-any-return]

    def pieces(builder: Any, address: Any, index: Any, count: int, dtype: str) -> list[tuple[Any, int, int]]:
        """Return pointers to vectors of at most 16 bytes that hold ``count`` elements, their lengths and alignments."""
        size = ITEM_SIZES[dtype]
        length = min(count, 16 // size)
        kind = ir.VectorType(LLVM_TYPES[dtype], length) if length > 1 else LLVM_TYPES[dtype]
        start = builder.add(address, builder.mul(index, ir.Constant(I64, size)))
        return [
            (
                builder.inttoptr(builder.add(start, ir.Constant(I64, first * size)), kind.as_pointer(addrspace=1)),
                length,
                length * size,
            )
            for first in range(0, count, length)
        ]

    def loaded(builder: Any, address: Any, index: Any, count: int, dtype: str) -> list[Any]:
        values = []
        for pointer, length, alignment in pieces(builder, address, index, count, dtype):
            piece = builder.load(pointer, align=alignment)
            values += [builder.extract_element(piece, I32(k)) for k in range(length)] if length > 1 else [piece]
        return values

    def stored(builder: Any, values: Sequence[Any], address: Any, index: Any, dtype: str) -> None:
        values = list(values)
        for pointer, length, alignment in pieces(builder, address, index, len(values), dtype):
            mine = [values.pop(0) for _ in range(length)]
            piece = mine[0]
            if length > 1:
                piece = ir.Constant(pointer.type.pointee, ir.Undefined)
                for k, value in enumerate(mine):
                    piece = builder.insert_element(piece, value, I32(k))
            builder.store(piece, pointer, align=alignment)

    def converted(builder: Any, value: Any, dtype: str, to: str) -> Any:
        if dtype == "uint8":
            return value
        if dtype == "bfloat16":
            value = builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), FLOAT)
            dtype = "float32"
        if dtype == to:
            return value
        if ITEM_SIZES[dtype] < ITEM_SIZES[to]:
            return builder.fpext(value, LLVM_TYPES[to])
        return builder.fptrunc(value, LLVM_TYPES[to])

    def nearest(value: Any) -> Any:
        return halves.nearest(value)

    def written(builder: Any, result: Any, computed: str, dtype: str, count: int) -> list[Any]:
        """Return a result of a traced function as it is to lie in memory."""
        if not isinstance(result, Lanes):
            kind = LLVM_TYPES[dtype]
            return [ir.Constant(kind, 0 if kind == I16 else 0.0)] * count
        if dtype == "uint8":
            return list(result.values)
        if dtype == "bfloat16":
            return list((result if result.dtype == np.uint16 else nearest(result)).values)
        return [converted(builder, value, computed, dtype) for value in result.values]

    def traced(
        builder: Any, key: str, count: int, row: Any, starts: Sequence[Any], place: Place, *scalars: Any
    ) -> list[Any]:
        """Put into the kernel: read all values, convert them, call the function; return its results.

        Values are so many from each of the starts on; of scales, that of the first start's block.
        """
        entry = TRACED[key]
        block = builder.lshr(starts[0], BLOCK_SHIFT)
        values = []
        for at, dtype, length in zip(row[ROW_HEAD:], entry.dtypes, entry.lengths(), strict=True):
            places = [(start, count) for start in starts] if length == 1 else [(block, 1)]
            read = [x for index, many in places for x in loaded(builder, at, index, many, dtype)]
            values.append(Lanes(builder, [converted(builder, x, dtype, entry.computed) for x in read]))
        factors, stages, h = scalars
        return list(entry.function(Factors(*factors), stages, h, place, *values))

    def place_of(builder: Any, work: Any, row: Any, indices: Sequence[Any]) -> Place:
        return Place(Lanes(builder, [work.dither_key]), Lanes(builder, [row[2]]), Lanes(builder, indices))

    def greater(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.icmp_unsigned(">", a, b), a, b)

    def largest_of_warp(lanes: Lanes) -> Lanes:
        """Return the greatest uint32 of all threads of a warp, which exchange theirs."""
        builder = lanes.builder
        found = reduce(partial(greater, builder), lanes.values)
        kind = ir.FunctionType(ir.LiteralStructType((I32, ir.IntType(1))), [I32] * 5)
        shuffle = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.shfl.sync.i32")
        distance = WARP // 2
        while distance:
            numbers = ALL_OF_WARP, BUTTERFLY, found, I32(distance), I32(WARP - 1)
            found = greater(builder, found, builder.extract_value(builder.call(shuffle, numbers), 0))
            distance //= 2
        return Lanes(builder, [found])

    def wait_for_warp(builder: Any) -> None:
        """Let no thread go on before all of its warp have come here, and see what the others wrote."""
        kind = ir.FunctionType(ir.VoidType(), [I32])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.bar.warp.sync"), [ALL_OF_WARP])

    def named(builder: Any, kind: Any, values: Any) -> Any:
        """Return a tuple of numbers by its names, if it has any."""
        unpacked = cgutils.unpack_tuple(builder, values, kind.count)
        return kind.instance_class(*unpacked) if isinstance(kind, types.NamedUniTuple) else unpacked

    def scalars(builder: Any, kind: Any, values: Any) -> Any:
        """Return a tuple of scalars as the rule sees it."""
        lanes = [Lanes(builder, [value]) for value in cgutils.unpack_tuple(builder, values, kind.count)]
        return kind.instance_class(*lanes) if isinstance(kind, types.NamedUniTuple) else lanes

    def apply_(_: Any, key: Any, count: Any, work: Any, row: Any, index: Any, factors: Any, stages: Any, h: Any) -> Any:
        if not (isinstance(key, types.Literal) and isinstance(count, types.Literal)):
            return None  # Numba asks again with the constants

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            entry, length = TRACED[key.literal_value], count.literal_value
            words = named(builder, row, args[3])
            kinds = (factors, stages, h)
            numbers = [scalars(builder, kind, values) for kind, values in zip(kinds, args[5:], strict=True)]
            indices = [builder.add(args[4], I64(k)) for k in range(length)]
            place = place_of(builder, named(builder, work, args[2]), words, indices)
            results = traced(builder, key.literal_value, length, words, [args[4]], place, *numbers)
            for at, dtype, result in zip(words[ROW_HEAD:], entry.dtypes, results, strict=True):
                if result is not None:
                    stored(builder, written(builder, result, entry.computed, dtype, length), at, args[4], dtype)
            return context.get_dummy_value()

        return types.none(key, count, work, row, index, factors, stages, h), code

    def apply_block_(
        _: Any, key: Any, count: Any, work: Any, row: Any, index: Any, factors: Any, stages: Any, h: Any
    ) -> Any:
        if not (isinstance(key, types.Literal) and isinstance(count, types.Literal)):
            return None  # Numba asks again with the constants

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            entry, length = TRACED[key.literal_value], count.literal_value
            words = named(builder, row, args[3])
            kinds = (factors, stages, h)
            numbers = [scalars(builder, kind, values) for kind, values in zip(kinds, args[5:], strict=True)]
            runs = range(0, BLOCK, length * WARP)
            starts = [builder.add(args[4], I64(first)) for first in runs]
            are_there = [builder.icmp_signed("<", start, words[0]) for start in starts]
            read = starts
            if length == 1:
                # Behind the end the last element once more, which changes no maximum.
                last = builder.sub(words[0], I64(1))
                read = [builder.select(*each, last) for each in zip(are_there, starts, strict=True)]
            offsets = Lanes(builder, [I32(first + k) for first in runs for k in range(length)])
            place = place_of(builder, named(builder, work, args[2]), words, [args[4]])
            place = place._replace(offsets=offsets, largest=largest_of_warp)
            results = traced(builder, key.literal_value, length, words, read, place, *numbers)
            memory = [
                (at, dtype, written(builder, result, entry.computed, dtype, length * len(starts)), lasts == BLOCK)
                for at, dtype, lasts, result in zip(
                    words[ROW_HEAD:], entry.dtypes, entry.lengths(), results, strict=True
                )
                if result is not None
            ]
            # All have read before one writes: a scale, and the last element, are read by many.
            wait_for_warp(builder)
            with builder.if_then(builder.icmp_signed("==", builder.and_(args[4], I64(BLOCK - 1)), I64(0))):
                for at, dtype, values, is_scale in memory:
                    if is_scale:
                        stored(builder, values, at, builder.lshr(args[4], BLOCK_SHIFT), dtype)
            for k, (start, is_there) in enumerate(zip(starts, are_there, strict=True)):
                with builder.if_then(is_there) if length == 1 else nullcontext():
                    for at, dtype, values, is_scale in memory:
                        if not is_scale:
                            stored(builder, values[k * length : (k + 1) * length], at, start, dtype)
            return context.get_dummy_value()

        return types.none(key, count, work, row, index, factors, stages, h), code

    def product_(_: Any, key: Any, work: Any, row: Any, index: Any, factors: Any, stages: Any) -> Any:
        if not isinstance(key, types.Literal):
            return None  # Numba asks again with the constants

        pair = types.Tuple((types.float64, types.int64))

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            words = named(builder, row, args[2])
            numbers = [scalars(builder, kind, values) for kind, values in zip((factors, stages), args[4:], strict=True)]
            place = place_of(builder, named(builder, work, args[1]), words, [args[3]])
            left, right, *others = traced(builder, key.literal_value, 1, words, [args[3]], place, *numbers, ())
            computed, count = TRACED[key.literal_value].computed, I64(0)
            wide = [converted(builder, each.values[0], computed, "float64") for each in (left, right)]
            for other in others:
                magnitude = FLOAT_OPERATIONS["absolute"](builder, other.values[0])
                is_bad = builder.not_(builder.fcmp_ordered("<", magnitude, ir.Constant(magnitude.type, math.inf)))
                count = builder.add(count, builder.zext(is_bad, I64))
            return context.make_tuple(builder, pair, [FLOAT_OPERATIONS["multiply"](builder, *wide), count])

        return pair(key, work, row, index, factors, stages), code

    def words_(_: Any, address: Any, count: Any) -> Any:
        if not isinstance(count, types.Literal):
            return None  # Numba asks again with the constants

        result = types.UniTuple(types.int64, count.literal_value)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            steps = [builder.add(args[0], I64(8 * k)) for k in range(count.literal_value)]
            pointers = [builder.inttoptr(step, I64.as_pointer(addrspace=1)) for step in steps]
            return context.make_tuple(builder, result, [builder.load(pointer, align=8) for pointer in pointers])

        return result(address, count), code

    def real_(_: Any, like: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[1], args[0].type.as_pointer(addrspace=1))
            return builder.load(pointer, align=like.bitwidth // 8)

        return like(like, address), code

    def number_like_(_: Any, like: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return converted(builder, args[1], value.name, like.name)

        return like(like, value), code

    def times_(_: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return FLOAT_OPERATIONS["multiply"](builder, *args)

        return a(a, b), code

    def offset_of_(_: Any, index: Any, axes: Any, count: Any) -> Any:
        """Return how far an element of some axes lies behind the first; they are pairs of words, length and step."""

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def word(at: Any) -> Any:
                return builder.load(builder.inttoptr(at, I64.as_pointer(addrspace=1)), align=8)

            index, offset = (cgutils.alloca_once_value(builder, value) for value in (args[0], I64(0)))
            last = builder.sub(args[2], I64(1))
            with cgutils.for_range(builder, last) as loop:
                at = builder.add(args[1], builder.mul(loop.index, I64(16)))
                length, step, rest = word(at), word(builder.add(at, I64(8))), builder.load(index)
                place = builder.mul(builder.urem(rest, length), step)
                builder.store(builder.add(builder.load(offset), place), offset)
                builder.store(builder.udiv(rest, length), index)
            step = word(builder.add(args[1], builder.add(builder.mul(last, I64(16)), I64(8))))
            return builder.add(builder.load(offset), builder.mul(builder.load(index), step))

        return types.int64(index, axes, count), code

    def put_(_: Any, address: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], args[1].type.as_pointer(addrspace=1))
            builder.store(args[1], pointer, align=value.bitwidth // 8)
            return context.get_dummy_value()

        return types.none(address, value), code

    apply, apply_block = intrinsic(apply_), intrinsic(apply_block_)
    product, words = intrinsic(product_), intrinsic(words_)
    real, put, times, offset_of = map(intrinsic, (real_, put_, times_, offset_of_))
    number_like = intrinsic(number_like_)


# The kernels. All of them get addresses as integers, and numbers in the dtype that is computed in.


def named_by(kernel: Callable[..., None], key: str) -> Callable[..., None]:
    """Give a kernel a name of its own: Numba keeps kernels of one name in one index on disk, and can read none of it
    any more when a class that one of them got was renamed."""
    kernel.__qualname__ = f"{kernel.__name__}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return kernel


def update_kernel(key: str) -> Callable[..., None]:
    """Return the kernel of a step: one block for each entry (array << 32 | chunk) of the list of chunks."""
    entry = TRACED[key]
    wide, row_words, guarded = width(entry.computed), ROW_HEAD + len(entry.dtypes), entry.guarded
    item_size = ITEM_SIZES[entry.computed]

    def update(work: Work, stages: Any, h: tuple[float, ...]) -> None:
        if guarded and words(work.guard, 1)[0] != 0:
            return
        entry = words(work.chunks + 8 * cuda.blockIdx.x, 1)[0]
        begin = (entry & 0xFFFFFFFF) * CHUNK
        row = words(work.table + (entry >> 32) * (8 * row_words), row_words)
        like, number = stages.scale, row[2] * item_size
        factors = (real(like, work.clips + number), real(like, work.global_clip), real(like, work.rates + number))
        size = min(CHUNK, row[0] - begin)
        head = min(row[1], size)
        vectors = (size - head) // wide
        for i in range(cuda.threadIdx.x, vectors, THREADS):
            apply(key, wide, work, row, begin + head + i * wide, factors, stages, h)
        # What lies before and behind the vectors, one by one.
        for i in range(cuda.threadIdx.x, size - vectors * wide, THREADS):
            apply(key, 1, work, row, begin + (i if i < head else i + vectors * wide), factors, stages, h)

    return named_by(update, key)


def block_kernel(key: str) -> Callable[..., None]:
    """Return the kernel of a step with slots in 8 bits: as update_kernel, but a warp does BLOCK elements at a time."""
    entry = TRACED[key]
    wide, row_words, guarded = width(entry.computed), ROW_HEAD + len(entry.dtypes), entry.guarded
    item_size = ITEM_SIZES[entry.computed]

    def update(work: Work, stages: Any, h: tuple[float, ...]) -> None:
        if guarded and words(work.guard, 1)[0] != 0:
            return
        entry = words(work.chunks + 8 * cuda.blockIdx.x, 1)[0]
        begin = (entry & 0xFFFFFFFF) * CHUNK
        row = words(work.table + (entry >> 32) * (8 * row_words), row_words)
        like, number = stages.scale, row[2] * item_size
        factors = (real(like, work.clips + number), real(like, work.global_clip), real(like, work.rates + number))
        lane, first = cuda.threadIdx.x & (WARP - 1), cuda.threadIdx.x // WARP
        for at in range(begin + first * BLOCK, min(begin + CHUNK, row[0]), THREADS // WARP * BLOCK):
            # Vectors must be aligned from the first element on, as the blocks are.
            if row[1] == 0 and at + BLOCK <= row[0]:
                apply_block(key, wide, work, row, at + lane * wide, factors, stages, h)
            else:
                apply_block(key, 1, work, row, at + lane, factors, stages, h)

    return named_by(update, key)


def products_kernel(key: str) -> Callable[..., None]:
    """Return the kernel of a chunk's sum of products: LANES running sums, folded in halves (csrc/pipeline_template.h).

    And of how many elements are not finite, where the function returns those too.
    """
    row_words, item_size = ROW_HEAD + len(TRACED[key].dtypes), ITEM_SIZES[TRACED[key].computed]

    def products(work: Work, count: int, stages: Any, partials: int, partial_counts: int) -> None:
        folded = cuda.shared.array((CHUNKS_A_BLOCK, LANES), types.float64)
        counts = cuda.shared.array((CHUNKS_A_BLOCK, LANES), types.int64)
        lane, place = cuda.threadIdx.x, cuda.threadIdx.y
        position = cuda.blockIdx.x * CHUNKS_A_BLOCK + place
        total, nonfinite, target = 0.0, 0, 0
        if position < count:
            entry = words(work.chunks + 8 * position, 1)[0]
            chunk = entry & 0xFFFFFFFF
            row = words(work.table + (entry >> 32) * (8 * row_words), row_words)
            target = 8 * (row[3] + chunk)
            like, number = stages.scale, row[2] * item_size
            factors = (real(like, work.clips + number), real(like, work.global_clip), real(like, work.rates + number))
            for i in range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, row[0]), LANES):
                added, is_bad = product(key, work, row, i, factors, stages)
                total += added
                nonfinite += is_bad
        folded[place, lane] = total
        counts[place, lane] = nonfinite
        cuda.syncthreads()
        half = LANES >> 1
        while half > 0:
            if lane < half:
                folded[place, lane] += folded[place, lane + half]
                counts[place, lane] += counts[place, lane + half]
            cuda.syncthreads()
            half >>= 1
        if lane == 0 and position < count:
            put(partials + target, folded[place, 0])
            put(partial_counts + target, float(counts[place, 0]))

    return named_by(products, key)


def sums(spans: int, partials: int, sums: int) -> None:
    """Add each array's partial sums in index order, as every backend does: one block for each array."""
    tile = cuda.shared.array(TILE, types.float64)
    first, count = words(spans + 16 * cuda.blockIdx.x, 2)
    total = 0.0
    for begin in range(0, count, TILE):
        size = min(TILE, count - begin)
        for i in range(cuda.threadIdx.x, size, THREADS):
            tile[i] = real(total, partials + 8 * (first + begin + i))
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for i in range(size):
                total += tile[i]
        cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        put(sums + 8 * cuda.blockIdx.x, total)


def decide(counts: int, count: int, guards: int) -> None:
    """Set two guards: for what is done if all elements of all arrays are finite, and for the opposite; one thread."""
    total = 0.0
    for i in range(count):
        total += real(total, counts + 8 * i)
    is_bad = 1 if total > 0.0 else 0
    put(guards, is_bad)
    put(guards + 8, 1 - is_bad)


def clip_arrays(sums: int, limits: int, count: int, factors64: int, factors32: int) -> None:
    """Set the clip factor of each array, as fastopt.clip.clip_factor does, in both dtypes."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < count:
        limit = real(0.0, limits + 8 * i)
        factor = limit / (math.sqrt(real(0.0, sums + 8 * i)) + 1e-6)
        if factor > 1.0 or limit == math.inf:
            factor = 1.0
        put(factors64 + 8 * i, factor)
        put(factors32 + 4 * i, np.float32(factor))


def clip_all(sums: int, count: int, limit: float, norm: int, factor64: int, factor32: int) -> None:
    """Set the global norm, and the clip factor of all arrays together: one thread."""
    total = 0.0
    for i in range(count):
        total += real(total, sums + 8 * i)
    root = math.sqrt(total)
    factor = limit / (root + 1e-6)
    if factor > 1.0:
        factor = 1.0
    put(norm, root)
    put(factor64, factor)
    put(factor32, np.float32(factor))


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

    ``ratios`` are the addresses where the ratios go, unless the guard is set.
    """
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < count:
        number = words(table + 8 * (i * row_words + 2), 1)[0]
        param_norm = math.sqrt(real(0.0, param_sums + 8 * number))
        update_norm = math.sqrt(real(0.0, update_sums + 8 * number))
        ratio = 1.0
        if adapt != 0 and param_norm != 0.0 and update_norm != 0.0:
            ratio = coefficient * param_norm / (update_norm + eps)
        if guard == 0 or words(guard, 1)[0] == 0:
            put(words(ratios + 8 * number, 1)[0], ratio)
        put(rates64 + 8 * number, lr * ratio)
        put(rates32 + 4 * number, np.float32(lr * ratio))


def update_signature(dtype: str, stages: type, scalars: type) -> Any:
    return types.void(named_type("int64", Work), named_type(dtype, stages), named_type(dtype, scalars))


def products_signature(dtype: str, stages: type) -> Any:
    i64 = types.int64
    return types.void(named_type("int64", Work), i64, named_type(dtype, stages), i64, i64)


def plain_signatures() -> dict[Callable[..., None], Any]:
    """Return the signatures of the kernels that are one for all optimizers."""
    i64 = types.int64
    return {
        sums: types.void(i64, i64, i64),
        decide: types.void(i64, i64, i64),
        trust: types.void(*[i64] * 5, *[types.float64] * 3, *[i64] * 5),
        clip_arrays: types.void(i64, i64, i64, i64, i64),
        clip_all: types.void(i64, i64, types.float64, i64, i64, i64),
    }


def named_type(dtype: str, kind: type) -> Any:
    return types.NamedUniTuple(getattr(types, dtype), len(kind._fields), kind)  # type: ignore[attr-defined]


def launch_bounds(computed: str, arrays: int = 0) -> tuple[int, int] | None:
    """Return the most threads of a block, and how many blocks must fit on a multiprocessor to keep its memory busy.

    It limits registers to 64, and none is spilled. With float64, or more than 5 numbers in memory for each element, any
    such limit was seen to spill or to raise their number.
    """
    return None if computed == "float64" or arrays > 5 else (256, 4)


class Kernel(NamedTuple):
    """A kernel as Numba knows it and, where that is found, as the driver does: for one device."""

    dispatcher: Any
    handle: Any = None


def compiled(kernel: Callable[..., None], signature: Any, bounds: tuple[int, int] | None) -> Kernel:
    """Return the kernel, compiled for the current device or taken from the cache on disk."""
    if SIMULATED:
        return Kernel(cuda.jit(kernel))
    if kernel.__qualname__ == kernel.__name__:  # made of no key; Numba looks at the file of the kernel alone
        named_by(kernel, Path(__file__).read_text())
    with told_when_slow():
        made = cuda.jit([signature], cache=True, launch_bounds=bounds)(kernel)
    return Kernel(made, driver_handle(made))


def driver_handle(made: Any) -> Any:
    """Return what the driver starts; None where this Numba keeps it elsewhere."""
    try:
        return next(iter(made.overloads.values()))._codelibrary.get_cufunc().kernel
    except AttributeError:
        return None


#: Seconds that this process has spent compiling, and whether it has said so.
spent, told = 0.0, False


@contextmanager
def told_when_slow() -> Iterator[None]:
    """Say on stderr that kernels are being compiled, once that has taken a second in all."""
    global spent
    timer = threading.Timer(max(0.0, 1.0 - spent), tell)
    timer.daemon = True
    start = time.perf_counter()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        spent += time.perf_counter() - start


def tell() -> None:
    global told
    if not told:
        line = "fastopt: compiling CUDA kernels; they are kept on disk, and the next start is fast"
        print(line, file=sys.stderr, flush=True)
    told = True


#: How a number of Python is given to a kernel.
C_TYPES: dict[type, Any] = {
    int: ctypes.c_int64,
    float: ctypes.c_double,
    np.float32: ctypes.c_float,
    np.float64: ctypes.c_double,
}


def launch(kernel: Kernel, blocks: int, threads: int | tuple[int, int], stream: Any, *args: Any) -> None:
    """Put a kernel into a stream. Its arguments are numbers and tuples of numbers."""
    # Numba warns of few blocks, which is what a small array has.
    before, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
    try:
        configured = kernel.dispatcher[blocks, threads, stream]
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = before
    if kernel.handle is None:
        configured(*args)
        return
    # Numba looks at the type of every number again in every launch, which takes longer than all else in it.
    numbers = [number for arg in args for number in (arg if isinstance(arg, tuple) else (arg,))]
    given = [C_TYPES[type(number)](number) for number in numbers]
    block = threads if isinstance(threads, tuple) else (threads, 1)
    size = dispatcher.LaunchConfig(grid=(blocks, 1, 1), block=(*block, 1))
    dispatcher.launch(configured.stream, size, kernel.handle, *given)


def ptx(
    kernel: Callable[..., None], signature: Any, bounds: tuple[int, int] | None, capability: tuple[int, int]
) -> str:
    """Return a kernel's assembly for a compute capability; needs no device."""
    return str(cuda.compile_ptx(kernel, signature.args, cc=capability, launch_bounds=bounds)[0])


# Memory, devices and streams.


def interface(array: Any) -> dict[str, Any]:
    """Return an array's ``__cuda_array_interface__``, which the simulator's own arrays don't have."""
    if SIMULATED and hasattr(array, "__cuda_ndarray__"):
        return {**array.__array_interface__, "version": 3, "stream": None}
    return dict(array.__cuda_array_interface__)


def as_signed(bits: int) -> int:
    """Return a number of 64 bits as a kernel gets it."""
    return bits - (bits >> 63 << 64)


def address(array: Any) -> int:
    pointer = getattr(array, "device_ctypes_pointer", None)  # Numba's own way is ten times as fast
    return int(interface(array)["data"][0]) if pointer is None else pointer.value or 0


def full(shape: tuple[int, ...], dtype: str, order: str, value: float, stream: Any = 0) -> Any:
    """Return a new device array that is filled with one number."""
    size = math.prod(shape)
    kind = halves.bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    array = cuda.device_array(size, kind, stream=stream)
    if size and value == 0:
        cuda.cudadrv.driver.device_memset(array, 0, array.nbytes, stream)
    elif size:
        write(array, np.full(size, value, kind))
    return array.reshape(*shape, order=order) if shape else array.reshape(())


class Mark:
    """A moment of a stream."""

    def __init__(self) -> None:
        self.event = cuda.event() if SIMULATED else cuda.event(timing=False)

    def record(self, stream: Any) -> None:
        self.event.record(stream)

    def wait(self) -> None:
        """Wait on the host until the stream has come there."""
        self.event.synchronize()

    def wait_in(self, stream: Any) -> None:
        """Let all that is put into a stream from now on wait for it."""
        if not SIMULATED:  # where all is done in the order in which it is asked for
            self.event.wait(stream)


class Uploaded:
    """An array on the device that is written from the host again and again, without waiting.

    From two buffers by turns, which must not change before a copy is done; from memory that can be paged out a copy
    would wait for the stream.
    """

    def __init__(self, values: npt.NDArray[Any], stream: Any) -> None:
        self.array = cuda.device_array(values.shape, values.dtype, stream=stream)
        self.address = address(self.array)
        self.buffers = [(cuda.pinned_array(values.shape, values.dtype), Mark()) for _ in range(2)]
        self.write(values, stream)

    def write(self, values: npt.NDArray[Any], stream: Any) -> None:
        buffer, copied = self.buffers[0]
        self.buffers.reverse()
        copied.wait()
        buffer[...] = values
        self.array.copy_to_device(buffer, stream=stream)
        copied.record(stream)


def uploaded(values: npt.NDArray[Any], to: Uploaded | None, stream: Any) -> Uploaded:
    """Copy an array to the device: into ``to``, where that has its shape."""
    if to is None or to.array.shape != values.shape:
        return Uploaded(values, stream)
    to.write(values, stream)
    return to


def empty(size: int, dtype: str) -> Any:
    return cuda.device_array(size, np.dtype(dtype))


class Told:
    """Numbers of the device as they were at a moment of a stream, on their way to the host."""

    def __init__(self, array: Any, device: int) -> None:
        self.array = array
        self.device = device
        self.host = cuda.pinned_array(array.shape, array.dtype)
        self.told = Mark()

    def tell(self, stream: Any) -> None:
        """Put the copy into the stream."""
        self.array.copy_to_host(self.host, stream=stream)
        self.told.record(stream)

    def values(self) -> npt.NDArray[Any]:
        """Return the numbers; waits for what is in the stream before the copy, and for nothing else."""
        with on_device(self.device):
            self.told.wait()
        return self.host  # type: ignore[no-any-return]


def bits_of(array: Any) -> tuple[Any, npt.DTypeLike]:
    """Return a view of a device array for copying, in which bfloat16 is its bits, and what its dtype is."""
    seen = interface(array)
    dtype = halves.bfloat16() if seen["typestr"].endswith("V2") else np.dtype(seen["typestr"])
    seen["typestr"] = np.dtype(f"<u{dtype.itemsize}").str
    if SIMULATED:
        return np.asarray(type("Held", (), {"__array_interface__": {**seen, "version": 3}})()), dtype
    return cuda.from_cuda_array_interface(seen, owner=array), dtype


def write(array: Any, values: npt.NDArray[Any]) -> None:
    """Copy values from NumPy's memory into an array on a device, after the work that it waits for."""
    with on_device(device_of(address(array)) if address(array) else 0):
        cuda.synchronize()  # it may still be read in any stream
        target, dtype = bits_of(array)
        order: Any = "C" if target.flags["C_CONTIGUOUS"] else "F"
        bits = np.asarray(values, dtype, order=order).view(target.dtype)
        if SIMULATED:
            target[...] = bits
        else:
            target.copy_to_device(bits)
        cuda.synchronize()


def to_host(array: Any) -> npt.NDArray[Any]:
    """Return a copy in NumPy's memory of any array on a device, after the work that it waits for."""
    with on_device(device_of(address(array)) if address(array) else 0):
        cuda.synchronize()  # it may still be written in any stream
        bits, dtype = bits_of(array)
        copied = np.array(bits, order="K") if SIMULATED else bits.copy_to_host()
        return copied.view(dtype)


def from_host(array: npt.NDArray[Any], device: int = 0) -> Any:
    """Return a copy of a NumPy array on a device, in the same order of memory."""
    with on_device(device):
        order = "C" if array.flags.c_contiguous else "F"
        copied = cuda.device_array(array.shape, array.dtype, order=order)
    write(copied, array)
    return copied


def device_of(pointer: int) -> int:
    """Return the number of the device that memory is on."""
    if SIMULATED:
        return 0
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.driver.cuPointerGetAttribute(attribute, driver.binding.CUdeviceptr(pointer)))


def synchronize() -> None:
    """Wait for all work of the current device."""
    cuda.synchronize()


@contextmanager
def on_device(number: int) -> Iterator[None]:
    """Make a device the current one."""
    with cuda.gpus[number]:
        yield


@cache
def stream_of(handle: int) -> Any:
    """Return the stream with this handle, always the same object, by which Numba finds its launches; 0: the default."""
    if SIMULATED:
        return cuda.default_stream()
    # Numba's default_stream() has no handle that its arrays can tell.
    return cuda.legacy_default_stream() if handle == 0 else cuda.external_stream(handle)


def wait_for(first: int, then: int) -> None:
    """Let all that is put into the stream ``then`` from now on wait for what is in ``first`` now."""
    mark = Mark()
    mark.record(stream_of(first))
    mark.wait_in(stream_of(then))
