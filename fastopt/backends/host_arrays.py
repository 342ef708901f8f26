"""The operations on NumPy arrays: checks of parameters and gradients, and new slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arithmetic import halves
from ..arithmetic.halves import to_compute_dtype as to_compute_dtype
from ..arrays.advice import refused_param
from ..arrays.dtypes import FLOAT32, FLOAT64, NATIVE_GRADS, Array, is_float
from ..arrays.dtypes import compute_dtype as compute_dtype
from ..arrays.dtypes import is_bfloat16 as is_bfloat16
from ..arrays.dtypes import is_half as is_half
from ..arrays.memory import CACHE_LINE, Views, address, described, extent, is_one_run
from ..arrays.memory import in_memory_order as in_memory_order
from ..arrays.others import as_numpy

#: Small slots share blocks of memory of this many bytes: one that outlives its optimizer keeps no more alive.
SHARED_BYTES = 1 << 16


def as_array(where: str, value: Any) -> Any:
    """Return an array of another library as a NumPy array; all else as it is."""
    return value if type(value) is np.ndarray else as_numpy(where, value)


def checked_param(name: str, array: Any) -> Array:
    """Return ``array``; raise unless it can be updated in place.

    Raises
    ------
    TypeError
        If it is not an array of native float32, float64, float16 or bfloat16.
    ValueError
        If it is read-only, masked, or not one run of memory.
    """
    if not isinstance(array, np.ndarray):
        raise refused_param(name, array)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"params: {name!r} is a masked array; give its .data, or np.asarray() of it")
    if array.dtype not in (FLOAT32, FLOAT64) and not is_half(array.dtype):
        raise TypeError(
            f"params: {name!r} has dtype {array.dtype}; expected float32, float64, float16 or bfloat16 in this "
            "machine's byte order (convert it with .astype(np.float32))"
        )
    check_memory(f"params: {name!r}", array)
    return array


def are_plain_params(arrays: Sequence[Any]) -> bool:
    """Return whether all are contiguous arrays in C order that :func:`checked_param` accepts. It accepts others too."""
    return (
        set(map(type, arrays)) == {np.ndarray}
        and all(dtype in (FLOAT32, FLOAT64) or is_half(dtype) for dtype in {array.dtype for array in arrays})
        and all(array.flags.carray for array in arrays)
    )


def checked_copy(name: str, copy: Any, param: Array) -> Array:
    """Return ``copy``; raise unless every update of ``param`` can be written to it.

    Raises
    ------
    TypeError
        If it is not an array of native float16 or bfloat16, or its parameter is not float32.
    ValueError
        If its shape or memory order is not the parameter's, or it is read-only or not one run of memory.
    """
    if not isinstance(copy, np.ndarray) or not is_half(copy.dtype):
        found = f"has dtype {copy.dtype}" if isinstance(copy, np.ndarray) else f"is {described(copy)}"
        raise TypeError(
            f"copy_to: {name!r} {found}; expected a NumPy array of float16 or bfloat16, or None for no copy"
        )
    check_copied(name, param)
    if copy.shape != param.shape:
        raise ValueError(f"copy_to: {name!r} has shape {copy.shape}; its parameter has shape {param.shape}")
    check_memory(f"copy_to: {name!r}", copy)
    if copy.flags.c_contiguous < param.flags.c_contiguous or copy.flags.f_contiguous < param.flags.f_contiguous:
        raise ValueError(f"copy_to: {name!r} is not in its parameter's memory order; make it with np.empty_like(param)")
    return copy


def check_copied(name: str, param: Any) -> None:
    """Raise unless a parameter has the one dtype that can have copies."""
    if param.dtype != "float32":
        raise TypeError(f"copy_to: {name!r} is a copy of a parameter of {param.dtype}; expected one of float32")


def check_writeable(where: str, array: Any) -> None:
    if not array.flags.writeable:
        raise ValueError(f"{where} is read-only, and is to be updated in place; give a writeable one or a copy")


def check_memory(where: str, array: Array) -> None:
    """Raise unless an array is one contiguous, writeable run of memory."""
    check_writeable(where, array)
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or not array.flags.aligned:
        raise ValueError(
            f"{where} is not one contiguous, aligned run of memory (shape {array.shape}, strides "
            f"{array.strides}); give np.ascontiguousarray() of it, and keep that"
        )


def check_slot(where: str, slot: Any, param: Array, dtype: np.dtype[Any]) -> None:
    """Raise unless ``slot`` is writeable, has this dtype, and has its parameter's shape and order of memory.

    Raises
    ------
    TypeError
        If it is not an array of that dtype.
    ValueError
        If anything else differs.
    """
    if not isinstance(slot, np.ndarray) or slot.dtype != dtype:
        found = f"an array of {slot.dtype}" if isinstance(slot, np.ndarray) else described(slot)
        raise TypeError(f"{where} is {found}; expected a NumPy array of {dtype}")
    is_contiguous = slot.flags.c_contiguous if param.flags.c_contiguous else slot.flags.f_contiguous
    if slot.shape != param.shape or not (is_contiguous and slot.flags.aligned and slot.flags.writeable):
        raise ValueError(
            f"{where} has shape {slot.shape}, strides {slot.strides}; expected one of shape {param.shape}, writeable, "
            "in its parameter's order of memory; write into one that fastopt made: slot[...] = values"
        )


def slot_like(param: Array, value: float, dtype: np.dtype[Any]) -> Array:
    """Return a new array like a parameter, full of ``value``, at the same distance from the start of a cache line.

    So one cut into cache lines serves both (csrc/step.c).
    """
    size = param.size * dtype.itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    begin = (address(param) - address(memory)) % CACHE_LINE
    slot = memory[begin : begin + size].view(dtype)
    if value != 0:
        with np.errstate(over="ignore"):
            slot[...] = value
    return slot.reshape(param.shape, order="C" if param.flags.c_contiguous else "F")


def slots_like(params: Sequence[Array], addresses: npt.NDArray[np.uintp], value: float, dtype: np.dtype[Any]) -> Views:
    """Return new arrays like these parameters, which are at these addresses.

    Each is at the same distance from the start of a cache line as its parameter, as from :func:`slot_like`. Small ones
    share memory.
    """
    sizes = np.array([param.size for param in params], np.intp)
    offsets = (addresses % CACHE_LINE).astype(np.intp) // dtype.itemsize * dtype.itemsize
    lines = -(-(offsets + sizes * dtype.itemsize) // CACHE_LINE) * CACHE_LINE
    ends = lines.cumsum()
    begins = ends - lines
    blocks, first = [], 0
    while first < len(params):
        last = max(int(ends.searchsorted(begins[first] + SHARED_BYTES, side="right")), first + 1)
        size = int(ends[last - 1] - begins[first])
        memory = np.zeros(size + CACHE_LINE, np.uint8)
        begin = -address(memory) % CACHE_LINE
        if value != 0:
            with np.errstate(over="ignore"):
                memory[begin : begin + size].view(dtype)[...] = value
        blocks.append((memory, begins[first:last] + (offsets[first:last] + begin - begins[first])))
        first = last
    return Views(dtype, params, sizes, blocks)


def full(shape: tuple[int, ...], value: float, dtype: np.dtype[Any], param: Array) -> Array:
    """Return a new array in C order, full of ``value``, on the parameter's device."""
    return np.full(shape, value, dtype)


