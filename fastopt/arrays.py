"""What may be a parameter or a gradient, and how it is seen as a flat run of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

#: Bytes.
CACHE_LINE = 64

#: What the kernels read as a gradient as it stands, besides bfloat16; other float dtypes are converted before.
NATIVE_GRADS = (FLOAT32, FLOAT64, np.dtype(np.float16))


def check_param(name: str, array: Any) -> None:
    """Raise unless ``array`` can be updated in place.

    Raises
    ------
    TypeError
        If it is no array of native float32 or float64.
    ValueError
        If it is read-only, masked, or not one run of memory.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"params: {name!r} is {described(array)}; expected a NumPy array of float32 or float64, which can be "
            "updated in place (make one with np.asarray(..., dtype=np.float32))"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"params: {name!r} is a masked array; give its .data, or np.asarray() of it")
    if array.dtype not in (FLOAT32, FLOAT64):
        raise TypeError(
            f"params: {name!r} has dtype {array.dtype}; expected float32 or float64 in this machine's byte order "
            "(convert it with .astype(np.float32))"
        )
    if not array.flags.writeable:
        raise ValueError(
            f"params: {name!r} is read-only, and is to be updated in place; give a writeable one or a copy"
        )
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or not array.flags.aligned:
        raise ValueError(
            f"params: {name!r} is not one contiguous, aligned run of memory (shape {array.shape}, strides "
            f"{array.strides}); give np.ascontiguousarray() of it, and keep that as the parameter"
        )


def check_slot(where: str, slot: Any, param: Array) -> None:
    """Raise unless ``slot`` has the dtype, shape and order of memory of its parameter, and can be written.

    Raises
    ------
    TypeError
        If it is no array of that dtype.
    ValueError
        If anything else differs.
    """
    if not isinstance(slot, np.ndarray) or slot.dtype != param.dtype:
        found = f"an array of {slot.dtype}" if isinstance(slot, np.ndarray) else described(slot)
        raise TypeError(f"{where} is {found}; expected a NumPy array of {param.dtype}, as its parameter")
    is_contiguous = slot.flags.c_contiguous if param.flags.c_contiguous else slot.flags.f_contiguous
    if slot.shape != param.shape or not (is_contiguous and slot.flags.aligned and slot.flags.writeable):
        raise ValueError(
            f"{where} has shape {slot.shape}, strides {slot.strides}; expected one of shape {param.shape}, writeable, "
            f"in its parameter's order of memory; write into the slot instead: {where}[...] = values"
        )


def slot_like(param: Array, value: float) -> Array:
    """Return a new array like a parameter, full of ``value``, as far from a cache line's start as the parameter is.

    So one cut into cache lines serves both (csrc/step.c).
    """
    memory = np.zeros(param.nbytes + CACHE_LINE, np.uint8)
    begin = (address(param) - address(memory)) % CACHE_LINE
    slot = memory[begin : begin + param.nbytes].view(param.dtype)
    if value != 0:
        slot[...] = value
    return slot.reshape(param.shape, order="C" if param.flags.c_contiguous else "F")


def described(value: Any) -> str:
    return f"of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def in_memory_order(array: Array) -> Array:
    """Return a view of a contiguous array of C or Fortran order whose C order is that of the memory."""
    return array if array.flags.c_contiguous else array.T


def grad_in_memory_order(name: str, grad: Any, param: Array) -> tuple[Array, bool]:
    """Return a gradient in its parameter's order of memory, and whether that is the caller's own memory.

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
            grad = grad.astype(param.dtype)
    is_c_order = param.flags.c_contiguous
    if not (grad.flags.c_contiguous if is_c_order else grad.flags.f_contiguous) or not grad.flags.aligned:
        grad = np.array(grad, order="C" if is_c_order else "F")
    return (grad if is_c_order else grad.T), grad is given


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype is of floats, those of ml_dtypes (which NumPy calls void) included."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "V" and dtype.name == "bfloat16"


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class Extents:
    """The runs of memory of the parameters, to tell what overlaps them.

    Raises
    ------
    ValueError
        If two of them overlap.
    """

    def __init__(self, names: Sequence[str], arrays: Sequence[Array]) -> None:
        starts = np.array([address(array) for array in arrays], dtype=np.uintp)
        stops = starts + np.array([array.nbytes for array in arrays], dtype=np.uintp)
        order = np.argsort(starts, kind="stable")
        order = order[stops[order] > starts[order]]
        self.names = [names[i] for i in order]
        self.starts, self.stops = starts[order], stops[order]
        for k in np.flatnonzero(self.starts[1:] < self.stops[:-1]):
            raise ValueError(
                f"params: {self.names[k]!r} and {self.names[k + 1]!r} share memory, and would be updated twice; give "
                "each array once, and copies of views that overlap"
            )

    def overlapped(self, starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]) -> tuple[int, str] | None:
        """Return the first run [start, start + size) that overlaps a parameter, and that parameter's name."""
        if self.starts.size == 0:
            return None
        # A run overlaps a parameter if and only if it overlaps the last one that starts before the run's end.
        before = np.searchsorted(self.starts, starts + sizes.astype(np.uintp), side="left") - 1
        overlaps = (before >= 0) & (self.stops[before] > starts) & (sizes > 0)
        if not overlaps.any():
            return None
        first = int(np.flatnonzero(overlaps)[0])
        return first, self.names[before[first]]
