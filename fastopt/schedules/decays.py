"""Decays: rates that fall (or rise) from step 0 on."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from .base import Boundaries, Count, Positive, Rate, Rates, Schedule, check_lengths, on_cosine, on_line, progress


@dataclass(frozen=True)
class linear(Schedule):
    """A straight line from `start` to `end`: ``start + (end - start) * min(step / total, 1)``.

    Parameters
    ----------
    start, end : float, >= 0
    total : int, >= 1
        The step at which `end` is reached.

    Examples
    --------
    >>> schedule = linear(1.0, 0.5, total=100)
    >>> schedule(0), schedule(50), schedule(100), schedule(200)
    (1.0, 0.75, 0.5, 0.5)
    """

    start: Rate
    end: Rate
    total: Count

    def at(self, step: int) -> float:
        return on_line(self.start, self.end, progress(step, self.total))


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

    def at(self, step: int) -> float:
        return on_line(self.floor, self.lr0, (1 - progress(step, self.total)) ** self.power)


@dataclass(frozen=True)
class piecewise_constant(Schedule):
    """``values[i]``, where ``i`` is the number of boundaries that are <= `step`.

    Parameters
    ----------
    values : sequence of float, >= 0
        One more than there are boundaries.
    boundaries : sequence of int, strictly increasing, >= 1
        The steps at which the next value begins.

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
        check_lengths("piecewise_constant", "values", self.values, self.boundaries)

    def at(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]


@dataclass(frozen=True)
class step_decay(Schedule):
    """Multiplied by `gamma` every `step_size` steps: ``lr0 * gamma**(step // step_size)``.

    Parameters
    ----------
    lr0 : float, >= 0
    step_size : int, >= 1
    gamma : float, > 0, default 0.5

    Examples
    --------
    >>> schedule = step_decay(0.1, step_size=30)
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.025)
    """

    lr0: Rate
    step_size: Count
    gamma: Positive = 0.5

    def at(self, step: int) -> float:
        return self.lr0 * self.gamma ** (step // self.step_size)


@dataclass(frozen=True)
class multistep(Schedule):
    """Multiplied by `gamma` at each milestone: ``lr0 * gamma**n``, ``n`` the number of milestones <= `step`.

    Parameters
    ----------
    lr0 : float, >= 0
    milestones : sequence of int, strictly increasing, >= 1
    gamma : float, > 0, default 0.1

    Examples
    --------
    >>> schedule = multistep(1.0, [30, 80], gamma=0.5)
    >>> schedule(29), schedule(30), schedule(80)
    (1.0, 0.5, 0.25)
    """

    lr0: Rate
    milestones: Boundaries
    gamma: Positive = 0.1

    def at(self, step: int) -> float:
        return self.lr0 * self.gamma ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class exponential(Schedule):
    """``lr0 * gamma**step``. With `gamma` above 1 it grows, as in a search for the largest usable rate.

    Parameters
    ----------
    lr0 : float, >= 0
    gamma : float, > 0

    Raises
    ------
    OverflowError
        When called at a step so late that a growing rate is beyond the range of float.

    Examples
    --------
    >>> exponential(1.0, gamma=0.5)(3)
    0.125
    """

    lr0: Rate
    gamma: Positive

    def at(self, step: int) -> float:
        return self.lr0 * self.gamma**step


@dataclass(frozen=True)
class natural_exponential(Schedule):
    """``lr0 * exp(-k * step)``.

    Parameters
    ----------
    lr0 : float, >= 0
    k : float, >= 0

    Examples
    --------
    >>> round(natural_exponential(1.0, k=0.1)(10), 6)
    0.367879
    """

    lr0: Rate
    k: Rate

    def at(self, step: int) -> float:
        return self.lr0 * math.exp(-self.k * step)


@dataclass(frozen=True)
class inverse_time(Schedule):
    """``lr0 / (1 + k * step)``.

    Parameters
    ----------
    lr0 : float, >= 0
    k : float, >= 0

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

    def at(self, step: int) -> float:
        return self.lr0 / (1 + self.k * step)


@dataclass(frozen=True)
class cosine(Schedule):
    """Half a cosine: ``floor + (lr0 - floor) * (1 + cos(pi * min(step / total, 1))) / 2``.

    Parameters
    ----------
    lr0 : float, >= 0
    total : int, >= 1
        The step at which `floor` is reached.
    floor : float, >= 0, default 0

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

    def at(self, step: int) -> float:
        return on_cosine(self.lr0, self.floor, progress(step, self.total))
