"""The gradients of tensors as NumPy arrays, found with little work where a step is like an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch

from ..arrays.dtypes import Array
from ..arrays.row_sparse import RowSparse
from ..backends.backend import Backend
from ..backends.windows import Move
from .memory import Order, as_array

grad_of: Callable[[Any], Any] = attrgetter("grad")
#: Its memory has the opposite signs.
is_neg: Callable[[Any], Any] = torch.Tensor.is_neg
#: The tensors' interface for C; None: this torch has none.
EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)


class Gradients:
    """The gradients of an optimizer's parameters, which are new tensors in each step.

    To make an array of each, by ``tensor.numpy()``, would take longer than the step of a small net: so the same arrays
    are moved to where the gradients are, if these are laid out as their parameters.

    Parameters
    ----------
    backend : Backend
    names : sequence of str or None
        Those of the parameters, if an optimizer of arrays takes the gradients by name.
    params : sequence of tensor
    arrays : sequence of array
        The parameters as arrays.
    orders : sequence of Order
        Those of the arrays' axes.

    Attributes
    ----------
    move : callable
        ``move(params)`` returns the gradients and the arrays, which it has moved to them, as two lists. The arrays do
        not keep the gradients. It returns None if a parameter is not where it was, or a gradient is another than usual.
    """

    def __init__(
        self,
        backend: Backend,
        names: Sequence[str] | None,
        params: Sequence[Any],
        arrays: Sequence[Array],
        orders: Sequence[Order],
    ) -> None:
        self.names, self.orders = names, orders
        #: They own the memory that `move` uses.
        self.windows = None if EXCHANGE is None else backend.windows(arrays, params, EXCHANGE, is_neg)
        self.move: Move = none if self.windows is None else self.windows.move
        #: The list that `move` returns if each parameter has a gradient, and what the optimizer of arrays takes then.
        self.arrays = None if self.windows is None else self.windows.arrays
        self.all = None if self.arrays is None else self.structure(self.arrays)

    def structure(self, arrays: list[Any]) -> Any:
        """Return what the optimizer of arrays takes."""
        return arrays if self.names is None else dict(zip(self.names, arrays, strict=True))

    def one_by_one(self, params: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Return the gradients, and each as an array or a RowSparse; None for None."""
        grads = list(map(grad_of, params))
        return grads, list(map(self.each, self.orders, grads))

    @staticmethod
    def each(order: Order, grad: Any) -> Any:
        """Return the gradient of one parameter."""
        if grad is None:
            return None
        if grad.layout is not torch.strided:
            return row_sparse(grad) if order is None else as_array(grad.to_dense(), order)
        return as_array(grad.resolve_neg(), order)


def none(params: Sequence[Any]) -> None:
    """Move no arrays."""


def row_sparse(grad: Any) -> Any:
    """Return a sparse gradient by its rows, such as that of ``nn.Embedding(sparse=True)``; any other as a dense one."""
    if grad.layout is torch.sparse_coo and grad.sparse_dim() == 1:
        indices, values = grad._indices(), grad._values()
        return RowSparse(as_array(indices[0]), as_array(values))
    return as_array(grad.to_dense())
