"""Where a step runs: which backend is chosen, and why. The one place that reads ``FASTOPT_BACKEND``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import arrays as host_arrays
from .. import threads
from ..arrays import Array, is_on_device
from ..quantize import Map
from ..rules import Rule, sgd

if TYPE_CHECKING:
    from .axis_sums import Adder

NAMES = ("native", "numpy", "cuda")

#: The stages of a pass, as in csrc/fastopt.h.
UPDATE, CLEAR, FINISH = 1, 2, 4
WHOLE_PASS = UPDATE | CLEAR | FINISH


class Hyper(NamedTuple):
    """One row of the hyperparameter table, in double precision; csrc/fastopt.h says what each field does."""

    rule: Rule
    grad_scale: float
    clip_value: float
    global_clip: float
    l2: float
    decay: float
    scalars: tuple[float, ...]
    mean: float = 0.0
    l1: float = 0.0
    threshold: float = 0.0
    average_weight: float = 1.0
    dither: int = 0
    stages: int = WHOLE_PASS
    zero_grads: bool = False


class Beside(NamedTuple):
    """What an array has besides its parameter and slots; all of it C-contiguous."""

    average: Array | None = None
    accumulated: Array | None = None
    copy: Array | None = None
    #: For each slot its map and scales if it is in 8 bits.
    scales: Sequence[tuple[Map, Array] | None] = ()


class Trust(NamedTuple):
    """What a GPU makes the trust ratio of an array of; ``scaled`` are the rule's scalars that become lr * ratio."""

    lr: float
    coefficient: float
    eps: float
    adapt: bool
    scaled: tuple[str, ...]


#: What a sum is taken of: "param"; "clipped_grad", the gradient after scale, mean, value and norms; "grad", that with
#: l2 * param and l1 * sign(param) added; or the number of a slot, one that is not stored in another dtype.
Source: TypeAlias = str | int


class Table(Protocol):
    """The arrays of an optimizer as a backend sees them: C-contiguous, each with its row of hyperparameters.

    A row's rule may have fewer slots than its arrays: it gets the first of them.
    """

    rows: npt.NDArray[np.int32]
    array_clip: npt.NDArray[np.float64]

    #: For each array its number in the optimizer: its stream of random numbers.
    numbers: npt.NDArray[np.int64]

    #: For each array how many elements were infinite or NaN when the gradients were last read to be counted.
    nonfinite: npt.NDArray[np.int64]

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], beside: Sequence[Beside] | None = None
    ) -> None: ...

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        """Take these gradients, which are C-contiguous, from now on. None skips an array."""

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        """Take these from now on if they are NumPy arrays like those that were set last, one for each array, in C order
        (and writeable); else return False."""

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        """Return where each gradient begins."""

    def is_current(self) -> bool:
        """Tell whether the gradients are still where they were when they were set."""

    def step(self, hypers: Sequence[Hyper]) -> None:
        """Apply one step to every array that has a gradient."""

    def accumulate(self, hypers: Sequence[Hyper]) -> None:
        """Add every gradient, after its scale, to what its array has accumulated."""

    def sum_products(
        self, hypers: Sequence[Hyper], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        """Return, for each array that has a gradient, the sum of the products of two sources' elements; else 0.

        ``count_nonfinite``: count in ``nonfinite`` too; the left source is a gradient then.
        """


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
        from . import device_arrays

        return device_arrays
    return host_arrays


def set_stream(name: str, table: Any, stream: Any) -> None:
    """Say in which stream the next step is to run; None: as the gradients say."""
    if name != "cuda":
        raise ValueError(f"stream={stream!r}: only steps on a GPU have a stream; leave it unset for NumPy arrays")
    from . import cuda

    table.stream = None if stream is None else cuda.stream_handle(stream)


def read_on_device(
    table: Any,
    hypers: Sequence[Hyper],
    max_norms: Sequence[float | None],
    group_of: Any,
    global_limit: float | None,
    count_nonfinite: bool,
) -> float | None:
    """Set the clip factors, and whether it is done, of a CudaTable's next step; return the norm if it is limited."""
    limits = None
    if any(max_norm is not None for max_norm in max_norms):
        limits = np.array([np.inf if max_norm is None else max_norm for max_norm in max_norms])[group_of]
    return table.read_grads(hypers, limits, global_limit, count_nonfinite)  # type: ignore[no-any-return]


def native_missing() -> str | None:
    """Return why the native backend can't be had, None where it can."""
    from . import native

    return native.missing


def cuda_missing() -> str | None:
    """Return why the CUDA backend can't be had, None where it can."""
    from . import cuda_found

    return cuda_found.missing()


def table_class(name: str) -> type[Table]:
    """Return the class of the tables of a backend."""
    if name == "cuda":
        from . import cuda

        return cuda.CudaTable  # type: ignore[return-value]
    if name == "native":
        from . import native

        return native.NativeTable
    from . import numpy

    return numpy.NumpyTable


def adder(name: str) -> Adder:
    """Return what adds squares over an axis of NumPy arrays."""
    if name == "native":
        from . import native

        return native.add_runs
    from . import axis_sums

    return axis_sums.add_runs


def most_threads(name: str) -> int:
    """Return how many threads a backend can use at all; of a GPU's: those of arrays on the host."""
    from . import native, numpy

    if name != "numpy" and native.missing is None:
        return threads.MOST if native.has_threads() else 1
    return numpy.MOST_THREADS


def writeable_check(name: str, arrays: Sequence[Array], dtypes: Sequence[np.dtype[Any]]) -> Callable[[], bool]:
    """Return a function that tells whether all of these arrays have these dtypes and can be written."""
    if name == "native":
        from . import native

        return native.writeable_check(arrays, dtypes)
    return lambda: host_arrays.are_writeable_as(arrays, dtypes)


#: A row that leaves a gradient as it is, for norms alone.
PLAIN = Hyper(sgd, 1.0, np.inf, 1.0, 0.0, 1.0, ())


def sum_squares(arrays: Sequence[Array]) -> npt.NDArray[np.float64]:
    """Return the sum of squares of each C-contiguous float32 or float64 array, added in double precision."""
    name = choice(None)
    table = table_class(default() if name == "cuda" else name)(arrays, [()] * len(arrays))
    table.set_grads(arrays)
    return table.sum_products([PLAIN], "clipped_grad", "clipped_grad")
