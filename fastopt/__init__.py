"""fastopt: the optimizer step for NumPy training code, at the speed of memory, with the same bits on every machine."""

from . import clip, schedules
from .clip import clip_grad_norm_, clip_grad_value_
from .information import info
from .optimizer import Optimizer, StepInfo
from .optimizers import (
    ASGD,
    LAMB,
    LARS,
    SGD,
    SWATS,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AdEMAMix,
    DeltaBarDelta,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Signum,
    SparseAdam,
    Yogi,
)
from .sparse import RowSparse
from .threads import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "ASGD",
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
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "RowSparse",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "SparseAdam",
    "StepInfo",
    "Yogi",
    "clip",
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_num_threads",
    "info",
    "schedules",
    "set_num_threads",
]
