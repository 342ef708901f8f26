"""Checks of what the hooks of a user's optimizer return, before a step changes anything."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from ..arithmetic import rules as built_in
from ..arithmetic.operations import Rule, scalars_type, slots
from ..backends.table import HyperRow
from ..options.ranges import plain

#: The fields of a row that are numbers.
NUMBERS = tuple(name for name in HyperRow._fields if name not in ("rule", "scalars"))

numbers_of = attrgetter(*NUMBERS)


def check_rule(rule: Any) -> None:
    """Raise unless :meth:`Hooks.rule` returned a function of scalars, parameter, gradient and slots."""
    try:
        names = list(inspect.signature(rule).parameters)
    except (TypeError, ValueError):
        names = []
    if len(names) < 3:
        raise TypeError(
            f"rule={rule!r:.80}: expected a function of the scalars, the parameter, the gradient and each slot; return "
            "one of fastopt.rules, or one that is defined like them"
        )


def check_slot_names(names: Any, rules: Sequence[Rule], taken: Sequence[str]) -> None:
    """Raise unless :meth:`Hooks.slot_names` returned different names, one for each slot of these rules at least.

    ``taken`` are the names of the entries of a state that are no slots.
    """
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"slot_names={names!r:.80}: expected a tuple of names")
    if len({*names}) < len(names):
        raise ValueError(f"slot_names={names!r:.80}: expected each name once")
    if not {*names}.isdisjoint(taken):
        raise ValueError(
            f"slot_names={names!r:.80}: expected none of {list(taken)}, which name other entries of the state; call "
            "the slot something else"
        )
    for rule in rules:
        if len(names) < len(slots(rule)):
            raise ValueError(
                f"slot_names={names!r:.80}: expected a name for each of the slots {slots(rule)} of the rule "
                f"{name_of(rule)}, which are the first ones"
            )


def check_slot_shape(shape: Any, slot: str, param: Any, is_elementwise: bool) -> None:
    """Raise unless :meth:`Hooks.slot_shape` returned a shape; the parameter's if a rule works on the slot."""
    is_shape = isinstance(shape, tuple) and all(isinstance(length, (int, np.integer)) for length in shape)
    if not is_shape or any(length < 0 for length in shape):
        raise TypeError(f"slot_shape={shape!r:.80}: expected a shape, a tuple of lengths, for the slot {slot!r}")
    if is_elementwise and shape != tuple(param.shape):
        raise ValueError(
            f"slot_shape={shape!r}: expected {tuple(param.shape)}, the shape of the parameter, since the rule works on "
            f"each element of the slot {slot!r}; slot_names has slots of other shapes behind those of the rules"
        )


def checked_row(row: Any, given: HyperRow, rules: Sequence[Rule]) -> HyperRow:
    """Return the row that :meth:`Hooks.adjusted` returned, with the scalars of :meth:`Hooks.hyper` under their names.

    ``given`` is the row that :meth:`Hooks.adjusted` got.

    Raises
    ------
    TypeError, ValueError
        If it is no row of one of these rules, a field is no number, or its scalars are not those of the rule.
    """
    if not isinstance(row, HyperRow):
        raise TypeError(f"adjusted={row!r:.80}: expected the row, or row._replace(...)")
    if row.rule not in rules:
        names = list(map(name_of, rules))
        raise ValueError(
            f"adjusted: expected a row with one of the rules {names}, got {name_of(row.rule)}; name it in further_rules"
        )
    if row is not given:
        for name, value, before in zip(NUMBERS, numbers_of(row), numbers_of(given), strict=True):
            if value is not before:
                check_number(f"adjusted: {name}", value)
    scalars = checked_scalars(row.scalars, row.rule)
    return row if scalars is row.scalars else row._replace(scalars=scalars)


def checked_scalars(scalars: Any, rule: Rule) -> tuple[float, ...]:
    """Return the scalars that :meth:`Hooks.hyper` returned, under the names that the rule reads.

    Raises
    ------
    TypeError, ValueError
        If they are not a tuple of the rule's numbers. A rule of the user's own shows by itself which names it reads.
    """
    kind = scalars_type(rule) if rule.__module__ == built_in.__name__ else None
    found = getattr(scalars, "_fields", None)
    names = found if kind is None else kind._fields
    if not isinstance(scalars, tuple) or names is None or found not in (None, names) or len(scalars) != len(names):
        example = "a named tuple" if kind is None else f"fastopt.rules.{kind.__name__}(...)"
        raise TypeError(f"hyper={scalars!r:.80}: expected the scalars of the rule {name_of(rule)}; return {example}")
    if set(map(type, scalars)) != {float}:
        for name, value in zip(names, scalars, strict=True):
            check_number(f"hyper: {name}", value)
    return scalars if kind is None or found is not None else kind(*scalars)


def check_number(where: str, value: Any) -> None:
    """Raise unless a hook returned a number that double precision can hold; infinity and NaN are numbers too."""
    number = plain(value)
    if not isinstance(number, (int, float)):
        raise TypeError(f"{where}={value!r:.80}: expected a number")
    try:
        float(number)
    except OverflowError:
        raise ValueError(f"{where}: expected a number within the range of float, got a greater int") from None


def checked_extra_state(extra: Any) -> dict[str, Any]:
    """Return what :meth:`Hooks.extra_state` returned; raise unless it is a dict by names."""
    if not isinstance(extra, dict) or not all(isinstance(name, str) for name in extra):
        raise TypeError(f"extra_state={extra!r:.80}: expected a dict whose keys are names")
    return extra


def name_of(rule: Any) -> str:
    return str(getattr(rule, "__name__", rule))


def check_row_keys(keys: Any, arrays: int) -> None:
    """Raise unless :meth:`Hooks.row_keys` returned arrays of one value for each of the optimizer's arrays."""
    if not isinstance(keys, (tuple, list)) or not all(
        isinstance(values, np.ndarray) and values.shape == (arrays,) and not values.dtype.hasobject for values in keys
    ):
        raise TypeError(f"row_keys={keys!r:.80}: expected a list of NumPy arrays of shape ({arrays},)")
