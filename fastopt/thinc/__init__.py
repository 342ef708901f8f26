"""Optimizers for thinc and spaCy; a config says ``@optimizers = "fastopt.Adam.v1"``. Importing this imports thinc."""

from .optimizers import SGD, Adam, Optimizer, RAdam
from .others import (
    ASGD,
    FTRL,
    LAMB,
    LARS,
    SWATS,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adamax,
    AdamW,
    Adan,
    AdEMAMix,
    DeltaBarDelta,
    Lion,
    NAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Signum,
    SparseAdam,
    Yogi,
)

__all__ = [
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "SGD",
    "SWATS",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "DeltaBarDelta",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "SparseAdam",
    "Yogi",
]


def __dir__() -> list[str]:
    return __all__
