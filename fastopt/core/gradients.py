"""The gradients of a step. Each is checked, unless all are like those of the last step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..arrays.memory import Extents, address, extent, overlap_each_other
from ..arrays.row_sparse import RowAdder, RowSparse, SparseRows, check_row_sparse
from ..backends.backend import ArrayOps
from ..backends.table import Table

#: How many sets of addresses to remember; new gradients often lie where those of an earlier step did.
MOST_PLACES = 8


class Gradients:
    """The gradients that the arrays of an optimizer got last. It checks them and hands them to the table.

    Parameters
    ----------
    ops : ArrayOps
        The operations on the backend's arrays.
    add_rows : callable
        :meth:`Backend.add_rows`.
    names, params : sequence
        The optimizer's arrays and their names.
    extents : Extents
        The memory that a step writes.
    are_cleared : bool
        Whether a step clears the gradients.

    Attributes
    ----------
    present : bool array
        Which arrays have a gradient.
    are_all_present : bool
        Whether all arrays have one.
    are_plain : bool
        Whether all arrays have one that the table reads as it is: none is row-sparse or converted.
    given : sequence of (array or None)
        The arrays that the table reads.
    sparse : dict
        The row-sparse gradients, by number of array.
    clearable, converted : list of array
        The caller's arrays, and those of which the table reads a converted copy.
    """

    def __init__(
        self,
        ops: ArrayOps,
        add_rows: RowAdder,
        names: Sequence[str],
        params: Sequence[Array],
        extents: Extents,
        are_cleared: bool,
    ) -> None:
        self.ops, self.add_rows, self.names, self.params, self.extents = ops, add_rows, names, params, extents
        self.are_cleared = are_cleared
        self.present = np.zeros(len(params), bool)
        self.are_all_present = False
        self.given: Sequence[Any] = ()
        self.sparse: dict[int, SparseRows] = {}
        self.clearable: Sequence[Any] = []
        self.converted: list[Any] = []
        self._last: list[Any] | None = None
        self.are_plain = False
        self._sizes = np.zeros(len(params), np.intp)
        #: The addresses at which such gradients overlap nothing that a step writes.
        self._disjoint: set[bytes] = set()

    def begin(self, table: Table) -> None:
        """Begin as if the last gradients had been like the parameters: then the first ones are checked together.

        Only for parameters on the host, in C order.
        """
        table.set_grads(self.params)
        self.present, self.are_all_present, self.are_plain = np.ones(len(self.params), bool), True, True
        self._sizes = np.array([param.nbytes for param in self.params], np.intp)

    def take(self, table: Table, leaves: list[Any], check_row_sparse_allowed: Callable[[int], None]) -> bool:
        """Check these gradients and hand them to the table; return whether other arrays than before have one.

        ``check_row_sparse_allowed`` raises if the array of this number can't have a row-sparse gradient.

        Raises
        ------
        TypeError, ValueError
            If a leaf can't be the gradient of its array.
        """
        if self._last is not None and all(map(is_, leaves, self._last)) and table.is_current():
            return False
        self._last = None
        if self._take_plain(table, leaves):
            self._last = leaves
            return False
        arrays = [self.ops.as_array(f"grads: {name!r}", leaf) for name, leaf in zip(self.names, leaves, strict=True)]
        are_given = all(map(is_, arrays, leaves))
        if not are_given and self._take_plain(table, arrays):
            return False
        self.are_plain = False
        present = self.present
        own_memory = self._check_each(table, arrays, check_row_sparse_allowed)
        # A converted copy would miss what the caller writes into the array before the next step; and the array of
        # another library may have other memory then.
        self._last = leaves if own_memory and are_given else None
        return self.present is not present

    def _take_plain(self, table: Table, leaves: Sequence[Any]) -> bool:
        """Hand these gradients to the table if they are as plain as those before; return whether they are."""
        if self.are_plain and table.move_grads(leaves, self.are_cleared) and self._are_disjoint(table, leaves):
            self.given = self.clearable = leaves
            return True
        return False

    def forget(self) -> None:
        """Forget the arrays: no gradient outlives its step here."""
        self._last, self.given, self.sparse, self.clearable, self.converted = None, (), {}, [], []

    def _are_disjoint(self, table: Table, grads: Sequence[Array | None]) -> bool:
        """Raise if a gradient overlaps memory that a step writes; return whether all can be used as they are."""
        starts = table.grad_addresses()
        places = starts.tobytes()
        if places in self._disjoint:
            return True
        self._check_overlap(range(len(grads)), starts, self._sizes)
        if (starts % 8).any() and not self.ops.are_aligned(grads):
            return False
        if self.are_cleared and overlap_each_other(starts, self._sizes):
            return False
        if len(self._disjoint) == MOST_PLACES:
            self._disjoint.clear()
        self._disjoint.add(places)
        return True

    def _check_each(self, table: Table, leaves: list[Any], check_row_sparse_allowed: Callable[[int], None]) -> bool:
        """Check each gradient and hand them to the table; return whether all are the caller's own memory."""
        sparse: dict[int, SparseRows] = {}
        for i, grad in enumerate(leaves):
            if isinstance(grad, RowSparse):
                check_row_sparse_allowed(i)
                sparse[i] = self._rows_of(i, grad)
        callers = [grad.values if isinstance(grad, RowSparse) else grad for grad in leaves]
        if self.are_cleared:
            self.ops.check_clearable(self.names, callers)
        checked = [
            (None, i not in sparse) if grad is None or i in sparse else self.ops.grad_in_memory_order(name, grad, param)
            for i, (name, grad, param) in enumerate(zip(self.names, leaves, self.params, strict=True))
        ]
        grads = [grad for grad, _ in checked]
        own_memory = all(is_own for _, is_own in checked)
        self._disjoint.clear()
        self._sizes = np.array([0 if grad is None else grad.nbytes for grad in grads], np.intp)
        converted = [
            array
            for i, (array, (grad, is_own)) in enumerate(zip(callers, checked, strict=True))
            if i in sparse or (grad is not None and not is_own)
        ]
        if self.are_cleared and converted:
            self._check_strided_overlap(callers)
        table.set_grads(grads)
        self._are_disjoint(table, grads)
        self.given = grads
        self.clearable, self.converted = [array for array in callers if array is not None], converted
        self.sparse = sparse
        present = np.array([grad is not None for grad in leaves])
        if not np.array_equal(present, self.present):
            # In this order: after an interrupt in between, the next step finds that both differ.
            self.are_all_present = bool(present.all())
            self.present = present
        used_as_is = all(map(is_, map(self.ops.owner, grads), leaves))
        self.are_plain = own_memory and self.are_all_present and used_as_is
        return own_memory

    def _rows_of(self, i: int, grad: RowSparse) -> SparseRows:
        """Check the row-sparse gradient of array number ``i``."""
        rows = check_row_sparse(self.names[i], grad, self.params[i], self.add_rows)
        sizes = np.array([rows.values.nbytes], np.intp)
        self._check_overlap([i], np.array([address(rows.values)], np.uintp), sizes)
        return rows

    def _check_overlap(self, places: Sequence[int], starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]) -> None:
        """Raise if the gradient of one of these arrays overlaps memory that a step writes."""
        overlap = self.extents.overlapped(starts, sizes)
        if overlap is not None:
            written = f"the parameter {overlap[1]!r}" if overlap[1] in self.names else overlap[1]
            raise ValueError(
                f"grads: {self.names[places[overlap[0]]]!r} overlaps the memory of {written}, "
                "which is changed while it is read; give a copy"
            )

    def _check_strided_overlap(self, leaves: list[Any]) -> None:
        """Raise if a gradient that a step clears, of any strides, overlaps memory that a step writes."""
        extents = np.array([(0, 0) if leaf is None else extent(leaf) for leaf in leaves], np.intp)
        self._check_overlap(range(len(leaves)), extents[:, 0].astype(np.uintp), extents[:, 1] - extents[:, 0])
