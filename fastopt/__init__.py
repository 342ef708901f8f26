"""fastopt: the optimizer step for NumPy training code, at the speed of memory, with the same bits on every machine."""

from . import averaging, clip, quantize, schedules
from .clip import clip_grad_norm_, clip_grad_value_
from .information import info
from .loss_scale import DynamicLossScale
from .optimizer import Optimizer, StepInfo
from .optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from .threads import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "DynamicLossScale",
    "Optimizer",
    "RMSprop",
    "StepInfo",
    "averaging",
    "clip",
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_num_threads",
    "info",
    "quantize",
    "schedules",
    "set_num_threads",
]
