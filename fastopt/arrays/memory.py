"""Where arrays are in memory, and which of them overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .dtypes import Array

#: Where runs of memory begin and end.
Runs: TypeAlias = tuple[npt.NDArray[np.uintp], npt.NDArray[np.uintp]]

#: Bytes of a cache line.
CACHE_LINE = 64


def described(value: Any) -> str:
    kind = f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    return f"{kind}, on the GPU" if is_on_device(value) else kind


def shown(value: Any) -> str:
    """Return ``repr`` of a value, or its type where Python refuses that: of a number with thousands of digits."""
    try:
        return repr(value)
    except Exception:  # its own code may raise anything
        return f"<a value {described(value)}>"


def is_on_device(value: Any) -> bool:
    """Return whether something is an array on a GPU."""
    try:
        return hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # torch: of tensors that require grad, and of compressed sparse ones, on the host too
        return bool(getattr(value, "is_cuda", True))


def in_memory_order(array: Array) -> Array:
    """Return a view whose C order is the order of memory, of a contiguous array in C or Fortran order."""
    return array if array.flags.c_contiguous else array.T


def in_shape_of(array: Array, values: Array) -> Array:
    """Return elements in an array's shape: they are in its order of memory, or in C order if it has none."""
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return values.reshape(array.shape, order="F" if is_fortran else "C")


def is_one_run(array: Array, is_c_order: bool) -> bool:
    """Return whether an array is one aligned run of memory, in C order or else in Fortran order."""
    return array.flags.aligned and (array.flags.c_contiguous if is_c_order else array.flags.f_contiguous)


def extent(array: Array) -> tuple[int, int]:
    """Return where the memory of an array of any strides begins and ends."""
    begin = end = address(array)
    if array.size == 0:
        return begin, begin
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize


class Views(Sequence[Array]):
    """Arrays in given memory. They are made when somebody asks for one: many take long to make.

    Parameters
    ----------
    dtype : dtype
        That of all.
    likes : sequence of array
        One for each, of the same shape and order of memory.
    sizes : intp array
        The size of each.
    blocks : sequence of (array, intp array)
        Memory, and at how many bytes from its beginning each of the next arrays begins.
    """

    def __init__(
        self,
        dtype: np.dtype[Any],
        likes: Sequence[Array],
        sizes: npt.NDArray[np.intp],
        blocks: Sequence[tuple[Array, npt.NDArray[np.intp]]],
    ) -> None:
        self.dtype, self.likes, self.sizes, self.blocks = dtype, likes, sizes, blocks
        self.addresses = np.concatenate([places + address(memory) for memory, places in blocks]).astype(np.uintp)
        #: Returns the shape of each, and whether it is in C order: the likes may have changed. None: as the likes are.
        self.forms: Callable[[], list[tuple[tuple[int, ...], bool]]] | None = None

    @cached_property
    def arrays(self) -> list[Array]:
        places = ((memory, place) for memory, places in self.blocks for place in places.tolist())
        flat = [
            np.ndarray((size,), self.dtype, memory, place)
            for (memory, place), size in zip(places, self.sizes.tolist(), strict=True)
        ]
        forms = self.forms() if self.forms else [(like.shape, like.flags.c_contiguous) for like in self.likes]
        return [
            array.reshape(shape, order="C" if is_c_order else "F")
            for array, (shape, is_c_order) in zip(flat, forms, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.likes)

    def __getitem__(self, i: Any) -> Any:
        return self.arrays[i]


def runs_at(addresses: npt.NDArray[np.uintp], arrays: Sequence[Array]) -> Runs:
    """Return where the memory of each array, which is at this address, begins and ends."""
    if isinstance(arrays, Views):
        return addresses, addresses + (arrays.sizes * arrays.dtype.itemsize).astype(np.uintp)
    starts, stops = addresses, addresses + np.array([array.nbytes for array in arrays], np.uintp)
    strided = [i for i, array in enumerate(arrays) if not array.flags.forc]
    if strided:
        starts[strided], stops[strided] = np.array([extent(arrays[i]) for i in strided], np.uintp).T
    return starts, stops


def are_like(grads: Sequence[Any], dtypes: Sequence[Any], shapes: Sequence[tuple[int, ...]], are_written: bool) -> bool:
    """Return whether these are NumPy arrays of these dtypes and shapes, in C order (and writeable)."""
    return (
        set(map(type, grads)) == {np.ndarray}
        and list(map(attrgetter("dtype"), grads)) == dtypes
        and list(map(attrgetter("shape"), grads)) == shapes
        and all(map(attrgetter("flags.c_contiguous"), grads))
        and (not are_written or all(map(attrgetter("flags.writeable"), grads)))
    )


def are_writeable(arrays: Sequence[Array]) -> bool:
    return all(map(attrgetter("flags.writeable"), arrays))


def overlap_each_other(starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]) -> bool:
    """Return whether two of the runs [start, start + size) overlap; an empty run inside another run counts."""
    order = np.argsort(starts, kind="stable")
    stops = starts + sizes.astype(np.uintp)
    return bool((starts[order[1:]] < stops[order[:-1]]).any())


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def aligned(length: int) -> Array:
    """Return new memory of so many bytes that begins at a cache line; its contents are arbitrary."""
    memory = np.empty(length + CACHE_LINE, np.uint8)
    begin = -address(memory) % CACHE_LINE
    return memory[begin : begin + length]


class Extents:
    """The runs of memory that a step writes, in order, to find arrays that overlap them.

    Parameters
    ----------
    name_of : callable
        Returns the name of a run, by its number among those given: only errors need it.
    starts, stops : uintp array
        Where each run begins and ends.

    Raises
    ------
    ValueError
        If two of them overlap.
    """

    def __init__(
        self, name_of: Callable[[int], str], starts: npt.NDArray[np.uintp], stops: npt.NDArray[np.uintp]
    ) -> None:
        order = np.argsort(starts, kind="stable")
        order = order[stops[order] > starts[order]]
        self.name_of, self.order = name_of, order
        self.starts, self.stops = starts[order], stops[order]
        for k in np.flatnonzero(self.starts[1:] < self.stops[:-1]).tolist():
            raise ValueError(
                f"params: {self.name(k)!r} and {self.name(k + 1)!r} share memory, and would be updated twice; give "
                "each array once, and copies of views that overlap"
            )

    def name(self, k: int) -> str:
        """Return the name of the run that comes at place ``k`` in memory."""
        return self.name_of(int(self.order[k]))

    def with_runs(self, name_of: Callable[[int], str], runs: Sequence[Runs]) -> Extents:
        """Return these runs and further ones."""
        count = self.starts.size
        return Extents(
            lambda i: self.name(i) if i < count else name_of(i - count),
            np.concatenate([self.starts, *(starts for starts, _ in runs)]),
            np.concatenate([self.stops, *(stops for _, stops in runs)]),
        )

    def overlapped(self, starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]) -> tuple[int, str] | None:
        """Return the first run [start, start + size) that overlaps one of these, and the name of that one."""
        if self.starts.size == 0:
            return None
        # A run overlaps one of these if and only if it overlaps the last one that starts before the run's end.
        before = np.searchsorted(self.starts, starts + sizes.astype(np.uintp), side="left") - 1
        overlaps = (before >= 0) & (self.stops[before] > starts) & (sizes > 0)
        if not overlaps.any():
            return None
        first = int(np.flatnonzero(overlaps)[0])
        return first, self.name(int(before[first]))
