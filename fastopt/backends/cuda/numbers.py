"""Numbers that the device computes, which the host gets when it uses them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import total_ordering
from typing import Any

from .memory import address, empty, to_host

#: Norms that may be asked for before the device's memory of them is used again.
NORMS = 1024


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
    """The last NORMS global norms of an optimizer, in the device's memory."""

    def __init__(self) -> None:
        self.values = empty(NORMS, "float64")
        self.asked: list[weakref.ref[DeviceNumber] | None] = [None] * NORMS
        self.position = 0

    def following(self) -> tuple[DeviceNumber, int]:
        """Return the norm of the next step, and the address that the device writes it to."""
        place, self.position = self.position, (self.position + 1) % NORMS
        earlier = self.asked[place]
        norm = earlier() if earlier is not None else None
        if norm is not None:
            float(norm)  # fetched while it is still there
        norm = DeviceNumber(lambda: self.fetch(place))
        self.asked[place] = weakref.ref(norm)
        return norm, address(self.values) + 8 * place

    def fetch(self, place: int) -> float:
        return float(to_host(self.values[place : place + 1])[0])
