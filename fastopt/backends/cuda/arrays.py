"""Arrays on a GPU, as their ``__cuda_array_interface__`` describes them.

The functions that backends/host_arrays.py has too are the operations that a backend offers (backends/backend.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arithmetic import halves
from ...arrays.memory import Extents, described
from .. import host_arrays
from . import memory, streams
from .layout import FLOATS, HALVES, ITEM_SIZES
from .layout import compute_dtype as compute_dtype

#: The dtypes of an optimizer's state.
STORED = (*FLOATS, "uint8")


class Flags(NamedTuple):
    """The flags that are asked for by the names of NumPy's."""

    c_contiguous: bool
    writeable: bool
    aligned: bool = True


class DeviceArray(NamedTuple):
    """An array on a device, as its ``__cuda_array_interface__`` describes it. It keeps the array alive."""

    owner: Any
    address: int
    shape: tuple[int, ...]
    dtype: str
    flags: Flags
    device: int
    stream: int | None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEM_SIZES[self.dtype]


def device_array(where: str, array: Any, dtypes: tuple[str, ...]) -> DeviceArray:
    """Return an array as a kernel sees it.

    Raises
    ------
    TypeError
        If it is not an array on a device, or has none of these dtypes.
    ValueError
        If it is not one aligned, contiguous run of memory.
    """
    try:
        interface = memory.interface(array)
    except AttributeError:
        raise TypeError(
            f"{where} is {described(array)}, not on the GPU, where other arrays of this optimizer are; move it there "
            "(cupy.asarray(a), torch_tensor.cuda()), or build an optimizer for each place"
        ) from None
    except RuntimeError as error:  # torch: of tensors that require grad
        raise TypeError(f"{where} does not show its memory ({error}); give its .detach(), which shares it") from None
    dtype = dtype_name(array, interface)
    if dtype not in dtypes:
        raise TypeError(f"{where} has dtype {dtype}; expected one of {', '.join(dtypes)}")
    if interface.get("mask") is not None:
        raise TypeError(f"{where} is a masked array; give its data")
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    item_size = ITEM_SIZES[dtype]
    is_c = strides is None or is_contiguous(shape, strides, item_size)
    pointer, read_only = interface["data"]
    is_fortran = strides is not None and is_contiguous(shape[::-1], strides[::-1], item_size)
    if not (is_c or is_fortran) or pointer % item_size:
        raise ValueError(
            f"{where} is not one contiguous, aligned run of memory (shape {shape}, strides {strides}); give a "
            "contiguous copy (torch: .contiguous(), CuPy: cupy.ascontiguousarray())"
        )
    stream = interface.get("stream")
    device = memory.device_of(pointer) if pointer else -1
    return DeviceArray(array, int(pointer), shape, dtype, Flags(is_c, not read_only), device, stream)


def dtype_name(array: Any, interface: dict[str, Any]) -> str:
    if interface["typestr"] in ("<V2", "|V2") and str(getattr(array, "dtype", "")).endswith("bfloat16"):
        return "bfloat16"
    return str(np.dtype(interface["typestr"]).name)


def is_contiguous(shape: Sequence[int], strides: Sequence[int], item_size: int) -> bool:
    """Return whether the elements lie in C order without gaps."""
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
        As :func:`device_array`; ValueError too if it is read-only.
    """
    found = device_array(f"params: {name!r}", array, FLOATS)
    host_arrays.check_writeable(f"params: {name!r}", found)
    return found


def checked_copy(name: str, copy: Any, param: DeviceArray) -> DeviceArray:
    """Return ``copy``; raise unless it can be written wherever ``param`` is updated.

    Raises
    ------
    TypeError
        If it is not an array of float16 or bfloat16 on the GPU, or its parameter is not float32.
    ValueError
        If its shape, device or order of memory is not the parameter's, or it is read-only.
    """
    found = device_array(f"copy_to: {name!r}", copy, HALVES)
    host_arrays.check_writeable(f"copy_to: {name!r}", found)
    host_arrays.check_copied(name, param)
    if not are_alike(found, param):
        raise ValueError(
            f"copy_to: {name!r} has shape {found.shape} and is on device {found.device}; expected one of shape "
            f"{param.shape} on device {param.device}, in its parameter's order of memory"
        )
    return found


def are_alike(array: DeviceArray, param: DeviceArray) -> bool:
    """Return whether an array has the shape, the device and the order of memory of a parameter."""
    return array.shape == param.shape and array.device == param.device and have_one_order(array, param)


def have_one_order(array: DeviceArray, param: DeviceArray) -> bool:
    """Return whether two arrays of one shape have the same order of memory."""
    return array.flags.c_contiguous == param.flags.c_contiguous or param.ndim <= 1 or param.size <= 1


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
    starts = np.array([param.address for param in params], np.uintp)
    return Extents(names.__getitem__, starts, starts + np.array([param.nbytes for param in params], np.uintp))


def device_of(params: Sequence[DeviceArray]) -> int:
    """Return the device of the first array that has memory."""
    return next((param.device for param in params if param.device >= 0), 0)


def in_memory_order(array: Any) -> DeviceArray:
    return array if isinstance(array, DeviceArray) else device_array("array", array, STORED)


def is_half(dtype: Any) -> bool:
    return str(dtype) in HALVES


def is_bfloat16(dtype: Any) -> bool:
    return str(dtype) == "bfloat16"


def check_slot(where: str, slot: Any, param: Any, dtype: Any) -> None:
    """Raise unless a slot that came from outside can serve its parameter.

    Raises
    ------
    TypeError
        If it is not an array of that dtype on the GPU.
    ValueError
        If anything else differs.
    """
    if isinstance(param, np.ndarray):  # a count
        host_arrays.check_slot(where, slot, param, dtype)
        return
    found, param = device_array(where, slot, (str(dtype),)), in_memory_order(param)
    if not found.flags.writeable or not are_alike(found, param):
        raise ValueError(
            f"{where} has shape {found.shape} and is on device {found.device}; expected one of shape {param.shape} on "
            f"device {param.device}, writeable, in its parameter's order of memory"
        )


def full(shape: tuple[int, ...], value: float, dtype: Any, param: Any, order: str = "C") -> Any:
    """Return a new array on the device of a parameter, filled with one number."""
    with streams.on_device(max(in_memory_order(param).device, 0)):
        return memory.full(shape, str(dtype), order, value)


def slot_like(param: Any, value: float, dtype: Any) -> Any:
    """Return a new array of a parameter's shape, order of memory and device, filled with one number."""
    param = in_memory_order(param)
    return full(param.shape, value, dtype, param, "C" if param.flags.c_contiguous else "F")


