"""fastopt: the optimizer step for NumPy training code, at the speed of memory, with the same bits on every machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import averaging, clip, optimizers, quantize, rules
from .about import __version__ as __version__
from .arrays.row_sparse import RowSparse
from .backends.information import info
from .backends.threads import get_num_threads, set_num_threads
from .clip import clip_grad_norm_, clip_grad_value_
from .core.optimizer import Optimizer
from .core.results import LoadResult, StepInfo
from .optimizers import (
    ASGD,
    FTRL,
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
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Signum,
    SparseAdam,
    Yogi,
)
from .optimizers.combined import Combined
from .options.group_by import group_by
from .options.loss_scale import DynamicLossScale

if TYPE_CHECKING:
    from . import checkpoint, convert, distributed, init, lr_scheduler, schedules, training
    from .checkpoint import Checkpoint, CheckpointError, load, save
    from .core.functional import functional
    from .core.own_rules import optimizer
    from .full_batch.blocks import block_coordinate_descent
    from .full_batch.driver import minimize
    from .full_batch.lbfgs import LBFGS
    from .full_batch.progress_bar import progress
    from .full_batch.results import MinimizeResult, MinimizeState
    from .full_batch.sparse_coding import sparse_code
    from .training import EarlyStopping, SnapshotEnsemble

#: The modules, and the names in them, that are imported when they are first used.
LAZY = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "EarlyStopping": "training",
    "LBFGS": "full_batch.lbfgs",
    "MinimizeResult": "full_batch.results",
    "MinimizeState": "full_batch.results",
    "SnapshotEnsemble": "training",
    "block_coordinate_descent": "full_batch.blocks",
    "checkpoint": None,
    "convert": None,
    "distributed": None,
    "functional": "core.functional",
    "init": None,
    "load": "checkpoint",
    "lr_scheduler": None,
    "minimize": "full_batch.driver",
    "optimizer": "core.own_rules",
    "progress": "full_batch.progress_bar",
    "save": "checkpoint",
    "schedules": None,
    "sparse_code": "full_batch.sparse_coding",
    "training": None,
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        from .options.names import meant

        nearest = None if name.startswith("_") else meant(name, __all__)
        advice = "" if nearest is None else f"; write fastopt.{nearest}"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")
    home = LAZY[name]
    if home is None:
        return import_module(f".{name}", __name__)
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "LBFGS",
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
    "Checkpoint",
    "CheckpointError",
    "Combined",
    "DeltaBarDelta",
    "DynamicLossScale",
    "EarlyStopping",
    "Lion",
    "LoadResult",
    "MinimizeResult",
    "MinimizeState",
    "Muon",
    "NAdam",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "RowSparse",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "SnapshotEnsemble",
    "SparseAdam",
    "StepInfo",
    "Yogi",
    "averaging",
    "block_coordinate_descent",
    "checkpoint",
    "clip",
    "clip_grad_norm_",
    "clip_grad_value_",
    "convert",
    "distributed",
    "functional",
    "get_num_threads",
    "group_by",
    "info",
    "init",
    "load",
    "lr_scheduler",
    "minimize",
    "optimizer",
    "optimizers",
    "progress",
    "quantize",
    "rules",
    "save",
    "schedules",
    "set_num_threads",
    "sparse_code",
    "training",
]
