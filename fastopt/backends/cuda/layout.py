"""How the arrays of a launch lie in memory: the dtypes, the sizes, and the words of a table's row.

The host and the kernels share these. Nothing here needs a device or a compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.cuda import config

from ..table import CHUNK as CHUNK
from ..table import LANES as LANES

SIMULATED = bool(config.ENABLE_CUDASIM)

#: Threads of a block that updates a chunk, and chunks of a block that adds squares; the simulator starts each thread.
THREADS = 2 if SIMULATED else 256
CHUNKS_PER_BLOCK = 1 if SIMULATED else 16

#: Threads that exchange numbers without shared memory. With slots in 8 bits they update SCALE_BLOCK elements together.
WARP = 1 if SIMULATED else 32

#: Partial sums that a block of threads reads at a time.
SUM_TILE = 256

#: The words (int64) of a table's row: how many elements the array has, how many of them lie before the first aligned
#: vector, its number, the first of its chunks among those of all arrays; then the addresses of an ArrayLayout.
LENGTH, HEAD, NUMBER, FIRST_CHUNK, ADDRESSES = range(5)

NUMPY_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "uint8": np.uint8,
}
ITEM_SIZES: dict[str, int] = {name: np.dtype(dtype).itemsize for name, dtype in NUMPY_DTYPES.items()}

#: The dtypes that kernels compute in, and those that a parameter or a gradient may have.
COMPUTE_DTYPES = ("float32", "float64")
HALVES = ("float16", "bfloat16")
FLOATS = (*COMPUTE_DTYPES, *HALVES)


def compute_dtype(dtype: Any) -> str:
    """Return the dtype that kernels compute in for a parameter of this dtype."""
    return "float64" if str(dtype) == "float64" else "float32"


def vector_length(dtype: str) -> int:
    """Return how many elements 16 bytes hold."""
    return 16 // ITEM_SIZES[dtype]


class ArrayLayout(NamedTuple):
    """The parts of an array, each as a dtype, an address or a value; in this order they are the row of a table."""

    param: Any
    grad: Any
    slots: tuple[Any, ...]
    average: Any = None
    accumulated: Any = None
    copy: Any = None
    lower: Any = None
    upper: Any = None
    #: For each slot its scales if it is in 8 bits; empty if none is.
    scales: tuple[Any, ...] = ()

    @property
    def compute_dtype(self) -> str:
        return compute_dtype(self.param)

    @property
    def row_words(self) -> int:
        """The words of a table's row with these dtypes."""
        return ADDRESSES + len(self.present())

    def flat(self) -> tuple[Any, ...]:
        around = self.average, self.accumulated, self.copy, self.lower, self.upper
        return self.param, self.grad, *self.slots, *around, *self.scales

    def present(self) -> tuple[Any, ...]:
        return tuple(part for part in self.flat() if part is not None)

    def memory(self) -> list[tuple[str, bool]]:
        """Return the dtype of each part that is present, and whether it holds scales of whole SCALE_BLOCKs."""
        count = len(self.present()) - sum(scale is not None for scale in self.scales)
        return [(dtype, k >= count) for k, dtype in enumerate(self.present())]

    def filled(self, values: Sequence[Any]) -> ArrayLayout:
        """Return a layout of values, one for each part that is present here."""
        remaining = iter(values)
        found = [None if part is None else next(remaining) for part in self.flat()]
        end = 2 + len(self.slots)
        average, accumulated, copy, lower, upper, *scales = found[end:]
        around = average, accumulated, copy, lower, upper
        return ArrayLayout(found[0], found[1], tuple(found[2:end]), *around, tuple(scales))

    def empty(self) -> ArrayLayout:
        return ArrayLayout(None, None, (None,) * len(self.slots), scales=(None,) * len(self.scales))

    def select(self, other: ArrayLayout) -> tuple[Any, ...]:
        """Return the parts of another layout that are present here."""
        return tuple(theirs for mine, theirs in zip(self.flat(), other.flat(), strict=True) if mine is not None)


class Work(NamedTuple):
    """The first argument of every kernel over elements: addresses, and the key of random bits."""

    table: int
    chunks: int
    clips: int
    global_clip: int
    rates: int
    guard: int
    dither_key: int


class Place(NamedTuple):
    """The place of elements, in unsigned 64-bit numbers, for the random bits of rounding."""

    key: Any
    array: Any
    indices: Any
    #: If all are in one SCALE_BLOCK: how far each lies behind the first (uint32), which is the only index then.
    offsets: Any = None
    #: In one SCALE_BLOCK too: returns the greatest uint32 of all elements of the block.
    largest: Callable[[Any], Any] | None = None


class ElementFunction(NamedTuple):
    """The arithmetic of a kernel on the elements of one run, and the dtypes of the memory of these elements.

    ``function(factors, scalars, h, place, *values)`` gets a value for each address of a row, converted to the compute
    dtype, and returns one for each: None if it is not written, 0 to clear it. A value is rounded to the nearest of its
    memory's dtype, unless it already has the bits of that memory. 8-bit codes are not converted.
    """

    function: Callable[..., Sequence[Any]]
    dtypes: ArrayLayout


#: The functions by the keys that kernels name them by: Numba's cache on disk distinguishes kernels by their constants.
ELEMENT_FUNCTIONS: dict[str, ElementFunction] = {}
