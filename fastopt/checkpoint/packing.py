"""Nested Python values with arrays, as JSON and a flat dict of arrays, without pickle."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.dtypes import Array, name_of
from ..arrays.memory import described
from ..arrays.structure import MAX_DEPTH, too_deep
from .bounds import MAX_BITS, MAX_KEY, MAX_SEEDS, check_spread

#: The allowed dtypes of arrays, and safetensors' names for them.
DTYPES: Mapping[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}

#: NumPy's generators that can be saved.
GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


class Packer:
    """Turns values into JSON, and collects copies of their arrays by readable keys: their paths.

    Attributes
    ----------
    arrays : dict
        C-contiguous copies by their keys: what is written to the file has the digest, whatever becomes of the arrays.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}

    def pack(self, value: Any, path: tuple[str, ...]) -> Any:
        """Return a value in a form that JSON can hold.

        Raises
        ------
        TypeError, ValueError
            If a checkpoint can't hold a part of it; the message says which.
        """
        if len(path) > MAX_DEPTH:
            raise too_deep(place(path))
        if isinstance(value, int):
            check_bits(value, path)
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float) and not isinstance(value, np.generic):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            return {"array": self.add_array(value, path), "order": "F" if is_fortran else "C"}
        if isinstance(value, np.generic):
            return {"scalar": self.add_array(np.asarray(value), path)}
        if isinstance(value, tuple):
            return {"tuple": [self.pack(item, (*path, str(k))) for k, item in enumerate(value)]}
        if isinstance(value, list):
            return [self.pack(item, (*path, str(k))) for k, item in enumerate(value)]
        if isinstance(value, Mapping):
            check_hashes(value, path)
            return {
                "dict": [[self.pack_key(key, path), self.pack(item, (*path, str(key)))] for key, item in value.items()]
            }
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            if state["bit_generator"] in GENERATORS:
                return {"generator": self.pack({**state, "seeds": seeds_of(value)}, path)}
        raise TypeError(
            f"{place(path)} is {described(value)}; a checkpoint holds None, bool, int, float, str, list, tuple, "
            f"dict, NumPy arrays and NumPy's generators{instead_of(value)}"
        )

    def pack_key(self, key: Any, path: tuple[str, ...]) -> Any:
        """Return the key of a dict, after a check of its type."""
        if not isinstance(key, (str, int)):
            raise TypeError(f"{place(path)} has the key {key!r:.80}; the keys of a dict in a checkpoint are str or int")
        if isinstance(key, int):
            check_bits(key, path)
        return key

    def copied(self, array: Any) -> Any:
        """Return what is kept of an array."""
        # Not ascontiguousarray, which would add a dimension to an array of none.
        return np.array(array, order="C")

    def add_array(self, array: Any, path: tuple[str, ...]) -> str:
        """Collect an array, and return its key."""
        if name_of(array.dtype) not in DTYPES or not array.dtype.isnative:
            raise TypeError(f"{place(path)} has dtype {array.dtype}; a checkpoint's arrays are of {', '.join(DTYPES)}")
        # Characters that could make the key a file's path are escaped.
        escaped = re.sub(r"[%/\\\x00-\x1f\x7f\ud800-\udfff]", lambda found: f"%{ord(found[0]):02X}", ".".join(path))
        base = key = escaped[:MAX_KEY]
        number = 1
        while key in self.arrays:
            number += 1
            key = f"{base}~{number}"
        self.arrays[key] = self.copied(array)
        return key


def instead_of(value: Any) -> str:
    """Return what to save instead of a value, as the end of a sentence."""
    if isinstance(value, (set, frozenset)):
        return " (give a list of it)"
    if isinstance(value, os.PathLike):
        return " (give str of it)"
    if isinstance(value, np.random.BitGenerator):
        return " (give np.random.Generator of it)"
    # The old generators of NumPy, those of Python, a driver or EarlyStopping.
    for method in ("state_dict", "get_state", "getstate"):
        if callable(getattr(value, method, None)):
            return f" (give its {method}(), and load that into a new one)"
    if hasattr(value, "__array__"):
        return " (give np.asarray of it)"
    return ""


def seeds_of(generator: np.random.Generator) -> dict[str, Any] | None:
    """Return the state of the seeds from which a generator spawns others; None if it has none of NumPy's kind."""
    seeds = generator.bit_generator.seed_seq
    if type(seeds) is not np.random.SeedSequence:
        return None
    entropy = seeds.entropy.tolist() if isinstance(seeds.entropy, np.ndarray) else seeds.entropy
    return {**seeds.state, "entropy": entropy} if are_seeds(entropy) else None


def are_seeds(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on, or a list or tuple of some."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return len(numbers) <= MAX_SEEDS and all(isinstance(each, (int, np.integer)) and each >= 0 for each in numbers)


def place(path: tuple[str, ...]) -> str:
    """Return where a value is, for people."""
    return ".".join(path[:8]) + ("..." if len(path) > 8 else "")


def check_bits(value: int, path: tuple[str, ...]) -> None:
    """Raise if a whole number is too long for JSON."""
    if value.bit_length() > MAX_BITS:
        raise ValueError(f"{place(path)} has a number of {value.bit_length()} bits; expected at most {MAX_BITS}")


def check_hashes(value: Mapping[Any, Any], path: tuple[str, ...]) -> None:
    """Raise if :func:`check_spread` would refuse the keys of a dict when they are loaded."""
    try:
        check_spread([key for key in value if isinstance(key, int)])
    except ValueError as error:
        raise ValueError(f"{place(path)}: {error}; use strings as keys") from error


def is_extension(name: str) -> bool:
    """Return whether ml_dtypes defines the dtype of this name; NumPy's own formats lose such a dtype."""
    return name.startswith(("bfloat", "float8"))


def check_key(key: str) -> None:
    """Raise unless :class:`Packer` could have made this key.

    Raises
    ------
    ValueError
        If it is empty, or looks like a path.
    """
    if not key or key.startswith((".", "~")) or re.search(r"[/\\\x00-\x1f\x7f]", key):
        raise ValueError(f"an array is called {key!r:.80}, which looks like a path")
