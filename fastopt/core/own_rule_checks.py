"""Checks of what :func:`fastopt.optimizer` is given. Each error is a TypeError that begins with the file and line."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from ..arithmetic.recording import item_name
from ..arithmetic.symbols import GREATEST_FLOAT, misuse, misuse_in, place_of
from ..arrays.memory import shown
from ..options.common import Common
from ..options.names import RENAMED
from ..options.ranges import RANGES, SCHEDULED_BELOW_ONE, Allowed, Range, check, plain
from .slots import AROUND

#: FO_MAX_SCALARS of csrc/fastopt.h.
MOST_SCALARS = 16
#: FO_MAX_SLOTS of csrc/fastopt.h.
MOST_SLOTS = 6

#: Stands for a number where a slot begins as a copy of the parameter.
PARAM = "param"

#: The values of an option that fastopt has no range for.
ANY_SCHEDULED = Range(schedulable=True)

#: The names that no option of one's own can have.
TAKEN = frozenset({*Common.__annotations__, *RENAMED, "self", "params", "options", "common", "initial_lr"})


def check_name(kind: str, name: Any) -> None:
    """Raise unless a rule can read a number of this name."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise misuse(
            f"{kind} {name!r:.80}: expected a name that a rule can read as h.name, without an underscore first"
        )


def check_options(options: Mapping[str, Any]) -> dict[str, Allowed]:
    """Return the ranges of options, given their defaults; raise if a name or a default is wrong."""
    for name in options:
        check_name("option", name)
        if name in TAKEN:
            raise misuse(f"option {name!r}: every optimizer has this name already; call it something else")
    if "lr" not in options:
        raise misuse("there is no option lr; give its default: @fastopt.optimizer(lr=1e-3, ...)")
    ranges = {name: allowed_values(name, value) for name, value in options.items()}
    for name, value in options.items():
        if value is None or isinstance(plain(value), (bool, str)):
            raise misuse(
                f"{name}={value!r:.80}: expected a number; a rule is arithmetic, so write two rules and choose between "
                "the two classes"
            )
        try:
            check(name, value, ranges[name])
        except (TypeError, ValueError) as error:
            raise misuse(str(error)) from None
        items = [item_name(name, k) for k in range(len(value))] if isinstance(value, (tuple, list)) else []
        if not options.keys().isdisjoint(items):
            raise misuse(f"option {name!r}: its numbers are {', '.join(items)}, and another option is too")
    return ranges


def allowed_values(name: str, default: Any) -> Allowed:
    """Return the values of an option: those of all optimizers if they know its name."""
    known = RANGES.get(name, ANY_SCHEDULED)
    if not isinstance(default, (tuple, list)) or (name in RANGES and isinstance(known, Range)):
        return known
    if not default:
        raise misuse(f"{name}={default!r}: expected a number, or a tuple of numbers")
    each = known if isinstance(known, Range) else SCHEDULED_BELOW_ONE  # betas
    return (each,) * len(default)


def check_function(function: Any) -> None:
    """Raise unless this is a function that a rule can be: of its numbers, the parameter, the gradient and slots."""
    expected = "expected a function of the numbers, the parameter, the gradient and each slot: def Name(h, p, g, m)"
    if not inspect.isfunction(function):
        kind = (
            f"the class {function.__name__}" if inspect.isclass(function) else f"one of type {type(function).__name__}"
        )
        raise misuse(f"got {kind}; {expected}")
    place, name = place_of(function), function.__name__
    if not name.isidentifier():
        raise TypeError(f"{place}a lambda has no name for the class; {expected}")
    for is_kind, kind in (
        (inspect.isgeneratorfunction, "generator"),
        (inspect.iscoroutinefunction, "coroutine"),
        (inspect.isasyncgenfunction, "generator"),
    ):
        if is_kind(function):
            raise TypeError(f"{place}{name} is a {kind}; {expected}")
    parameters = inspect.signature(function, follow_wrapped=False).parameters
    if len(parameters) < 3:
        raise TypeError(f"{place}{name}({', '.join(parameters)}): {expected}")
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise TypeError(f"{place}{name}({parameter}): expected positional arguments alone; {expected}")
        if parameter.default is not parameter.empty:
            raise TypeError(
                f"{place}{name}({parameter}): expected no default; options are given to fastopt.optimizer(...), and "
                f"what slots begin with as slots={{...}}"
            )


