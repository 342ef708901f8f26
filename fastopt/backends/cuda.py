"""The CUDA backend: the rules of fastopt/rules.py on arrays of a GPU, one launch for all of equal hyperparameters.

Nothing here waits for the device: norms, clip factors and the step itself are put into one stream, in order.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import weakref
from collections.abc import Callable, Sequence
from functools import cache, total_ordering
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import rules
from ..arrays import Extents, described
from ..rules import Rule
from . import Beside, Hyper, Source, numba_cuda
from .numba_cuda import CHUNK, from_host, to_host

__all__ = ["CudaTable", "DeviceArray", "DeviceNorm", "from_host", "to_host"]

PARAM_DTYPES = ("float32", "float64")
GRAD_DTYPES = (*PARAM_DTYPES, "float16", "bfloat16")

#: The fields of Hyper that a launch knows; what another asks for can't be done here yet.
KNOWN = {"rule", "grad_scale", "clip_value", "global_clip", "l2", "decay", "scalars"}

#: Norms that may be asked for before the device's memory of them is used again.
NORMS = 1024


# What every optimizer does around its rule. Plain Python on values that have the operations of NumPy arrays: called
# once, when a kernel is compiled, so that an option is in the kernel or not at all.


class Options(NamedTuple):
    """Which stages a kernel has."""

    scale: bool
    clip_value: bool
    clip_norm: bool
    clip_global_norm: bool
    l2: bool
    decay: bool


class Stages(NamedTuple):
    """The numbers of the stages, arguments of the kernel."""

    scale: float
    clip_value: float
    l2: float
    decay: float


def clipped_grad(options: Options, factors: Any, stages: Any, g: Any) -> Any:
    if options.scale:
        g = g * stages.scale
    if options.clip_value:
        g = np.minimum(np.maximum(g, -stages.clip_value), stages.clip_value)
    if options.clip_norm:
        g = g * factors[0]
    if options.clip_global_norm:
        g = g * factors[1]
    return g


def step_of(rule: Rule, options: Options) -> Callable[..., Sequence[Any]]:
    """Return the whole step of an element: the stages before the rule, and the rule."""

    def step(factors: Any, stages: Any, h: Any, p: Any, g: Any, *slots: Any) -> Sequence[Any]:
        g = clipped_grad(options, factors, stages, g)
        if options.l2:
            g = g + stages.l2 * p
        if options.decay:
            p = p * stages.decay
        return rule(h, p, g, *slots)

    return step


def prepare_of(options: Options) -> Callable[..., Sequence[Any]]:
    """Return what makes of a gradient the number whose square is added to a norm."""

    def prepare(factors: Any, stages: Any, h: Any, p: Any, g: Any, *slots: Any) -> Sequence[Any]:
        return (clipped_grad(options, factors, stages, g),)

    return prepare


# Kernels.


@cache
def sources(of: Any) -> str:
    """Return a mark of the source that a kernel is made from: Numba's cache on disk looks at numba_cuda.py only."""
    file, code = Path(inspect.getfile(of)), of.__code__
    own = file.read_bytes() if file.exists() else repr((code.co_code, code.co_consts, code.co_names)).encode()
    return hashlib.sha256(own + Path(__file__).read_bytes()).hexdigest()[:16]


def update_key(rule: Rule, dtype: str, grad_dtype: str, options: Options) -> str:
    """Return the name under which numba_cuda knows a step."""
    key = f"step {rule.__module__}.{rule.__qualname__} {dtype} {grad_dtype} {options} {sources(rule)}"
    slots = rules.slots(rule)
    written = (0, *range(2, 2 + len(slots)))
    dtypes = (dtype, grad_dtype, *[dtype] * len(slots))
    numba_cuda.TRACED.setdefault(key, numba_cuda.Traced(step_of(rule, options), dtypes, written))
    return key


