"""Sharded optimizers over several processes: each rank holds the state of a slice of the parameters."""

from .ranks import RankError as RankError
from .sharded import Sharded as Sharded


def __dir__() -> list[str]:
    return __all__


__all__ = ["RankError", "Sharded"]
