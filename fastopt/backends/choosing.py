"""Which backend runs, and why. The one place that reads ``FASTOPT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..arrays.memory import is_on_device
from .backend import Backend
from .numpy.host import HostBackend

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


def backend_for(backend: str | None, names: Sequence[str], arrays: Sequence[Any]) -> Backend:
    """Return the backend for these parameters: CUDA's if and only if they are on a GPU.

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
        return named(chosen)
    if name not in (None, "cuda"):
        raise ValueError(
            f"{source}{name}: params: {device_name!r} is on the GPU; leave the backend unset, or give NumPy arrays"
        )
    reason = cuda_missing()
    if reason is not None:
        raise RuntimeError(f"params: {device_name!r} is on the GPU: {reason}")
    return named("cuda")


def native_missing() -> str | None:
    """Return why the native backend can't be had, None where it can."""
    from .native import library

    return library.missing


def cuda_missing() -> str | None:
    """Return why the CUDA backend can't be had, None where it can."""
    from .cuda import found

    return found.missing()


def named(name: str) -> Backend:
    """Return the backend of this name."""
    if name == "cuda":
        from .cuda import backend

        return backend.BACKEND
    return host_backend(name)


def host_backend(name: str | None = None) -> HostBackend:
    """Return the backend of this name for NumPy arrays; of the name "cuda" and without one the default."""
    if name in (None, "cuda"):
        name = default()
    if name == "native":
        from .native import backend as native

        return native.BACKEND
    from .numpy import backend as numpy

    return numpy.BACKEND
