"""The arguments of block_coordinate_descent that say which blocks there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from ..arrays.memory import described, shown
from ..arrays.structure import is_container

#: How a block is minimized: a minimizer of one's own, a method of minimize, or minimize's keywords.
How: TypeAlias = Callable[..., Any] | str | type | Mapping[str, Any]

EXPECTED = 'expected a dict of patterns and minimizers, a list of patterns, or "coordinates"'


def checked_pairs(blocks: Any, method: How | None) -> list[tuple[str, Any]]:
    """Return patterns and how to minimize over each."""
    if isinstance(blocks, Mapping):
        items: Iterable[Any] = blocks.items()
    elif is_container(blocks):
        items = [(item, method or "lbfgs") if isinstance(item, str) else item for item in blocks]
    else:
        raise TypeError(f"blocks: {EXPECTED}, got a value {described(blocks)}")
    pairs = list(items)
    if not pairs:
        raise ValueError(f"blocks: there is none; {EXPECTED}")
    for item in pairs:
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], str):
            raise TypeError(f"blocks: expected pairs of a pattern and a minimizer, got {shown(item):.80}")
    if method is not None and (isinstance(blocks, Mapping) or not any(isinstance(item, str) for item in blocks)):
        raise TypeError(f"method={shown(method):.80}: each block says how it is minimized; leave method out")
    return [(pattern, how) for pattern, how in pairs]


def checked_how(title: str, how: Any) -> Callable[..., Any] | Mapping[str, Any]:
    """Return a minimizer of one's own, or keywords of minimize."""
    if isinstance(how, (str, type)):
        return {"method": how}
    if isinstance(how, Mapping):
        return {"method": "lbfgs", **how}
    if not callable(how):
        raise TypeError(
            f"blocks: {title!r}: expected a function that minimizes over the block, the name of a method, or a dict of "
            f"minimize's keywords, got {shown(how):.80}"
        )
    function: Callable[..., Any] = how
    return function
