"""Drivers of the learning rate with torch's names, arguments and numbers, for training loops in torch's style.

``scheduler = StepLR(opt, 30); ...; opt.step(grads); ...; scheduler.step()`` writes ``group["lr"]`` of every group, as
in ``torch.optim.lr_scheduler``. In new code, prefer one of :mod:`fastopt.schedules` as ``lr``: there is then no
second object to step, save and load. A driver evaluates these schedules: the rate after step n is their value at n,
and rounding errors do not add up. If something else changed the rate since the driver's last step (another driver, as
in :class:`ChainedScheduler`, or the user), the driver multiplies that rate by the ratio of its last two values.

Building a driver makes its step 0, also on an optimizer whose state was loaded: there it begins the next phase. To go
on with the driver of the saved run, load its own ``state_dict`` into it as well, before the next step. The rates are
then those that the optimizer's state had, whatever the order: build, load the optimizer, load the driver; or load the
optimizer, build, load the driver (where torch loses the rates). With ``options=False`` they are those of the driver's
state.

If a step raises, because of an argument, a function such as ``lr_lambda`` or a member, the driver, its members and the
groups are as before the step.

After ``add_param_group`` these go on, and change the rates of the new groups by the same factors: :class:`StepLR`,
:class:`MultiStepLR`, :class:`ConstantLR`, :class:`LinearLR`, :class:`ExponentialLR`, :class:`PolynomialLR`,
:class:`CosineAnnealingLR` until it goes up again, and :class:`ReduceLROnPlateau` with one ``min_lr`` for all groups.
The others raise ValueError at their next step, and :class:`SequentialLR` at its next milestone.

``optimizer`` and ``last_epoch`` of each driver are those of :class:`LRScheduler`. Every constructor raises TypeError if
``optimizer`` is not an optimizer or the ``lr`` of a group is already a schedule, and ValueError for an argument out of
its range.
"""

from .base import LRScheduler
from .combined import ChainedScheduler, SequentialLR
from .cyclic import CyclicLR, OneCycleLR
from .drivers import (
    SWALR,
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
    "SWALR",
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


def __dir__() -> list[str]:
    return __all__


# Pickles name a class by its module; they must not depend on the file that a driver is in.
for _name in __all__:
    globals()[_name].__module__ = __name__
