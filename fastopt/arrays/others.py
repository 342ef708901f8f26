"""Arrays of other libraries (JAX, torch, autograd) that lie in the memory of the host, as NumPy arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .advice import library_of
from .memory import described, is_on_device

JAX = ("jax", "jaxlib")


def as_numpy(where: str, value: Any) -> Any:
    """Return an array of another library as a NumPy array in the same memory, where that can be; all else as it is.

    Raises
    ------
    TypeError
        If the library refuses: for a sparse tensor, or inside a function that JAX traces.
    """
    if value is None or isinstance(value, (np.ndarray, np.generic)):
        return value
    library = library_of(value)
    # JAX has one type of arrays for all devices, and takes its time to say that one is on none.
    if library not in JAX and is_on_device(value):
        return value
    if library == "autograd":
        value = sys.modules["autograd.tracer"].getval(value)
    try:
        if library == "torch":
            return tensor_as_numpy(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except Exception as error:  # each library has its own
        line = str(error).partition("\n")[0]
        raise TypeError(
            f"{where} is {described(value)}, and can't be read as a NumPy array: {type(error).__name__}: {line:.200}"
            f"{remedy(value, library)}"
        ) from error
    return value


def tensor_as_numpy(tensor: Any) -> Any:
    """Return a tensor of torch as a NumPy array in the same memory."""
    tensor = tensor.detach() if hasattr(tensor, "detach") else tensor
    if str(getattr(tensor, "dtype", "")) != "torch.bfloat16":
        return np.asarray(tensor)
    import ml_dtypes

    return tensor.view(sys.modules["torch"].int16).numpy().view(ml_dtypes.bfloat16)


def dense_tensor(tensor: Any) -> str:
    """Return the expression of a tensor that NumPy can read, for one that it can't."""
    if str(tensor.layout) != "torch.strided":
        return "tensor.to_dense()"
    if tensor.is_conj():
        return "real numbers, such as torch.view_as_real(tensor.resolve_conj())"
    return "tensor.resolve_neg()" if tensor.is_neg() else "a NumPy array"


def remedy(value: Any, library: str) -> str:
    """Return what to do about an array that can't be read."""
    if library == "torch":
        return f" (give {dense_tensor(value)})"
    if library in JAX:
        return " (call step outside of the functions that JAX traces, with what they return)"
    return " (give a NumPy array)"
