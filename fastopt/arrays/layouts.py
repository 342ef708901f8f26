"""How arrays lay in memory at one time, to find those that were changed in place since.

``resize`` moves an array to other memory while a table goes on with the old one; another shape, other strides or
another dtype give its elements another meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from _cffi_backend import FFI

from .dtypes import FLOAT32, FLOAT64, Array
from .memory import Views, address

ffi = FFI()

DTYPE, SHAPE, FORM = attrgetter("dtype"), attrgetter("shape"), attrgetter("dtype", "shape", "strides")


class Layout(NamedTuple):
    """How an array lay in memory."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    #: Whether it was in C order; else it was in Fortran order.
    is_c_order: bool
    address: int

    def is_of(self, array: Array) -> bool:
        """Return whether an array lies so now."""
        is_in_order = array.flags.c_contiguous if self.is_c_order else array.flags.f_contiguous
        return is_in_order and array.dtype == self.dtype and array.shape == self.shape and self.is_at(array)

    def is_at(self, array: Array) -> bool:
        return address(array) == self.address


class Layouts:
    """The layouts of some columns of arrays."""

    def __init__(self, columns: Sequence[Sequence[Array]]) -> None:
        self.columns = [arrays if isinstance(arrays, Views) else list(arrays) for arrays in columns]

    def are_kept(self) -> bool:
        """Return True only if all arrays lie as they did."""
        raise NotImplementedError

    def at(self, k: int, i: int) -> Layout:
        """Return the layout of array number ``i`` of column number ``k`` when it was recorded."""
        raise NotImplementedError

    def first_change(self) -> tuple[int, int] | None:
        """Return the numbers of the column and of the array of the first one that lies in another way now."""
        for k, arrays in enumerate(self.columns):
            for i, array in enumerate(arrays):
                if not self.at(k, i).is_of(array):
                    return k, i
        return None


class AttributeLayouts(Layouts):
    """Layouts that are compared by NumPy's attributes.

    Parameters
    ----------
    columns : sequence of sequences of array
    users : int
        The arrays of so many columns are the user's.
    visible : dict
        Empty while nobody can have the other arrays.
    """

    def __init__(self, columns: Sequence[Sequence[Array]], users: int, visible: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.layouts = [[layout_of(array) for array in arrays] for arrays in columns]
        self.users, self.others = (Forms(list(chain(*part))) for part in (columns[:users], columns[users:]))
        self.visible = visible

    def are_kept(self) -> bool:
        return self.users.are_kept() and (not self.visible or self.others.are_kept())

    def at(self, k: int, i: int) -> Layout:
        return self.layouts[k][i]


class Forms:
    """The dtypes, shapes, strides and addresses of arrays, as lists that are compared as wholes."""

    def __init__(self, arrays: list[Array]) -> None:
        # cffi tells an address in a tenth of NumPy's time, and raises for strides that are not those of C order.
        self.plain = [array for array in arrays if is_plain(array)]
        self.dtypes, self.shapes = list(map(DTYPE, self.plain)), list(map(SHAPE, self.plain))
        self.buffers = list(map(ffi.from_buffer, self.plain))
        self.others = [array for array in arrays if not is_plain(array)]
        self.forms, self.owners = list(map(FORM, self.others)), [each for each in self.others if each.flags.owndata]
        self.addresses = list(map(address, self.owners))

    def are_kept(self) -> bool:
        try:
            buffers = list(map(ffi.from_buffer, self.plain))
        except (ValueError, BufferError):
            return False
        return (
            buffers == self.buffers
            and list(map(SHAPE, self.plain)) == self.shapes
            and list(map(DTYPE, self.plain)) == self.dtypes
            and list(map(FORM, self.others)) == self.forms
            and list(map(address, self.owners)) == self.addresses
        )


def is_plain(array: Array) -> bool:
    """Return whether an array has memory of its own that cffi knows the address of."""
    return array.dtype in (FLOAT32, FLOAT64) and array.flags.c_contiguous and array.flags.owndata


def layout_of(array: Array) -> Layout:
    return Layout(array.dtype, array.shape, array.flags.c_contiguous, address(array))
