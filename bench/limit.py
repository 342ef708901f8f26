"""The limit as a contender: bench/limit.c, compiled when it is first used."""

import functools
import importlib.util
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.case import Case, Stepper
from bench.shapes import Shape

CHUNK = 4096  # elements: small enough for an even split, large enough for the table to cost nothing
SERIAL_BELOW = 32 * 1024  # elements: about where two threads catch up with one here
PIECE = 4096 * 8  # bytes of a piece in limit.c


@functools.cache
def compiled() -> ModuleType:
    """The C loop; compiled anew by each process (a second or two), so that it is never stale."""
    import cffi

    builder = cffi.FFI()
    builder.cdef("""
        typedef struct { float *grad, *array[5]; ptrdiff_t length; } Chunk;
        float limit(const Chunk *, ptrdiff_t count, int written, int norm, int write_grads, int threads, int parallel);
        double read_pieces(const double *, ptrdiff_t count, int threads, int parallel);
        void update_pieces(double *, ptrdiff_t count, int threads, int parallel);
    """)
    # For this machine: fastopt and the peers choose their instructions at run time, and the limit must not fall behind.
    flags = ["-O3", "-march=native", "-fopenmp"]
    source = Path(__file__).with_name("limit.c").read_text()
    builder.set_source("_limit", source, extra_compile_args=flags, extra_link_args=flags[-1:])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=os.name == "nt") as folder:
        spec = importlib.util.spec_from_file_location("_limit", builder.compile(tmpdir=folder))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def aligned(shape: Shape) -> np.ndarray:
    """Zeros that begin at a cache line: slots are a contender's own, to place as it likes (up to a third faster)."""
    size = math.prod(shape)
    room = np.full(size + 16, 0, np.float32)  # unlike zeros, this touches every page
    start = -(room.ctypes.data // 4) % 16
    return room[start : start + size].reshape(shape)


def limit(case: Case) -> Stepper:
    """Read and write what the step has to, in one parallel region over all arrays' chunks."""
    ffi, lib = compiled().ffi, compiled().lib
    work = case.work
    slots = [[aligned(shape) for shape in case.set.shapes] for _ in range(work.written - 1)]
    arrays = [case.arrays(), *slots] if work.written else []

    def table(grads: list) -> object:
        rows = []
        for each in zip(grads, *arrays, strict=True):
            pointers = [ffi.cast("float *", ffi.from_buffer(array)) for array in each]
            for start in range(0, each[0].size, CHUNK):
                grad, *rest = [pointer + start for pointer in pointers]
                rows.append((grad, rest, min(CHUNK, each[0].size - start)))
        return ffi.new("Chunk[]", rows), grads, arrays  # the table, and what it points to

    parallel = case.elements >= SERIAL_BELOW

    def step(pointers: tuple) -> None:
        chunks = pointers[0]
        lib.limit(chunks, len(chunks), work.written, work.norm, work.write_grads, case.threads, parallel)

    return Stepper(step, [table(grads) for grads in case.gradient_sets()])


def pieces(size: float) -> tuple[Any, Any, int]:
    """So many bytes or a little more, at a cache line, in a way that C takes; and how many pieces they are."""
    count = math.ceil(size / PIECE)
    room = np.zeros(count * PIECE // 8 + 8)
    room[:] = 0  # unlike zeros, this touches every page
    start = -(room.ctypes.data // 8) % 8
    return room, compiled().ffi.cast("double *", room.ctypes.data + 8 * start), count


def read_limit(case: Case) -> Stepper:
    """Read what an iteration of L-BFGS reads and writes: all words of the pairs twice, in two parallel regions."""
    work, lib = case.work, compiled().lib
    room, words, count = pieces(work.memory(case.elements))
    first = math.ceil((work.bytes_moved(case.elements) - work.memory(case.elements)) / PIECE)
    parallel = room.size >= SERIAL_BELOW

    def step(_: Any) -> None:
        lib.read_pieces(words, first, case.threads, parallel)
        lib.read_pieces(words, count, case.threads, parallel)

    return Keeper(step, room)


def update_limit(case: Case) -> Stepper:
    """Read and write half of a matrix."""
    room, words, count = pieces(case.work.bytes_moved(case.elements) / 2)
    parallel = room.size >= SERIAL_BELOW
    return Keeper(lambda _: compiled().lib.update_pieces(words, count, case.threads, parallel), room)


class Keeper(Stepper):
    """A stepper that keeps the memory which its step points to."""

    def __init__(self, step: Callable, memory: Any) -> None:
        super().__init__(step, [None])
        self.memory = memory
