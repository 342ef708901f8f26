"""Options with their schedules evaluated, as a step uses them."""

from __future__ import annotations

from typing import Any

from .ranges import Group


def is_scheduled(value: Any) -> bool:
    """Return whether an option is a schedule, or a tuple that contains one."""
    return callable(value) or (isinstance(value, (tuple, list)) and any(map(callable, value)))


def value_at(value: Any, step: int) -> Any:
    """Return an option with its schedules evaluated."""
    if isinstance(value, (tuple, list)):
        return tuple(value_at(item, step) for item in value)
    return value(step) if callable(value) else value


def differ(group: Group, values: Group) -> bool:
    """Return whether a group's options differ from these values; True if they can't be compared (an array)."""
    try:
        return group != values
    except ValueError:
        return True
