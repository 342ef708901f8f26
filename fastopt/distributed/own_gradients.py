"""The gradients that this rank gives, checked as in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..backends.backend import Backend
from ..core.gradients import Gradients
from ..core.parameters import Parameters


class OwnGradients:
    """The gradients that this rank gives.

    Parameters
    ----------
    backend : Backend
        Of the host.
    whole : Parameters
        The arrays, which are not slices.
    are_cleared : bool
        Whether a step clears the gradients.
    """

    def __init__(self, backend: Backend, whole: Parameters, are_cleared: bool) -> None:
        self.ops, self.whole = backend.ops, whole
        arrays = [backend.ops.in_memory_order(array) for array in whole.arrays]
        self.table = backend.table(arrays, [()] * len(arrays))
        self.gradients = Gradients(backend.ops, backend.add_rows, whole.names, whole.arrays, whole.extents, are_cleared)
        if all(array.flags.c_contiguous for array in whole.arrays):
            self.gradients.begin(self.table)
        #: How many micro-batches were given, and whether their gradients came one by one.
        self.given, self.are_added = 1, False

    def take(self, grads: Any) -> None:
        """Check these gradients, of the structure of the parameters; those of frozen arrays count as None.

        Raises
        ------
        TypeError, ValueError
            If one can't be the gradient of its array, or is row-sparse.
        """
        leaves, frozen = self.whole.leaves(grads, "grads"), self.whole.frozen
        if frozen:
            leaves = [None if name in frozen else leaf for name, leaf in zip(self.whole.names, leaves, strict=True)]
        self.gradients.take(self.table, leaves, self.refuse_row_sparse)

    def check_scale(self, scale: float) -> None:
        """Raise if gradients were divided by another loss scale than that of the step."""

    def refuse_row_sparse(self, i: int) -> None:
        raise TypeError(
            f"grads: {self.whole.names[i]!r} is row-sparse, which a sharded optimizer does not take, since the ranks "
            "exchange whole gradients; give a dense one"
        )

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which arrays have a gradient."""
        return self.gradients.present

    @property
    def arrays(self) -> Sequence[Array | None]:
        """The gradients, each one run of memory in C order, which is its parameter's order of memory; or None."""
        return self.gradients.given

    def clear(self) -> None:
        """Clear the arrays that the user gave."""
        for grad in self.gradients.clearable:
            self.ops.clear(grad)

    def forget(self) -> None:
        """Keep no gradient alive."""
        self.gradients.forget()
        self.table.forget_grads()
