"""Arrays that are moved to the gradients of tensors: csrc/python/tensors.h, filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...arrays.dtypes import Array
from ...arrays.memory import address
from ..backend import Arrays
from ..windows import Move
from .functions import functions
from .library import ffi, struct_dtype
from .ndarrays import addresses_of

TENSOR = struct_dtype("fo_tensor")


class NativeWindows:
    """The arrays and the struct, which keeps alive all that it points to; ``..windows`` has the interface."""

    def __init__(self, likes: Sequence[Array], is_refused: Callable[[Any], bool]) -> None:
        self.arrays = [like.view() for like in likes]
        count, axes = len(likes), [like.ndim for like in likes]
        tensors, lengths = ffi.new("fo_tensor[]", count + 1), ffi.new("int64_t[]", 2 * sum(axes) + 1)
        self.columns = np.frombuffer(ffi.buffer(tensors), TENSOR)[:count]
        self.columns["array"], self.columns["dimensions"] = addresses_of(self.arrays), axes
        self.columns["first"] = 2 * (np.cumsum(axes) - axes)
        self.struct = ffi.new("fo_tensors *", {"count": count, "tensors": tensors, "lengths": lengths})
        self.struct.arrays, self.struct.is_refused = id(self.arrays), id(is_refused)
        self.owners = tensors, lengths, is_refused
        self.address = int(ffi.cast("uintptr_t", self.struct))
        self.move: Move = partial(functions["move_to_gradients"], self.address)

    def note(self, exchange: Any, params: Sequence[Any]) -> bool:
        """Note where the parameters are; return whether that is where the arrays are that they are."""
        if not functions["note_tensors"](self.address, exchange, list(params)):
            return False
        places = zip(self.columns["memory"].tolist(), self.arrays, strict=True)
        return all(array.size == 0 or memory == address(array) for memory, array in places)


def windows(
    likes: Arrays, params: Sequence[Any], exchange: Any, is_refused: Callable[[Any], bool]
) -> NativeWindows | None:
    """Return the windows of these parameters; None if C can't read them."""
    made = NativeWindows(likes, is_refused) if functions else None
    return made if made is not None and made.note(exchange, params) else None
