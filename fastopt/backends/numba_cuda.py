"""All that is specific to numba-cuda: the kernels, how a rule gets into one, memory, streams, the simulator's shims.

A rule is compiled by calling it: at compile time :class:`Lanes` stand for its arguments, and each operation on them
appends instructions to the kernel. Multiplications round by themselves, so that none is fused with an addition: the
bits are those of the other backends. In the simulator (``NUMBA_ENABLE_CUDASIM=1``) the same rule gets NumPy arrays.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import cuda
from numba.cuda import config, types

SIMULATED = bool(config.ENABLE_CUDASIM)

#: As in csrc/fastopt.h: what makes a norm's bits. CHUNK is also what one block of threads updates.
CHUNK = 4096
LANES = 16

#: Threads of a block that updates a chunk, chunks of a block that adds squares; the simulator starts them one by one.
THREADS = 2 if SIMULATED else 256
CHUNKS_A_BLOCK = 1 if SIMULATED else 16
TILE = 256

#: For float32 the most threads of a block, and how many blocks must fit on a multiprocessor to keep its memory busy: it
#: limits registers to 64, and none is spilled. With float64 any such limit was seen to spill or to raise their number.
LAUNCH_BOUNDS = {"float32": (256, 4), "float64": None}

#: The words (int64) of a table's row: length, elements before the first aligned one, array number, first chunk; then
#: the addresses of the parameter, the gradient and the slots.
ROW_HEAD = 4

NUMPY_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
}
ITEM_SIZES: dict[str, int] = {name: np.dtype(dtype).itemsize for name, dtype in NUMPY_DTYPES.items()}


class Traced(NamedTuple):
    """What a kernel does to the elements of one run: a function on values, and how they lie in memory.

    ``function(factors, stages, h, *values)`` gets a value for each address of a row, converted to the dtype of the
    first, and returns those of the addresses ``written``.
    """

    function: Callable[..., Sequence[Any]]
    dtypes: tuple[str, ...]
    written: tuple[int, ...]


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
        kind = ctypes.c_float if isinstance(value, np.float32) else ctypes.c_double
        kind.from_address(int(address)).value = value

    def read(key: str, count: int, addresses: Any, index: int) -> tuple[list[Any], list[Any]]:
        dtypes = TRACED[key].dtypes
        arrays = [memory(address, index, count, dtype) for address, dtype in zip(addresses, dtypes, strict=True)]
        return arrays, [read_as(a, dtype, dtypes[0]) for a, dtype in zip(arrays, dtypes, strict=True)]

    def apply(key: str, count: int, addresses: Any, index: int, factors: Any, stages: Any, h: Any) -> None:
        arrays, values = read(key, count, addresses, index)
        with np.errstate(all="ignore"):
            results = TRACED[key].function(factors, stages, h, *values)
        for number, result in zip(TRACED[key].written, results, strict=True):
            arrays[number][...] = result

    def square(key: str, addresses: Any, index: int, factors: Any, stages: Any) -> float:
        _, values = read(key, 1, addresses, index)
        with np.errstate(all="ignore"):
            (result,) = TRACED[key].function(factors, stages, (), *values)
            return float(np.float64(result[0]) * np.float64(result[0]))

else:
    from llvmlite import ir
    from numba.cuda import cgutils
    from numba.cuda.extending import intrinsic

    I32, I64, FLOAT, DOUBLE = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
    LLVM_TYPES = {"float32": FLOAT, "float64": DOUBLE, "float16": ir.HalfType(), "bfloat16": ir.IntType(16)}

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
    OPERATIONS: dict[str, Callable[..., Any]] = {
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
        "where": lambda builder, condition, a, b: builder.select(condition, a, b),
    }

    class Lanes:
        """Numbers of one dtype in a kernel that is being built: one, or as many as are read at once."""

        def __init__(self, builder: Any, values: Sequence[Any]) -> None:
            self.builder = builder
            self.values = values

        def __array_ufunc__(self, function: Any, method: str, *operands: Lanes) -> Lanes:
            operation = OPERATIONS.get(function.__name__)
            if operation is None or method != "__call__":
                raise NotImplementedError(f"rules: {function.__name__} is not among the operations of CUDA kernels")
            if not all(isinstance(operand, Lanes) for operand in operands):
                raise TypeError(f"rules: {function.__name__}{operands}: numbers must come from the scalars of the rule")
            count = max(len(operand.values) for operand in operands)
            spread = [o.values if len(o.values) == count else [*o.values] * count for o in operands]
            return Lanes(self.builder, [operation(self.builder, *each) for each in zip(*spread, strict=True)])

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
        if dtype == "bfloat16":
            value = builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), FLOAT)
            dtype = "float32"
        if dtype == to:
            return value
        if ITEM_SIZES[dtype] < ITEM_SIZES[to]:
            return builder.fpext(value, LLVM_TYPES[to])
        return builder.fptrunc(value, LLVM_TYPES[to])

    def traced(builder: Any, key: str, count: int, addresses: Any, index: Any, scalars: list[Any]) -> list[Lanes]:
        """Put into the kernel: read all values, convert them, call the function; return its results."""
        dtypes = TRACED[key].dtypes
        values = [
            Lanes(builder, [converted(builder, x, dtype, dtypes[0]) for x in loaded(builder, at, index, count, dtype)])
            for at, dtype in zip(addresses, dtypes, strict=True)
        ]
        return list(TRACED[key].function(*scalars, *values))

    def named(builder: Any, kind: Any, values: Any) -> Any:
        """Return a tuple of scalars as the rule sees it: by its names, if it has any."""
        lanes = [Lanes(builder, [value]) for value in cgutils.unpack_tuple(builder, values, kind.count)]
        return kind.instance_class(*lanes) if isinstance(kind, types.NamedUniTuple) else lanes

    def apply_(_: Any, key: Any, count: Any, addresses: Any, index: Any, factors: Any, stages: Any, h: Any) -> Any:
        if not (isinstance(key, types.Literal) and isinstance(count, types.Literal)):
            return None  # Numba asks again with the constants

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = cgutils.unpack_tuple(builder, args[2], addresses.count)
            kinds = (factors, stages, h)
            scalars = [named(builder, kind, values) for kind, values in zip(kinds, args[4:], strict=True)]
            entry = TRACED[key.literal_value]
            results = traced(builder, key.literal_value, count.literal_value, at, args[3], scalars)
            for number, result in zip(entry.written, results, strict=True):
                stored(builder, result.values, at[number], args[3], entry.dtypes[number])
            return context.get_dummy_value()

        return types.none(key, count, addresses, index, factors, stages, h), code

    def square_(_: Any, key: Any, addresses: Any, index: Any, factors: Any, stages: Any) -> Any:
        if not isinstance(key, types.Literal):
            return None  # Numba asks again with the constants

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = cgutils.unpack_tuple(builder, args[1], addresses.count)
            kinds = (factors, stages)
            scalars = [named(builder, kind, values) for kind, values in zip(kinds, args[3:], strict=True)]
            (result,) = traced(builder, key.literal_value, 1, at, args[2], [*scalars, ()])
            wide = converted(builder, result.values[0], TRACED[key.literal_value].dtypes[0], "float64")
            return OPERATIONS["multiply"](builder, wide, wide)

        return types.float64(key, addresses, index, factors, stages), code

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

    def put_(_: Any, address: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], args[1].type.as_pointer(addrspace=1))
            builder.store(args[1], pointer, align=value.bitwidth // 8)
            return context.get_dummy_value()

        return types.none(address, value), code

    apply, square, words = intrinsic(apply_), intrinsic(square_), intrinsic(words_)
    real, put = intrinsic(real_), intrinsic(put_)


# The kernels. All of them get addresses as integers, and numbers in the dtype that is computed in.


def update_kernel(key: str) -> Callable[..., None]:
    """Return the kernel of a step: one block for each entry (array << 32 | chunk) of the list of chunks."""
    dtypes = TRACED[key].dtypes
    wide, row_words = width(dtypes[0]), ROW_HEAD + len(dtypes)
    row_bytes, item_size = 8 * row_words, ITEM_SIZES[dtypes[0]]

    def update(
        table: int, chunks: int, array_factors: int, global_factor: int, stages: Any, h: tuple[float, ...]
    ) -> None:
        entry = words(chunks + 8 * cuda.blockIdx.x, 1)[0]
        begin = (entry & 0xFFFFFFFF) * CHUNK
        row = words(table + (entry >> 32) * row_bytes, row_words)
        addresses = row[ROW_HEAD:]
        like = stages.scale
        factors = (real(like, array_factors + row[2] * item_size), real(like, global_factor))
        size = min(CHUNK, row[0] - begin)
        head = min(row[1], size)
        vectors = (size - head) // wide
        for i in range(cuda.threadIdx.x, vectors, THREADS):
            apply(key, wide, addresses, begin + head + i * wide, factors, stages, h)
        # What lies before and behind the vectors, one by one.
        for i in range(cuda.threadIdx.x, size - vectors * wide, THREADS):
            apply(key, 1, addresses, begin + (i if i < head else i + vectors * wide), factors, stages, h)

    return update


def squares_kernel(key: str) -> Callable[..., None]:
    """Return the kernel of a chunk's sum of squares: LANES running sums, folded in halves, as csrc/pipeline.h does."""
    dtypes = TRACED[key].dtypes
    row_words, item_size = ROW_HEAD + len(dtypes), ITEM_SIZES[dtypes[0]]
    row_bytes = 8 * row_words

    def squares(
        table: int, chunks: int, count: int, array_factors: int, global_factor: int, stages: Any, partials: int
    ) -> None:
        folded = cuda.shared.array((CHUNKS_A_BLOCK, LANES), types.float64)
        lane, place = cuda.threadIdx.x, cuda.threadIdx.y
        position = cuda.blockIdx.x * CHUNKS_A_BLOCK + place
        total = 0.0
        partial = partials
        if position < count:
            entry = words(chunks + 8 * position, 1)[0]
            chunk = entry & 0xFFFFFFFF
            row = words(table + (entry >> 32) * row_bytes, row_words)
            addresses = row[ROW_HEAD:]
            like = stages.scale
            factors = (real(like, array_factors + row[2] * item_size), real(like, global_factor))
            partial += 8 * (row[3] + chunk)
            for i in range(chunk * CHUNK + lane, min((chunk + 1) * CHUNK, row[0]), LANES):
                total += square(key, addresses, i, factors, stages)
        folded[place, lane] = total
        cuda.syncthreads()
        half = LANES >> 1
        while half > 0:
            if lane < half:
                folded[place, lane] += folded[place, lane + half]
            cuda.syncthreads()
            half >>= 1
        if lane == 0 and position < count:
            put(partial, folded[place, 0])

    return squares


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


