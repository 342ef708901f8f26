"""Sharded optimizers over MPI: each rank holds the state of a slice of the parameters."""

from .ranks import RankError as RankError
from .sharded import Sharded as Sharded

__all__ = ["RankError", "Sharded"]
