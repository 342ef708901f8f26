"""Values in one line, for the ``repr`` of objects that have them: arrays are counted, and never printed."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .memory import shown
from .structure import branch_of, is_container

#: The most items of a list that are shown, and characters of a value.
MOST_ITEMS, MOST_CHARACTERS = 6, 120

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)


def amount(arrays: Iterable[Any]) -> str:
    """Return how many arrays there are, and how many elements they have together."""
    sizes = [int(np.prod(array.shape)) for array in arrays]
    return f"{number_of(len(sizes), 'array')}, {number_of(sum(sizes), 'element')}"


def number_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def amount_in(structure: Any) -> str:
    """Return :func:`amount` of the arrays in a structure; it may have other leaves too."""
    branch = branch_of(structure)
    return amount(leaf for leaf in branch.arrays() if hasattr(leaf, "shape"))


def brief(value: Any) -> str:
    """Return a value in one short line."""
    if getattr(value, "shape", ()) != ():
        return f"<array of shape {tuple(value.shape)}>"
    if isinstance(value, (np.generic, np.ndarray)):
        return repr(value.item())
    if isinstance(value, FUNCTIONS):
        return str(value.__qualname__)
    if type(value) in (list, tuple):
        items = [brief(item) for item in value[:MOST_ITEMS]]
        if len(value) > MOST_ITEMS:
            items.append(f"... ({len(value)} in all)")
        inside = ", ".join(items)
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(items) == 1 else ''})"
    if isinstance(value, Mapping) or is_container(value):
        return f"<{type(value).__name__} of {len(value)}>"
    text = " ".join(shown(value).split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Return ``name=value`` for each of these."""
    return [f"{name}={brief(value)}" for name, value in values.items()]