def squares_key(slots: int, dtype: str, grad_dtype: str, options: Options) -> str:
    key = f"squares {slots} {dtype} {grad_dtype} {options} {sources(prepare_of)}"
    dtypes = (dtype, grad_dtype, *[dtype] * slots)
    numba_cuda.TRACED.setdefault(key, numba_cuda.Traced(prepare_of(options), dtypes, ()))
    return key


@cache
def update_kernel(device: int, rule: Rule, dtype: str, grad_dtype: str, options: Options, scalars: type) -> Any:
    """Return the compiled kernel of a step."""
    kernel = numba_cuda.update_kernel(update_key(rule, dtype, grad_dtype, options))
    return numba_cuda.compiled(kernel, numba_cuda.update_signature(dtype, Stages, scalars), dtype)


@cache
def squares_kernel(device: int, slots: int, dtype: str, grad_dtype: str, options: Options) -> Any:
    kernel = numba_cuda.squares_kernel(squares_key(slots, dtype, grad_dtype, options))
    return numba_cuda.compiled(kernel, numba_cuda.squares_signature(dtype, Stages), dtype)


@cache
def plain_kernel(device: int, kernel: Callable[..., None]) -> Any:
    return numba_cuda.compiled(kernel, numba_cuda.plain_signatures()[kernel], "float64")


# Arrays. The names that fastopt/arrays.py has too are what the optimizer asks of either.


class Flags(NamedTuple):
    c_contiguous: bool
    aligned: bool = True


class DeviceArray(NamedTuple):
    """An array on a device as its ``__cuda_array_interface__`` told it. It keeps the array alive."""

    owner: Any
    address: int
    shape: tuple[int, ...]
    dtype: str
    flags: Flags
    device: int
    stream: int | None
    read_only: bool

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * numba_cuda.ITEM_SIZES[self.dtype]


def seen(what: str, array: Any, dtypes: tuple[str, ...]) -> DeviceArray:
    """Return an array as a kernel sees it.

    Raises
    ------
    TypeError
        If it is no array on a device, or of none of these dtypes.
    ValueError
        If it is not one aligned, contiguous run of memory.
    """
    try:
        interface = numba_cuda.interface(array)
    except AttributeError:
        raise TypeError(
            f"{what} is {described(array)}, not on the GPU, where other arrays of this optimizer are; move it there "
            "(cupy.asarray(a), torch_tensor.cuda()), or build an optimizer for each place"
        ) from None
    except RuntimeError as error:  # torch: of tensors that require grad
        raise TypeError(f"{what} does not show its memory ({error}); give its .detach(), which shares it") from None
    dtype = dtype_name(array, interface)
    if dtype not in dtypes:
        raise TypeError(f"{what} has dtype {dtype}; expected one of {', '.join(dtypes)}")
    if interface.get("mask") is not None:
        raise TypeError(f"{what} is a masked array; give its data")
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    item_size = numba_cuda.ITEM_SIZES[dtype]
    is_c = strides is None or is_contiguous(shape, strides, item_size)
    pointer, read_only = interface["data"]
    is_fortran = strides is not None and is_contiguous(shape[::-1], strides[::-1], item_size)
    if not (is_c or is_fortran) or pointer % item_size:
        raise ValueError(
            f"{what} is not one contiguous, aligned run of memory (shape {shape}, strides {strides}); give a "
            "contiguous copy (torch: .contiguous(), CuPy: cupy.ascontiguousarray())"
        )
    stream = interface.get("stream")
    device = numba_cuda.device_of(pointer) if pointer else -1
    return DeviceArray(array, int(pointer), shape, dtype, Flags(is_c), device, stream, bool(read_only))


def dtype_name(array: Any, interface: dict[str, Any]) -> str:
    if interface["typestr"] in ("<V2", "|V2") and str(getattr(array, "dtype", "")).endswith("bfloat16"):
        return "bfloat16"
    return str(np.dtype(interface["typestr"]).name)


