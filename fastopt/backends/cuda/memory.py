"""Memory of a device: where an array is, new arrays, and copies to and from the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import cuda

from ...arithmetic import halves
from .layout import SIMULATED
from .streams import Mark, on_device


def interface(array: Any) -> dict[str, Any]:
    """Return an array's ``__cuda_array_interface__``, which the simulator's own arrays don't have."""
    if SIMULATED and hasattr(array, "__cuda_ndarray__"):
        return {**array.__array_interface__, "version": 3, "stream": None}
    return dict(array.__cuda_array_interface__)


def address(array: Any) -> int:
    """Return where an array begins."""
    pointer = getattr(array, "device_ctypes_pointer", None)  # Numba's own attribute is ten times as fast
    return int(interface(array)["data"][0]) if pointer is None else pointer.value or 0


def device_of(pointer: int) -> int:
    """Return the number of the device that memory is on."""
    if SIMULATED:
        return 0
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(driver.driver.cuPointerGetAttribute(attribute, driver.binding.CUdeviceptr(pointer)))


def as_signed(bits: int) -> int:
    """Return a number of 64 bits as a kernel takes it."""
    return bits - (bits >> 63 << 64)


# New arrays.


def empty(size: int, dtype: str) -> Any:
    return cuda.device_array(size, np.dtype(dtype))


def full(shape: tuple[int, ...], dtype: str, order: str, value: float) -> Any:
    """Return a new device array that is filled with one number."""
    size = math.prod(shape)
    kind = halves.bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    array = cuda.device_array(size, kind)
    if size and value == 0:
        cuda.cudadrv.driver.device_memset(array, 0, array.nbytes, 0)
    elif size:
        write(array, np.full(size, value, kind))
    return array.reshape(*shape, order=order) if shape else array.reshape(())


def from_host(array: npt.NDArray[Any], device: int = 0) -> Any:
    """Return a copy of a NumPy array on a device, in the same order of memory."""
    with on_device(device):
        order = "C" if array.flags.c_contiguous else "F"
        copied = cuda.device_array(array.shape, array.dtype, order=order)
    write(copied, array)
    return copied


# Copies that wait.


def bits_of(array: Any) -> tuple[Any, npt.DTypeLike]:
    """Return a view of a device array for copying, in which bfloat16 is its bits, and the array's dtype."""
    found = interface(array)
    dtype = halves.bfloat16() if found["typestr"].endswith("V2") else np.dtype(found["typestr"])
    found["typestr"] = np.dtype(f"<u{dtype.itemsize}").str
    if SIMULATED:
        return np.asarray(type("View", (), {"__array_interface__": {**found, "version": 3}})()), dtype
    return cuda.from_cuda_array_interface(found, owner=array), dtype


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


# Copies in a stream.


class Upload:
    """An array on the device that the host writes again and again, without waiting.

    It is copied from two buffers by turns: neither may change before its copy is done. A copy from memory that can be
    paged out would wait for the stream.
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


def upload(values: npt.NDArray[Any], to: Upload | None, stream: Any) -> Upload:
    """Copy an array to the device: into ``to`` if that has its shape."""
    if to is None or to.array.shape != values.shape:
        return Upload(values, stream)
    to.write(values, stream)
    return to


class HostCopy:
    """Numbers of the device as they were at a moment of a stream, on their way to the host."""

    def __init__(self, array: Any, device: int) -> None:
        self.array = array
        self.device = device
        self.host = cuda.pinned_array(array.shape, array.dtype)
        self.copied = Mark()

    def start(self, stream: Any) -> None:
        """Put the copy into the stream."""
        self.array.copy_to_host(self.host, stream=stream)
        self.copied.record(stream)

    def values(self) -> npt.NDArray[Any]:
        """Return the numbers; waits for the work of the stream before the copy, and for nothing else."""
        with on_device(self.device):
            self.copied.wait()
        host: npt.NDArray[Any] = self.host
        return host
