"""Numbers that the device computes, which the host gets when it uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import total_ordering
from typing import Any

import numpy as np
import numpy.typing as npt

from .memory import address, empty, to_host

#: Steps whose norms may be asked for before the device's memory of them is used again: as many as there is memory for,
#: of so many numbers.
MOST_STEPS, LEAST_STEPS, NUMBERS = 1024, 64, 2**20


@total_ordering
class DeviceNumber:
    """A number still being computed on the device. Using it waits for the result.

    ``float(norm)`` and ``bool(applied)`` give the number; comparing, formatting and printing use it by themselves.
    """

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self.fetch: Callable[[], Any] | None = fetch
        self.known: Any = None

    @property
    def value(self) -> Any:
        if self.fetch is not None:
            self.known, self.fetch = self.fetch(), None
        return self.known

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DeviceNumber):
            return bool(self.value == other.value)
        return bool(self.value == other) if isinstance(other, (int, float)) else NotImplemented

    def __lt__(self, other: float | DeviceNumber) -> bool:
        return bool(self.value < (other.value if isinstance(other, DeviceNumber) else other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def then(self, function: Callable[[Any], Any]) -> DeviceNumber:
        """Return the result of a function of the number, computed as late as the number is used."""
        return DeviceNumber(lambda: function(self.value))


class DeviceNorms:
    """The norms of the last steps of an optimizer, in the device's memory: of each its global norm, and of each array.

    Parameters
    ----------
    count : int
        The number of arrays.
    """

    def __init__(self, count: int) -> None:
        self.width = 1 + count
        self.steps = min(max(NUMBERS // self.width, LEAST_STEPS), MOST_STEPS)
        self.values = empty(self.steps * self.width, "float64")
        self.asked: list[weakref.ref[DeviceNumber] | None] = [None] * self.steps
        self.position = 0

    def following(self) -> tuple[DeviceNumber, int]:
        """Return the norms of the next step, one array, and the address that the device writes them to."""
        place, self.position = self.position, (self.position + 1) % self.steps
        earlier = self.asked[place]
        norms = earlier() if earlier is not None else None
        if norms is not None:
            _ = norms.value  # fetched while it is still there
        norms = DeviceNumber(lambda: self.fetch(place))
        self.asked[place] = weakref.ref(norms)
        return norms, address(self.values) + 8 * self.width * place

    def fetch(self, place: int) -> npt.NDArray[np.float64]:
        return to_host(self.values[place * self.width : (place + 1) * self.width])
