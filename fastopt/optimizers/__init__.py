"""The optimizers, by family."""

from .adabelief import AdaBelief
from .adadelta import Adadelta
from .adafactor import Adafactor
from .adagrad import Adagrad
from .adam import Adam, AdamW, SparseAdam
from .adamax import Adamax
from .adan import Adan
from .ademamix import AdEMAMix
from .asgd import ASGD
from .delta_bar_delta import DeltaBarDelta
from .ftrl import FTRL
from .layerwise import LAMB, LARS
from .muon import Muon
from .nadam import NAdam
from .prodigy import Prodigy
from .radam import RAdam
from .rmsprop import RMSprop
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD
from .sign import Lion, Rprop, Signum
from .swats import SWATS
from .yogi import Yogi

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
    "Muon",
    "NAdam",
    "Prodigy",
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
