"""Drivers of the learning rate with torch's names, arguments and numbers, for training loops in torch's style.

``scheduler = StepLR(opt, 30); ...; opt.step(grads); ...; scheduler.step()`` writes ``group["lr"]`` of every group, as
in :mod:`torch.optim.lr_scheduler`. In new code, prefer one of :mod:`fastopt.schedules` as ``lr``: there is then no
second object to step, save and load. A driver evaluates these schedules: the rate after step n is their value at n,
and rounding errors do not add up. If something else changed the rate since the driver's last step (another driver, as
in :class:`ChainedScheduler`, or the user), the driver multiplies that rate by the ratio of its last two values.

The optimizer keeps the initial rates of its groups, and its ``state_dict`` includes them. So a driver that is built
after ``load_state_dict`` changes nothing. Load the driver's own ``state_dict`` into it.

``optimizer`` and ``last_epoch`` of each driver are those of :class:`LRScheduler`. Every constructor raises TypeError if
``optimizer`` is not an optimizer or the ``lr`` of a group is already a schedule, and ValueError for an argument out of
its range.
"""

from .base import LRScheduler
from .combined import ChainedScheduler, SequentialLR
from .cyclic import CyclicLR, OneCycleLR
from .drivers import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from .plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

# Pickles name a class by its module; they must not depend on the file that a driver is in.
for _name in __all__:
    globals()[_name].__module__ = __name__
