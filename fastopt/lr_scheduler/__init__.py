"""Drivers of the learning rate with torch's names, arguments and numbers, for loops that are written the torch way.

``scheduler = StepLR(opt, 30); ...; opt.step(grads); ...; scheduler.step()`` writes ``group["lr"]`` of every group, as
:mod:`torch.optim.lr_scheduler` does. New code does better with ``lr=`` one of :mod:`fastopt.schedules`: there is no
second object to step, save and load. A driver evaluates these schedules: the rate after step n is their value at n,
and rounding errors do not add up. Only if something else changed the rate since the driver's last step (another driver,
as in :class:`ChainedScheduler`, or the user) does it multiply that rate by the ratio of its last two values.

The optimizer keeps the rates that its groups began with, and its ``state_dict`` has them: a driver that is built after
``load_state_dict`` changes nothing. Load the driver's own ``state_dict`` into it.

``optimizer`` and ``last_epoch`` of each driver are those of :class:`LRScheduler`. When it is built, a driver raises
TypeError if ``optimizer`` is not an optimizer or the ``lr`` of a group is a schedule already, and ValueError for
arguments out of their ranges.
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

# Pickles, which name a class by its module, do not depend on the room that a driver is in.
for _name in __all__:
    globals()[_name].__module__ = __name__