def to_compute_dtype(array: Any) -> Any:
    """Return a copy of a parameter in its compute dtype; made by way of the host."""
    return to_device_of(array, halves.to_compute_dtype(on_host(array)))


def on_host(array: Any, copy: bool = True) -> npt.NDArray[Any]:
    """Return a copy of an array in NumPy's memory; counts are there already."""
    if isinstance(array, np.ndarray):
        return array.copy(order="K") if copy else array
    return memory.to_host(owner(array))


def write(array: Any, values: npt.NDArray[Any]) -> None:
    """Write values from NumPy's memory into a parameter, a slot or a count."""
    if isinstance(array, np.ndarray):
        array[...] = values
    else:
        memory.write(owner(array), values)


def to_device_of(array: Any, values: npt.NDArray[Any]) -> Any:
    """Return values from NumPy's memory on the device of an array."""
    return memory.from_host(values, max(in_memory_order(array).device, 0))


def clear(array: Any) -> None:
    write(array, np.zeros(array.shape))


def write_rounded(array: Any, values: Any) -> None:
    """Write a parameter's values into an array of its own dtype or a lower precision, by way of the host."""
    host_copy = on_host(array)
    host_arrays.write_rounded(host_copy, on_host(values))
    write(array, host_copy)


def as_array(where: str, value: Any) -> Any:
    """Return an array as it is: all libraries' arrays on a GPU are alike."""
    return value


def owner(array: Any) -> Any:
    return array.owner if isinstance(array, DeviceArray) else array


def check_clearable(names: Sequence[str], grads: Sequence[Any]) -> None:
    """Raise unless the gradients can be cleared: are writeable, each of memory of its own; None is skipped.

    Raises
    ------
    TypeError, ValueError
        If one can't.
    """
    given = [(name, grad) for name, grad in zip(names, grads, strict=True) if grad is not None]
    there = [(name, device_array(f"grads: {name!r}", grad, FLOATS)) for name, grad in given]
    for name, found in there:
        host_arrays.check_can_clear(name, found)
    there.sort(key=lambda item: item[1].address)
    for (name, found), (next_name, next_found) in pairwise(there):
        if next_found.address < found.address + found.nbytes and next_found.size:
            host_arrays.refuse_shared(name, next_name)


def grad_in_memory_order(name: str, grad: Any, param: DeviceArray) -> tuple[DeviceArray, bool]:
    """Return a gradient as the kernels see it, and that it is the caller's own memory.

    Raises
    ------
    TypeError
        If it is not a float array on the GPU.
    ValueError
        If its shape, device or order of memory is not the parameter's.
    """
    found = device_array(f"grads: {name!r}", grad, FLOATS)
    if found.shape != param.shape:
        raise ValueError(f"grads: {name!r} has shape {found.shape}; its parameter has shape {param.shape}")
    if -1 not in (found.device, param.device) and found.device != param.device:
        raise ValueError(
            f"grads: {name!r} is on device {found.device}, and its parameter on device {param.device}; move it there"
        )
    if not have_one_order(found, param):
        raise ValueError(
            f"grads: {name!r} and its parameter differ in the order of memory (C or Fortran); give a copy in the "
            "parameter's"
        )
    return found, True


def are_aligned(grads: Sequence[Any]) -> bool:
    """Return whether all of these can be read as they are: others were refused."""
    return True
