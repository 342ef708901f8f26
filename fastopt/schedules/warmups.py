"""Warmups: rates that rise first, then stay or fall."""

import math
from dataclasses import dataclass

from .base import Count, Rate, Schedule, Steps, on_cosine, on_line, progress


@dataclass(frozen=True)
class inverse_sqrt(Schedule):
    """Noam: ``lr0 * min(t / warmup, sqrt(warmup / t))`` with ``t = step + 1``, since the paper counts from 1.

    The paper's ``d_model**-0.5 * min(t**-0.5, t * warmup**-1.5)`` has ``lr0 = (d_model * warmup)**-0.5``.

    Parameters
    ----------
    lr0 : float, >= 0
        The highest value, reached at ``t = warmup``.
    warmup : int, >= 1

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

    def at(self, step: int) -> float:
        t = step + 1
        return self.lr0 * min(t / self.warmup, math.sqrt(self.warmup / t))


@dataclass(frozen=True)
class warmup_constant(Schedule):
    """A straight line from `start` to `lr0` at step `warmup`, then `lr0`.

    Parameters
    ----------
    lr0 : float, >= 0
    warmup : int, >= 0
    start : float, >= 0, default 0

    Examples
    --------
    >>> schedule = warmup_constant(0.1, warmup=10)
    >>> schedule(0), schedule(5), schedule(10), schedule(1000)
    (0.0, 0.05, 0.1, 0.1)
    """

    lr0: Rate
    warmup: Steps
    start: Rate = 0.0

    def at(self, step: int) -> float:
        return on_line(self.start, self.lr0, progress(step, self.warmup))


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
        The value at step 0. With 0, as in optax, the first step changes only the state.

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
            raise ValueError(f"warmup_cosine: expected warmup below total, got {self.warmup} and {self.total}")

    def at(self, step: int) -> float:
        if step < self.warmup:
            return on_line(self.start, self.lr0, step / self.warmup)
        return on_cosine(self.lr0, self.floor, progress(step - self.warmup, self.total - self.warmup))


@dataclass(frozen=True)
class warmup_stable_decay(Schedule):
    """WSD: a line from `start` to `lr0` at step `warmup`, then `lr0`, and in the last `decay` steps a line to `floor`.

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
                "warmup_stable_decay: expected warmup + decay of at most total, "
                f"got {self.warmup} + {self.decay} and {self.total}"
            )

    def at(self, step: int) -> float:
        stable_end = self.total - self.decay
        if step < stable_end:
            return on_line(self.start, self.lr0, progress(step, self.warmup))
        return on_line(self.lr0, self.floor, progress(step - stable_end, self.decay))
