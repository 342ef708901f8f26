"""Schedules: pure functions of the step, for any keyword that takes one (lr, weight_decay, momentum).

``schedule(step)`` gives a float for every integral step from 0. Each schedule is a frozen value in closed form: it
keeps no state, its repr can be evaluated, it compares, hashes and pickles. One that has an end stays at its last
value past it. Rates are finite numbers >= 0 and may run upwards as well as downwards: a `floor` above `lr0` is fine.
Arguments are checked when a schedule is made: TypeError for another type, ValueError for a value out of its range.

Examples
--------
>>> schedule = warmup_cosine(1e-3, warmup=100, total=5000)
>>> schedule(50), schedule(100), schedule(5000)
(0.0005, 0.001, 0.0)
"""

import math
import operator
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, SupportsIndex, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Schedule",
    "chain",
    "constant",
    "cosine",
    "cosine_restarts",
    "examples",
    "exp_range",
    "exponential",
    "inverse_sqrt",
    "inverse_time",
    "join",
    "lambda_",
    "linear",
    "multistep",
    "natural_exponential",
    "one_cycle",
    "per_epoch",
    "piecewise_constant",
    "plot",
    "polynomial",
    "step_decay",
    "triangular",
    "triangular2",
    "warmup_constant",
    "warmup_cosine",
    "warmup_stable_decay",
]

T = TypeVar("T")


# --- Arguments: a field's annotation carries its check, `Schedule.__post_init__` applies it ---------------------------


def _checked(convert: Callable[[Any], T], ok: Callable[[T], bool], expected: str) -> Callable[[str, object], T]:
    """Make ``check(where, value)``: `value` converted, or an error saying what was expected and what came."""

    def check(where: str, value: object) -> T:
        try:
            converted = convert(value)
        except TypeError as error:
            raise TypeError(f"{where} must be {expected}, got {value!r}") from error
        if not ok(converted):
            raise ValueError(f"{where} must be {expected}, got {value!r}")
        return converted

    return check


def _instance(value: Any, kind: Any) -> Any:
    # bool is an int to Python; as a rate or a count it is a slip
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    return value


def _float(value: Any) -> float:
    return float(_instance(value, Real))


def _int(value: Any) -> int:
    return operator.index(_instance(value, object))


def _schedule(value: Any) -> "Schedule":
    return value if isinstance(value, Schedule) else lambda_(value)


