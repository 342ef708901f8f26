"""The contract between the core and every backend: csrc/fastopt.h in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arithmetic.quantize import Map
from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array

#: The stages of a pass, as in csrc/fastopt.h.
UPDATE, CLEAR, FINISH = 1, 2, 4
WHOLE_PASS = UPDATE | CLEAR | FINISH

#: The arrays whose tiny numbers are flushed, as in csrc/fastopt.h.
FLUSH_SLOTS, FLUSH_AVERAGE = 1, 2

#: The order of sums, as in csrc/fastopt.h: the elements of a chunk are added in LANES running sums, which are folded in
#: halves. Chunks are added in index order.
CHUNK = 4096
LANES = 16


class HyperRow(NamedTuple):
    """One row of the hyperparameter table, in double precision; csrc/fastopt.h describes each field."""

    rule: Rule
    grad_scale: float
    clip_value: float
    global_clip: float
    l2: float
    decay: float
    scalars: tuple[float, ...]
    mean: float = 0.0
    l1: float = 0.0
    cautious: float = 0.0
    threshold: float = 0.0
    lower: float = -math.inf
    upper: float = math.inf
    average_weight: float = 1.0
    dither: int = 0
    stages: int = WHOLE_PASS
    zero_grads: bool = False
    flush: int = 0


class ArrayExtras(NamedTuple):
    """The C-contiguous arrays that belong to a parameter besides its slots."""

    average: Array | None = None
    accumulated: Array | None = None
    copy: Array | None = None
    lower: Array | None = None
    upper: Array | None = None
    #: For each slot, its codec and scales if it is in 8 bits.
    scales: Sequence[tuple[Map, Array] | None] = ()


class SlotColumn(NamedTuple):
    """Slot number ``number`` of the arrays at these places of a table."""

    number: int
    places: npt.NDArray[np.intp]
    arrays: Sequence[Array]


class SlotColumns(Sequence[Sequence[Array]]):
    """The slots of each array of a table, given by columns: to sort them by array takes long where there are many."""

    def __init__(self, length: int, columns: Sequence[SlotColumn]) -> None:
        self.length, self.columns = length, columns

    @cached_property
    def by_array(self) -> list[list[Array]]:
        slots: list[list[Array]] = [[] for _ in range(self.length)]
        for _, places, arrays in self.columns:
            for i, array in zip(places.tolist(), arrays, strict=True):
                slots[i].append(array)
        return slots

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        return self.by_array[i]


def slot_columns(slots: Sequence[Sequence[Array]]) -> Sequence[SlotColumn]:
    """Return the slots of a table by columns."""
    if isinstance(slots, SlotColumns):
        return slots.columns
    columns = []
    for k in range(max(map(len, slots), default=0)):
        places = np.array([i for i, its in enumerate(slots) if k < len(its)])
        columns.append(SlotColumn(k, places, [slots[i][k] for i in places]))
    return columns


Extras: TypeAlias = Sequence[ArrayExtras] | None

#: Which arrays have a gradient.
Present: TypeAlias = npt.NDArray[np.bool_]


class LimitedUnits(NamedTuple):
    """An array, or the rows of one that a step changes, with a limit on the norms of its units."""

    number: int
    weights: Any
    limit: float
    axes: tuple[int, ...]


class Reading(NamedTuple):
    """The result of reading all gradients before a step."""

    #: The global norm before it was clipped; None if it was not read.
    norm: Any = None
    #: Returns the norm of each array: those that the global norm is made of, else those that ``clip_norm`` limits.
    norms: Callable[[], npt.NDArray[np.float64]] | None = None
    #: The option by which the step is skipped, "nonfinite" or "skip_above"; None: it is not.
    skipped: str | None = None
    #: On a GPU, where such an option is on, instead of ``skipped``: it is still being computed.
    verdict: Any = None


class Trust(NamedTuple):
    """The parameters of an array's trust ratio; ``scaled`` names the rule's scalars that become lr * ratio."""

    lr: float
    coefficient: float
    eps: float
    adapt: bool
    scaled: tuple[str, ...]


class AdafactorScalars(NamedTuple):
    """Adafactor's scalars for the arrays of a row; ``eps1`` None: the machine epsilon of their dtype."""

    weight: float
    eps1: float | None
    eps2: float
    rate: float
    d: float


def adafactor_floors(eps1: float | None, dtype: Any) -> tuple[float, float]:
    """Return the least mean and the least second moment of arrays of this dtype, ``eps1`` and its square.

    Above 0 they stay above 0 in this dtype: 0 / 0 would be NaN.
    """
    if eps1 is None:
        eps1 = float(np.finfo(dtype).eps)
    if eps1 == 0:
        return 0.0, 0.0
    least = float(np.finfo(dtype).smallest_subnormal)
    return max(eps1, least), max(eps1 * eps1, least)


#: The source of a sum: "param"; "clipped_grad", the gradient scaled, averaged and clipped; "grad", that with l2 * param
#: and l1 * sign(param) added; the number of a slot that is stored in the compute dtype; ("distance", that number), the
#: slot minus the parameter; or ("signs", that number), the signs of the slot.
Source: TypeAlias = str | int | tuple[str, int]


#: Returns the sums of whole arrays, and how many of their elements are not finite, for a table of slices. It gets which
#: arrays have a gradient, and both numbers of each chunk of those that do, in index order.
Reduction: TypeAlias = Callable[
    [Sequence[bool], npt.NDArray[np.float64], npt.NDArray[np.int64]],
    tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]],
]


class Table(Protocol):
    """The arrays of an optimizer as a backend sees them: C-contiguous, each with its row of hyperparameters.

    If a row's rule has fewer slots than its arrays, it gets the first of them.
    """

    row_numbers: npt.NDArray[np.int32]
    array_clip: npt.NDArray[np.float64]
    #: Whether a factor of ``array_clip`` may differ from 1.
    is_clipped: bool

    #: The index of each array in the optimizer, which selects its random numbers.
    indices: npt.NDArray[np.int64]

    #: For slices of arrays: how many blocks of SCALE_BLOCK elements of its array are before each; only on the host.
    first_blocks: npt.NDArray[np.int64]

    #: The greatest finite number of each array's compute dtype.
    greatest: npt.NDArray[np.float64]

    #: How many elements of each gradient were infinite or NaN when they were last counted.
    nonfinite: npt.NDArray[np.int64]

    #: Makes the results of ``sum_products``; None: they are those of this table's own arrays.
    reduction: Reduction | None

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], extras: Sequence[ArrayExtras] | None = None
    ) -> None: ...

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        """Use these C-contiguous gradients from now on. None skips an array."""

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        """Use these gradients from now on, and return True, if they are NumPy arrays of the last ones' dtypes and
        shapes, in C order (and writeable); else return False."""

    def forget_grads(self) -> None:
        """Keep no gradient alive; only for arrays on the host."""

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        """Return the address of each gradient."""

    def is_current(self) -> bool:
        """Return whether the gradients are still where they were when they were set."""

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        """Apply one step to every array that has a gradient."""

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        """Add every scaled gradient to the accumulated gradient of its array."""

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        """Return for each array the sum of the products of two sources' elements; 0 if it has no gradient.

        ``count_nonfinite``: also count into ``nonfinite``; the left source must be a gradient then.
        """
