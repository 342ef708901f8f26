"""The advice at the end of an error about a parameter that is not a NumPy array."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from .dtypes import is_float
from .memory import described

#: The most attributes of an object that errors name.
MOST_NAMES = 6

MAKE_ONE = "make one with np.asarray(..., dtype=np.float32)"


def instead_of(value: Any) -> str:
    """Return what to give instead of something that can't be a parameter, as the end of a sentence."""
    if value is None:
        return "does the function that makes them return them?"
    if library_of(value) == "torch":
        if hasattr(value, "named_parameters"):
            return "give {name: p.detach().numpy() for name, p in model.named_parameters()}, which share their memory"
        if hasattr(value, "is_neg") and value.is_neg():
            return "make it a tensor of its own first, tensor = tensor.resolve_neg(), and give tensor.detach().numpy()"
        return "give tensor.detach().numpy(), which shares its memory, so that torch sees each step"
    if library_of(value) in ("jax", "jaxlib"):
        return (
            "an array of JAX can't change: make NumPy arrays of all once, params = jax.tree.map(np.array, params), and "
            "give these to the optimizer and to JAX's functions"
        )
    if isinstance(value, str):
        return "for pairs of a name and an array, give dict(pairs)"
    if isinstance(value, (bool, int, float, np.generic)):
        return f"the parameters come first, options are given by name; or {MAKE_ONE}"
    if hasattr(value, "__array__"):
        return MAKE_ONE
    if isinstance(value, Iterable):
        return (
            "give list(...) of it, or a dict; of torch's model.parameters(): [p.detach().numpy() for p in "
            "model.parameters()]"
        )
    names = arrays_in_attributes(value)
    if names:
        entries = ", ".join(f'"{name}": it.{name}' for name in names[:MOST_NAMES])
        more = ", ..." if len(names) > MOST_NAMES else ""
        every = " (vars(it), if all its attributes are arrays)" if has_arrays_alone(value) else ""
        return f"give a dict of its arrays{every}: {{{entries}{more}}}"
    return MAKE_ONE


def library_of(value: Any) -> str:
    """Return the name of the library that has defined the type of a value; torch's for modules of one's own too."""
    kind: Any = type(value)
    return library_of_type(kind)


@lru_cache
def library_of_type(kind: type) -> str:
    modules = {each.__module__.partition(".")[0] for each in kind.__mro__}
    return next((name for name in ("torch", "jax", "jaxlib", "autograd") if name in modules), "")


def attributes(value: Any) -> dict[str, Any]:
    slots = getattr(type(value), "__slots__", ())
    names = [*getattr(value, "__dict__", ()), *([slots] if isinstance(slots, str) else slots)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def arrays_in_attributes(value: Any) -> list[str]:
    """Return the names of the attributes that are arrays of floats."""
    return [
        name
        for name, each in attributes(value).items()
        if isinstance(each, np.ndarray) and is_float(each.dtype) and not name.startswith("__")
    ]


def has_arrays_alone(value: Any) -> bool:
    return len(arrays_in_attributes(value)) == len(attributes(value)) == len(getattr(value, "__dict__", ()))


def refused_param(name: str, value: Any) -> TypeError:
    """Return the error that a parameter is not a NumPy array."""
    return TypeError(
        f"params: {name!r} is {described(value)}; expected a NumPy array of floats, which can be updated in place "
        f"({instead_of(value)})"
    )