def is_contiguous(shape: Sequence[int], strides: Sequence[int], item_size: int) -> bool:
    """Tell whether the elements lie in C order without gaps."""
    if 0 in shape:
        return True
    expected = item_size
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def checked_param(name: str, array: Any) -> DeviceArray:
    """Return a parameter as the kernels see it; raise unless it can be updated in place.

    Raises
    ------
    TypeError, ValueError
        As :func:`seen`; ValueError too if it is read-only.
    """
    param = seen(f"params: {name!r}", array, PARAM_DTYPES)
    if param.read_only:
        raise ValueError(
            f"params: {name!r} is read-only, and is to be updated in place; give a writeable one or a copy"
        )
    return param


def extents(names: Sequence[str], params: Sequence[DeviceArray]) -> Extents:
    """Return the runs of memory of all parameters, which must be on one device.

    Raises
    ------
    ValueError
        If they are on two, or two of them overlap.
    """
    first = device_of(params)
    for name, param in zip(names, params, strict=True):
        if param.device not in (-1, first):
            raise ValueError(
                f"params: {name!r} is on device {param.device}, and other parameters on device {first}; build an "
                "optimizer for each device"
            )
    return Extents(names, [param.address for param in params], [param.nbytes for param in params])


def device_of(params: Sequence[DeviceArray]) -> int:
    """Return the device of the first array that has memory."""
    return next((param.device for param in params if param.device >= 0), 0)


def in_memory_order(array: Any) -> DeviceArray:
    return array if isinstance(array, DeviceArray) else seen("array", array, GRAD_DTYPES)


def is_half(dtype: str) -> bool:
    return dtype not in PARAM_DTYPES


def computed_in(dtype: str) -> str:
    """Return the dtype that a parameter of this one is computed in."""
    return dtype


def check_slot(where: str, slot: Any, param: DeviceArray, dtype: str) -> None:
    """Raise unless a slot that came from outside can serve its parameter.

    Raises
    ------
    TypeError
        If it is no array of that dtype on the GPU.
    ValueError
        If anything else differs.
    """
    found = seen(where, slot, (dtype,))
    differs = found.shape != param.shape or (found.flags != param.flags and param.ndim > 1 and param.size > 1)
    if differs or found.read_only or found.device != param.device:
        raise ValueError(
            f"{where} has shape {found.shape} and is on device {found.device}; expected one of shape {param.shape} on "
            f"device {param.device}, writeable, in its parameter's order of memory"
        )


def slot_like(param: DeviceArray, value: float, dtype: str) -> Any:
    """Return a new array of a parameter's shape, order of memory and device, filled with one number."""
    with numba_cuda.on_device(max(param.device, 0)):
        return numba_cuda.full(param.shape, dtype, "C" if param.flags.c_contiguous else "F", value)


def on_host(array: Any, copy: bool = True) -> npt.NDArray[Any]:
    """Return a copy of an array in NumPy's memory; counts are there already."""
    if isinstance(array, np.ndarray):
        return array.copy(order="K") if copy else array
    return to_host(array)


def write(array: Any, values: npt.NDArray[Any]) -> None:
    """Write values from NumPy's memory into a parameter, a slot or a count."""
    if isinstance(array, np.ndarray):
        array[...] = values
    else:
        numba_cuda.write(array.owner if isinstance(array, DeviceArray) else array, values)


def grad_in_memory_order(name: str, grad: Any, param: DeviceArray) -> tuple[DeviceArray, bool]:
    """Return a gradient as the kernels see it, and that it is the caller's own memory.

    Raises
    ------
    TypeError
        If it is no float array on the GPU.
    ValueError
        If its shape, device or order of memory is not the parameter's.
    """
    found = seen(f"grads: {name!r}", grad, GRAD_DTYPES)
    if found.shape != param.shape:
        raise ValueError(f"grads: {name!r} has shape {found.shape}; its parameter has shape {param.shape}")
    if -1 not in (found.device, param.device) and found.device != param.device:
        raise ValueError(
            f"grads: {name!r} is on device {found.device}, and its parameter on device {param.device}; move it there"
        )
    if found.flags != param.flags and found.ndim > 1 and found.size > 1:
        raise ValueError(
            f"grads: {name!r} and its parameter differ in the order of memory (C or Fortran); give a copy in the "
            "parameter's"
        )
    return found, True


