"""The ``repr`` of an optimizer: what it has, and the options that differ from those of its class."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from ..arrays.texts import amount, assignments, brief, number_of
from ..options.ranges import Group, plain
from ..options.values import differ
from .groups import NO_OPTIONS
from .option_set import OPTIMIZER
from .part_steps import HOOKS_ALONE, PLAIN_WHOLE_OPTIONS
from .parts import Parts
from .whole_options import SAVED

#: The options of groups that are shown even if they have their defaults.
ALWAYS_SHOWN = ("lr",)

#: The most groups that are shown; the layers of a large model may have one each.
MOST_GROUPS = 12

#: The options of groups by class, as they are where the user gives none.
DEFAULTS: weakref.WeakKeyDictionary[type, Mapping[str, Any]] = weakref.WeakKeyDictionary()


class Shown(Protocol):
    """An optimizer, as far as its ``repr`` needs it."""

    @property
    def parts(self) -> Parts: ...
    def of_group(self, group: Group) -> Any: ...


def representation(opt: Shown) -> str:
    """Return what a person wants to see of an optimizer: one line, and one for each group if there are several."""
    parts = opt.parts
    parameters, name = parts.parameters, type(opt).__name__
    whole = [amount(array for group in parts.groups.checked for array in group.values["params"])]
    if parameters.frozen:
        whole.append(f"{len(parameters.frozen)} frozen")
    ending = [*options_of_whole(parts), f"step={parts.progress.step_count}", f"backend={parts.backend.name!r}"]
    groups = parts.groups.param_groups
    if len(groups) == 1 and OPTIMIZER not in groups[0]:
        return f"{name}({', '.join([*whole, *options_of_group(opt, groups[0]), *ending])})"
    lines = [f"{name}({', '.join([*whole, *ending])}"]
    for k, group in enumerate(groups[:MOST_GROUPS]):
        kind = [str(group[OPTIMIZER])] if OPTIMIZER in group else []
        lines.append(f"  group {k}: {', '.join([*kind, amount(group['params']), *options_of_group(opt, group)])}")
    if len(groups) > MOST_GROUPS:
        lines.append(f"  ... and {number_of(len(groups) - MOST_GROUPS, 'more group')}")
    return "\n".join([*lines, ")"])


def options_of_group(opt: Shown, group: Group) -> list[str]:
    """Return the options of a group that differ from their defaults, as text."""
    defaults = default_options(type(opt.of_group(group)))
    return assignments(
        {
            name: value
            for name, value in group.items()
            if name not in (*NO_OPTIONS, OPTIMIZER)
            and (name in ALWAYS_SHOWN or name not in defaults or is_other(value, defaults[name]))
        }
    )


def options_of_whole(parts: Parts) -> list[str]:
    """Return the options of the whole optimizer that differ from their defaults, as text."""
    values = parts.options._asdict() | {name: getattr(parts.whole, name) for name in SAVED}
    found = assignments({name: value for name, value in values.items() if is_other(value, PLAIN_WHOLE_OPTIONS[name])})
    copies = [copy for copy in parts.parameters.copies if copy is not None]
    if copies:
        found.append(f"copy_to=<{number_of(len(copies), 'array')}>")
    bounded = [own for own in parts.parameters.bounds if own is not None]
    if bounded:
        found.append(f"bounds=<of {number_of(len(bounded), 'array')}>")
    return found


def is_other(value: Any, default: Any) -> bool:
    """Return whether an option differs from its default."""
    value, default = plain(value), plain(default)
    return bool(differ({"": value}, {"": default}))


def default_options(cls: type) -> Mapping[str, Any]:
    """Return the options that the groups of a class have where the user gives none.

    Those of a class that can't be made without arguments of its own are found in the signatures.
    """
    if cls not in DEFAULTS:
        make: Any = cls
        try:
            DEFAULTS[cls] = dict(make(HOOKS_ALONE).defaults)
        except Exception:  # a class from elsewhere may raise anything
            DEFAULTS[cls] = {
                name: value for base in reversed(cls.__mro__[:-1]) for name, value in default_arguments(base).items()
            }
    return DEFAULTS[cls]


def default_arguments(cls: Any) -> dict[str, Any]:
    """Return the defaults in the signature of a class."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def arguments(attributes: Mapping[str, Any], cls: type) -> list[str]:
    """Return the attributes of an object as text, but those that have the defaults of its class's arguments."""
    defaults = default_arguments(cls)
    return [
        f"{name}={brief(value)}"
        for name, value in attributes.items()
        if name not in defaults or is_other(value, defaults[name])
    ]
