"""How far to go along a direction: a line search as pure scalars.

A search is told the loss and the slope at step 0, and asks for trials::

    search = LineSearch(loss, slope, first_step)
    while search.status is None:
        ...                                 # evaluate at search.step_size
        search.report(loss, slope)

Then the point last reported is the new one (status "accepted"), or none was found ("failed"). Only + - * / and sqrt on
doubles, so the steps are the same on every machine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

#: A rise of the loss by this fraction may be rounding: Hager and Zhang's epsilon, and ten units of a float32 loss.
ROUNDING = 1e-6
FLOAT32_ROUNDING = 10 * 2.0**-23
#: The longest step, as in SciPy.
MAX_STEP = 1e10


class Point(NamedTuple):
    """A point of the line."""

    step_size: float
    loss: float
    slope: float

    def less_line(self, slope: float) -> Point:
        """Return this point of the function less a line through the origin."""
        return Point(self.step_size, self.loss - self.step_size * slope, self.slope - slope)


class Best(NamedTuple):
    """The trial with the greatest decrease."""

    step_size: float
    loss: float


class LineSearch:
    """The search of Moré and Thuente for a step that satisfies the strong Wolfe conditions, made safe.

    With ``phi(t)`` the loss at step t, a trial is accepted if ``phi(t) <= phi(0) + decrease t phi'(0)`` and
    ``|phi'(t)| <= curvature |phi'(0)|``, or, where rounding hides the decrease, by the approximate conditions of Hager
    and Zhang: ``phi(t) <= phi(0) + rounding |phi(0)|`` and ``-0.8 phi'(0) >= phi'(t) >= curvature phi'(0)``.

    Where losses differ by no more than that rounding, the difference is taken from the slopes: they still say where the
    minimum is when the loss is flat.

    Where loss or slope is not finite, the next trial is ``t_best + (t - t_best) / 10``, and no later one is longer.

    A search that runs out of trials takes the best decrease that it saw. If that was not the last trial, it asks for it
    once more, so that the point last evaluated is always the accepted one.

    Parameters
    ----------
    loss, slope : float
        At step 0. A slope that is not below 0 fails at once.
    first_step : float
        Above 0.
    decrease, curvature : float
        The constants of the Wolfe conditions, ``0 < decrease < curvature < 1``.
    width : float
        The search ends when the interval is narrower than this fraction of its upper end.
    max_step : float
        No trial is longer.
    max_trials : int
    rounding : float or None
        None: without the approximate conditions.

    Attributes
    ----------
    status : {None, "accepted", "failed"}
    step_size : float
        Where to evaluate next; in the end the accepted step.
    best : Best or None
        The trial with the least loss below the start's, if any.
    trials : int
        How many were reported.

    Notes
    -----
    Sources: Moré and Thuente, Line search algorithms with guaranteed sufficient decrease (1994), as in MINPACK-2's
    ``dcsrch`` and ``dcstep``; Hager and Zhang, A new conjugate gradient method with guaranteed descent (2005).

    Examples
    --------
    >>> search = LineSearch(4.0, -4.0, 0.1)  # phi(t) = (t - 2) ** 2
    >>> while search.status is None:
    ...     t = search.step_size
    ...     search.report((t - 2) ** 2, 2 * (t - 2))
    >>> search.status, round(search.step_size, 6), search.trials
    ('accepted', 0.5, 2)
    """

    def __init__(
        self,
        loss: float,
        slope: float,
        first_step: float = 1.0,
        *,
        decrease: float = 1e-3,
        curvature: float = 0.9,
        width: float = 0.1,
        max_step: float = MAX_STEP,
        max_trials: int = 20,
        rounding: float | None = ROUNDING,
    ) -> None:
        self.start = Point(0.0, loss, slope)
        self.step_size = first_step
        self.best: Best | None = None
        self.trials = 0
        self.max_trials = max_trials
        self.repeats_best = False
        self.status: str | None = None if first_step > 0.0 and slope < 0.0 and math.isfinite(loss) else "failed"
        self.curvature = curvature
        self.width = width
        self.max_step = max_step
        #: Losses that differ by no more may be the same, but for rounding.
        self.noise = -1.0 if rounding is None else rounding * abs(loss)
        #: The slope of the line below which the decrease is sufficient.
        self.line = decrease * slope
        #: The ends of the interval: the best point so far, and the other. They are the same until there is a bracket.
        self.near = self.far = self.start
        self.is_bracketed = False
        #: Until a trial is below the line and ascends, the search works on the function less the line.
        self.seeks_descent = True
        #: The interval of the next trial.
        self.low, self.high = 0.0, first_step + 4.0 * first_step
        self.last_width = max_step
        self.width_before = max_step / 0.5

    def report(self, loss: float, slope: float) -> None:
        """Take the loss and the slope at ``step_size``; then ``status`` is set, or ``step_size`` is the next trial."""
        self.trials += 1
        is_finite = math.isfinite(loss) and math.isfinite(slope)
        if self.repeats_best:  # a function that is not the same each time may have risen
            self.status = "accepted" if is_finite and loss < self.start.loss else "failed"
        elif not is_finite:
            self.shrink()
        else:
            if loss < (self.start.loss if self.best is None else self.best.loss):
                self.best = Best(self.step_size, loss)
            trial = Point(self.step_size, loss, slope)
            if self.is_acceptable(trial):
                self.status = "accepted"
            else:
                self.step_from(trial)

    def stop(self) -> None:
        """End the search: take its best trial, or fail. Called by the user of a search where no parameter moves."""
        if self.best is None or self.repeats_best:
            self.status = "failed"
        elif self.best.step_size == self.step_size:
            self.status = "accepted"
        else:
            self.step_size = self.best.step_size
            self.repeats_best = True

    def is_acceptable(self, trial: Point) -> bool:
        """Return whether the trial satisfies the Wolfe conditions, or descends still at the longest step."""
        start = self.start
        if self.is_below_line(trial):
            if abs(trial.slope) <= self.curvature * -start.slope:
                return True
            if trial.step_size == self.max_step and trial.slope <= self.line:
                return True
        return (
            trial.loss <= start.loss + self.noise
            and self.noise >= 0.0
            and -0.8 * start.slope >= trial.slope >= self.curvature * start.slope
        )

    def is_below_line(self, trial: Point) -> bool:
        return trial.loss <= self.start.loss + trial.step_size * self.line

    def shrink(self) -> None:
        """Go back to where the function is finite."""
        near = self.near.step_size
        step_size = near + 0.1 * (self.step_size - near)
        self.max_step = min(self.max_step, max(step_size, near))
        self.go_to(step_size)

    def go_to(self, step_size: float) -> None:
        """Ask for a trial, unless there were too many or it would be the last one again."""
        if self.trials >= self.max_trials or not 0.0 < step_size < math.inf or step_size == self.step_size:
            self.stop()
        else:
            self.step_size = step_size

    def step_from(self, trial: Point) -> None:
        """Narrow the interval by a trial, and choose the next."""
        near = self.near
        if abs(trial.loss - near.loss) <= self.noise:
            mean_slope = 0.5 * (near.slope + trial.slope)
            trial = trial._replace(loss=near.loss + mean_slope * (trial.step_size - near.step_size))
        is_below = self.is_below_line(trial)
        if self.seeks_descent and is_below and trial.slope >= 0.0:
            self.seeks_descent = False
        if self.seeks_descent and trial.loss <= near.loss and not is_below:
            line = self.line
            step_size = self.narrow(near.less_line(line), self.far.less_line(line), trial.less_line(line))
            self.near, self.far = self.near.less_line(-line), self.far.less_line(-line)
        else:
            step_size = self.narrow(near, self.far, trial)
        near_step, far_step = self.near.step_size, self.far.step_size
        if self.is_bracketed:
            if not math.isfinite(step_size) or abs(far_step - near_step) >= 0.66 * self.width_before:
                step_size = near_step + 0.5 * (far_step - near_step)
            self.width_before, self.last_width = self.last_width, abs(far_step - near_step)
            self.low, self.high = min(near_step, far_step), max(near_step, far_step)
        else:
            self.low = step_size + 1.1 * (step_size - near_step)
            self.high = step_size + 4.0 * (step_size - near_step)
        step_size = min(step_size, self.max_step)
        is_narrow = self.high - self.low <= self.width * self.high or not self.low < step_size < self.high
        if self.is_bracketed and is_narrow:
            self.stop()
        else:
            self.go_to(step_size)

    def narrow(self, near: Point, far: Point, trial: Point) -> float:
        """Return the next step by interpolation, and update the interval."""
        try:
            step_size = interpolate(near, far, trial, self.is_bracketed, self.low, self.high)
        except ZeroDivisionError:  # numbers that overflow or vanish
            step_size = math.nan if self.is_bracketed or trial.loss > near.loss else self.high
        if trial.loss > near.loss:
            self.near, self.far, self.is_bracketed = near, trial, True
        elif is_opposite(near.slope, trial.slope):
            self.near, self.far, self.is_bracketed = trial, near, True
        else:
            self.near, self.far = trial, far
        return step_size


def interpolate(near: Point, far: Point, trial: Point, is_bracketed: bool, low: float, high: float) -> float:
    """Return a safeguarded step from the ends of the interval and a trial: ``dcstep`` of MINPACK-2."""
    ahead = trial.step_size - near.step_size
    if trial.loss > near.loss:
        # The loss is higher, so there is a minimum in between: the cubic's, or the mean with the parabola's if that is
        # nearer.
        cubic = near.step_size + fraction_to_minimum(near, trial, *cubic_terms(near, trial)) * ahead
        chord = (near.loss - trial.loss) / ahead
        parabola = near.step_size + ((near.slope / (chord + near.slope)) / 2.0) * ahead
        is_nearer = abs(cubic - near.step_size) <= abs(parabola - near.step_size)
        return cubic if is_nearer else cubic + (parabola - cubic) / 2.0
    if is_opposite(near.slope, trial.slope):
        # The slope has changed its sign, so there is a minimum in between: the farther from the trial of the cubic's
        # and the secant's.
        cubic = trial.step_size + fraction_to_minimum(trial, near, *cubic_terms(near, trial)) * -ahead
        secant = secant_step(near, trial)
        return cubic if abs(cubic - trial.step_size) > abs(secant - trial.step_size) else secant
    if abs(trial.slope) < abs(near.slope):
        # The slope flattens: beyond the trial, by the cubic if it has its minimum there, else by the secant.
        cubic, secant = cubic_ahead(near, trial, low, high), secant_step(near, trial)
        is_nearer = abs(cubic - trial.step_size) < abs(secant - trial.step_size)
        if is_bracketed:
            step_size = cubic if is_nearer else secant
            limit = trial.step_size + 0.66 * (far.step_size - trial.step_size)
            return min(limit, step_size) if ahead > 0.0 else max(limit, step_size)
        is_farther = abs(cubic - trial.step_size) > abs(secant - trial.step_size)
        return min(max(cubic if is_farther else secant, low), high)
    if is_bracketed:
        # The slope does not flatten: the minimum of the cubic through the trial and the far end.
        fraction = fraction_to_minimum(trial, far, *cubic_terms(far, trial))
        return trial.step_size + fraction * (far.step_size - trial.step_size)
    return high if ahead > 0.0 else low


def is_opposite(slope: float, other: float) -> bool:
    return slope < 0.0 < other or other < 0.0 < slope


def secant_step(near: Point, trial: Point) -> float:
    """Return where the secant of the slopes is 0."""
    return trial.step_size + (trial.slope / (trial.slope - near.slope)) * (near.step_size - trial.step_size)


def cubic_terms(end: Point, trial: Point) -> tuple[float, float]:
    """Return theta and gamma of the cubic through two points: the extrema are where its derivative's root is."""
    theta = 3.0 * (end.loss - trial.loss) / (trial.step_size - end.step_size) + end.slope + trial.slope
    scale = max(abs(theta), abs(end.slope), abs(trial.slope))
    ratio = theta / scale
    square = ratio * ratio - (end.slope / scale) * (trial.slope / scale)
    return theta, scale * math.sqrt(max(0.0, square))


def fraction_to_minimum(start: Point, end: Point, theta: float, gamma: float) -> float:
    """Return how far from start to end the minimum of the cubic is."""
    if end.step_size < start.step_size:
        gamma = -gamma
    return ((gamma - start.slope) + theta) / (((gamma - start.slope) + gamma) + end.slope)


def cubic_ahead(near: Point, trial: Point, low: float, high: float) -> float:
    """Return the minimum of the cubic if it is beyond the trial, else the end of the interval on that side."""
    theta, gamma = cubic_terms(near, trial)
    is_ahead = trial.step_size > near.step_size
    if is_ahead:
        gamma = -gamma
    fraction = ((gamma - trial.slope) + theta) / ((gamma + (near.slope - trial.slope)) + gamma)
    if fraction < 0.0 and gamma != 0.0:
        return trial.step_size + fraction * (near.step_size - trial.step_size)
    return high if is_ahead else low
