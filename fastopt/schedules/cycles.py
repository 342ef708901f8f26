"""Cycles: rates that rise and fall."""

from dataclasses import dataclass, replace
from itertools import pairwise

from ..options.ranges import POSITIVE, as_number
from .base import (
    SHAPES,
    Count,
    Flag,
    Fraction,
    MaybeCount,
    Positive,
    Rate,
    Schedule,
    Shape,
    on_cosine,
    on_line,
    progress,
)


@dataclass(frozen=True)
class cosine_restarts(Schedule):
    """SGDR: `cosine` over periods of ``T_0, T_0 * T_mult, T_0 * T_mult**2, ...`` steps, each starting again at `lr0`.

    Parameters
    ----------
    lr0 : float, >= 0
    T_0 : int, >= 1
        The steps of the first period.
    T_mult : int, >= 1, default 1
    floor : float, >= 0, default 0

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

    def at(self, step: float) -> float:
        period = self.T_0
        if self.T_mult == 1:
            step %= period
        # A logarithm would give the period directly, but rounding would make it miss restarts.
        while step >= period:
            step -= period
            period *= self.T_mult
        return on_cosine(self.lr0, self.floor, step / period)


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
        The number of steps; from step ``total - 1`` on the last value stays.
    pct_start : float, from 0 to 1, default 0.3
    div_factor : float, > 0, default 25
        Below 1 the cycle is inverted, as in `momentum`.
    final_div_factor : float, > 0, default 1e4
    anneal_strategy : {"cos", "linear"}, default "cos"
    three_phase : bool, default False

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
    anneal_strategy: Shape = "cos"
    three_phase: Flag = False

    def at(self, step: int) -> float:
        initial = self.max_lr / self.div_factor
        levels = initial, self.max_lr, initial / self.final_div_factor
        begin, end, x = self.place(step)
        return on_line(levels[begin], levels[end], x)

    def place(self, step: int) -> tuple[int, int, float]:
        """Return the two levels that a step lies between, and which part of the way is done.

        Level 0 is ``initial``, 1 is `max_lr` and 2 is ``initial / final_div_factor``.
        """
        last = self.total - 1
        peak = self.pct_start * self.total - 1
        back = [(2 * peak, 0)] if self.three_phase else []
        marks = [(0.0, 0), (peak, 1), *back, (float(last), 2)]
        step = min(step, last)
        begin, end = next(pair for pair in pairwise(marks) if step <= pair[1][0])
        x = progress(step - begin[0], end[0] - begin[0])
        return begin[1], end[1], SHAPES[self.anneal_strategy](x)

    def momentum(self, base_momentum: float = 0.85, max_momentum: float = 0.95) -> "one_cycle":
        """Return the inverted cycle for momentum: `base_momentum` where the rate is highest.

        Parameters
        ----------
        base_momentum, max_momentum : float, > 0, default 0.85 and 0.95

        Examples
        --------
        >>> momentum = one_cycle(0.1, total=100).momentum()
        >>> round(momentum(0), 6), round(momentum(29), 6), round(momentum(99), 6)
        (0.95, 0.85, 0.95)
        """
        base = as_number("one_cycle: base_momentum", base_momentum, POSITIVE)
        highest = as_number("one_cycle: max_momentum", max_momentum, POSITIVE)
        return replace(self, max_lr=base, div_factor=base / highest, final_div_factor=1.0)


@dataclass(frozen=True)
class triangular(Schedule):
    """Cyclical rates: straight from `base_lr` up to `max_lr` and down again, without end; torch's CyclicLR.

    ``base_lr + (max_lr - base_lr) * x`` with ``x = s / step_size_up`` for the cycle's first `step_size_up` steps
    ``s``, then ``x = (step_size_up + step_size_down - s) / step_size_down``.

    Parameters
    ----------
    base_lr, max_lr : float, >= 0
        With `max_lr` below `base_lr` the cycle is inverted, as in `momentum`.
    step_size_up : int, >= 1, default 2000
    step_size_down : int, >= 1, or None, default None
        None: the same as `step_size_up`.

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

    def at(self, step: int) -> float:
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, s = divmod(step, up + down)
        x = s / up if s <= up else (up + down - s) / down
        return self.base_lr + (self.max_lr - self.base_lr) * x * self.height(cycle, step)

    def height(self, cycle: int, step: int) -> float:
        """Return the height of a cycle, relative to the first."""
        return 1.0

    def momentum(self, base_momentum: float = 0.8, max_momentum: float = 0.9) -> "triangular":
        """Return the inverted cycle for momentum: down from `max_momentum` while the rate goes up.

        Parameters
        ----------
        base_momentum, max_momentum : float, >= 0, default 0.8 and 0.9

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
        As in `triangular`, with the same source.

    Examples
    --------
    >>> schedule = triangular2(0.25, 1.25, step_size_up=10)
    >>> schedule(10), schedule(30), schedule(50)
    (1.25, 0.75, 0.5)
    """

    def height(self, cycle: int, step: int) -> float:
        return 0.5**cycle


@dataclass(frozen=True)
class exp_range(triangular):
    """`triangular` with the height shrinking at each step: ``* gamma**step``.

    Parameters
    ----------
    base_lr, max_lr, step_size_up, step_size_down
        As in `triangular`, with the same source.
    gamma : float, > 0, default 1

    Examples
    --------
    >>> schedule = exp_range(0.0, 1.0, step_size_up=2, gamma=0.5)
    >>> schedule(1), schedule(2), schedule(6)
    (0.25, 0.25, 0.015625)
    """

    gamma: Positive = 1.0

    def height(self, cycle: int, step: int) -> float:
        return self.gamma**step
