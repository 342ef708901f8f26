"""The base of the optimizers that need numbers of whole arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ..backends.table import UPDATE, HyperRow
from .optimizer import Optimizer


class ArrayOptimizer(Optimizer):
    """An optimizer that keeps numbers of every array, or needs some of whole arrays.

    :meth:`hyper` finds the ``numbers`` of its row's first array among the options of the group; arrays of one row
    agree in those that :meth:`row_keys` returns. :meth:`update` may run the table more than once, with sums over whole
    arrays in between (``table.sum_products``). The elements themselves always go through rules.

    Attributes
    ----------
    state : dict
        Besides the slots and ``"step"``: the array's numbers (0-d float64).
    """

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return list(numbers)


def slots_only(rows: Sequence[HyperRow]) -> list[HyperRow]:
    """Return these rows, restricted to updating slots; a later pass updates the parameter."""
    return [row._replace(decay=1.0, cautious=0.0, threshold=0.0, stages=UPDATE) for row in rows]
