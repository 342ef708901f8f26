"""The state of all arrays, and its dicts: their entries can be written into, but neither replaced nor removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import numpy as np

from ..arrays.dtypes import Array

Value = TypeVar("Value")


class Entries(dict[str, Value]):
    """A dict that accepts new entries and keeps the ones it has: steps write into these very objects.

    Parameters
    ----------
    where : str
        The dict's name in errors.
    example : str
        How to write into an entry.

    Raises
    ------
    TypeError
        If anything replaces or removes an entry.
    """

    def __init__(self, where: str, example: str) -> None:
        self.where, self.example = where, example

    def __setitem__(self, key: str, value: Value) -> None:
        if key in self and self[key] is not value:  # d[key] += 1 sets what it got
            self._refuse()
        super().__setitem__(key, value)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self.where}: what is there can't be replaced or taken out, since steps read and write it where it is; "
            f"write into it: {self.example} = values, or use load_state_dict"
        )

    __delitem__ = pop = popitem = clear = update = __ior__ = _refuse

    def set_entry(self, key: str, value: Value) -> None:
        """Set an entry, for the optimizer itself."""
        super().__setitem__(key, value)

    def remove_entry(self, key: str) -> None:
        """Remove an entry, for the optimizer itself."""
        super().__delitem__(key)


def entries_of(name: str) -> Entries[Any]:
    """Return an empty dict for an array's state."""
    return Entries(f"state[{name!r}]", f"opt.state[{name!r}][slot][...]")


class Column(NamedTuple):
    """The entries of one name in the states of several arrays."""

    slot: str
    names: Sequence[str]
    arrays: Sequence[Array]


StateDict: TypeAlias = Entries[Entries[Array]]


class State:
    """The state of all arrays. Its dicts are made when somebody looks at them, since many take long to make."""

    def __init__(self) -> None:
        #: Makes it one action to write columns into the dicts and to forget them: another thread may look meanwhile.
        self._lock = RLock()
        self._entries: StateDict = Entries("state", "opt.state[name][slot][...]")
        #: The columns that the dicts lack so far.
        self._new: list[Column] = []
        self._counts: Callable[[StateDict], list[Column]]
        self._has_new_counts = False

    @property
    def entries(self) -> StateDict:
        """The entries of each array, by the array's name."""
        if self._new or self._has_new_counts:
            self._show()
        return self._entries

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but counts, and nobody has looked at these."""
        return not (self._entries or self._new)

    @property
    def visible(self) -> StateDict:
        """The entries, as far as somebody has looked at them; empty if nobody has."""
        return self._entries

    def set_counts(self, counts: Callable[[StateDict], list[Column]]) -> None:
        """Show the counts that a function returns, given the present entries, instead of those before."""
        with self._lock:
            if self._new:
                self._show()
            self._counts, self._has_new_counts = counts, True
            if self._entries:
                self._show()

    def add(self, columns: Sequence[Column]) -> None:
        """Add entries."""
        with self._lock:
            self._new += columns
            if self._entries:
                self._show()

    def columns(self) -> list[Column]:
        """Return all entries that are arrays."""
        if not self._entries:
            return [*self._counts(self._entries), *self._new]
        return [
            Column(slot, [name], [array])
            for name, entries in self.entries.items()
            for slot, array in entries.items()
            if isinstance(array, np.ndarray)
        ]

    def _show(self) -> None:
        """Write into the dicts what they lack. After an interrupt it is done again."""
        with self._lock:
            counts = self._counts(self._entries) if self._has_new_counts else []
            new, count = self._new, len(self._new)
            for slot, names, arrays in [*counts, *new[:count]]:
                for name, array in zip(names, arrays, strict=True):
                    if name not in self._entries:
                        self._entries.set_entry(name, entries_of(name))
                    self._entries[name].set_entry(slot, array)
            if self._new is new:  # else a signal handler has looked meanwhile, and it may have added some
                self._new = new[count:]
            self._has_new_counts = False
