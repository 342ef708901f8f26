"""Which backend runs, and why. The one place that reads ``FASTOPT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..arithmetic.rules import Rule
from ..arrays.memory import is_on_device
from .backend import Backend
from .numpy.host import HostBackend

NAMES = ("native", "numpy", "cuda")


def choice(backend: str | None) -> str:
    """Return the name of the backend to use: this one, else that of ``FASTOPT_BACKEND``, else the default.

    Raises
    ------
    ValueError
        If the name is not one of the choices.
    RuntimeError
        If it is not available here; the message says why.
    """
    source, name = request(backend)
    if name is None:
        return default()
    if name not in NAMES:
        raise ValueError(f"{source}{name}: expected one of {', '.join(NAMES)}")
    reason = native_missing() if name == "native" else cuda_missing() if name == "cuda" else None
    if reason is not None:
        raise RuntimeError(f"{source}{name}: {reason}; leave it unset to use what is there")
    return name


def request(backend: str | None) -> tuple[str, str | None]:
    """Return the place that names a backend, as errors print it, and the name; None if no place does."""
    if backend is not None:
        return "backend=", backend
    return "FASTOPT_BACKEND=", os.environ.get("FASTOPT_BACKEND") or None


def default() -> str:
    """Return the name of the default backend for NumPy arrays."""
    return "native" if native_missing() is None else "numpy"


def backend_for(backend: str | None, names: Sequence[str], arrays: Sequence[Any]) -> Backend:
    """Return the backend for these parameters: CUDA if and only if they are on a GPU.

    Raises
    ------
    ValueError
        If another backend is requested.
    RuntimeError
        If it is not available here; the message says why.
    """
    chosen, (source, name) = choice(backend), request(backend)
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


def backend_of_rules(asked: str | None, chosen: Backend, rules: Sequence[Rule]) -> Backend:
    """Return the backend that was chosen, or the NumPy one if that can't run one of these rules.

    Raises
    ------
    RuntimeError
        If it can't, and was asked for; the message says why.
    """
    reason, (source, name) = chosen.cannot_run(rules), request(asked)
    if reason is None:
        return chosen
    if name is not None:
        raise RuntimeError(f"{source}{name}: {reason}; leave it unset to use what is there")
    return host_backend("numpy")


@cache
def native_missing() -> str | None:
    """Return why the native backend can't be had, None where it can."""
    from .native import library  # here: it raises if a variable is wrong, and import fastopt must not

    return library.missing


def cuda_missing() -> str | None:
    """Return why the CUDA backend is not available; None if it is."""
    from .cuda import found

    return found.missing()


def named(name: str) -> Backend:
    """Return the backend of this name."""
    if name == "cuda":
        from .cuda import backend

        return backend.BACKEND
    return host_backend(name)


@cache
def host_backend(name: str | None = None) -> HostBackend:
    """Return the backend of this name for NumPy arrays; for None or "cuda", the default."""
    if name in (None, "cuda"):
        name = default()
    if name == "native":
        from .native import backend as native

        return native.BACKEND
    from .numpy import backend as numpy

    return numpy.BACKEND
