"""Arrays that are moved to other memory, where making new ones would take longer than the work on them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dtypes import Array
from .memory import address

#: Where an array object holds the address of its memory: after what every object begins with.
PLACE = object.__basicsize__

pointer: Any = ctypes.c_void_p
#: Writes an address; a loop of assignments takes half as long again.
write = pointer.value.__set__


class Windows:
    """Arrays of the layouts of others, over memory that somebody else owns. They are to be read while it is there.

    Parameters
    ----------
    likes : sequence of array
        The arrays whose shapes, dtypes and orders they have.
    """

    def __init__(self, likes: Sequence[Array]) -> None:
        self.arrays = [like.view() for like in likes]
        self.places = [pointer.from_address(id(array) + PLACE) for array in self.arrays]

    def move(self, addresses: Sequence[int]) -> None:
        """Put each array over the memory at this address."""
        list(map(write, self.places, addresses))


def knows_place() -> bool:
    """Return whether array objects are laid out as :class:`Windows` expects, by trying it out."""
    if sys.implementation.name != "cpython":
        return False
    one, other = np.arange(3.0), np.arange(3.0, 6.0)
    place = pointer.from_address(id(one) + PLACE)
    if place.value != address(one):
        return False
    windows = Windows([one])
    windows.move([address(other)])
    return address(windows.arrays[0]) == address(other) and windows.arrays[0].tolist() == other.tolist()


#: Whether arrays can be moved.
can_move = knows_place()
