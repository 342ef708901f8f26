"""Launches: which arrays one launch updates, their table on the device, and how a kernel is started."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.cuda import config, dispatcher

from ...arithmetic.quantize import Map
from ..table import ArrayExtras
from .arrays import DeviceArray
from .compiling import Kernel
from .gradients import DeviceGrads
from .layout import ADDRESSES, CHUNK, HEAD, ITEM_SIZES, ArrayLayout, compute_dtype, vector_length
from .memory import Upload, address, empty, upload


class Launch(NamedTuple):
    """Arrays that one launch updates: they agree in hyperparameters and dtypes."""

    row: int
    dtypes: ArrayLayout
    indices: npt.NDArray[np.intp]
    chunk_count: int
    #: For each block of threads its work, on the device: array << 32 | chunk.
    chunks: Upload
    #: The table on the host, and on the device.
    rows: npt.NDArray[np.int64]
    table: Any = None

    @property
    def dtype(self) -> str:
        """The compute dtype."""
        return compute_dtype(self.dtypes.param)

    @property
    def row_words(self) -> int:
        return len(self.rows[0])


class LaunchPlan:
    """The launches of the arrays that have a gradient, on the device. Only what has changed is copied there."""

    def __init__(
        self,
        params: Sequence[DeviceArray],
        slots: Sequence[Sequence[DeviceArray]],
        extras: Sequence[ArrayExtras],
    ) -> None:
        self.params, self.slots, self.extras = params, slots, extras
        self.sizes = np.array([param.size for param in params], np.int64)
        self.chunk_counts = -(-self.sizes // CHUNK)
        self.first_chunks = np.cumsum(self.chunk_counts) - self.chunk_counts
        self.launches: list[Launch] = []
        #: The rows and the kinds of gradients that the launches are for; another object once they change.
        self.key: tuple[bytes, list[Any]] | None = None
        self.checked: tuple[bytes, int] | None = None
        self.uploaded: npt.NDArray[np.uintp] | None = None

    def update(self, row_numbers: npt.NDArray[np.int32], grads: DeviceGrads, stream: Any) -> None:
        """Adapt the launches to the rows and gradients of a step."""
        checked = row_numbers.tobytes(), grads.version
        if checked != self.checked:
            kinds = [None if grad is None or not grad.size else (grad.dtype, grad.device) for grad in grads.arrays]
            if self.key != (checked[0], kinds):
                self.key = None  # until all is made: memory may run out in between
                self.launches = [
                    self.launch(row, dtypes, np.array(indices), stream)
                    for (row, dtypes), indices in self.members(row_numbers, grads.arrays).items()
                ]
                self.make_sums([grad is not None for grad in grads.arrays], stream)
                self.key, self.uploaded = (checked[0], kinds), None
            self.checked = checked
        if self.uploaded is None or not np.array_equal(grads.starts, self.uploaded):
            self.launches = [self.with_starts(launch, grads.starts, stream) for launch in self.launches]
            self.uploaded = grads.starts

    def members(
        self, row_numbers: npt.NDArray[np.int32], grads: Sequence[DeviceArray | None]
    ) -> dict[tuple[int, ArrayLayout], list[int]]:
        """Return the arrays of each launch, by their row and dtypes."""
        members: dict[tuple[int, ArrayLayout], list[int]] = {}
        for i, grad in enumerate(grads):
            if grad is not None and grad.size:
                layout = self.layout(i, grad)
                dtypes = layout.filled([array.dtype for array in layout.present()])
                members.setdefault((int(row_numbers[i]), dtypes), []).append(i)
        return members

    def layout(self, i: int, grad: Any) -> ArrayLayout:
        """Return the arrays of a parameter."""
        extras = self.extras[i]
        scales = tuple(None if scaled is None else scaled[1] for scaled in self.scales(i))
        around = extras.average, extras.accumulated, extras.copy, extras.lower, extras.upper
        return ArrayLayout(self.params[i], grad, tuple(self.slots[i]), *around, scales)

    def scales(self, i: int) -> Sequence[tuple[Map, Any] | None]:
        """Return, for each slot of an array, its codec and scales if it is in 8 bits; nothing if none is."""
        scales = self.extras[i].scales
        return scales if any(scales) else ()

    def launch(self, row: int, dtypes: ArrayLayout, indices: npt.NDArray[np.intp], stream: Any) -> Launch:
        counts = self.chunk_counts[indices]
        array = np.repeat(np.arange(len(counts)), counts)
        chunk = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chunks = upload(array << 32 | chunk, None, stream)
        return Launch(row, dtypes, indices, int(counts.sum()), chunks, self.rows(indices))

    def rows(self, indices: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """Return the rows of a launch's table, without the words that depend on the gradients' addresses."""
        # The parameter stands for the gradient, whose address is filled in later.
        arrays = [self.layout(i, self.params[i]).present() for i in indices]
        addresses = np.array([[array.address for array in its] for its in arrays], np.int64)
        sizes = self.sizes[indices]
        head = np.stack([sizes, sizes, indices, self.first_chunks[indices]], axis=1)
        return np.concatenate([head, addresses], axis=1)

    def with_starts(self, launch: Launch, starts: npt.NDArray[np.uintp], stream: Any) -> Launch:
        """Return a launch whose table on the device has these addresses of gradients."""
        rows = launch.rows
        addresses = rows[:, ADDRESSES:]
        addresses[:, 1] = starts[launch.indices]
        rows[:, HEAD] = heads_of(addresses, launch.dtypes, self.sizes[launch.indices])
        return launch._replace(table=upload(rows, launch.table, stream))

    def make_sums(self, has_grad: Sequence[bool], stream: Any) -> None:
        """Make the memory of the chunks' sums, and note which of them are of each array."""
        counts = np.where(np.array(has_grad), self.chunk_counts, 0)
        spans = np.stack([self.first_chunks, counts], axis=1)
        self.spans = upload(np.ascontiguousarray(spans), None, stream)
        total = int(self.chunk_counts.sum())
        self.partials, self.partial_counts = (empty(total, "float64") for _ in range(2))


