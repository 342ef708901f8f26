"""The gradients of tensors as NumPy arrays, found with little work where a step is like an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch

from ..arrays.dtypes import Array
from ..arrays.row_sparse import RowSparse
from ..arrays.windows import Windows, can_move
from .memory import Order, as_array

grad_of, bytes_of, dtype_of = attrgetter("grad"), attrgetter("nbytes"), attrgetter("dtype")
place_of: Callable[[Any], Any] = torch.Tensor.data_ptr
is_contiguous: Callable[[Any], Any] = torch.Tensor.is_contiguous
is_neg: Callable[[Any], Any] = torch.Tensor.is_neg
strides_of: Callable[[Any], Any] = torch.Tensor.stride


class Gradients:
    """The gradients of an optimizer's parameters, which are new tensors in each step.

    To make an array of each, by ``tensor.numpy()``, would take longer than the step of a small net: so the same arrays
    are moved to where the gradients are, if these are laid out as their parameters.

    Parameters
    ----------
    params : sequence of tensor
    arrays : sequence of array
        The parameters as arrays.
    orders : sequence of Order
        Those of the arrays' axes.
    """

    def __init__(self, params: Sequence[Any], arrays: Sequence[Array], orders: Sequence[Order]) -> None:
        self.orders = orders
        self.layout_of = layout_of(params)
        self.layouts = list(map(self.layout_of, params))
        self.bytes = [array.nbytes for array in arrays] if can_move else []
        self.dtypes = list(map(dtype_of, params))
        self.windows = Windows(arrays)

    def of(self, grads: Sequence[Any]) -> list[Any]:
        """Return each gradient as an array or a RowSparse; None for None.

        The arrays are those of the last call, and do not keep the gradients.
        """
        try:
            if (
                list(map(bytes_of, grads)) == self.bytes
                and list(map(dtype_of, grads)) == self.dtypes  # torch's grad_dtype can be another
                and list(map(self.layout_of, grads)) == self.layouts
                and not any(map(is_neg, grads))  # whose memory has the opposite signs
            ):
                self.windows.move(list(map(place_of, grads)))
                return self.windows.arrays
        except (AttributeError, RuntimeError):  # None, or a sparse gradient
            pass
        return list(map(self.each, self.orders, grads))

    @staticmethod
    def each(order: Order, grad: Any) -> Any:
        """Return the gradient of one parameter."""
        if grad is None:
            return None
        if grad.layout is not torch.strided:
            return row_sparse(grad) if order is None else as_array(grad.to_dense(), order)
        return as_array(grad.resolve_neg(), order)


def layout_of(params: Sequence[Any]) -> Callable[[Any], Any]:
    """Return a function of a tensor whose results say whether it is laid out as before: a quick one if that will do."""
    return is_contiguous if all(map(is_contiguous, params)) else strides_of


def row_sparse(grad: Any) -> Any:
    """Return a sparse gradient by its rows, such as that of ``nn.Embedding(sparse=True)``; any other as a dense one."""
    if grad.layout is torch.sparse_coo and grad.sparse_dim() == 1:
        indices, values = grad._indices(), grad._values()
        return RowSparse(as_array(indices[0]), as_array(values))
    return as_array(grad.to_dense())
