"""The compiled library: cffi, its structs and its instruction sets. The one place that reads ``FASTOPT_ISA``."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...arithmetic import rules
from .. import threads
from ..table import Source

#: Why there is no native backend; None if there is one.
missing: str | None = None

if getattr(sys, "_is_gil_enabled", lambda: True)():
    try:
        from ..._native import ffi as ffi
        from ..._native import lib as lib
    except ImportError as error:
        reason = Path(__file__).parents[2] / "native_missing.txt"
        missing = reason.read_text().strip() if reason.exists() else f"fastopt._native can't be imported ({error})"
else:
    missing = "refused without the global lock (GIL) of Python, where it was never tested; PYTHON_GIL=1 sets the lock"


def isas_found() -> list[str]:
    """Return the instruction sets that both this build and this machine have, oldest first."""
    return [name for number, name in isa_names() if lib.fo_isa_found(number)]


def isa_names() -> list[tuple[int, str]]:
    return [(number, ffi.string(lib.fo_isa_name(number)).decode()) for number in range(lib.FO_ISA_COUNT)]


def isa() -> str:
    """Return the instruction set in use."""
    return str(dict(isa_names())[lib.fo_isa_in_use()])


def use_isa(name: str | None) -> None:
    """Use this instruction set from now on; None: the newest.

    Raises
    ------
    ValueError
        If this build or this machine does not have it.
    """
    found = isas_found()
    if name is None:
        name = found[-1]
    if name not in found:
        raise ValueError(f"FASTOPT_ISA={name}: expected one of {', '.join(found)} (what this build and machine have)")
    lib.fo_isa_use({known: number for number, known in isa_names()}[name])


def inexact() -> str | None:
    """Return why the kernels must not be used; None if they have the bits that the rules promise."""
    faulty = [name for number, name in isa_names() if lib.fo_isa_found(number) and not lib.fo_isa_keeps_bits(number)]
    if not faulty:
        return None
    return (
        f"the kernels of {', '.join(faulty)} have other bits than the rules: they were built with flags that contract "
        "or reorder floating point, or that compute in a wider type; install fastopt again without such flags in CFLAGS"
        " and FASTOPT_CFLAGS"
    )


def has_threads() -> bool:
    """Return whether this build can use more than the calling thread."""
    return bool(lib.fo_has_threads())


if missing is None:
    missing = inexact()

if missing is None:
    DTYPES: dict[Any, int] = {np.dtype(name): number for number, name in enumerate(["float32", "float64", "float16"])}
    SINGLE, DOUBLE = lib.FO_FLOAT32, lib.FO_FLOAT64
    NULL = ffi.NULL
    RULES = {
        getattr(rules, ffi.string(lib.fo_rule_name(number)).decode()): number for number in range(lib.fo_rule_count())
    }
    SOURCES: dict[Source, int] = {
        **{"param": lib.FO_PARAM, "clipped_grad": lib.FO_CLIPPED_GRAD, "grad": lib.FO_GRAD},
        **{k: k for k in range(lib.FO_MAX_SLOTS)},
        **{("distance", k): lib.FO_DISTANCE + k for k in range(lib.FO_MAX_SLOTS)},
        **{("signs", k): lib.FO_SIGNS + k for k in range(lib.FO_MAX_SLOTS)},
    }
    use_isa(os.environ.get("FASTOPT_ISA") or None)
    threads.from_environment()  # so that a wrong FASTOPT_NUM_THREADS raises here, and not in the first step


def number_of(dtype: np.dtype[Any]) -> int:
    return int(DTYPES.get(dtype, lib.FO_BFLOAT16))


def pack_format(name: str) -> str:
    """Return the layout of a C struct of numbers in the notation of Python's struct module."""
    codes = {"int32_t": "i", "uint64_t": "Q", "double": "d", "fo_own_rule *": "P"}
    items = [described.type for _, described in ffi.typeof(name).fields]
    formats = [f"{it.length}{codes[it.item.cname]}" if it.kind == "array" else codes[it.cname] for it in items]
    return "".join(formats) + "0d"  # padded as in an array of such structs


def struct_dtype(name: str) -> np.dtype[Any]:
    """Return the layout of a C struct of csrc/fastopt.h as a NumPy dtype."""
    kinds = {"int32_t": "i4", "int64_t": "i8", "double": "f8", "void *": "u8", "uintptr_t": "u8"}
    names, formats, offsets = [], [], []
    for field, described in ffi.typeof(name).fields:
        item = described.type
        shape: tuple[int, ...] = ()
        if item.kind == "array":
            item, shape = item.item, (item.length,)
        names.append(field)
        formats.append((kinds[item.cname], shape))
        offsets.append(described.offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": ffi.sizeof(name)})


if missing is None:
    ARRAY, READING = struct_dtype("fo_array"), struct_dtype("fo_reading")
    ROW = struct.Struct(pack_format("fo_hyper"))
    NO_SCALARS = (0.0,) * lib.FO_MAX_SCALARS