def owner(array: Array | None) -> Array | None:
    """Return the array that the user gave; for NumPy arrays the array itself."""
    return array


def are_aligned(grads: Sequence[Array | None]) -> bool:
    """Return whether the kernels can read all of these as they are."""
    return all(grad is None or grad.flags.aligned for grad in grads)


def on_host(array: Array, copy: bool = True) -> Array:
    """Return an array as a NumPy array in the same order of memory; by default a copy."""
    return array.copy(order="K") if copy else array


def write(array: Array, values: Array) -> None:
    """Write values into a parameter, a slot or a count."""
    array[...] = values


def to_device_of(array: Array, values: Array) -> Array:
    """Return values on the device of an array."""
    return values


def clear(array: Array) -> None:
    array[...] = 0


def write_rounded(array: Array, values: Array) -> None:
    """Write a parameter's values into an array of the same dtype or a lower precision."""
    if is_half(array.dtype):
        halves.round_into(array, values)
    else:
        array[...] = values


def grad_in_memory_order(name: str, grad: Any, param: Array) -> tuple[Array, bool]:
    """Return a gradient in its parameter's order of memory, and whether it is the caller's own memory.

    Raises
    ------
    TypeError
        If it is not a float array.
    ValueError
        If its shape is not the parameter's.
    """
    given = grad
    if isinstance(grad, (np.floating, float)):
        grad = np.asarray(grad)
    if not isinstance(grad, np.ndarray):
        raise TypeError(
            f"grads: {name!r} is {described(grad)}; expected a float NumPy array of shape {param.shape}, or None to "
            "skip it"
        )
    if isinstance(grad, np.ma.MaskedArray):
        raise TypeError(f"grads: {name!r} is a masked array; give grad.filled(0), or None to skip it")
    if not is_float(grad.dtype):
        raise TypeError(
            f"grads: {name!r} has dtype {grad.dtype}; expected a float dtype (convert it with .astype('{param.dtype}'))"
        )
    if grad.shape != param.shape:
        raise ValueError(
            f"grads: {name!r} has shape {grad.shape}; its parameter has shape {param.shape}"
            + (" (sum over the broadcast axes, or reshape it)" if grad.ndim != param.ndim else "")
        )
    if grad.dtype not in NATIVE_GRADS and not is_bfloat16(grad.dtype):
        with np.errstate(all="ignore"):
            grad = grad.astype(compute_dtype(param.dtype))
    is_c_order = param.flags.c_contiguous
    if not is_one_run(grad, is_c_order):
        grad = np.array(grad, order="C" if is_c_order else "F")
    return (grad if is_c_order else grad.T), grad is given


