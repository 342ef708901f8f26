"""Arrays with ``__cuda_array_interface__`` for the simulator, where a device's memory is the host's."""

from __future__ import annotations

from typing import Any

import numpy as np


class SimulatedArray:
    """A NumPy array that says it is on a GPU."""

    def __init__(self, array: Any, stream: int | None = None) -> None:
        self.array = array
        self.stream = stream

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = self.array.__array_interface__
        return {**found, "typestr": self.array.dtype.str, "version": 3, "stream": self.stream}


def simulated(structure: Any) -> Any:
    """Return the same structure with its arrays on the simulated GPU, in the same memory."""
    if isinstance(structure, np.ndarray):
        return SimulatedArray(structure)
    return [None if array is None else SimulatedArray(array) for array in structure]


def shifted(values: Any, by: int) -> Any:
    """Return a copy that begins ``by`` elements behind an address that 16 bytes divide."""
    buffer = np.empty(values.size + 8, values.dtype)
    begin = -buffer.ctypes.data % 16 // values.itemsize + by
    buffer[begin : begin + values.size] = values.reshape(-1)
    return buffer[begin : begin + values.size].reshape(values.shape)


def simulated_apart(arrays: Any) -> Any:
    """Return copies on the simulated GPU, some of which no vector fits."""
    return simulated([shifted(array, i % 2) for i, array in enumerate(arrays)])
