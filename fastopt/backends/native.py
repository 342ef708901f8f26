"""The native backend: C kernels over a table of pointers. The one place that reads ``FASTOPT_ISA``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import threads
from ..arrays import FLOAT32, Array
from . import Hyper, Source

#: Why there is no native backend; None where there is one.
missing: str | None = None


try:
    from .._native import ffi, lib
except ImportError as error:
    told = Path(__file__).parents[1] / "native_missing.txt"
    missing = told.read_text().strip() if told.exists() else f"fastopt._native can't be imported ({error})"


def isas_found() -> list[str]:
    """Return the instruction sets that both this build and this machine have, from the oldest to the newest."""
    return [name for number, name in isa_names() if lib.fo_isa_found(number)]


def isa_names() -> list[tuple[int, str]]:
    return [(number, ffi.string(lib.fo_isa_name(number)).decode()) for number in range(lib.FO_ISA_COUNT)]


def isa() -> str:
    """Return the instruction set in use."""
    return str(dict(isa_names())[lib.fo_isa_in_use()])


def use_isa(name: str | None) -> None:
    """Use this instruction set from now on; None: the newest there is.

    Raises
    ------
    ValueError
        If there is no such instruction set, or not on this machine.
    """
    found = isas_found()
    if name is None:
        name = found[-1]
    if name not in found:
        raise ValueError(f"FASTOPT_ISA={name}: expected one of {', '.join(found)} (what this build and machine have)")
    lib.fo_isa_use({known: number for number, known in isa_names()}[name])


def has_threads() -> bool:
    """Tell whether this build can use more than the calling thread."""
    return bool(lib.fo_has_threads())


if missing is None:
    DTYPES: dict[Any, int] = {np.dtype(name): number for number, name in enumerate(["float32", "float64", "float16"])}
    NULL, from_buffer = ffi.NULL, ffi.from_buffer
    RULES = {ffi.string(lib.fo_rule_name(number)).decode(): number for number in range(lib.fo_rule_count())}
    SOURCES: dict[Source, int] = {
        "param": lib.FO_PARAM,
        "clipped_grad": lib.FO_CLIPPED_GRAD,
        "grad": lib.FO_GRAD,
    }
    use_isa(os.environ.get("FASTOPT_ISA") or None)
    threads.wanted()  # a wrong FASTOPT_NUM_THREADS is told here, not in the first step


class NativeTable:
    """The arrays of an optimizer as C structs. It keeps the memory alive that they point to."""

    def __init__(self, params: Sequence[Array], slots: Sequence[Sequence[Array]]) -> None:
        count = len(params)
        self.count = count
        self.arrays = ffi.new("fo_array[]", count)
        self.grads = ffi.new("void *[]", count)
        self.grad_owners: list[Any] = []
        self.owners = []
        columns = np.frombuffer(ffi.buffer(self.arrays), dtype=struct_dtype("fo_array"))
        self.rows = columns["hyper"]
        self.array_clip = columns["array_clip"]
        self.grad_dtypes: list[np.dtype[Any]] = []
        self.array_clip[:] = 1
        self.sizes = np.array([param.size for param in params], np.int64)
        self.present: list[bool] = []
        columns["dtype"] = [DTYPES[param.dtype] for param in params]
        for i, (param, array_slots) in enumerate(zip(params, slots, strict=True)):
            owners = [ffi.from_buffer(array) for array in (param, *array_slots)]
            self.arrays[i].param = owners[0]
            self.arrays[i].slots[0 : len(array_slots)] = owners[1:]
            self.owners.append(owners)
        self.columns = columns
        self.hypers = ffi.new("fo_hyper[]", 1)

    def number_chunks(self, lengths: npt.NDArray[np.int64]) -> None:
        chunks = -(-lengths // lib.FO_CHUNK)
        self.columns["first_chunk"] = np.cumsum(chunks) - chunks
        self.chunks = int(chunks.sum())

    def set_grads(self, grads: Sequence[Array | None]) -> bool:
        try:
            owners = [NULL if grad is None else from_buffer(grad) for grad in grads]
        except ValueError:  # not contiguous
            return False
        self.grads[0 : self.count] = self.grad_owners = owners
        present = [grad is not None for grad in grads]
        if present != self.present:
            # An array without a gradient has no chunks, so that no thread goes through them.
            self.columns["length"] = self.sizes * np.array(present)
            self.number_chunks(self.columns["length"])
            self.present = present
        dtypes = [FLOAT32 if grad is None else grad.dtype for grad in grads]
        if dtypes != self.grad_dtypes:
            self.columns["grad_dtype"] = [DTYPES.get(dtype, lib.FO_BFLOAT16) for dtype in dtypes]
            self.grad_dtypes = dtypes
        return True

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.frombuffer(ffi.buffer(self.grads), dtype=np.uintp)

    def is_current(self) -> bool:
        return True

    def step(self, hypers: Sequence[Hyper]) -> None:
        self.set_hypers(hypers)
        lib.fo_step(self.arrays, self.grads, self.count, self.hypers, threads.wanted())

    def sum_products(self, hypers: Sequence[Hyper], left: Source, right: Source) -> npt.NDArray[np.float64]:
        self.set_hypers(hypers)
        sums, partials = np.empty(self.count), np.empty(self.chunks)
        into = ffi.from_buffer("double[]", partials), ffi.from_buffer("double[]", sums)
        sources = SOURCES.get(left, left), SOURCES.get(right, right)
        lib.fo_sum_products(self.arrays, self.grads, self.count, self.hypers, *sources, *into, threads.wanted())
        return sums

    def set_hypers(self, hypers: Sequence[Hyper]) -> None:
        if len(hypers) > len(self.hypers):
            self.hypers = ffi.new("fo_hyper[]", len(hypers))
        for row, hyper in zip(self.hypers, hypers, strict=False):
            rule, row.grad_scale, row.clip_value, row.global_clip, row.l2, row.decay, scalars = hyper
            row.rule = RULES[rule.__name__]
            row.scalars[0 : len(scalars)] = scalars


def struct_dtype(name: str) -> np.dtype[Any]:
    """Return the layout of a C struct of the contract as NumPy's dtype."""
    kinds = {"int32_t": "i4", "int64_t": "i8", "double": "f8", "void *": "u8"}
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