def update_signature(dtype: str, stages: type, scalars: type) -> Any:
    return types.void(*[types.int64] * 4, named_type(dtype, stages), named_type(dtype, scalars))


def squares_signature(dtype: str, stages: type) -> Any:
    return types.void(*[types.int64] * 5, named_type(dtype, stages), types.int64)


def plain_signatures() -> dict[Callable[..., None], Any]:
    """Return the signatures of the kernels that are one for all optimizers."""
    i64 = types.int64
    return {
        sums: types.void(i64, i64, i64),
        clip_arrays: types.void(i64, i64, i64, i64, i64),
        clip_all: types.void(i64, i64, types.float64, i64, i64, i64),
    }


def named_type(dtype: str, kind: type) -> Any:
    return types.NamedUniTuple(getattr(types, dtype), len(kind._fields), kind)  # type: ignore[attr-defined]


def compiled(kernel: Callable[..., None], signature: Any, dtype: str) -> Any:
    """Return the kernel, compiled for the current device or taken from the cache on disk."""
    if SIMULATED:
        return cuda.jit(kernel)
    with told_when_slow():
        return cuda.jit([signature], cache=True, launch_bounds=LAUNCH_BOUNDS[dtype])(kernel)


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


def launch(kernel: Any, blocks: int, threads: int | tuple[int, int], stream: Any, *args: Any) -> None:
    """Put a kernel into a stream."""
    # Numba warns of few blocks, which is what a small array has.
    before, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
    try:
        configured = kernel[blocks, threads, stream]
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = before
    configured(*args)


