"""Where a step runs: which backend is chosen, and why. The one place that reads ``FASTOPT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays import Array
from ..rules import Rule, sgd

NAMES = ("native", "numpy", "cuda")


class Hyper(NamedTuple):
    """One row of the hyperparameter table, in double precision; csrc/fastopt.h says what each field does."""

    rule: Rule
    grad_scale: float
    clip_value: float
    global_clip: float
    l2: float
    decay: float
    scalars: tuple[float, ...]


#: What a sum is taken of: "param"; "clipped_grad", the gradient after scale, value and norms; "grad", that with
#: l2 * param added; or the number of a slot.
Source: TypeAlias = str | int


class Table(Protocol):
    """The arrays of an optimizer as a backend sees them: C-contiguous, each with its row of hyperparameters.

    A row's rule may have fewer slots than its arrays: it gets the first of them.
    """

    rows: npt.NDArray[np.int32]
    array_clip: npt.NDArray[np.float64]

    def __init__(self, params: Sequence[Array], slots: Sequence[Sequence[Array]]) -> None: ...

    def set_grads(self, grads: Sequence[Array | None]) -> bool:
        """Take these gradients from now on, unless one is not C-contiguous: then return False. None skips an array."""

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        """Return where each gradient begins."""

    def step(self, hypers: Sequence[Hyper]) -> None:
        """Apply one step to every array that has a gradient."""

    def sum_products(self, hypers: Sequence[Hyper], left: Source, right: Source) -> npt.NDArray[np.float64]:
        """Return, for each array that has a gradient, the sum of the products of two sources' elements; else 0."""


def choice(backend: str | None) -> str:
    """Return the name of the backend to use: as asked for here, else by ``FASTOPT_BACKEND``, else native where it is.

    Raises
    ------
    ValueError
        If the name is none of the choices.
    RuntimeError
        If it can't be had here; says why.
    """
    source, name = "backend=", backend
    if name is None:
        source, name = "FASTOPT_BACKEND=", os.environ.get("FASTOPT_BACKEND") or None
    if name is None:
        return "native" if native_missing() is None else "numpy"
    if name not in NAMES:
        raise ValueError(f"{source}{name}: expected one of {', '.join(NAMES)}")
    reason = {"native": native_missing, "numpy": lambda: None, "cuda": cuda_missing}[name]()
    if reason is not None:
        raise RuntimeError(f"{source}{name}: {reason}; leave it unset to use what is there")
    return name


def native_missing() -> str | None:
    """Return why the native backend can't be had, None where it can."""
    from . import native

    return native.missing


def cuda_missing() -> str | None:
    """Return why the CUDA backend can't be had."""
    return "this version of fastopt has no CUDA backend yet"


def table_class(name: str) -> type[Table]:
    """Return the class of the tables of a backend."""
    if name == "native":
        from . import native

        return native.NativeTable
    from . import numpy

    return numpy.NumpyTable


#: A row that leaves a gradient as it is, for norms alone.
PLAIN = Hyper(sgd, 1.0, np.inf, 1.0, 0.0, 1.0, ())


def sum_squares(arrays: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each C-contiguous float32 or float64 array, added in double precision."""
    table = table_class(choice(None))(arrays, [()] * len(arrays))
    table.set_grads(arrays)
    return table.sum_products([PLAIN], "clipped_grad", "clipped_grad")
