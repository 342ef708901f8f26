"""Optimizers for thinc and spaCy; a config says ``@optimizers = "fastopt.Adam.v1"``. Importing this imports thinc."""

from collections.abc import Callable

from .. import optimizers as of_fastopt
from . import others
from .optimizers import SGD as SGD
from .optimizers import Adam as Adam
from .optimizers import Optimizer as Optimizer
from .optimizers import RAdam as RAdam

__all__ = ["Optimizer", *of_fastopt.__all__]


def __getattr__(name: str) -> Callable[..., others.Other]:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = others.of(name)
    return value


def __dir__() -> list[str]:
    return __all__
