"""Checkpoints: one file with the parameters, the optimizer's state and the other values that a run needs to resume."""

from .checkpoint import Checkpoint, load, save
from .metadata import FORMAT_VERSION, CheckpointError

__all__ = ["FORMAT_VERSION", "Checkpoint", "CheckpointError", "load", "save"]


def __dir__() -> list[str]:
    return __all__


# Pickles, tracebacks and the documentation show the public path, not the file.
for _public in (Checkpoint, CheckpointError, load, save):
    _public.__module__ = __name__
