"""Parameter structures: one array, a list or tuple, a dict, nested mixes of these; and the names of their arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .memory import described

Getter: TypeAlias = Callable[[Any], Sequence[Any]]

LEAF = None

#: How deep dicts, lists and tuples may be nested, in parameters and in a checkpoint.
MAX_DEPTH = 100


class Source(NamedTuple):
    """One of the user's containers, and its children when the optimizer was built."""

    container: Any
    keys: list[Any]
    get: Getter
    children: list[Any]

    def replaced(self) -> Any | None:
        """Return the first key whose child was replaced; None if all are still there."""
        try:
            current = self.get(self.container)
        except (KeyError, IndexError):
            current = ()
        if len(current) == len(self.children) and all(map(is_, current, self.children)):
            return None
        for key, child in zip(self.keys, self.children, strict=True):
            try:
                if self.container[key] is not child:
                    return key
            except (KeyError, IndexError):
                return key
        return None


class Branch:
    """One container of the user's structure: its keys in order, and a branch for each child that is a container.

    :meth:`names` and :meth:`leaves` visit the leaves in the same order.
    """

    def __init__(self, container: Any, path: tuple[str, ...] = (), offset: int = 0) -> None:
        if len(path) > MAX_DEPTH:
            raise too_deep(".".join(path[:8]) + "...")
        self.path = path
        self.is_dict = isinstance(container, Mapping)
        source_keys = list(container.keys()) if self.is_dict else list(range(len(container)))
        children = [container[key] for key in source_keys]
        self.sources = [Source(container, source_keys, getter(source_keys), children)]
        fields = getattr(container, "_fields", None) if isinstance(container, tuple) else None
        self.keys = source_keys if self.is_dict else list(fields or [offset + key for key in source_keys])
        self.branches = [branch_below(child, (*path, str(key))) for key, child in zip(self.keys, children, strict=True)]
        self.refresh()

    def refresh(self) -> None:
        """Update the values that follow from the keys and branches."""
        self.get = getter(self.keys)
        self.is_flat = not any(self.branches)

    def merge(self, other: Branch) -> None:
        """Append the children of another branch of the same kind."""
        self.keys = self.keys + other.keys
        self.branches = self.branches + other.branches
        self.sources = self.sources + other.sources
        self.refresh()

    def names(self) -> Iterator[str]:
        """Yield the name of every leaf: its path, joined by dots."""
        above = "".join(f"{key}." for key in self.path)
        for key, branch in zip(self.keys, self.branches, strict=True):
            if branch is LEAF:
                yield f"{above}{key!s}"
            else:
                yield from branch.names()

    def rebuilt(self, leaves: Iterator[Any]) -> Any:
        """Return these leaves in dicts and lists of this form."""
        children = [next(leaves) if branch is LEAF else branch.rebuilt(leaves) for branch in self.branches]
        return dict(zip(self.keys, children, strict=True)) if self.is_dict else children

    def leaves(self, structure: Any, what: str) -> list[Any]:
        """Return the leaves of a structure of this form; None or a missing dict key gives None for all leaves below it.

        Raises
        ------
        ValueError, TypeError
            If the form differs; the message says where.
        """
        children = self.children(structure, what)
        if self.is_flat:
            return list(children)
        leaves: list[Any] = []
        for branch, child in zip(self.branches, children, strict=True):
            if branch is LEAF:
                leaves.append(child)
            elif child is None:
                leaves.extend(None for _ in branch.names())
            else:
                leaves.extend(branch.leaves(child, what))
        return leaves

    def children(self, structure: Any, what: str) -> Sequence[Any]:
        if self.is_dict:
            if isinstance(structure, Mapping):
                # Only for a plain dict: a defaultdict would make up missing keys, and so hide a wrong name.
                if type(structure) is dict and len(structure) == len(self.keys):
                    try:
                        return self.get(structure)
                    except KeyError:
                        pass
                return self.children_with_gaps(structure, what)
            expected = f"a dict with the keys {self.keys}"
        elif isinstance(structure, (list, tuple)):
            if len(structure) == len(self.keys):
                return structure
            raise ValueError(
                f"{self.place(what)}: expected {len(self.keys)} entries, as in the parameters, got {len(structure)}; "
                "give None for an array without one"
            )
        else:
            expected = f"a list or tuple of {len(self.keys)} entries"
        raise TypeError(
            f"{self.place(what)}: expected {expected}, as in the parameters, got {type(structure).__name__}; "
            f"give the same structure as the parameters{form_of(structure, self.is_dict)}"
        )

    def children_with_gaps(self, structure: Mapping[Any, Any], what: str) -> list[Any]:
        known = set(self.keys)
        extra = [key for key in structure if key not in known]
        if extra:
            raise ValueError(
                f"{self.place(what)}: no parameter has the names {extra}; the parameters' names are {self.keys}"
            )
        return [structure.get(key) for key in self.keys]

    def place(self, what: str) -> str:
        return ".".join((what, *self.path))

    def replaced(self) -> str | None:
        """Return the name of the first child that the user replaced; None if all are still there."""
        for source in self.sources:
            key = source.replaced()
            if key is not None:
                return ".".join((*self.path, str(key)))
        if not self.is_flat:
            for branch in self.branches:
                name = branch.replaced() if branch is not LEAF else None
                if name is not None:
                    return name
        return None

    def branches_in_order(self) -> Iterator[Branch]:
        """Yield this branch and all below it."""
        yield self
        for branch in self.branches:
            if branch is not LEAF:
                yield from branch.branches_in_order()

    def is_plain(self) -> bool:
        """Return whether all containers are exact dicts, lists and tuples, with keys that are exact str and int."""
        return all(
            type(source.container) in (dict, list, tuple) and {str, int}.issuperset(map(type, source.keys))
            for branch in self.branches_in_order()
            for source in branch.sources
        )

    def arrays(self) -> Iterator[Any]:
        """Yield the leaves that the user's containers had when the optimizer was built."""
        children = chain.from_iterable(source.children for source in self.sources)
        if self.is_flat:
            yield from children
            return
        for branch, child in zip(self.branches, children, strict=True):
            if branch is LEAF:
                yield child
            else:
                yield from branch.arrays()


