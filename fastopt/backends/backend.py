"""The interface between a backend and the core and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import is_
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array
from ..arrays.memory import Extents, Runs
from .coordinates import Coding
from .history import BoundNumbers, History
from .interrupts import uninterrupted
from .inverse_hessian import InverseHessian, Vector
from .packing import Packing
from .plan import Plan, PlanContents
from .table import Extras, HyperRow, LimitedUnits, Present, Reading, Source, Trust
from .windows import Windows

#: Raises for gradients that are not finite, given the number of such elements in each array.
Refuse: TypeAlias = Callable[[npt.NDArray[np.int64]], None]
Count: TypeAlias = Callable[[], None]
#: The step counts, of shape (2, 1 + arrays).
Counts: TypeAlias = npt.NDArray[np.int64]
#: The greatest norm of each array.
Limits: TypeAlias = npt.NDArray[np.float64]
Arrays: TypeAlias = Sequence[Any]
#: The slots of each array.
Slots: TypeAlias = Sequence[Arrays]
#: The rules that will run.
Rules: TypeAlias = Sequence[Rule]
HyperRows: TypeAlias = Sequence[HyperRow]


class ArrayOps(Protocol):
    """Operations on the arrays of a backend; ``host_arrays.py`` has those on NumPy arrays."""

    def as_array(self, where: str, value: Any) -> Any: ...
    def checked_param(self, name: str, array: Any) -> Any: ...
    def checked_copy(self, name: str, copy: Any, param: Any) -> Any: ...
    def check_slot(self, where: str, slot: Any, param: Any, dtype: Any) -> None: ...
    def slot_like(self, param: Any, value: float, dtype: Any) -> Any: ...
    def full(self, shape: tuple[int, ...], value: float, dtype: Any, param: Any) -> Any: ...
    def owner(self, array: Any) -> Any: ...
    def are_aligned(self, grads: Sequence[Any]) -> bool: ...
    def on_host(self, array: Any, copy: bool = True) -> Any: ...
    def write(self, array: Any, values: Any) -> None: ...
    def write_rounded(self, array: Any, values: Any) -> None: ...
    def to_device_of(self, array: Any, values: Any) -> Any: ...
    def clear(self, array: Any) -> None: ...
    def to_compute_dtype(self, array: Any) -> Any: ...
    def compute_dtype(self, dtype: Any) -> Any: ...
    def is_half(self, dtype: Any) -> bool: ...
    def is_bfloat16(self, dtype: Any) -> bool: ...
    def in_memory_order(self, array: Any) -> Any: ...
    def grad_in_memory_order(self, name: str, grad: Any, param: Any) -> tuple[Any, bool]: ...
    def check_clearable(self, names: Sequence[str], grads: Sequence[Any]) -> None: ...


class Backend:
    """A place where steps run. ``table.py`` has the interface of its tables."""

    #: The name in ``FASTOPT_BACKEND`` and ``opt.backend``.
    name: str
    #: Whether the arrays are NumPy arrays.
    on_host: bool
    #: Whether a step like the last one can be one call.
    makes_plans: bool = False
    #: The operations on this backend's arrays.
    ops: ArrayOps

    def are_plain_params(self, arrays: Arrays) -> bool:
        """Return True only if ``ops.checked_param`` would return each of these as it is, so that no call is needed."""
        return False

    def extents(self, names: Sequence[str], arrays: Arrays) -> Extents:
        """Return the runs of memory of these parameters and copies.

        Raises
        ------
        ValueError
            If two of them overlap.
        """
        raise NotImplementedError

    def runs(self, arrays: Arrays) -> Runs:
        """Return where the memory of each array begins and ends; only for arrays on the host."""
        raise NotImplementedError

    def slots_like(self, params: Arrays, value: float, dtype: Any) -> Arrays:
        """Return new arrays like these parameters, as ``ops.slot_like`` makes each."""
        return [self.ops.slot_like(param, value, dtype) for param in params]

    def table(self, params: Arrays, slots: Slots, extras: Extras = None, counts: Counts | None = None) -> Any:
        """Return a table of these arrays, which must be contiguous; counted calls update ``counts``."""
        raise NotImplementedError

    def writeable_check(self, arrays: Arrays) -> Callable[[], bool]:
        """Return a function that returns whether these arrays are all writeable."""
        raise NotImplementedError

    def cannot_run(self, rules: Rules) -> str | None:
        """Return why this backend can't run one of these rules, with the remedy; None if it can run all."""
        return None

    def check_rules(self, table: Any, rows: HyperRows) -> None:
        """Make ready to run the rules of these rows on the arrays of a table.

        Raises
        ------
        TypeError, ValueError
            For a rule of the user's own that asks for the value of an element, or that can't run here.
        """

    def set_stream(self, table: Any, stream: Any) -> None:
        """Set the stream of the next step; None: the stream that the gradients name.

        Raises
        ------
        TypeError, ValueError
            If this backend has no streams, or this is not a stream.
        """
        raise NotImplementedError

    def read(
        self,
        table: Any,
        rows: list[HyperRow],
        limits: Limits | None,
        global_limit: float | None,
        nonfinite: str,
        refuse: Refuse,
        skip_above: float,
    ) -> Reading:
        """Read all gradients before a step: set the clip factors, and look for elements that are not finite.

        ``global_limit`` is the greatest norm of all gradients together; the step is skipped if this norm is above
        ``skip_above``. If ``nonfinite`` is "raise" and there are elements that are not finite, ``refuse`` is called and
        nothing is set.
        """
        raise NotImplementedError

    def step(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        """Step and count; Ctrl-C can't come in between."""
        uninterrupted(partial(table.step, rows), count)

    def accumulate(self, table: Any, rows: list[HyperRow], count: Count) -> None:
        """Accumulate the gradients and count the call; Ctrl-C can't come in between."""
        uninterrupted(partial(table.accumulate, rows), count)

    def forget_grads(self, table: Any, forget: Callable[[], None]) -> None:
        """Keep no gradient alive after a step, if it was read; ``forget`` does it for the core.

        A GPU may still be reading: the next step replaces its gradients.
        """

    def plan(self, table: Any, planned: PlanContents) -> Plan | None:
        """Return a plan for the next steps with this table; None if none can be made."""
        return None

    def same_entries(self, dicts: Sequence[dict[Any, Any]], seen: Sequence[tuple[list[Any], list[Any]]]) -> bool:
        """Return whether each dict has these keys and values: the very objects, in this order."""
        return len(dicts) == len(seen) and all(
            len(group) == len(keys) == len(values)
            and all(map(is_, group, keys))
            and all(map(is_, group.values(), values))
            for group, (keys, values) in zip(dicts, seen, strict=True)
        )

    def windows(
        self, likes: Arrays, params: Arrays, exchange: Any, is_refused: Callable[[Any], bool]
    ) -> Windows | None:
        """Return arrays like these, to be moved to the gradients of tensors; None if there can be none here.

        Parameters
        ----------
        likes : sequence of array
            The memory of the parameters.
        params : sequence of tensor
        exchange : object
            The tensors' interface for C: their ``__dlpack_c_exchange_api__``.
        is_refused : callable
            Returns whether the memory of a gradient does not have its values.
        """
        return None

    def follow(self, table: Any, reader: Any) -> None:
        """Have a table of some of the arrays clip its gradients, and be guarded, as the one that has read all."""
        raise NotImplementedError

    def limit_norms(self, table: Any, rows: HyperRows, units: Sequence[LimitedUnits]) -> None:
        """Scale the units whose norm is above their limit."""
        raise NotImplementedError

    def step_by_trust(
        self,
        table: Any,
        rows: HyperRows,
        norm_rows: HyperRows,
        update: Source,
        trusts: Sequence[Trust],
        present: Present,
        ratios: Any,
    ) -> None:
        """Step with a learning rate for each array, from the norms of its parameter and its update.

        ``norm_rows`` are the rows to read the update with. The trust ratios are written into ``ratios``.
        """
        raise NotImplementedError

    def adafactor(self, table: Any, slots: Slots) -> Any:
        """Return the object that makes Adafactor's steps on a GPU."""
        raise NotImplementedError

    def numpy_table(self, params: Arrays, slots: Slots, extras: Extras) -> Any:
        """Return a table of the NumPy backend; only for arrays on the host."""
        raise NotImplementedError

    def history(self, table: Any, size: int, numbers: BoundNumbers | None = None) -> History:
        """Return a history of L-BFGS of this many pairs; only for arrays on the host, of float32 and float64.

        The table has the bounds of single elements; ``numbers`` are those of whole arrays.
        """
        raise NotImplementedError

    def add_rows(self, values: Array, order: npt.NDArray[Any], firsts: npt.NDArray[Any]) -> Array:
        """Return sums of the rows ``values[order]``; ``firsts`` are the places in ``order`` at which a sum begins.

        Only for arrays on the host. The rows of a sum are added in this order.
        """
        raise NotImplementedError

    def packing(self, starts: npt.NDArray[np.int64]) -> Packing:
        """Return the packing of arrays on the host that begin at these places of a vector; the last is its end."""
        raise NotImplementedError

    def dot(self, left: Vector, right: Vector) -> float:
        """Return the sum of the products of two vectors on the host, in a fixed order."""
        raise NotImplementedError

    def inverse_hessian(self, size: int) -> InverseHessian:
        """Return the matrix of BFGS for vectors of this size on the host."""
        raise NotImplementedError

    def sum_squares(self, array: Any, axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Return the sums of squares over these axes of a NumPy array, in double precision and a fixed order."""
        raise NotImplementedError

    def multiply_rows(self, rows: Array, dictionary: npt.NDArray[np.float64]) -> Array:
        """Return the products of rows with a dictionary (features, stride): float32 or float64, on the host."""
        raise NotImplementedError

    def code_rows(self, coding: Coding, codes: Array) -> npt.NDArray[np.float64]:
        """Solve a problem of sparse coding; ``codes`` are the start, then the result.

        Returns for each row what is left of the duality gap at ``max_iterations``, divided by y'y; 0 if it is solved.
        """
        raise NotImplementedError
