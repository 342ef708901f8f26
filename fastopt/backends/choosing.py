"""Which backend runs, and why. The one place that reads ``FASTOPT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.dtypes import Array
from ..arrays.memory import are_writeable_as, is_on_device
from . import host_arrays, threads

if TYPE_CHECKING:
    from .numpy.axis_sums import Adder

from .table import HyperRow, Table

NAMES = ("native", "numpy", "cuda")


def choice(backend: str | None) -> str:
    """Return the name of the backend to use: as asked for here, else by ``FASTOPT_BACKEND``, else native where it is.

    Raises
    ------
    ValueError
        If the name is none of the choices.
    RuntimeError
        If it can't be had here; says why.
    """
    source, name = asked(backend)
    if name is None:
        return default()
    if name not in NAMES:
        raise ValueError(f"{source}{name}: expected one of {', '.join(NAMES)}")
    reason = {"native": native_missing, "numpy": lambda: None, "cuda": cuda_missing}[name]()
    if reason is not None:
        raise RuntimeError(f"{source}{name}: {reason}; leave it unset to use what is there")
    return name


def asked(backend: str | None) -> tuple[str, str | None]:
    """Return where a backend was asked for, and which; None if nowhere."""
    if backend is not None:
        return "backend=", backend
    return "FASTOPT_BACKEND=", os.environ.get("FASTOPT_BACKEND") or None


def default() -> str:
    """Return the backend of NumPy arrays where none is asked for."""
    return "native" if native_missing() is None else "numpy"


def choice_for(backend: str | None, names: Sequence[str], arrays: Sequence[Any]) -> str:
    """Return the name of the backend for these parameters: ``cuda`` if and only if they are on a GPU.

    Raises
    ------
    ValueError
        If another one is asked for.
    RuntimeError
        If it can't be had here; says why.
    """
    chosen, (source, name) = choice(backend), asked(backend)
    device_name = next((n for n, a in zip(names, arrays, strict=True) if is_on_device(a)), None)
    if device_name is None:
        if chosen == "cuda" and names:
            raise ValueError(
                f"{source}cuda: params: {names[0]!r} is not on a GPU; give arrays that have __cuda_array_interface__ "
                "(CuPy, torch, Numba), or leave the backend unset"
            )
        return chosen
    if name not in (None, "cuda"):
        raise ValueError(
            f"{source}{name}: params: {device_name!r} is on the GPU; leave the backend unset, or give NumPy arrays"
        )
    reason = cuda_missing()
    if reason is not None:
        raise RuntimeError(f"params: {device_name!r} is on the GPU: {reason}")
    return "cuda"


def arrays_of(name: str) -> ModuleType:
    """Return the module that knows the arrays of a backend: what may be a parameter or gradient, how slots are made."""
    if name == "cuda":
        from .cuda import arrays as device_arrays

        return device_arrays
    return host_arrays


def set_stream(name: str, table: Any, stream: Any) -> None:
    """Say in which stream the next step is to run; None: as the gradients say."""
    if name != "cuda":
        raise ValueError(f"stream={stream!r}: only steps on a GPU have a stream; leave it unset for NumPy arrays")
    from .cuda import table as cuda

    table.stream = None if stream is None else cuda.stream_handle(stream)


def read_on_device(
    table: Any,
    hyper_rows: Sequence[HyperRow],
    max_norms: Sequence[float | None],
    group_of: Any,
    global_limit: float | None,
    count_nonfinite: bool,
) -> float | None:
    """Set the clip factors, and whether it is done, of a CudaTable's next step; return the norm if it is limited."""
    limits = None
    if any(max_norm is not None for max_norm in max_norms):
        limits = np.array([np.inf if max_norm is None else max_norm for max_norm in max_norms])[group_of]
    return table.read_grads(hyper_rows, limits, global_limit, count_nonfinite)  # type: ignore[no-any-return]


def native_missing() -> str | None:
    """Return why the native backend can't be had, None where it can."""
    from .native import library as native

    return native.missing


def cuda_missing() -> str | None:
    """Return why the CUDA backend can't be had, None where it can."""
    from .cuda import found as cuda_found

    return cuda_found.missing()


def table_class(name: str) -> type[Table]:
    """Return the class of the tables of a backend."""
    if name == "cuda":
        from .cuda import table as cuda

        return cuda.CudaTable  # type: ignore[return-value]
    if name == "native":
        from .native.table import NativeTable

        return NativeTable
    from .numpy.table import NumpyTable

    return NumpyTable


def adder(name: str) -> Adder:
    """Return what adds squares over an axis of NumPy arrays."""
    if name == "native":
        from .native import table

        return table.add_runs
    from .numpy import axis_sums

    return axis_sums.add_runs


def most_threads(name: str) -> int:
    """Return how many threads a backend can use at all; of a GPU's: those of arrays on the host."""
    from .native import library as native
    from .numpy import table as numpy

    if name != "numpy" and native.missing is None:
        return threads.MOST if native.has_threads() else 1
    return numpy.MOST_THREADS


def writeable_check(name: str, arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> Callable[[], bool]:
    """Return a function that tells whether all of these arrays have these dtypes and can be written."""
    if name == "native":
        from .native import ndarrays

        return ndarrays.writeable_check(arrays, dtypes)
    return lambda: are_writeable_as(arrays, dtypes)
