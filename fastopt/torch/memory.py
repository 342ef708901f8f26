"""Tensors as NumPy arrays in the same memory, and back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..arrays.dtypes import Array, is_bfloat16

#: The dtypes of parameters.
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

#: The order in which a tensor's axes are an array's; None: its own.
Order = tuple[int, ...] | None


def bfloat16() -> np.dtype[Any]:
    """Return NumPy's dtype for it.

    Raises
    ------
    ImportError
        If ml_dtypes is missing.
    """
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def order_of(where: str, tensor: Any) -> Order:
    """Return the order of axes in which a tensor is an array in C or Fortran order.

    Raises
    ------
    ValueError
        If its elements are not one run of memory.
    """
    reverse = tuple(range(tensor.ndim))[::-1]
    if tensor.is_contiguous() or tensor.permute(reverse).is_contiguous():
        return None
    order = tuple(sorted(range(tensor.ndim), key=lambda axis: (-tensor.stride(axis), -tensor.shape[axis])))
    if not tensor.permute(order).is_contiguous():
        raise ValueError(
            f"{where} is not one run of memory (shape {tuple(tensor.shape)}, strides {tensor.stride()}); write "
            "p.data = p.data.contiguous() before you build the optimizer"
        )
    return order


def as_array(tensor: Any, order: Order = None) -> Array:
    """Return a tensor on the CPU as an array in the same memory, its axes in this order."""
    tensor = tensor.detach()
    if order is not None:
        tensor = tensor.permute(order)
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(bfloat16())  # type: ignore[no-any-return]
    return tensor.numpy()  # type: ignore[no-any-return]


def as_tensor(array: Array, order: Order = None) -> Any:
    """Return an array as a tensor in the same memory: the opposite of :func:`as_array`."""
    if is_bfloat16(array.dtype):
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor if order is None else tensor.permute(inverse(order))


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(np.argsort(order).tolist())


def as_arrays(value: Any, orders: Sequence[Order] = ()) -> Any:
    """Return a nest of dicts, lists and tuples with an array for each tensor.

    A list with an entry for each of ``orders`` has tensors like the parameters.
    """
    if isinstance(value, list) and len(value) == len(orders):
        return [
            as_array(each, order) if isinstance(each, torch.Tensor) else as_arrays(each, orders)
            for each, order in zip(value, orders, strict=True)
        ]
    if isinstance(value, dict):
        return {key: as_arrays(each, orders) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_arrays(each, orders) for each in value)
    return as_array(value) if isinstance(value, torch.Tensor) else value


def as_tensors(value: Any) -> Any:
    """Return a nest of dicts, lists and tuples with a tensor for each array."""
    if isinstance(value, dict):
        return {key: as_tensors(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_tensors, value))
    return as_tensor(value) if isinstance(value, np.ndarray) else value


def check_param(where: str, param: Any) -> None:
    """Raise unless a tensor can be a parameter that is changed where it is.

    Raises
    ------
    TypeError
        If it is on another device, or of another dtype.
    """
    if param.device.type != "cpu":
        raise TypeError(
            f"{where} is on the device {str(param.device)!r}; expected a tensor on the CPU: use fastopt.torch.Offload, "
            "which keeps the state and makes the step on the CPU"
        )
    if param.layout is not torch.strided:
        raise TypeError(f"{where} has the layout {param.layout}; expected a dense tensor")
    check_dtype(where, param)


def check_dtype(where: str, param: Any) -> None:
    if param.dtype not in DTYPES:
        raise TypeError(f"{where} has dtype {param.dtype}; expected one of {', '.join(map(str, DTYPES))}")
    if param.dtype is torch.bfloat16 and "ml_dtypes" not in sys.modules:
        try:
            bfloat16()
        except ImportError as error:
            raise ImportError(f"{where} is bfloat16, which needs ml_dtypes: pip install ml-dtypes") from error