class Nothing(Branch):
    """The branch of a None among the parameters, such as the bias of a layer that has none: it has no leaves."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__({}, path)

    def rebuilt(self, leaves: Iterator[Any]) -> Any:
        return None

    def leaves(self, structure: Any, what: str) -> list[Any]:
        raise TypeError(
            f"{self.place(what)}: expected None, as in the parameters, got one {described(structure)}; what is "
            "None has no gradient"
        )


def branch_below(child: Any, path: tuple[str, ...]) -> Branch | None:
    """Return the branch of the child of a container; LEAF for an array."""
    if child is None:
        return Nothing(path)
    return Branch(child, path) if is_container(child) else LEAF


def branch_of(structure: Any) -> Branch:
    """Return the branch of a structure; that of a single array has the array under the name "0"."""
    return Branch(structure if is_container(structure) else [structure])


def form_of(structure: Any, is_dict: bool) -> str:
    """Return how to make a dict or a list of something that is neither, as the end of a sentence."""
    if callable(structure):
        return " (the result of the function: call it first)"
    is_iterator = hasattr(structure, "__iter__") and not (hasattr(structure, "shape") or is_container(structure))
    return ": list(...) of it" if is_iterator and not is_dict else ""


def check_depth(place: str, value: Any) -> None:
    """Raise if dicts, lists and tuples are nested too deep in a value, or contain themselves."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = chain.from_iterable(each.values() if isinstance(each, Mapping) else each for each in level)
        level = list({id(each): each for each in inner if is_container(each)}.values())
        if not level:
            return
    raise too_deep(place)


def too_deep(place: str) -> ValueError:
    return ValueError(f"{place} is nested more than {MAX_DEPTH} deep, or contains itself; make it flatter")


def is_container(value: Any) -> bool:
    # The first question spares arrays the second, which takes longer.
    return type(value) is not np.ndarray and isinstance(value, (Mapping, list, tuple))


def getter(keys: list[Any]) -> Getter:
    """Return a function that reads these keys of a container in one call, as a sequence."""
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda container: [container[key] for key in keys]
