"""fastopt's optimizers for torch on the CPU: each a ``torch.optim.Optimizer`` over tensors."""

from .. import optimizers
from .classes import optimizer_of_tensors
from .offload import Offload
from .optimizer import Optimizer


def __getattr__(name: str) -> type[Optimizer]:
    """Return the class of tensors for one of fastopt's optimizers, made when it is first asked for."""
    if name not in optimizers.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind: type[Optimizer] = globals().setdefault(name, optimizer_of_tensors(getattr(optimizers, name)))
    return kind


def __dir__() -> list[str]:
    return __all__


__all__ = [*optimizers.__all__, "Offload", "Optimizer", "optimizer_of_tensors"]
