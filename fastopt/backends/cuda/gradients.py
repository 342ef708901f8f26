"""The gradients of a table, and whether arrays are still where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arrays import DeviceArray
from .layout import ITEM_SIZES
from .memory import address, interface


class Owners:
    """Arrays of any library, and the fastest ways to find out where they begin now."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays
        self.readers = [pointer_reader(array) for array in arrays]

    def starts(self) -> list[int]:
        return [read(array) for read, array in zip(self.readers, self.arrays, strict=True)]


def pointer_reader(array: Any) -> Callable[[Any], int]:
    """Return the fastest function that returns where an array of this kind begins; None begins at 0."""
    if array is None:
        return lambda nothing: 0
    if hasattr(type(array), "data_ptr"):  # torch
        return type(array).data_ptr  # type: ignore[no-any-return]
    if hasattr(getattr(array, "data", None), "ptr"):  # CuPy
        return lambda array: int(array.data.ptr) if array.size else 0  # as its interface says
    return address


class DeviceGrads:
    """The gradients of a table; those of the last step are kept alive."""

    def __init__(self, count: int) -> None:
        #: Without their owners: in the next step others of the same kind may replace them.
        self.arrays: list[DeviceArray | None] = [None] * count
        self.owners = Owners([None] * count)
        self.starts = np.zeros(count, np.uintp)
        self.item_sizes = np.ones(count, np.uintp)
        self.models: list[Any] | None = None
        #: How often they were set.
        self.version = 0

    def take(self, grads: Sequence[DeviceArray | None]) -> None:
        self.arrays = [None if grad is None else grad._replace(owner=None) for grad in grads]
        self.owners = Owners([None if grad is None else grad.owner for grad in grads])
        self.starts = np.array([0 if grad is None else grad.address for grad in grads], np.uintp)
        self.item_sizes = np.array([1 if grad is None else ITEM_SIZES[grad.dtype] for grad in grads], np.uintp)
        self.models = models_of(self.owners.arrays)
        self.version += 1

    def move(self, grads: Sequence[Any]) -> bool:
        """Take these gradients if they are like the last ones; else return False.

        Fast path for torch tensors: comparing dtype, shape and device is cheaper than a full check.
        """
        if self.models is None or models_of(grads) != self.models:
            return False
        starts = np.array([grad.data_ptr() for grad in grads], np.uintp)
        if (starts % self.item_sizes).any():
            return False
        self.owners.arrays, self.starts = grads, starts
        return True

    def are_current(self) -> bool:
        """Return whether the gradients are where they were, in the stream in which they were."""
        if self.owners.starts() != self.starts.tolist():
            return False
        for array, owner in zip(self.arrays, self.owners.arrays, strict=True):
            if array is not None:
                return bool(interface(owner).get("stream") == array.stream)
        return True

    def streams(self) -> set[int]:
        """Return the streams that the gradients come from."""
        return {grad.stream for grad in self.arrays if grad is not None and grad.stream is not None}


def models_of(grads: Sequence[Any]) -> list[Any] | None:
    """Return all that torch's tensors must agree in to replace each other; None if one is of another kind."""
    if not all(hasattr(type(grad), "data_ptr") for grad in grads):
        return None
    try:
        return [(type(grad), grad.dtype, grad.shape, grad.stride(), grad.device, grad.requires_grad) for grad in grads]
    except RuntimeError:  # a sparse one has no strides
        return None
