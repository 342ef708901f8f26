"""The interface of arrays that are moved to the gradients of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from ..arrays.dtypes import Array

Move: TypeAlias = Callable[[Sequence[Any]], tuple[list[Any], list[Any]] | None]


class Windows(Protocol):
    """Arrays like others, over memory that somebody else owns. They are to be read while it is there.

    Attributes
    ----------
    arrays : list of array
        One for each parameter.
    move : callable
        ``move(params)`` moves the arrays to the gradients of these parameters. It returns the gradients, which keep
        their memory, and the arrays; both have None for a parameter without a gradient. Or it returns None, and some
        arrays have been moved: if a parameter is not where it was, or a gradient not laid out as its parameter.
    """

    arrays: list[Array]
    move: Move
