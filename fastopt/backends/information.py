"""The backend in use, and why: for programs (:func:`info`) and for people (``python -m fastopt``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import choosing, threads


def info() -> dict[str, Any]:
    """Return which backend runs on this machine, and why.

    Returns
    -------
    dict
        ``backend`` (of new optimizers), ``native_missing`` (why there is no native backend, or None), ``isas_found``,
        ``isa`` (in use), ``threads`` (the most that a step uses), ``cuda`` (a dict: ``missing``, why it can't be used,
        or None; ``driver`` and ``package``, their versions; ``devices``, their names), ``rules_missing`` (why rules of
        your own are not compiled, but run on NumPy, or None), and ``versions``.

    Raises
    ------
    ValueError, RuntimeError
        If ``FASTOPT_BACKEND`` names no backend, or one that can't run here.

    Examples
    --------
    >>> import fastopt
    >>> sorted(fastopt.info())
    ['backend', 'cuda', 'isa', 'isas_found', 'native_missing', 'rules_missing', 'threads', 'versions']
    """
    import platform  # slow to import, and rarely needed

    from ..about import __version__
    from .cuda import found as cuda_found
    from .native import library as native

    backend, has_native = choosing.choice(None), native.missing is None
    return {
        "backend": backend,
        "native_missing": native.missing,
        "isas_found": native.isas_found() if has_native else [],
        "isa": native.isa() if has_native else None,
        "threads": min(threads.get_num_threads(), choosing.host_backend(backend).most_threads()),
        "rules_missing": native.missing or compiler_missing(),
        "cuda": {"missing": cuda_found.missing(), **cuda_found.found()._asdict()},
        "versions": {"fastopt": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }


def compiler_missing() -> str | None:
    """Return why the native backend can't compile rules; None if it can."""
    from .native import compiling

    return compiling.missing()


def isa_of(backend: str) -> str | None:
    """Return the instruction set of this backend's steps; None where they leave it to NumPy."""
    from .native import library as native

    return native.isa() if backend == "native" else None


def info_text() -> str:
    """Return :func:`info` as lines for people."""
    found = info()
    if found["native_missing"] is not None:
        why = f"the native part is missing: {found['native_missing']}"
    elif found["backend"] == "native":
        why = "compiled kernels"
    else:
        why = "asked for by FASTOPT_BACKEND"
    rows = [
        ("backend", f"{found['backend']} ({why})"),
        ("instruction sets", f"found {', '.join(found['isas_found']) or 'none'}; in use {found['isa'] or 'none'}"),
        ("threads", str(found["threads"])),
        ("own rules", rules_text(found)),
        ("CUDA", cuda_text(found["cuda"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    return "\n".join(f"{name:<17} {value}" for name, value in rows)


def rules_text(found: dict[str, Any]) -> str:
    if found["backend"] == "numpy":
        return "run on NumPy"
    if found["backend"] == "native" and found["rules_missing"] is not None:
        return f"run on NumPy: {found['rules_missing']}"
    return "compiled when they are first used"


def cuda_text(cuda: dict[str, Any]) -> str:
    if cuda["missing"] is not None:
        return f"no: {cuda['missing']}"
    devices = ", ".join(cuda["devices"]) or "devices not listed"
    return f"driver {cuda['driver']}, numba-cuda {cuda['package']}, {devices}"