def check_slot_names(function: Callable[..., Any], slots: Sequence[str]) -> None:
    """Raise if the state has no room for slots of these names, or for so many."""
    if len(slots) > MOST_SLOTS:
        raise TypeError(
            f"{place_of(function)}{function.__name__} has {len(slots)} slots, {', '.join(slots)}; expected at most "
            f"{MOST_SLOTS}"
        )
    scales = [f"{slot}_scale" for slot in slots]
    for slot in slots:
        if slot in ("step", "params", *AROUND, *scales):
            raise TypeError(
                f"{place_of(function)}slot {slot!r}: another entry of the state has this name; choose another"
            )


def checked_non_negative(non_negative: Any, slots: Sequence[str]) -> frozenset[str]:
    """Return the names of the slots that are never negative."""
    if isinstance(non_negative, str) or not isinstance(non_negative, Iterable):
        raise misuse(f'non_negative={non_negative!r:.80}: expected the names of slots, such as ("v",)')
    names = list(non_negative)
    for name in names:
        if name not in slots:
            raise misuse(f"non_negative={non_negative!r:.80}: expected names of slots, which are {list(slots)}")
    return frozenset(names)


def checked_first_values(first_values: Any, slots: Sequence[str], non_negative: Container[str]) -> dict[str, Any]:
    """Return what each slot begins with: a number, or :data:`PARAM`."""
    if first_values is None:
        return {}
    if not isinstance(first_values, Mapping):
        raise misuse(f'slots={first_values!r:.80}: expected what slots begin with, such as {{"v": 1.0}}')
    found = {}
    for slot, value in first_values.items():
        if slot not in slots:
            raise misuse(f"slots: no slot is called {slot!r:.80}; the rule's are {list(slots)}")
        number, is_param = plain(value), isinstance(value, str) and value == PARAM
        is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
        if not is_param and not (is_number and abs(number) <= GREATEST_FLOAT):
            raise misuse(
                f'slots: {slot!r}: {value!r:.80}: expected a finite number, or "{PARAM}" for a copy of the parameter'
            )
        if slot in non_negative and (is_param or number < 0):
            raise misuse(f"slots: {slot!r}: {value!r:.80}: expected a number of at least 0, since it is non_negative")
        found[slot] = PARAM if is_param else float(number)
    return found


def checked_numbers(scalars: Callable[..., Any], numbers: Any) -> dict[str, Any]:
    """Return what ``scalars`` returned as floats by name; raise unless it is a dict of numbers."""
    if not isinstance(numbers, Mapping):
        raise misuse_in(scalars, f"scalars returns {shown(numbers):.80}; expected a dict of numbers by name")
    found = {}
    for name, value in numbers.items():
        number = plain(value)
        try:
            found[name] = float(number) if isinstance(number, (int, float)) else None
        except OverflowError:
            found[name] = None
        if found[name] is None:
            raise misuse_in(scalars, f"scalars: {name}={shown(value):.80}: expected a number in the range of float")
    return found


def check_scalars(scalars: Any, h: Any) -> list[str]:
    """Return the names that ``scalars`` returns in the first step, given the options' defaults as a named tuple."""
    if not callable(scalars):
        raise misuse(f"scalars={scalars!r:.80}: expected a function of the options and the step, lambda h, t: {{...}}")
    try:
        numbers = scalars(h, 1)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        known = f"; the options are {', '.join(h._fields)}" if isinstance(error, AttributeError) else ""
        raise misuse_in(
            scalars, f"scalars(h, 1) with the defaults raised {type(error).__name__}: {error}{known}"
        ) from error
    found = list(checked_numbers(scalars, numbers))
    for name in found:
        check_name("scalars:", name)
        if name in h._fields:
            raise misuse_in(scalars, f"scalars: {name!r} is an option; give the number another name")
    return found


def check_read(function: Callable[..., Any], kind: str, names: Iterable[str], read: Iterable[str]) -> None:
    """Raise if a rule does not read one of these names."""
    unread = [name for name in names if name not in read]
    if unread:
        raise TypeError(
            f"{place_of(function)}{function.__name__} does not read the {kind} {', '.join(unread)}; read each as "
            f"h.{unread[0]}, or leave it out"
        )


def check_count(function: Callable[..., Any], names: Sequence[str]) -> None:
    """Raise if a rule reads more numbers than a step has room for."""
    if len(names) > MOST_SCALARS:
        raise TypeError(
            f"{place_of(function)}{function.__name__} reads {len(names)} numbers, {', '.join(names)}; expected at "
            f"most {MOST_SCALARS}: compute some of them together in scalars="
        )
