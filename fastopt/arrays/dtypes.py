"""The dtypes of parameters and gradients."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

#: The dtypes of gradients that the kernels read directly, besides bfloat16; other float dtypes are converted first.
NATIVE_GRADS = (FLOAT32, FLOAT64, np.dtype(np.float16))


@lru_cache
def name_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype. NumPy composes it anew each time, for longer than a small array's digest takes."""
    return str(dtype.name)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is a float dtype; those of ml_dtypes, which NumPy calls void, are included."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_half(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float16 or is_bfloat16(dtype)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "V" and dtype.name == "bfloat16"


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the compute dtype of a parameter of this dtype."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32
