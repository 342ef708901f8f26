"""Sharded optimizers over several processes: each rank holds the state of a slice of the parameters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cost import Cost, Memory, Seconds, StepCost, cost

if TYPE_CHECKING:
    from .ranks import RankError
    from .sharded import Sharded

#: The names that need mpi4py, and their modules: costs can be computed without it.
LAZY = {"RankError": "ranks", "Sharded": "sharded"}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{LAZY[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = ["Cost", "Memory", "RankError", "Seconds", "Sharded", "StepCost", "cost"]
