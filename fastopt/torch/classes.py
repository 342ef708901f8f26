"""The classes of fastopt.torch, made of fastopt's."""

from __future__ import annotations

import inspect
from typing import Any

from ..core.optimizer import Optimizer as ArrayOptimizer
from .groups import Names
from .optimizer import Optimizer

EXAMPLE = """
Examples
--------
>>> import torch, fastopt.torch
>>> weight = torch.nn.Parameter(torch.ones(2, 2))
>>> opt = fastopt.torch.{name}([weight])
>>> weight.square().sum().backward()
>>> opt.step()
>>> opt.info.step
1
"""


class Documentation:
    """The docstring of a class: that of its optimizer of arrays, with another example."""

    def __get__(self, opt: Any, cls: Any) -> str:
        name = cls.optimizer.__name__
        text = inspect.cleandoc(cls.optimizer.__doc__).partition("\nExamples\n---")[0]
        summary = f":class:`fastopt.{name}` as a ``torch.optim.Optimizer``: see :class:`fastopt.torch.Optimizer`."
        return f"{summary}\n\n{text.rstrip()}\n{EXAMPLE.format(name=name)}"


class Signature:
    """The signature of a class: that of its optimizer of arrays."""

    def __get__(self, opt: Any, cls: Any) -> inspect.Signature:
        return inspect.signature(cls.optimizer)


def method_of_inner(name: str) -> Any:
    """Return a method that calls that of the optimizer of arrays."""

    def method(self: Optimizer) -> Any:
        return getattr(self.inner, name)()

    method.__name__ = name
    method.__doc__ = f"See :meth:`fastopt.ScheduleFreeAdamW.{name}`."
    return method


def optimizer_of_tensors(optimizer: type[ArrayOptimizer]) -> type[Optimizer]:
    """Return the class whose steps are those of an optimizer of arrays, one of fastopt's or one of your own.

    Parameters
    ----------
    optimizer : type
        A subclass of :class:`fastopt.Optimizer`.

    Examples
    --------
    >>> import torch, fastopt, fastopt.torch
    >>> fastopt.torch.optimizer_of_tensors(fastopt.Lion).__name__
    'Lion'
    """
    attributes = {
        "__doc__": Documentation(),
        "__signature__": Signature(),
        "__module__": __package__,
        "optimizer": optimizer,
        "names": Names(optimizer),
    }
    attributes |= {name: method_of_inner(name) for name in ("train", "eval") if hasattr(optimizer, name)}
    return type(optimizer.__name__, (Optimizer,), attributes)
