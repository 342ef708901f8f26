"""Options as plain Python, and back: how a state dict holds schedules, functions and loss scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from .. import schedules
from ..arrays.memory import shown
from ..options.loss_scale import DynamicLossScale

#: The schedules that their arguments describe completely, by name.
SCHEDULES: Mapping[str, type[schedules.Schedule]] = {
    name: value
    for name, value in vars(schedules).items()
    if name in schedules.__all__ and isinstance(value, type) and value is not schedules.Schedule
}


def encoded(value: Any) -> Any:
    """Return an option as plain Python: a schedule as its name and arguments, a function as its name."""
    if isinstance(value, (tuple, list)):
        return type(value)([encoded(item) for item in value])
    if SCHEDULES.get(type(value).__name__) is type(value):
        arguments = {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
        return {"schedule": type(value).__name__, "arguments": arguments}
    if isinstance(value, DynamicLossScale):
        return {"loss_scale": value.state_dict()}
    if callable(value):
        return {"function": name_of(value)}
    return value.item() if isinstance(value, np.generic) else value


def decoded(value: Any, current: Any) -> Any:
    """Return the option that :func:`encoded` encoded. A function is taken from the current value of the option.

    Raises
    ------
    TypeError, ValueError
        If there is no such schedule or function, or its arguments do not fit.
    """
    if isinstance(value, (tuple, list)):
        likes = current if isinstance(current, (tuple, list)) and len(current) == len(value) else [None] * len(value)
        return type(value)([decoded(item, like) for item, like in zip(value, likes, strict=True)])
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"schedule", "arguments"} and isinstance(value["arguments"], Mapping):
        name = value["schedule"]
        kind = SCHEDULES.get(name) if isinstance(name, str) else None
        if kind is None:
            raise ValueError(f"there is no schedule {shown(name)}; the schedules are {list(SCHEDULES)}")
        known = [field.name for field in fields(kind)]
        if set(value["arguments"]) != set(known):
            raise ValueError(f"{kind.__name__}: expected the arguments {known}, got {list(value['arguments'])}")
        like_of = {name: getattr(current, name) if type(current) is kind else None for name in known}
        return kind(**{name: decoded(item, like_of[name]) for name, item in value["arguments"].items()})
    if is_loss_scale(value):
        scale = DynamicLossScale()
        scale.load_state_dict(dict(value["loss_scale"]))
        return scale
    if set(value) == {"function"}:
        if callable(current) and name_of(current) == value["function"]:
            return current
        raise ValueError(
            f"the schedule calls the function {shown(value['function'])}, which can't be saved; build the optimizer "
            "with the same schedule and load again"
        )
    raise ValueError(f"expected a number, a schedule or a tuple, got {shown(value):.80}")


def is_loss_scale(value: Any) -> bool:
    """Return whether a saved option is a dynamic loss scale."""
    return isinstance(value, Mapping) and set(value) == {"loss_scale"} and isinstance(value["loss_scale"], Mapping)


def name_of(function: Any) -> str:
    """Return the module and name of a function, or of an object's class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
