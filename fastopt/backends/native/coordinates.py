"""Sparse coding in C: csrc/coordinates.c."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...arrays.dtypes import Array
from ...arrays.memory import aligned
from .. import threads
from ..coordinates import Coding
from .library import ffi, lib, number_of


def multiply_rows(rows: Array, dictionary: npt.NDArray[np.float64]) -> Array:
    """Return the products of rows with a dictionary, as the function of this name in numpy/coordinates.py does."""
    products = np.empty((len(rows), dictionary.shape[1]), rows.dtype)
    struct = struct_of(rows, dictionary)
    count, scratch = scratch_of(struct)
    lib.fo_multiply_rows(struct, count, ffi.from_buffer(products, require_writable=True), scratch)
    return products


def code_rows(coding: Coding, codes: Array) -> npt.NDArray[np.float64]:
    """Solve all rows, as the function of this name in numpy/coordinates.py does."""
    gaps = np.empty(len(coding.rows))
    struct = struct_of(coding.rows, coding.dictionary)
    struct.gram, struct.inverse = ffi.from_buffer(coding.gram), ffi.from_buffer(coding.inverse)
    struct.codes = ffi.from_buffer(codes, require_writable=True)
    struct.gaps = ffi.from_buffer("double[]", gaps, require_writable=True)
    struct.atoms = len(coding.gram)
    struct.l1, struct.l2, struct.tolerance = coding.l1, coding.l2, coding.tolerance
    struct.jump_above = coding.jump_above
    struct.max_iterations, struct.positive = coding.max_iterations, coding.positive
    count, scratch = scratch_of(struct)
    lib.fo_code_rows(struct, count, scratch)
    return gaps


def struct_of(rows: Array, dictionary: npt.NDArray[np.float64]) -> Any:
    """Return a problem in which only the rows and the dictionary are set. It does not keep them alive."""
    struct = ffi.new("fo_coding *")
    struct.rows, struct.dictionary = ffi.from_buffer(rows), ffi.from_buffer("double[]", dictionary)
    struct.count, struct.features = rows.shape
    struct.stride = dictionary.shape[1]
    struct.dtype = number_of(rows.dtype)
    return struct


def scratch_of(struct: Any) -> tuple[int, Any]:
    """Return the number of threads, and scratch memory for them."""
    count = threads.get_num_threads()
    memory = aligned(count * lib.fo_coding_scratch(struct))
    memory[:] = 0
    return count, ffi.from_buffer(memory, require_writable=True)
