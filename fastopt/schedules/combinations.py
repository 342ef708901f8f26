"""Schedules of schedules."""

from bisect import bisect_right
from dataclasses import dataclass

from .base import Boundaries, Count, OneSchedule, Schedule, Schedules, check_lengths


@dataclass(frozen=True)
class join(Schedule):
    """One schedule after another, each counting steps from its own beginning; torch's SequentialLR.

    Parameters
    ----------
    schedules : sequence of Schedule or callable
        One more than there are boundaries. A plain callable is wrapped in `lambda_`.
    boundaries : sequence of int, strictly increasing, >= 1
        The steps at which the next schedule begins, at its own step 0.

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
        check_lengths("join", "schedules", self.schedules, self.boundaries)

    def at(self, step: int) -> float:
        i = bisect_right(self.boundaries, step)
        return self.schedules[i](step - (0, *self.boundaries)[i])


@dataclass(frozen=True)
class per_epoch(Schedule):
    """A schedule counted in epochs: ``schedule(step // steps_per_epoch)``.

    Parameters
    ----------
    schedule : Schedule or callable
        A plain callable is wrapped in `lambda_`.
    steps_per_epoch : int, >= 1

    Examples
    --------
    >>> schedule = per_epoch(exponential(1.0, gamma=0.5), steps_per_epoch=100)
    >>> schedule(99), schedule(100), schedule(250)
    (1.0, 0.5, 0.25)
    """

    schedule: OneSchedule
    steps_per_epoch: Count

    def at(self, step: int) -> float:
        return self.schedule(step // self.steps_per_epoch)
