"""The base of all schedules: the types of their arguments, their shapes, and those that operators make."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, SupportsIndex, TypeAlias

from ..arrays.memory import shown
from ..options import ranges
from ..options.ranges import Allowed, Choice, Range, as_number, check, plain

# --- Shapes ----------------------------------------------------------------------------------------------------------


def progress(step: float, total: float) -> float:
    return 1.0 if step >= total else step / total


def on_line(start: float, end: float, x: float) -> float:
    # From the nearer end, so that both ends are exact and no value lies outside them.
    return start + (end - start) * x if x < 0.5 else end - (end - start) * (1 - x)


def straight(x: float) -> float:
    return x


def wave(x: float) -> float:
    return (1 - math.cos(math.pi * x)) / 2


def on_cosine(start: float, end: float, x: float) -> float:
    return on_line(start, end, wave(x))


#: How much of the way from one value to the next is done after the part x of its steps.
SHAPES = {"cos": wave, "linear": straight}


# --- Arguments: a field's annotation holds its converters, and `Schedule.__post_init__` applies them -----------------

#: Takes a name and a value; returns the converted value, or raises.
Converter: TypeAlias = Callable[[str, Any], Any]


def number(allowed: Range) -> Converter:
    return lambda where, value: as_number(where, value, allowed)


def one_of(allowed: Allowed) -> Converter:
    def convert(where: str, value: Any) -> Any:
        check(where, value, allowed)
        return plain(value)

    return convert


def each(convert: Converter) -> Converter:
    def convert_each(where: str, values: Any) -> tuple[Any, ...]:
        # A string can be iterated over, but is never meant as a sequence of numbers.
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            raise TypeError(f"{where}={shown(values)}: expected a sequence")
        return tuple(convert(f"{where}[{k}]", value) for k, value in enumerate(values))

    return convert_each


def increasing(where: str, values: tuple[int, ...]) -> tuple[int, ...]:
    if not all(a < b for a, b in pairwise(values)):
        raise ValueError(f"{where}={shown(values)}: expected a strictly increasing sequence")
    return values


def non_empty(where: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError(f"{where}={shown(values)}: expected a non-empty sequence")
    return values


def function(where: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{where}={shown(value)}: expected a schedule or a function of the step")
    return value


def schedule(where: str, value: Any) -> "Schedule":
    return value if isinstance(value, Schedule) else lambda_(function(where, value))


Rate = Annotated[float, number(ranges.NON_NEGATIVE)]
Positive = Annotated[float, number(ranges.POSITIVE)]
Fraction = Annotated[float, number(ranges.FRACTION)]
Steps = Annotated[int, number(ranges.INDEX)]
Count = Annotated[int, number(ranges.COUNT)]
MaybeCount = Annotated[int | None, number(Range(1, whole=True, optional=True))]
Flag = Annotated[bool, one_of(None)]
Shape = Annotated[str, one_of(Choice(*SHAPES))]
Rates = Annotated[Sequence[float], each(number(ranges.NON_NEGATIVE))]
Boundaries = Annotated[Sequence[int], each(number(ranges.COUNT)), increasing]
Function = Annotated[Callable[[int], float], function]
OneSchedule = Annotated[Callable[[int], float], schedule]
Schedules = Annotated[Sequence[Callable[[int], float]], each(schedule), non_empty]


def check_lengths(where: str, name: str, items: Sequence[object], boundaries: Sequence[int]) -> None:
    if len(items) != len(boundaries) + 1:
        raise ValueError(
            f"{where}: expected {name} to be one more than boundaries, got {len(items)} and {len(boundaries)} of them"
        )


# --- Schedules -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The base of all schedules.

    Raises
    ------
    TypeError, ValueError
        When called: `step` is not an integer (Python's or NumPy's), or is below 0.

    Examples
    --------
    >>> isinstance(constant(0.1), Schedule)
    True
    >>> constant(0.1)(-1)
    Traceback (most recent call last):
    ValueError: step=-1: expected a whole number of at least 0
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            for convert in getattr(field.type, "__metadata__", ()):
                value = convert(f"{type(self).__name__}: {field.name}", getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    def __call__(self, step: SupportsIndex) -> float:
        """Return the value at `step`, counted from 0."""
        return self.at(step if type(step) is int and step >= 0 else as_number("step", step, ranges.INDEX))

    def at(self, step: int) -> float:
        """Return the value at `step`, which is not checked; subclasses define this."""
        raise NotImplementedError

    #: Has NumPy's scalars leave the operators to the schedule.
    __array_ufunc__ = None

    def __mul__(self, other: Any) -> "Schedule":
        """Return the product with a number, or with another schedule: a `chain`."""
        return of_operator(product, self, other)

    def __rmul__(self, other: Any) -> "Schedule":
        return of_operator(product, other, self)

    def __truediv__(self, other: Any) -> "Schedule":
        """Return the quotient by a number, or by another schedule: a `quotient`."""
        return of_operator(quotient, self, other)

    def __rtruediv__(self, other: Any) -> "Schedule":
        return of_operator(quotient, other, self)

    def __add__(self, other: Any) -> "Schedule":
        """Return the sum with a number, or with another schedule: a `sum_of`."""
        return of_operator(total, self, other)

    def __radd__(self, other: Any) -> "Schedule":
        return of_operator(total, other, self)

    def __sub__(self, other: Any) -> "Schedule":
        """Return the difference from a number, or from another schedule: a `difference`."""
        return of_operator(difference, self, other)

    def __rsub__(self, other: Any) -> "Schedule":
        return of_operator(difference, other, self)


@dataclass(frozen=True)
class lambda_(Schedule):
    """``fn(step)``, for any function of the step. It pickles if `fn` does.

    Parameters
    ----------
    fn : callable
        Takes the step, an int, and returns a finite number; other results raise TypeError or ValueError.

    Examples
    --------
    >>> lambda_(lambda step: 1 / (step + 1))(3)
    0.25
    """

    fn: Function

    def at(self, step: int) -> float:
        value: float = as_number(f"lambda_: fn({step})", self.fn(step), ranges.ANY_NUMBER)
        return value


@dataclass(frozen=True)
class constant(Schedule):
    """``value`` at every step.

    Parameters
    ----------
    value : float, >= 0

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """

    value: Rate

    def at(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class chain(Schedule):
    """The product of schedules: ``schedules[0](step) * schedules[1](step) * ...``; torch's ChainedScheduler.

    ``schedule * 0.5`` and ``schedule * other`` make one; a number is a `constant` then.

    Parameters
    ----------
    schedules : non-empty sequence of Schedule or callable
        A plain callable is wrapped in `lambda_`.

    Examples
    --------
    >>> linear(1.0, 0.0, total=10) * 0.5
    chain(schedules=(linear(start=1.0, end=0.0, total=10), constant(value=0.5)))
    >>> schedule = chain([warmup_constant(0.5, warmup=10), step_decay(1.0, step_size=20)])
    >>> schedule(5), schedule(10), schedule(20)
    (0.25, 0.5, 0.25)
    """

    schedules: Schedules

    def at(self, step: int) -> float:
        return math.prod(schedule(step) for schedule in self.schedules)


@dataclass(frozen=True)
class sum_of(Schedule):
    """The sum of schedules: ``schedules[0](step) + schedules[1](step) + ...``.

    ``schedule + other`` and ``schedule + 0.1`` make one; a number is a `constant` then.

    Parameters
    ----------
    schedules : non-empty sequence of Schedule or callable
        A plain callable is wrapped in `lambda_`.

    Examples
    --------
    >>> schedule = exponential(1.0, gamma=0.5) + 0.1
    >>> schedule(0), schedule(1)
    (1.1, 0.6)
    """

    schedules: Schedules

    def at(self, step: int) -> float:
        return sum(schedule(step) for schedule in self.schedules)


@dataclass(frozen=True)
class difference(Schedule):
    """The difference of two schedules: ``first(step) - second(step)``.

    ``schedule - other`` and ``schedule - 0.1`` make one; a number is a `constant` then.

    Parameters
    ----------
    first, second : Schedule or callable
        A plain callable is wrapped in `lambda_`. A rate must not fall below 0: a step with a negative one raises.

    Examples
    --------
    >>> schedule = 1 - exponential(1.0, gamma=0.5)
    >>> schedule(0), schedule(1), schedule(2)
    (0.0, 0.5, 0.75)
    """

    first: OneSchedule
    second: OneSchedule

    def at(self, step: int) -> float:
        return self.first(step) - self.second(step)


@dataclass(frozen=True)
class quotient(Schedule):
    """The quotient of two schedules: ``first(step) / second(step)``.

    ``schedule / 2`` and ``schedule / other`` make one; a number is a `constant` then.

    Parameters
    ----------
    first, second : Schedule or callable
        A plain callable is wrapped in `lambda_`. A step at which `second` is 0 raises ValueError, and so does 0 itself
        as `second`, when the schedule is made.

    Examples
    --------
    >>> schedule = linear(1.0, 0.0, total=10) / 4
    >>> schedule(0), schedule(5)
    (0.25, 0.125)
    """

    first: OneSchedule
    second: OneSchedule

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.second, constant):
            self.at(0)

    def at(self, step: int) -> float:
        divisor = self.second(step)
        if divisor == 0:
            raise ValueError(f"quotient: second={shown(self.second)} is 0 at step {step}; expected another number")
        return self.first(step) / divisor


def product(left: Schedule, right: Schedule) -> Schedule:
    return chain([left, right])


def total(left: Schedule, right: Schedule) -> Schedule:
    return sum_of([left, right])


def of_operator(make: Callable[[Any, Any], Schedule], left: Any, right: Any) -> Schedule:
    """Return the schedule that an operator makes of schedules, functions of the step, and numbers."""
    operands = [each if callable(each) else plain(each) for each in (left, right)]
    if not all(callable(each) or (isinstance(each, (int, float)) and not isinstance(each, bool)) for each in operands):
        return NotImplemented  # type: ignore[no-any-return]
    return make(*(each if callable(each) else constant(each) for each in operands))