def _each(convert: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    def convert_each(values: Any) -> tuple[T, ...]:
        if isinstance(values, str | bytes):  # iterable, but never meant as a sequence of numbers
            raise TypeError
        return tuple(convert(value) for value in values)

    return convert_each


def _is_rate(value: float) -> bool:
    return 0 <= value < math.inf


def _increasing(values: tuple[int, ...]) -> bool:
    return all(a < b for a, b in pairwise((0, *values)))


_finite = _checked(_float, math.isfinite, "a finite number")
_positive = _checked(_float, lambda x: 0 < x < math.inf, "a finite number > 0")
_step = _checked(_int, lambda n: n >= 0, "an integer >= 0")

Rate = Annotated[float, _checked(_float, _is_rate, "a finite number >= 0")]
Positive = Annotated[float, _positive]
Fraction = Annotated[float, _checked(_float, lambda x: 0 <= x <= 1, "a number from 0 to 1")]
Steps = Annotated[int, _step]
Count = Annotated[int, _checked(_int, lambda n: n >= 1, "an integer >= 1")]
MaybeCount = Annotated[
    int | None,
    _checked(lambda n: None if n is None else _int(n), lambda n: n is None or n >= 1, "None or an integer >= 1"),
]
Flag = Annotated[bool, _checked(lambda x: bool(_instance(x, bool)), lambda _: True, "True or False")]
Anneal = Annotated[str, _checked(lambda x: str(_instance(x, str)), lambda x: x in _ANNEAL, "'cos' or 'linear'")]
Rates = Annotated[
    Sequence[float],
    _checked(_each(_float), lambda xs: all(map(_is_rate, xs)), "a sequence of finite numbers >= 0"),
]
Boundaries = Annotated[
    Sequence[int],
    _checked(_each(_int), _increasing, "a strictly increasing sequence of integers >= 1"),
]
Function = Annotated[Callable[[int], float], _checked(lambda f: _instance(f, Callable), lambda _: True, "callable")]
OneSchedule = Annotated[Callable[[int], float], _checked(_schedule, lambda _: True, "a schedule or a callable")]
Schedules = Annotated[
    Sequence[Callable[[int], float]],
    _checked(_each(_schedule), lambda s: len(s) > 0, "a non-empty sequence of schedules or callables"),
]


# --- The two shapes that the schedules are made of -------------------------------------------------------------------


def _progress(step: float, total: float) -> float:
    return 1.0 if step >= total else step / total


def _linear(start: float, end: float, x: float) -> float:
    # from the nearer end: exact at both, never outside them
    return start + (end - start) * x if x < 0.5 else end - (end - start) * (1 - x)


def _cosine(start: float, end: float, x: float) -> float:
    return _linear(start, end, (1 - math.cos(math.pi * x)) / 2)


_ANNEAL = {"cos": _cosine, "linear": _linear}


# --- Schedules -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The base of all schedules, by which an optimizer tells one from a number.

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
    ValueError: step must be an integer >= 0, got -1
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            for check in getattr(field.type, "__metadata__", ()):
                value = check(f"{type(self).__name__}: {field.name}", getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    def __call__(self, step: SupportsIndex) -> float:
        """Return the value at `step`, counted from 0."""
        return self._at(_step("step", step))

    def _at(self, step: int) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class constant(Schedule):
    """``value`` at every step.

    Parameters
    ----------
    value : float, >= 0

    Raises
    ------
    TypeError, ValueError
        `value` is not a finite number >= 0.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """

    value: Rate

    def _at(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class linear(Schedule):
    """A straight line from `start` to `end`: ``start + (end - start) * min(step / total, 1)``.

    Parameters
    ----------
    start, end : float, >= 0
    total : int, >= 1
        The step at which `end` is reached.

    Raises
    ------
    TypeError, ValueError
        `start` or `end` is not a finite number >= 0, or `total` not an integer >= 1.

    Examples
    --------
    >>> schedule = linear(1.0, 0.5, total=100)
    >>> schedule(0), schedule(50), schedule(100), schedule(200)
    (1.0, 0.75, 0.5, 0.5)
    """

    start: Rate
    end: Rate
    total: Count

    def _at(self, step: int) -> float:
        return _linear(self.start, self.end, _progress(step, self.total))


@dataclass(frozen=True)
class polynomial(Schedule):
    """Polynomial decay: ``floor + (lr0 - floor) * (1 - min(step / total, 1))**power``.

    Parameters
    ----------
    lr0 : float, >= 0
    total : int, >= 1
        The step at which `floor` is reached.
    power : float, > 0, default 1
    floor : float, >= 0, default 0

    Raises
    ------
    TypeError, ValueError
        A rate is not a finite number >= 0, `total` not an integer >= 1, or `power` not a finite number > 0.

    References
    ----------
    Liu, Rabinovich, Berg, "ParseNet", 2015, arXiv 1506.04579 (the "poly" policy); torch's PolynomialLR.

    Examples
    --------
    >>> polynomial(0.1, total=100, power=2)(50)
    0.025
    """

    lr0: Rate
    total: Count
    power: Positive = 1.0
    floor: Rate = 0.0

    def _at(self, step: int) -> float:
        return _linear(self.floor, self.lr0, (1 - _progress(step, self.total)) ** self.power)


@dataclass(frozen=True)
class piecewise_constant(Schedule):
    """``values[i]``, where ``i`` is the number of boundaries that are <= `step`.

    Parameters
    ----------
    values : sequence of float, >= 0
        One more than there are boundaries.
    boundaries : sequence of int, strictly increasing, >= 1
        The steps at which the next value begins.

    Raises
    ------
    TypeError, ValueError
        A value is not a finite number >= 0, the boundaries do not increase, or the lengths do not fit.

    Examples
    --------
    >>> schedule = piecewise_constant([0.1, 0.05, 0.01], [30, 60])
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.01)
    """

    values: Rates
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lengths("piecewise_constant", "values", self.values, self.boundaries)

    def _at(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]


def _check_lengths(where: str, name: str, items: Sequence[object], boundaries: Sequence[int]) -> None:
    if len(items) != len(boundaries) + 1:
        raise ValueError(
            f"{where}: {name} must be one more than boundaries, got {len(items)} and {len(boundaries)} of them"
        )


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiplied by `gamma` every `step_size` steps: ``lr0 * gamma**(step // step_size)``.

    Parameters
    ----------
    lr0 : float, >= 0
    step_size : int, >= 1
    gamma : float, > 0, default 0.5

    Raises
    ------
    TypeError, ValueError
        `lr0` is not a finite number >= 0, `step_size` not an integer >= 1, or `gamma` not a finite number > 0.

    Examples
    --------
    >>> schedule = step_decay(0.1, step_size=30)
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.025)
    """

    lr0: Rate
    step_size: Count
    gamma: Positive = 0.5

    def _at(self, step: int) -> float:
        return self.lr0 * self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class multistep(Schedule):
    """Multiplied by `gamma` at each milestone: ``lr0 * gamma**n``, ``n`` the number of milestones <= `step`.

    Parameters
    ----------
    lr0 : float, >= 0
    milestones : sequence of int, strictly increasing, >= 1
    gamma : float, > 0, default 0.1

    Raises
    ------
    TypeError, ValueError
        `lr0` is not a finite number >= 0, the milestones do not increase, or `gamma` is not a finite number > 0.

    Examples
    --------
    >>> schedule = multistep(1.0, [30, 80], gamma=0.5)
    >>> schedule(29), schedule(30), schedule(80)
    (1.0, 0.5, 0.25)
    """

    lr0: Rate
    milestones: Boundaries
    gamma: Positive = 0.1

    def _at(self, step: int) -> float:
        return self.lr0 * self.gamma ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class exponential(Schedule):
    """``lr0 * gamma**step``. With `gamma` above 1 it grows, as for a search of the largest usable rate.

    Parameters
    ----------
    lr0 : float, >= 0
    gamma : float, > 0

    Raises
    ------
    TypeError, ValueError
        `lr0` is not a finite number >= 0, or `gamma` not a finite number > 0.
    OverflowError
        When called so late that a growing rate leaves the range of float.

    Examples
    --------
    >>> exponential(1.0, gamma=0.5)(3)
    0.125
    """

    lr0: Rate
    gamma: Positive

    def _at(self, step: int) -> float:
        return self.lr0 * self.gamma**step


@dataclass(frozen=True)
class natural_exponential(Schedule):
    """``lr0 * exp(-k * step)``.

    Parameters
    ----------
    lr0 : float, >= 0
    k : float, >= 0

    Raises
    ------
    TypeError, ValueError
        `lr0` or `k` is not a finite number >= 0.

    Examples
    --------
    >>> round(natural_exponential(1.0, k=0.1)(10), 6)
    0.367879
    """

    lr0: Rate
    k: Rate

    def _at(self, step: int) -> float:
        return self.lr0 * math.exp(-self.k * step)


@dataclass(frozen=True)
class inverse_time(Schedule):
    """``lr0 / (1 + k * step)``.

    Parameters
    ----------
    lr0 : float, >= 0
    k : float, >= 0

    Raises
    ------
    TypeError, ValueError
        `lr0` or `k` is not a finite number >= 0.

    References
    ----------
    Robbins, Monro, "A Stochastic Approximation Method", 1951; `k` as in Bottou, "Stochastic Gradient Descent
    Tricks", 2012.

    Examples
    --------
    >>> inverse_time(1.0, k=0.5)(2)
    0.5
    """

    lr0: Rate
    k: Rate

    def _at(self, step: int) -> float:
        return self.lr0 / (1 + self.k * step)


@dataclass(frozen=True)
class inverse_sqrt(Schedule):
    """Noam: ``lr0 * min(t / warmup, sqrt(warmup / t))`` with ``t = step + 1``, since the paper counts from 1.

    The paper's ``d_model**-0.5 * min(t**-0.5, t * warmup**-1.5)`` has ``lr0 = (d_model * warmup)**-0.5``.

    Parameters
    ----------
    lr0 : float, >= 0
        The highest value, reached at ``t = warmup``.
    warmup : int, >= 1

    Raises
    ------
    TypeError, ValueError
        `lr0` is not a finite number >= 0, or `warmup` not an integer >= 1.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762, section 5.3.

    Examples
    --------
    >>> schedule = inverse_sqrt((512 * 4000) ** -0.5, warmup=4000)
    >>> round(schedule(0), 10), round(schedule(3999), 7), round(schedule(15999), 7)
    (1.747e-07, 0.0006988, 0.0003494)
    """

    lr0: Rate
    warmup: Count

    def _at(self, step: int) -> float:
        t = step + 1
        return self.lr0 * min(t / self.warmup, math.sqrt(self.warmup / t))


@dataclass(frozen=True)
class cosine(Schedule):
    """Half a cosine: ``floor + (lr0 - floor) * (1 + cos(pi * min(step / total, 1))) / 2``.

    Parameters
    ----------
    lr0 : float, >= 0
    total : int, >= 1
        The step at which `floor` is reached.
    floor : float, >= 0, default 0

    Raises
    ------
    TypeError, ValueError
        `lr0` or `floor` is not a finite number >= 0, or `total` not an integer >= 1.

    References
    ----------
    Loshchilov, Hutter, "SGDR", 2017, arXiv 1608.03983.

    Examples
    --------
    >>> schedule = cosine(0.1, total=100, floor=0.01)
    >>> schedule(0), round(schedule(50), 6), schedule(100), schedule(200)
    (0.1, 0.055, 0.01, 0.01)
    """

    lr0: Rate
    total: Count
    floor: Rate = 0.0

    def _at(self, step: int) -> float:
        return _cosine(self.lr0, self.floor, _progress(step, self.total))


@dataclass(frozen=True)
class cosine_restarts(Schedule):
    """SGDR: `cosine` over periods of ``T_0, T_0 * T_mult, T_0 * T_mult**2, ...`` steps, each begun again at `lr0`.

    Parameters
    ----------
    lr0 : float, >= 0
    T_0 : int, >= 1
        The steps of the first period.
    T_mult : int, >= 1, default 1
    floor : float, >= 0, default 0

    Raises
    ------
    TypeError, ValueError
        `lr0` or `floor` is not a finite number >= 0, or `T_0` or `T_mult` not an integer >= 1.

    References
    ----------
    Loshchilov, Hutter, "SGDR", 2017, arXiv 1608.03983.

    Examples
    --------
    >>> schedule = cosine_restarts(0.1, T_0=10, T_mult=2)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 20, 30)]
    [0.1, 0.05, 0.1, 0.05, 0.1]
    """

    lr0: Rate
    T_0: Count
    T_mult: Count = 1
    floor: Rate = 0.0

    def _at(self, step: float) -> float:
        period = self.T_0
        if self.T_mult == 1:
            step %= period
        # the logarithm that gives the period directly is rounded, and misses restarts
        while step >= period:
            step -= period
            period *= self.T_mult
        return _cosine(self.lr0, self.floor, step / period)


@dataclass(frozen=True)
class one_cycle(Schedule):
    """1cycle: up to `max_lr`, then down far below the initial value; torch's OneCycleLR.

    From ``initial = max_lr / div_factor`` to `max_lr` at step ``pct_start * total - 1``, then to
    ``initial / final_div_factor`` at step ``total - 1``. With `three_phase`, back to ``initial`` at step
    ``2 * pct_start * total - 2`` in between.

    Parameters
    ----------
    max_lr : float, >= 0
    total : int, >= 1
        The number of steps; from step ``total - 1`` the last value stays.
    pct_start : float, from 0 to 1, default 0.3
    div_factor : float, > 0, default 25
        Below 1 the cycle is inverted, as `momentum` has it.
    final_div_factor : float, > 0, default 1e4
    anneal_strategy : {"cos", "linear"}, default "cos"
    three_phase : bool, default False

    Raises
    ------
    TypeError, ValueError
        An argument is of another type than named here, or out of its range.

    References
    ----------
    Smith, Topin, "Super-Convergence", 2017, arXiv 1708.07120.

    Examples
    --------
    >>> lr = one_cycle(0.1, total=100)
    >>> round(lr(0), 10), round(lr(29), 10), round(lr(99), 10)
    (0.004, 0.1, 4e-07)
    """

    max_lr: Rate
    total: Count
    pct_start: Fraction = 0.3
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4
    anneal_strategy: Anneal = "cos"
    three_phase: Flag = False

    def _at(self, step: int) -> float:
        last = self.total - 1
        peak = self.pct_start * self.total - 1
        initial = self.max_lr / self.div_factor
        back = [(2 * peak, initial)] if self.three_phase else []
        marks = [(0.0, initial), (peak, self.max_lr), *back, (float(last), initial / self.final_div_factor)]
        step = min(step, last)
        begin, end = next(pair for pair in pairwise(marks) if step <= pair[1][0])
        x = _progress(step - begin[0], end[0] - begin[0])
        return _ANNEAL[self.anneal_strategy](begin[1], end[1], x)

    def momentum(self, base_momentum: float = 0.85, max_momentum: float = 0.95) -> "one_cycle":
        """Return the inverted cycle for momentum: `base_momentum` where the rate is highest.

        Parameters
        ----------
        base_momentum, max_momentum : float, > 0, default 0.85 and 0.95

        Raises
        ------
        TypeError, ValueError
            One of them is not a finite number > 0.

        Examples
        --------
        >>> momentum = one_cycle(0.1, total=100).momentum()
        >>> round(momentum(0), 6), round(momentum(29), 6), round(momentum(99), 6)
        (0.95, 0.85, 0.95)
        """
        base = _positive("one_cycle: base_momentum", base_momentum)
        highest = _positive("one_cycle: max_momentum", max_momentum)
        return replace(self, max_lr=base, div_factor=base / highest, final_div_factor=1.0)


@dataclass(frozen=True)
class triangular(Schedule):
    """Cyclical rates: straight from `base_lr` up to `max_lr` and down again, without end; torch's CyclicLR.

    ``base_lr + (max_lr - base_lr) * x`` with ``x = s / step_size_up`` for the cycle's first `step_size_up` steps
    ``s``, then ``x = (step_size_up + step_size_down - s) / step_size_down``.

    Parameters
    ----------
    base_lr, max_lr : float, >= 0
        With `max_lr` below `base_lr` the cycle is inverted, as `momentum` has it.
    step_size_up : int, >= 1, default 2000
    step_size_down : int, >= 1, or None, default None
        None: the same as `step_size_up`.

    Raises
    ------
    TypeError, ValueError
        A rate is not a finite number >= 0, or a step size not an integer >= 1.

    References
    ----------
    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv 1506.01186.

    Examples
    --------
    >>> schedule = triangular(0.25, 1.25, step_size_up=10)
    >>> schedule(0), schedule(5), schedule(10), schedule(15), schedule(20)
    (0.25, 0.75, 1.25, 0.75, 0.25)
    """

    base_lr: Rate
    max_lr: Rate
    step_size_up: Count = 2000
    step_size_down: MaybeCount = None

    def _at(self, step: int) -> float:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, s = divmod(step, up + down)
        x = s / up if s <= up else (up + down - s) / down
        return self.base_lr + (self.max_lr - self.base_lr) * x * self._height(cycle, step)

    def _height(self, cycle: int, step: int) -> float:
        return 1.0

    def momentum(self, base_momentum: float = 0.8, max_momentum: float = 0.9) -> "triangular":
        """Return the inverted cycle for momentum: down from `max_momentum` while the rate goes up.

        Parameters
        ----------
        base_momentum, max_momentum : float, >= 0, default 0.8 and 0.9

        Raises
        ------
        TypeError, ValueError
            One of them is not a finite number >= 0.

        Examples
        --------
        >>> momentum = triangular(0.01, 0.1, step_size_up=10).momentum()
        >>> momentum(0), momentum(10), momentum(20)
        (0.9, 0.8, 0.9)
        """
        return replace(self, base_lr=max_momentum, max_lr=base_momentum)


@dataclass(frozen=True)
class triangular2(triangular):
    """`triangular` with the height halved after each cycle: ``* 0.5**cycle``, cycles counted from 0.

    Parameters
    ----------
    base_lr, max_lr, step_size_up, step_size_down
        As in `triangular`, errors and source likewise.

    Examples
    --------
    >>> schedule = triangular2(0.25, 1.25, step_size_up=10)
    >>> schedule(10), schedule(30), schedule(50)
    (1.25, 0.75, 0.5)
    """

    def _height(self, cycle: int, step: int) -> float:
        return 0.5**cycle


@dataclass(frozen=True)
class exp_range(triangular):
    """`triangular` with the height shrinking at each step: ``* gamma**step``.

    Parameters
    ----------
    base_lr, max_lr, step_size_up, step_size_down
        As in `triangular`, errors and source likewise.
    gamma : float, > 0, default 1

    Raises
    ------
    TypeError, ValueError
        `gamma` is not a finite number > 0.

    Examples
    --------
    >>> schedule = exp_range(0.0, 1.0, step_size_up=2, gamma=0.5)
    >>> schedule(1), schedule(2), schedule(6)
    (0.25, 0.25, 0.015625)
    """

    gamma: Positive = 1.0

    def _height(self, cycle: int, step: int) -> float:
        return self.gamma**step


@dataclass(frozen=True)
class warmup_constant(Schedule):
    """A straight line from `start` to `lr0` at step `warmup`, then `lr0`.

    Parameters
    ----------
    lr0 : float, >= 0
    warmup : int, >= 0
    start : float, >= 0, default 0

    Raises
    ------
    TypeError, ValueError
        `lr0` or `start` is not a finite number >= 0, or `warmup` not an integer >= 0.

    Examples
    --------
    >>> schedule = warmup_constant(0.1, warmup=10)
    >>> schedule(0), schedule(5), schedule(10), schedule(1000)
    (0.0, 0.05, 0.1, 0.1)
    """

    lr0: Rate
    warmup: Steps
    start: Rate = 0.0

    def _at(self, step: int) -> float:
        return _linear(self.start, self.lr0, _progress(step, self.warmup))


@dataclass(frozen=True)
class warmup_cosine(Schedule):
    """A straight line from `start` to `lr0` at step `warmup`, then half a cosine to `floor` at step `total`.

    Parameters
    ----------
    lr0 : float, >= 0
    warmup : int, >= 0
    total : int, above `warmup`
        Counted from step 0, the warmup included.
    floor : float, >= 0, default 0
    start : float, >= 0, default 0
        The value at step 0. Zero, as optax has it, makes the first step move nothing but the state.

    Raises
    ------
    TypeError, ValueError
        A rate is not a finite number >= 0, a number of steps not an integer, or `warmup` not below `total`.

    References
    ----------
    Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv 1706.02677 (warmup); optax's
    warmup_cosine_decay_schedule.

    Examples
    --------
    >>> schedule = warmup_cosine(1e-3, warmup=100, total=5000)
    >>> schedule(0), schedule(50), schedule(100), round(schedule(2550), 6), schedule(5000)
    (0.0, 0.0005, 0.001, 0.0005, 0.0)
    """

    lr0: Rate
    warmup: Steps
    total: Count
    floor: Rate = 0.0
    start: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.total:
            raise ValueError(f"warmup_cosine: warmup must be below total, got {self.warmup} and {self.total}")

    def _at(self, step: int) -> float:
        if step < self.warmup:
            return _linear(self.start, self.lr0, step / self.warmup)
        return _cosine(self.lr0, self.floor, _progress(step - self.warmup, self.total - self.warmup))


@dataclass(frozen=True)
class warmup_stable_decay(Schedule):
    """WSD: a line from `start` to `lr0` at step `warmup`, then `lr0`, then in the last `decay` steps a line to `floor`.

    Parameters
    ----------
    lr0 : float, >= 0
    warmup : int, >= 0
    total : int, at least ``warmup + decay``
        Counted from step 0, the warmup and the decay included.
    decay : int, >= 1
        A tenth to a fifth of `total` is usual.
    floor : float, >= 0, default 0
    start : float, >= 0, default 0

    Raises
    ------
    TypeError, ValueError
        A rate is not a finite number >= 0, a number of steps not an integer, or ``warmup + decay`` above `total`.

    References
    ----------
    Hu et al., "MiniCPM", 2024, arXiv 2404.06395; Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations", 2024, arXiv 2405.18392.

    Examples
    --------
    >>> schedule = warmup_stable_decay(0.1, warmup=10, total=100, decay=20)
    >>> schedule(5), schedule(10), schedule(80), schedule(90), schedule(100)
    (0.05, 0.1, 0.1, 0.05, 0.0)
    """

    lr0: Rate
    warmup: Steps
    total: Count
    decay: Count
    floor: Rate = 0.0
    start: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.decay > self.total:
            raise ValueError(
                "warmup_stable_decay: warmup + decay must not be above total, "
                f"got {self.warmup} + {self.decay} and {self.total}"
            )

    def _at(self, step: int) -> float:
        stable_end = self.total - self.decay
        if step < stable_end:
            return _linear(self.start, self.lr0, _progress(step, self.warmup))
        return _linear(self.lr0, self.floor, _progress(step - stable_end, self.decay))


@dataclass(frozen=True)
class lambda_(Schedule):
    """``fn(step)``, for any function of the step. It pickles if `fn` does.

    Parameters
    ----------
    fn : callable
        Takes the step, an int, and returns a finite number.

    Raises
    ------
    TypeError, ValueError
        `fn` is not callable; when called: what `fn` returned is not a finite number.

    Examples
    --------
    >>> lambda_(lambda step: 1 / (step + 1))(3)
    0.25
    """

    fn: Function

    def _at(self, step: int) -> float:
        return _finite(f"lambda_: fn({step})", self.fn(step))


# --- Combinators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class join(Schedule):
    """One schedule after another, each counting its steps from where it begins; torch's SequentialLR.

    Parameters
    ----------
    schedules : sequence of Schedule or callable
        One more than there are boundaries. A plain callable is wrapped in `lambda_`.
    boundaries : sequence of int, strictly increasing, >= 1
        The steps at which the next schedule begins, at its own step 0.

    Raises
    ------
    TypeError, ValueError
        A schedule is not callable, the boundaries do not increase, or the lengths do not fit.

    Examples
    --------
    >>> schedule = join([linear(0.0, 1.0, total=10), step_decay(1.0, step_size=10)], [10])
    >>> schedule(5), schedule(10), schedule(20)
    (0.5, 1.0, 0.5)
    """

    schedules: Schedules
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_lengths("join", "schedules", self.schedules, self.boundaries)

    def _at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        return self.schedules[i](step - (0, *self.boundaries)[i])


@dataclass(frozen=True)
class chain(Schedule):
    """The product of schedules: ``schedules[0](step) * schedules[1](step) * ...``; torch's ChainedScheduler.

    Parameters
    ----------
    schedules : non-empty sequence of Schedule or callable
        A plain callable is wrapped in `lambda_`.

    Raises
    ------
    TypeError, ValueError
        A schedule is not callable, or there is none.

    Examples
    --------
    >>> schedule = chain([warmup_constant(0.5, warmup=10), step_decay(1.0, step_size=20)])
    >>> schedule(5), schedule(10), schedule(20)
    (0.25, 0.5, 0.25)
    """

    schedules: Schedules

    def _at(self, step: int) -> float:
        return math.prod(schedule(step) for schedule in self.schedules)


@dataclass(frozen=True)
class per_epoch(Schedule):
    """A schedule counted in epochs: ``schedule(step // steps_per_epoch)``.

    Parameters
    ----------
    schedule : Schedule or callable
        A plain callable is wrapped in `lambda_`.
    steps_per_epoch : int, >= 1

    Raises
    ------
    TypeError, ValueError
        `schedule` is not callable, or `steps_per_epoch` not an integer >= 1.

    Examples
    --------
    >>> schedule = per_epoch(exponential(1.0, gamma=0.5), steps_per_epoch=100)
    >>> schedule(99), schedule(100), schedule(250)
    (1.0, 0.5, 0.25)
    """

    schedule: OneSchedule
    steps_per_epoch: Count

    def _at(self, step: int) -> float:
        return self.schedule(step // self.steps_per_epoch)


# --- Looking at them -------------------------------------------------------------------------------------------------


def examples() -> tuple[Schedule, ...]:
    """Return one of every schedule, with arguments that show its shape within 1000 steps.

    Examples
    --------
    >>> examples()[0]
    constant(value=0.1)
    """
    return (
        constant(0.1),
        linear(0.1, 0.01, total=800),
        polynomial(0.1, total=800, power=2),
        piecewise_constant([0.1, 0.06, 0.08, 0.02], [250, 500, 750]),
        step_decay(0.1, step_size=200),
        multistep(0.1, [300, 600, 800], gamma=0.4),
        exponential(0.1, gamma=0.997),
        natural_exponential(0.1, k=0.005),
        inverse_time(0.1, k=0.01),
        inverse_sqrt(0.1, warmup=100),
        cosine(0.1, total=800),
        cosine_restarts(0.1, T_0=140, T_mult=2),
        one_cycle(0.1, total=900),
        triangular(0.01, 0.1, step_size_up=125),
        triangular2(0.01, 0.1, step_size_up=125),
        exp_range(0.01, 0.1, step_size_up=125, gamma=0.998),
        warmup_constant(0.1, warmup=200),
        warmup_cosine(0.1, warmup=100, total=900),
        warmup_stable_decay(0.1, warmup=100, total=900, decay=200),
        lambda_(math.sqrt),
        join([linear(0.0, 0.1, total=200), cosine(0.1, total=300), constant(0.02)], [200, 600]),
        chain([cosine(0.1, total=900), triangular(1.0, 0.5, step_size_up=50)]),
        per_epoch(exponential(0.1, gamma=0.7), steps_per_epoch=100),
    )


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("drawing a schedule needs matplotlib: pip install 'fastopt[plot]'") from error
    return matplotlib.pyplot


def plot(schedule: Callable[[int], float], steps: int, ax: "Axes | None" = None) -> "Axes":
    """Draw the values of `schedule` at steps 0 to ``steps - 1``.

    Parameters
    ----------
    schedule : Schedule or callable
    steps : int
    ax : matplotlib.axes.Axes or None, default None
        Where to draw. None: in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        Matplotlib, the optional extra ``plot``, is missing.

    Examples
    --------
    >>> ax = plot(cosine(0.1, total=100), 120)  # doctest: +SKIP
    """
    axes: Axes = _pyplot().subplots()[1] if ax is None else ax
    axes.plot(range(steps), [schedule(step) for step in range(steps)], label=repr(schedule))
    axes.set_xlabel("step")
    return axes