def ptx(kernel: Callable[..., None], signature: Any, dtype: str, capability: tuple[int, int]) -> str:
    """Return a kernel's assembly for a compute capability; needs no device."""
    bounds = LAUNCH_BOUNDS[dtype]
    return str(cuda.compile_ptx(kernel, signature.args, cc=capability, launch_bounds=bounds)[0])


# Memory, devices and streams.


def interface(array: Any) -> dict[str, Any]:
    """Return an array's ``__cuda_array_interface__``, which the simulator's own arrays don't have."""
    if SIMULATED and hasattr(array, "__cuda_ndarray__"):
        return {**array.__array_interface__, "version": 3, "stream": None}
    return dict(array.__cuda_array_interface__)


def address(array: Any) -> int:
    return int(interface(array)["data"][0])


def full(shape: tuple[int, ...], dtype: str, order: str, value: float, stream: Any = 0) -> Any:
    """Return a new device array that is filled with one number."""
    size = math.prod(shape)
    array = cuda.device_array(size, NUMPY_DTYPES[dtype], stream=stream)
    if size and value == 0:
        cuda.cudadrv.driver.device_memset(array, 0, array.nbytes, stream)
    elif size:
        array.copy_to_device(np.full(size, value, NUMPY_DTYPES[dtype]), stream=stream)
    return array.reshape(*shape, order=order) if shape else array.reshape(())


