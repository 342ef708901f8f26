"""Optimizers for thinc and spaCy; a config says ``@optimizers = "fastopt.Adam.v1"``. Importing this imports thinc."""

from .optimizers import SGD, Adam, Optimizer, RAdam

__all__ = ["SGD", "Adam", "Optimizer", "RAdam"]


def __dir__() -> list[str]:
    return __all__