def heads_of(addresses: npt.NDArray[np.int64], dtypes: ArrayLayout, sizes: npt.NDArray[np.int64]) -> Any:
    """Return how many elements lie before each parameter's first aligned vector; all if its arrays differ in that."""
    item_sizes = np.array([ITEM_SIZES[dtype] for dtype in dtypes.present()])
    alignments = np.minimum(16, vector_length(compute_dtype(dtypes.param)) * item_sizes)
    heads = -addresses[:, 0] % alignments[0] // item_sizes[0]
    starts = addresses + heads[:, None] * item_sizes
    return np.where((starts % alignments == 0).all(axis=1), heads, sizes)


#: The types in which a kernel gets Python's numbers.
C_TYPES: dict[type, Any] = {
    int: ctypes.c_int64,
    float: ctypes.c_double,
    np.float32: ctypes.c_float,
    np.float64: ctypes.c_double,
}


def as_given(argument: Any) -> Any:
    """Return an argument as a kernel takes it."""
    if type(argument) in C_TYPES or isinstance(argument, tuple):
        return argument
    return argument.address if isinstance(argument, Upload) else address(argument)


def launch(kernel: Kernel, blocks: int, threads: int | tuple[int, int], stream: Any, *arguments: Any) -> None:
    """Put a kernel into a stream. Its arguments are numbers, tuples of numbers, and arrays, whose addresses it gets."""
    given = [as_given(argument) for argument in arguments]
    # Numba warns of few blocks, and a small array has few.
    before, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
    try:
        configured = kernel.dispatcher[blocks, threads, stream]
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = before
    if kernel.handle is None:
        configured(*given)
        return
    # Numba looks at the type of every number again in every launch, which takes longer than the rest of it.
    numbers = [number for arg in given for number in (arg if isinstance(arg, tuple) else (arg,))]
    block = threads if isinstance(threads, tuple) else (threads, 1)
    size = dispatcher.LaunchConfig(grid=(blocks, 1, 1), block=(*block, 1))
    dispatcher.launch(configured.stream, size, kernel.handle, *[C_TYPES[type(number)](number) for number in numbers])
