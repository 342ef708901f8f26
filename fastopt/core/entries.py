"""The dicts of ``opt.state``: their entries can be written into, but neither replaced nor removed."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

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