def pointer_reader(array: Any) -> Callable[[Any], int]:
    """Return the fastest way to tell where an array of this kind begins now."""
    if hasattr(type(array), "data_ptr"):  # torch
        return type(array).data_ptr  # type: ignore[no-any-return]
    if hasattr(getattr(array, "data", None), "ptr"):  # CuPy
        return lambda array: int(array.data.ptr)
    return numba_cuda.address


class Launch(NamedTuple):
    """Arrays that one launch updates: those that agree in hyperparameters and dtypes."""

    row: int
    dtype: str
    grad_dtype: str
    indices: npt.NDArray[np.intp]
    table: Any
    chunks: Any
    chunk_count: int


class CudaTable:
    """The arrays of an optimizer, with their addresses on the device."""

    def __init__(
        self,
        params: Sequence[DeviceArray],
        slots: Sequence[Sequence[DeviceArray]],
        beside: Sequence[Beside] | None = None,
    ) -> None:
        self.params = params
        self.slots = slots
        self.count = len(params)
        self.device = device_of(params)
        self.sizes = np.array([param.size for param in params], np.int64)
        chunks = -(-self.sizes // CHUNK)
        self.first_chunks = np.cumsum(chunks) - chunks
        self.chunk_counts = chunks
        self.rows = np.zeros(self.count, np.int32)
        self.array_clip = np.ones(self.count)
        self.grads: list[DeviceArray | None] = [None] * self.count
        self.param_readers = [pointer_reader(param.owner) for param in params]
        self.launches: list[Launch] = []
        self.are_new_grads = True
        self.planned: Any = None
        self.planned_rows = b""
        self.uploaded: npt.NDArray[np.uintp] | None = None
        self.limits: Any = None
        self.last_limits: npt.NDArray[np.float64] | None = None
        #: The stream that the next step was asked to run in, and the one that the last step ran in.
        self.stream: int | None = None
        self.last_stream = 0  # in which slots are made
        self.clips_arrays = self.clips_all = False
        with numba_cuda.on_device(self.device):
            self.factors = {dtype: numba_cuda.empty(self.count + 1, dtype) for dtype in PARAM_DTYPES}
        self.norms: DeviceNorms | None = None

    def set_grads(self, grads: Sequence[DeviceArray | None]) -> None:
        self.grads = list(grads)
        self.are_new_grads = True
        self.grad_readers = [None if grad is None else pointer_reader(grad.owner) for grad in grads]

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        return False  # where a gradient on a device is can be told no faster than it is checked

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.array([0 if grad is None else grad.address for grad in self.grads], np.uintp)

    def is_current(self) -> bool:
        """Tell whether the gradients are where they were, in the stream in which they were."""
        for grad, read in zip(self.grads, self.grad_readers, strict=True):
            if grad is not None and read(grad.owner) != grad.address:  # type: ignore[misc]
                return False
        first = next((grad for grad in self.grads if grad is not None), None)
        return first is None or bool(numba_cuda.interface(first.owner).get("stream") == first.stream)

    def check_params_stayed(self) -> None:
        for i, (param, read) in enumerate(zip(self.params, self.param_readers, strict=True)):
            if read(param.owner) != param.address:
                raise ValueError(
                    f"params: array number {i} (shape {param.shape}) has moved in memory since the optimizer was "
                    "built; change arrays in place, or build a new optimizer"
                )

    def step(self, hypers: Sequence[Hyper]) -> None:
        self.check_params_stayed()
        with numba_cuda.on_device(self.device):
            stream = self.entered_stream()
            self.plan(stream)
            # All kernels first: one that can't be compiled must leave every array as it is.
            ready = [self.update_of(launch, hypers[launch.row]) for launch in self.launches]
            for launch, (kernel, stages, h) in zip(self.launches, ready, strict=True):
                addresses = *self.addresses(launch), *self.factor_addresses(launch.dtype)
                numba_cuda.launch(kernel, launch.chunk_count, numba_cuda.THREADS, stream, *addresses, stages, h)

    def update_of(self, launch: Launch, hyper: Hyper) -> tuple[Any, Stages, tuple[Any, ...]]:
        """Return the kernel of a launch and its numbers."""
        real = numba_cuda.NUMPY_DTYPES[launch.dtype]
        with np.errstate(all="ignore"):
            h = type(hyper.scalars)(*map(real, hyper.scalars))
        options = self.options(hyper)
        kernel = update_kernel(self.device, hyper.rule, launch.dtype, launch.grad_dtype, options, type(h))
        return kernel, stages_of(hyper, real), h

    def options(self, hyper: Hyper) -> Options:
        defaults = hyper._field_defaults
        asked = [name for name in defaults if name not in KNOWN and getattr(hyper, name) != defaults[name]]
        if asked:
            raise ValueError(f"{', '.join(asked)}: not done on a GPU yet; leave it out, or give NumPy arrays")
        return Options(
            hyper.grad_scale != 1,
            hyper.clip_value != math.inf,
            self.clips_arrays,
            self.clips_all,
            hyper.l2 != 0,
            hyper.decay != 1,
        )

    def addresses(self, launch: Launch) -> tuple[int, int]:
        return numba_cuda.address(launch.table), numba_cuda.address(launch.chunks)

    def factor_addresses(self, dtype: str) -> tuple[int, int]:
        """Return where the clip factors are: of each array, and behind them that of all."""
        start = numba_cuda.address(self.factors[dtype])
        return start, start + self.count * numba_cuda.ITEM_SIZES[dtype]

    def clip(
        self, hypers: Sequence[Hyper], limits: npt.NDArray[np.float64] | None, global_limit: float | None
    ) -> DeviceNorm | None:
        """Set the clip factors of the next step, on the device; return the global norm if it is limited."""
        self.clips_arrays = self.clips_all = False
        if limits is None and global_limit is None:
            return None
        norm = None
        with numba_cuda.on_device(self.device):
            stream = self.entered_stream()
            self.plan(stream)
            if limits is not None:
                self.add_squares(hypers, stream)
                factors = [self.factor_addresses(dtype)[0] for dtype in ("float64", "float32")]
                if not np.array_equal(limits, self.last_limits):  # type: ignore[arg-type]
                    self.limits = numba_cuda.uploaded(limits, self.limits, stream)
                    self.last_limits = limits
                sums, limits_at = numba_cuda.address(self.sums), numba_cuda.address(self.limits)
                blocks = -(-self.count // numba_cuda.THREADS)
                kernel = plain_kernel(self.device, numba_cuda.clip_arrays)
                numba_cuda.launch(kernel, blocks, numba_cuda.THREADS, stream, sums, limits_at, self.count, *factors)
                self.clips_arrays = True
            if global_limit is not None:
                self.add_squares(hypers, stream)
                factors = [self.factor_addresses(dtype)[1] for dtype in ("float64", "float32")]
                if self.norms is None:
                    self.norms = DeviceNorms()
                norm, at = self.norms.following()
                kernel = plain_kernel(self.device, numba_cuda.clip_all)
                sums, limit = numba_cuda.address(self.sums), float(global_limit)
                numba_cuda.launch(kernel, 1, 1, stream, sums, self.count, limit, at, *factors)
                self.clips_all = True
        return norm

    def sum_products(
        self, hypers: Sequence[Hyper], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        if (left, right) != ("clipped_grad", "clipped_grad") or count_nonfinite:
            raise NotImplementedError(f"sum of {left} times {right}, {count_nonfinite=}: not done on a GPU yet")
        with numba_cuda.on_device(self.device):
            stream = self.entered_stream()
            self.plan(stream)
            self.add_squares(hypers, stream)
            return to_host(self.sums)

    def add_squares(self, hypers: Sequence[Hyper], stream: Any) -> None:
        """Put each array's sum of squares into ``self.sums``: chunks first, then chunks in index order."""
        partials = numba_cuda.address(self.partials)
        a_block = numba_cuda.CHUNKS_A_BLOCK
        for launch in self.launches:
            hyper = hypers[launch.row]
            options = self.options(hyper)._replace(l2=False, decay=False)
            slots = len(self.slots[launch.indices[0]])
            kernel = squares_kernel(self.device, slots, launch.dtype, launch.grad_dtype, options)
            table, chunks = self.addresses(launch)
            stages = stages_of(hyper, numba_cuda.NUMPY_DTYPES[launch.dtype])
            blocks, threads = -(-launch.chunk_count // a_block), (numba_cuda.LANES, a_block)
            args = table, chunks, launch.chunk_count, *self.factor_addresses(launch.dtype), stages, partials
            numba_cuda.launch(kernel, blocks, threads, stream, *args)
        kernel = plain_kernel(self.device, numba_cuda.sums)
        spans, sums = numba_cuda.address(self.spans), numba_cuda.address(self.sums)
        numba_cuda.launch(kernel, self.count, numba_cuda.THREADS, stream, spans, partials, sums)

    def entered_stream(self) -> Any:
        """Return the stream to work in: as asked, else the gradients' own; it waits for all that must come before."""
        given = {grad.stream for grad in self.grads if grad is not None and grad.stream is not None}
        producers = sorted({legacy(stream) for stream in given})
        handle = legacy(self.stream) if self.stream is not None else producers[0] if producers else 0
        for other in {*producers, self.last_stream} - {handle}:
            numba_cuda.wait_for(other, handle)
        self.last_stream = handle
        return numba_cuda.stream_of(handle)

    def plan(self, stream: Any) -> None:
        """Bring the launches up to date, and on the device what has changed of them."""
        rows = self.rows.tobytes()
        if rows == self.planned_rows and not self.are_new_grads:
            return
        kinds = [None if grad is None or not grad.size else (grad.dtype, grad.device) for grad in self.grads]
        planned = (rows, kinds)
        addresses = self.grad_addresses()
        if planned != self.planned:
            self.launches = [
                Launch(row, dtype, grad_dtype, np.array(indices), None, None, int(self.chunk_counts[indices].sum()))
                for (row, dtype, grad_dtype), indices in self.members().items()
            ]
            self.upload_chunks(stream)
            self.planned, self.uploaded = planned, None
        if self.uploaded is None or not np.array_equal(addresses, self.uploaded):
            self.launches = [
                launch._replace(table=numba_cuda.uploaded(self.table_of(launch), launch.table, stream))
                for launch in self.launches
            ]
            self.uploaded = addresses
        self.planned_rows, self.are_new_grads = rows, False

    def members(self) -> dict[tuple[int, str, str], list[int]]:
        """Return the arrays of each launch."""
        members: dict[tuple[int, str, str], list[int]] = {}
        for i, (param, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            if grad is not None and grad.size:
                members.setdefault((int(self.rows[i]), param.dtype, grad.dtype), []).append(i)
        return members

    def upload_chunks(self, stream: Any) -> None:
        for k, launch in enumerate(self.launches):
            counts = self.chunk_counts[launch.indices]
            array = np.repeat(np.arange(len(counts)), counts)
            chunk = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self.launches[k] = launch._replace(chunks=numba_cuda.uploaded(array << 32 | chunk, None, stream))
        has_grad = np.array([grad is not None for grad in self.grads])
        spans = np.stack([self.first_chunks, np.where(has_grad, self.chunk_counts, 0)], axis=1)
        self.spans = numba_cuda.uploaded(np.ascontiguousarray(spans), None, stream)
        self.partials = numba_cuda.empty(int(self.chunk_counts.sum()), "float64")
        self.sums = numba_cuda.empty(self.count, "float64")

    def table_of(self, launch: Launch) -> npt.NDArray[np.int64]:
        """Return the rows of a launch's arrays, as numba_cuda describes them."""
        arrays = [(self.params[i], self.grads[i], *self.slots[i]) for i in launch.indices]
        addresses = np.array([[a.address for a in row if a is not None] for row in arrays], np.int64)
        sizes = self.sizes[launch.indices]
        heads = heads_of(addresses, [a.dtype for a in arrays[0] if a is not None], sizes)
        head = np.stack([sizes, heads, launch.indices, self.first_chunks[launch.indices]], axis=1)
        return np.concatenate([head, addresses], axis=1)


def heads_of(addresses: npt.NDArray[np.int64], dtypes: Sequence[str], sizes: npt.NDArray[np.int64]) -> Any:
    """Return how many elements lie before each parameter's first aligned vector; all where its arrays differ in it."""
    wide, item_sizes = numba_cuda.width(dtypes[0]), np.array([numba_cuda.ITEM_SIZES[dtype] for dtype in dtypes])
    heads = -addresses[:, 0] % 16 // item_sizes[0]
    starts = addresses + heads[:, None] * item_sizes
    return np.where((starts % np.minimum(16, wide * item_sizes) == 0).all(axis=1), heads, sizes)


def stages_of(hyper: Hyper, real: Any) -> Stages:
    with np.errstate(all="ignore"):
        return Stages(real(hyper.grad_scale), real(hyper.clip_value), real(hyper.l2), real(hyper.decay))


def legacy(stream: int) -> int:
    """Return a stream's handle, with one number for the legacy default stream, which the interface calls 1."""
    return 0 if stream == 1 else stream


def stream_handle(stream: Any) -> int:
    """Return the handle of a stream of torch, CuPy, Numba or cuda.core, or the number itself.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):  # Numba, cuda.core
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TypeError(f"stream={stream!r}: expected a CUDA stream of torch, CuPy, Numba or cuda.core, or its handle")


class DeviceNorms:
    """The last NORMS global norms of an optimizer, in the device's memory."""

    def __init__(self) -> None:
        self.values = numba_cuda.empty(NORMS, "float64")
        self.asked: list[weakref.ref[DeviceNorm] | None] = [None] * NORMS
        self.position = 0

    def following(self) -> tuple[DeviceNorm, int]:
        """Return the norm of the next step, and where the device is to put it."""
        place, self.position = self.position, (self.position + 1) % NORMS
        earlier = self.asked[place]
        held = earlier() if earlier is not None else None
        if held is not None:
            float(held)  # fetched while it is still there
        norm = DeviceNorm(self, place)
        self.asked[place] = weakref.ref(norm)
        return norm, numba_cuda.address(self.values) + 8 * place

    def fetch(self, place: int) -> float:
        return float(to_host(self.values[place : place + 1])[0])


@total_ordering
class DeviceNorm:
    """A norm on the device, a number as soon as it is used: then it waits for the device.

    ``float(norm)`` gives the number; comparing, formatting and printing do so by themselves.
    """

    def __init__(self, norms: DeviceNorms, place: int) -> None:
        self.norms: DeviceNorms | None = norms
        self.place = place
        self.value = math.nan

    def __float__(self) -> float:
        if self.norms is not None:
            self.value, self.norms = self.norms.fetch(self.place), None
        return self.value

    def __eq__(self, other: object) -> bool:
        return float(self) == float(other) if isinstance(other, (int, float, DeviceNorm)) else NotImplemented

    def __lt__(self, other: float | DeviceNorm) -> bool:
        return float(self) < float(other)

    def __hash__(self) -> int:
        return hash(float(self))

    def __repr__(self) -> str:
        return repr(float(self))

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)