def check_clearable(names: Sequence[str], grads: Sequence[Any]) -> None:
    """Raise unless the gradients can be cleared: writeable arrays that share no memory. None is ignored.

    Raises
    ------
    TypeError, ValueError
        If one can't.
    """
    present = [(name, grad) for name, grad in zip(names, grads, strict=True) if grad is not None]
    for name, grad in present:
        if not isinstance(grad, np.ndarray):
            raise TypeError(f"grads: {name!r} is {described(grad)}, which zero_grads=True can't clear; give an array")
        check_can_clear(name, grad)
    extents = np.array([extent(grad) for _, grad in present], np.intp).reshape(-1, 2)
    order = np.argsort(extents[:, 0], kind="stable")
    if not (extents[order[1:], 0] < extents[order[:-1], 1]).any():
        return
    # Their extents overlap, but strided gradients may still share no element.
    for k, i in enumerate(order):
        for j in order[k + 1 :]:
            if extents[j, 0] >= extents[i, 1]:
                break
            if np.shares_memory(present[i][1], present[j][1]):
                refuse_shared(present[i][0], present[j][0])


def check_can_clear(name: str, grad: Any) -> None:
    if not grad.flags.writeable:
        raise ValueError(f"grads: {name!r} is read-only, which zero_grads=True can't clear; give a copy")


def refuse_shared(name: str, other: str) -> None:
    """Raise for two gradients that share memory and are to be cleared."""
    raise ValueError(
        f"grads: {name!r} and {other!r} share memory, and zero_grads=True would clear the one before the other is "
        "read; give copies"
    )