def uploaded(values: npt.NDArray[Any], to: Any, stream: Any) -> Any:
    """Copy an array to the device: into ``to``, where that has its shape."""
    if to is not None and to.shape == values.shape:
        to.copy_to_device(values, stream=stream)
        return to
    return cuda.to_device(values, stream=stream)


def empty(size: int, dtype: str) -> Any:
    return cuda.device_array(size, NUMPY_DTYPES[dtype])


def simulated_view(array: Any) -> npt.NDArray[Any]:
    """Return an array of the simulator, whose memory is NumPy's, as one of NumPy."""
    seen = interface(array)
    return np.asarray(type("Held", (), {"__array_interface__": {**seen, "version": 3}})())


def write(array: Any, values: npt.NDArray[Any]) -> None:
    """Copy values from NumPy's memory into an array on a device, after the work that it waits for."""
    if SIMULATED:
        simulated_view(array)[...] = values
        return
    with on_device(device_of(address(array)) if address(array) else 0):
        cuda.synchronize()  # it may still be read in any stream
        target = cuda.as_cuda_array(array)
        target.copy_to_device(np.asarray(values, order="C" if target.flags["C_CONTIGUOUS"] else "F"))
        cuda.synchronize()


def to_host(array: Any) -> npt.NDArray[Any]:
    """Return a copy in NumPy's memory of any array on a device, after the work that it waits for."""
    if SIMULATED:
        return np.array(simulated_view(array), order="K")
    with on_device(device_of(address(array)) if address(array) else 0):
        cuda.synchronize()  # it may still be written in any stream
        return cuda.as_cuda_array(array).copy_to_host()  # type: ignore[no-any-return]


def from_host(array: npt.NDArray[Any], device: int = 0) -> Any:
    """Return a copy of a NumPy array on a device, in the same order of memory."""
    with on_device(device):
        copied = cuda.to_device(array)
        cuda.synchronize()  # it may be read in any stream
        return copied


def device_of(pointer: int) -> int:
    """Return the number of the device that memory is on."""
    if SIMULATED:
        return 0
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.driver.cuPointerGetAttribute(attribute, driver.binding.CUdeviceptr(pointer)))


@contextmanager
def on_device(number: int) -> Iterator[None]:
    """Make a device the current one."""
    with cuda.gpus[number]:
        yield


@cache
def stream_of(handle: int) -> Any:
    """Return the stream with this handle, always the same object, by which Numba finds its launches; 0: the default."""
    if SIMULATED or handle == 0:
        return cuda.default_stream()
    return cuda.external_stream(handle)


def wait_for(first: int, then: int) -> None:
    """Let all that is put into the stream ``then`` from now on wait for what is in ``first`` now."""
    if SIMULATED:
        return  # all is done in the order in which it is asked for
    event = cuda.event(timing=False)
    event.record(stream_of(first))
    event.wait(stream_of(then))
