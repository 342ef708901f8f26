"""An example of every schedule, and plots."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..arrays.texts import brief
from . import combinations, cycles, decays, warmups
from .base import Schedule, chain, constant, difference, lambda_, quotient, sum_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def examples() -> tuple[Schedule, ...]:
    """Return one of every schedule, with arguments that show its shape within 1000 steps.

    Examples
    --------
    >>> examples()[0]
    constant(value=0.1)
    """
    return (
        constant(0.1),
        decays.linear(0.1, 0.01, total=800),
        decays.polynomial(0.1, total=800, power=2),
        decays.piecewise_constant([0.1, 0.06, 0.08, 0.02], [250, 500, 750]),
        decays.step_decay(0.1, step_size=200),
        decays.multistep(0.1, [300, 600, 800], gamma=0.4),
        decays.exponential(0.1, gamma=0.997),
        decays.natural_exponential(0.1, k=0.005),
        decays.inverse_time(0.1, k=0.01),
        warmups.inverse_sqrt(0.1, warmup=100),
        decays.cosine(0.1, total=800),
        cycles.cosine_restarts(0.1, T_0=140, T_mult=2),
        cycles.one_cycle(0.1, total=900),
        cycles.triangular(0.01, 0.1, step_size_up=125),
        cycles.triangular2(0.01, 0.1, step_size_up=125),
        cycles.exp_range(0.01, 0.1, step_size_up=125, gamma=0.998),
        warmups.warmup_constant(0.1, warmup=200),
        warmups.warmup_cosine(0.1, warmup=100, total=900),
        warmups.warmup_stable_decay(0.1, warmup=100, total=900, decay=200),
        lambda_(math.sqrt),
        combinations.join(
            [decays.linear(0.0, 0.1, total=200), decays.cosine(0.1, total=300), constant(0.02)], [200, 600]
        ),
        chain([decays.cosine(0.1, total=900), cycles.triangular(1.0, 0.5, step_size_up=50)]),
        sum_of([decays.exponential(0.08, gamma=0.99), cycles.triangular(0.0, 0.02, step_size_up=100)]),
        difference(0.1 * cycles.triangular(1.0, 0.5, step_size_up=250), decays.linear(0.04, 0.0, total=600)),
        quotient(warmups.warmup_constant(0.1, warmup=200), decays.linear(1.0, 4.0, total=900)),
        combinations.per_epoch(decays.exponential(0.1, gamma=0.7), steps_per_epoch=100),
    )


def pyplot() -> Any:
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError("drawing a schedule needs matplotlib: pip install 'fastopt[plot]'") from error
    return matplotlib.pyplot


def plot(schedule: Callable[[int], float], steps: int, ax: "Axes | None" = None, *, label: str | None = None) -> "Axes":
    """Draw the values of `schedule` at steps 0 to ``steps - 1``, with labels of the axes.

    Parameters
    ----------
    schedule : Schedule or callable
    steps : int
    ax : matplotlib.axes.Axes or None, default None
        Where to draw. None: in a new figure.
    label : str or None, default None
        The name of the curve, which a legend shows. None: the schedule as text, and no legend for one curve alone.

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
    >>> ax = plot(constant(0.1), 120, ax, label="constant")  # doctest: +SKIP
    """
    axes: Axes = pyplot().subplots()[1] if ax is None else ax
    axes.plot(range(steps), [schedule(step) for step in range(steps)], label=label or brief(schedule))
    axes.set_xlabel("step")
    axes.set_ylabel("value")
    if label is not None or len(axes.lines) > 1:
        axes.legend()
    return axes
