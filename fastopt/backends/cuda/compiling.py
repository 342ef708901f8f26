"""How a kernel is defined and compiled."""

from __future__ import annotations

import hashlib
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from numba import cuda
from numba.cuda import types

from ...arithmetic.recording import RecordedRule
from .layout import SIMULATED, Work

#: The files that make kernels, in fastopt/. Numba's cache on disk only looks at the file of the kernel's own function.
KERNEL_FILES = (
    *(
        f"arithmetic/{name}.py"
        for name in ("dither", "halves", "operations", "pipeline", "quantize", "recording", "rules", "symbols")
    ),
    "arrays/dtypes.py",
    "arrays/memory.py",
    "backends/table.py",
    *(f"backends/cuda/{name}.py" for name in ("compiling", "device_code", "elements", "intrinsics", "kernels")),
    *(f"backends/cuda/{name}.py" for name in ("layout", "simulator", "tracing", "sum_kernels")),
)

I64, F64 = types.int64, types.float64


def real_type(dtype: str) -> Any:
    return getattr(types, dtype)


def tuple_type(dtype: str, kind: type) -> Any:
    """Return the type of a named tuple of numbers of one dtype."""
    return types.NamedUniTuple(real_type(dtype), len(kind._fields), kind)  # type: ignore[attr-defined]


def scalars_type(dtype: str, rule: Any, scalars: type) -> Any:
    """Return the type of a rule's scalars: a plain tuple if a class of these would be another one in each run."""
    if isinstance(rule, RecordedRule):
        return types.UniTuple(real_type(dtype), len(rule.scalars._fields))
    return tuple_type(dtype, scalars)


WORK = tuple_type("int64", Work)


class Definition(NamedTuple):
    """A kernel that is not compiled yet."""

    function: Callable[..., None]
    signature: Any
    bounds: tuple[int, int] | None


class Kernel(NamedTuple):
    """A kernel of one device as Numba knows it, and, if that is found, as the driver does."""

    dispatcher: Any
    handle: Any = None


@cache
def sources() -> bytes:
    """Return a digest of the files that make kernels."""
    package = Path(__file__).parents[2]
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in KERNEL_FILES)).digest()


@cache
def rule_source(rule: Any) -> str:
    """Return a digest of a recorded rule, or of the file of a rule, or of its code if there is no file."""
    if isinstance(rule, RecordedRule):
        return hashlib.sha256(rule.text.encode()).hexdigest()[:16]
    file, code = Path(inspect.getfile(rule)), rule.__code__
    own = file.read_bytes() if file.exists() else repr((code.co_code, code.co_consts, code.co_names)).encode()
    return hashlib.sha256(own).hexdigest()[:16]


def kernel(
    *arguments: Any, key: str = "", bounds: tuple[int, int] | None = None
) -> Callable[[Callable[..., None]], Definition]:
    """Return a decorator that makes a kernel of a function, given the types of its arguments.

    The kernel has a name of its own, by its key and all sources. Numba keeps kernels of one name in one index on disk,
    and can't read that any more once a class is renamed that one of them takes.
    """

    def define(function: Callable[..., None]) -> Definition:
        digest = hashlib.sha256(key.encode() + sources()).hexdigest()[:16]
        function.__qualname__ = f"{function.__name__}_{digest}"
        return Definition(function, types.void(*arguments), bounds)

    return define


def launch_bounds(compute_dtype: str, arrays: int = 0) -> tuple[int, int] | None:
    """Return the most threads of a block, and how many blocks must fit on a multiprocessor to keep its memory busy.

    It limits registers to 64, and none is spilled. With float64, or more than 5 numbers in memory for each element, any
    such limit was seen to spill or to raise their number.
    """
    return None if compute_dtype == "float64" or arrays > 5 else (256, 4)


@cache
def compiled(device: int, kernel: Definition | Callable[..., Definition], *arguments: Any) -> Kernel:
    """Return a kernel, given its definition or the function that defines it.

    It is compiled for the device, which is the current one, or taken from the cache on disk.
    """
    function, signature, bounds = kernel if isinstance(kernel, Definition) else kernel(*arguments)
    if SIMULATED:
        return Kernel(cuda.jit(function))
    with compile_notice():
        dispatcher = cuda.jit([signature], cache=True, launch_bounds=bounds)(function)
    return Kernel(dispatcher, driver_handle(dispatcher))


def ptx(definition: Definition, capability: tuple[int, int]) -> str:
    """Return a kernel's assembly for a compute capability; needs no device."""
    function, signature, bounds = definition
    return str(cuda.compile_ptx(function, signature.args, cc=capability, launch_bounds=bounds)[0])


def driver_handle(dispatcher: Any) -> Any:
    """Return the driver's own kernel; None if this version of Numba keeps it elsewhere."""
    try:
        return next(iter(dispatcher.overloads.values()))._codelibrary.get_cufunc().kernel
    except AttributeError:
        return None


class CompileTime:
    """The seconds that this process has spent compiling, and whether it has said so."""

    spent = 0.0
    is_reported = False


@contextmanager
def compile_notice() -> Iterator[None]:
    """Say on stderr that kernels are being compiled, once that has taken a second in all."""
    timer = threading.Timer(max(0.0, 1.0 - CompileTime.spent), report_compiling)
    timer.daemon = True
    start = time.perf_counter()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        CompileTime.spent += time.perf_counter() - start


def report_compiling() -> None:
    if not CompileTime.is_reported:
        line = "fastopt: compiling CUDA kernels; they are kept on disk, and the next start is fast"
        print(line, file=sys.stderr, flush=True)
    CompileTime.is_reported = True
