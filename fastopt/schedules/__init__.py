"""Schedules: pure functions of the step, for any keyword that takes one (lr, weight_decay, momentum).

``schedule(step)`` returns a float for every integer step from 0. A schedule is a frozen value in closed form: it keeps
no state, its repr can be evaluated, and it compares, hashes and pickles. After its end it keeps its last value. Rates
are finite numbers >= 0 and may rise as well as fall: a `floor` above `lr0` is fine.

``schedule * 0.5``, ``schedule / 2``, ``schedule + 0.1`` and ``1 - schedule`` are schedules too, and so is each with
another schedule instead of the number.

Arguments are checked when a schedule is made: the wrong type raises TypeError, a value out of range ValueError. A step
that is not an integer >= 0 raises them when the schedule is called.

Examples
--------
>>> schedule = warmup_cosine(1e-3, warmup=100, total=5000)
>>> schedule(50), schedule(100), schedule(5000)
(0.0005, 0.001, 0.0)
"""

from ..options.names import with_advice
from .base import Schedule, chain, constant, difference, lambda_, quotient, sum_of
from .combinations import join, per_epoch
from .cycles import cosine_restarts, exp_range, one_cycle, triangular, triangular2
from .decays import (
    cosine,
    exponential,
    inverse_time,
    linear,
    multistep,
    natural_exponential,
    piecewise_constant,
    polynomial,
    step_decay,
)
from .plotting import examples, plot
from .warmups import inverse_sqrt, warmup_constant, warmup_cosine, warmup_stable_decay

__all__ = [
    "Schedule",
    "chain",
    "constant",
    "cosine",
    "cosine_restarts",
    "difference",
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
    "quotient",
    "step_decay",
    "sum_of",
    "triangular",
    "triangular2",
    "warmup_constant",
    "warmup_cosine",
    "warmup_stable_decay",
]


def __dir__() -> list[str]:
    return __all__


for _name in __all__:
    _public = globals()[_name]
    # Pickles name a class by its module; they must not depend on the file that a schedule is in.
    _public.__module__ = __name__
    if getattr(_public, "__dataclass_fields__", None):
        _public.__init__ = with_advice({}, _name)(_public.__init__)
