"""The state of an optimizer as torch shows it: for each parameter a dict of tensors, made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from .state_dict import has_begun, tensors_of


def refuse(*arguments: Any, **keywords: Any) -> NoReturn:
    raise TypeError(
        "state: entries can't be replaced; write into their tensors, or build a new optimizer to begin again"
    )


refused: Any = refuse


class Fixed(dict[Any, Any]):
    """A dict whose entries can't be replaced; its copies are plain dicts."""

    __setitem__ = __delitem__ = __ior__ = pop = popitem = clear = update = setdefault = refused

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Entries(Fixed):
    """The state of one parameter: tensors in the memory of the state. Writing an entry copies the values into it."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise KeyError(f"state: there is no {name!r}; there are {list(self)}")
        self[name].copy_(value)


class State(Mapping[Any, Entries], Fixed):  # type: ignore[misc, metaclass]  # Mapping's methods hide dict's
    """The state of each parameter that has one; a parameter without a step has none, as in torch.

    It is a dict for those who ask for the type, but holds nothing: it looks into the optimizer.
    """

    def __init__(self, opt: Any) -> None:
        self.opt = opt

    def entries_of(self, param: Any) -> tuple[int, Mapping[str, Any]] | None:
        """Return the number and the arrays of a parameter with a state; None if it has none."""
        i = self.opt.numbers.get(param)
        if i is None:
            return None
        entries = self.opt.inner.state[self.opt.keys[i]]
        return (i, entries) if has_begun(entries) else None

    def __getitem__(self, param: Any) -> Entries:
        found = self.entries_of(param)
        return Entries() if found is None else Entries(tensors_of(self.opt, *found))

    def get(self, param: Any, default: Any = None) -> Any:
        found = self[param]
        return found if found else default

    def __contains__(self, param: Any) -> bool:
        return self.entries_of(param) is not None

    def __iter__(self) -> Iterator[Any]:
        return filter(self.__contains__, self.opt.params)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return repr(dict(self))

    def copy(self) -> dict[Any, Any]:
        return dict(self)

    def __or__(self, other: Any) -> dict[Any, Any]:
        return {**dict(self), **other}

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return {**other, **dict(self)}

    def __reversed__(self) -> Iterator[Any]:
        yield from list(self)[::-1]
