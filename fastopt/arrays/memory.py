"""Where arrays are in memory, and which of them overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import Array

#: Bytes of a cache line.
CACHE_LINE = 64


def described(value: Any) -> str:
    kind = f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
    return f"{kind}, on the GPU" if is_on_device(value) else kind


def is_on_device(value: Any) -> bool:
    """Return whether something is an array on a GPU."""
    try:
        return hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # torch: of tensors that require grad
        return True


def in_memory_order(array: Array) -> Array:
    """Return a view whose C order is the order of memory, of a contiguous array in C or Fortran order."""
    return array if array.flags.c_contiguous else array.T


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


def are_like(grads: Sequence[Any], dtypes: Sequence[Any], shapes: Sequence[tuple[int, ...]], are_written: bool) -> bool:
    """Return whether these are NumPy arrays of these dtypes and shapes, in C order (and writeable)."""
    return (
        set(map(type, grads)) == {np.ndarray}
        and [grad.dtype for grad in grads] == dtypes
        and [grad.shape for grad in grads] == shapes
        and all(grad.flags.c_contiguous and (grad.flags.writeable or not are_written) for grad in grads)
    )


def are_writeable_as(arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> bool:
    """Return whether these arrays have these dtypes and can be written."""
    return [array.dtype for array in arrays] == dtypes and all(array.flags.writeable for array in arrays)


def overlap_each_other(starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]) -> bool:
    """Return whether two of the runs [start, start + size) overlap; an empty run inside another run counts."""
    order = np.argsort(starts, kind="stable")
    stops = starts + sizes.astype(np.uintp)
    return bool((starts[order[1:]] < stops[order[:-1]]).any())


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class Extents:
    """The runs of memory that a step writes, by name, to find arrays that overlap them.

    Raises
    ------
    ValueError
        If two of them overlap.
    """

    def __init__(self, names: Sequence[str], addresses: Sequence[int], sizes: Sequence[int]) -> None:
        starts = np.array(addresses, dtype=np.uintp)
        stops = starts + np.array(sizes, dtype=np.uintp)
        order = np.argsort(starts, kind="stable")
        order = order[stops[order] > starts[order]]
        self.names = [names[i] for i in order]
        self.starts, self.stops = starts[order], stops[order]
        for k in np.flatnonzero(self.starts[1:] < self.stops[:-1]):
            raise ValueError(
                f"params: {self.names[k]!r} and {self.names[k + 1]!r} share memory, and would be updated twice; give "
                "each array once, and copies of views that overlap"
            )

    def with_arrays(self, arrays: Mapping[str, Any]) -> Extents:
        """Return these runs and those of further arrays; values that are not arrays are ignored."""
        more = {name: extent(array) for name, array in arrays.items() if isinstance(array, np.ndarray)}
        starts = [*self.starts.tolist(), *(begin for begin, _ in more.values())]
        stops = [*self.stops.tolist(), *(end for _, end in more.values())]
        return Extents([*self.names, *more], starts, [b - a for a, b in zip(starts, stops, strict=True)])

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
        return first, self.names[before[first]]
