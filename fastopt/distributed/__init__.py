"""Sharded optimizers over several processes: each rank holds the state of a slice of the parameters.

Importing this imports no mpi4py: an optimizer does. But from then on the other ranks learn of it if this one fails.
"""

from .checkpoint import load, save
from .cost import Cost, Memory, Seconds, StepCost, cost
from .ranks import RankError
from .sharded import Sharded


def __dir__() -> list[str]:
    return __all__


__all__ = ["Cost", "Memory", "RankError", "Seconds", "Sharded", "StepCost", "cost", "load", "save"]
