"""The gradients of tensors as NumPy arrays, found with little work where a step is like an earlier one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from ..arrays.dtypes import Array
from ..arrays.row_sparse import RowSparse
from .memory import Order, as_array

#: The most places of a gradient to remember, and the most sets of them; the allocator hands the same ones out again.
MOST_PLACES = 16

grad_of, is_required, bytes_of = attrgetter("grad"), attrgetter("requires_grad"), attrgetter("nbytes")
place_of, is_contiguous, strides_of = torch.Tensor.data_ptr, torch.Tensor.is_contiguous, torch.Tensor.stride


class Gradients:
    """The gradients of an optimizer's parameters.

    ``tensor.numpy()`` takes as long as the step of a small array. So an array is made once for each place in memory,
    and found again by the place. It does not own the memory, which is freed with the tensor: only a gradient that lies
    there, in the same order and with as many bytes, is read through it.

    Parameters
    ----------
    params : sequence of tensor
    arrays : sequence of array
        The parameters as arrays.
    orders : sequence of Order
        Those of the arrays' axes.
    """

    def __init__(self, params: Sequence[Any], arrays: Sequence[Array], orders: Sequence[Order]) -> None:
        self.arrays, self.orders = arrays, orders
        self.layout_of = is_contiguous if all(map(is_contiguous, params)) else strides_of
        self.layouts = list(map(self.layout_of, params))
        self.required = list(map(is_required, params))
        self.bytes = [array.nbytes for array in arrays]
        self.known: list[dict[int, Array]] = [{} for _ in params]
        self.known_sets: dict[tuple[int, ...], list[Any]] = {}

    def of(self, params: Sequence[Any]) -> list[Any]:
        """Return each parameter's gradient as an array or a RowSparse; None for those without one, and frozen ones."""
        grads = list(map(grad_of, params))
        try:
            places = tuple(map(place_of, grads))
        except (RuntimeError, TypeError):  # a sparse gradient, or None
            return self.each(params, grads)
        are_plain = (
            list(map(self.layout_of, grads)) == self.layouts
            and list(map(bytes_of, grads)) == self.bytes
            and list(map(is_required, params)) == self.required
        )
        if not are_plain:
            return self.each(params, grads)
        if places not in self.known_sets:
            if len(self.known_sets) == MOST_PLACES:
                self.known_sets.clear()
            self.known_sets[places] = self.each(params, grads)
        return self.known_sets[places]

    def each(self, params: Sequence[Any], grads: Sequence[Any]) -> list[Any]:
        return [self.array(i, param, grad) for i, (param, grad) in enumerate(zip(params, grads, strict=True))]

    def array(self, i: int, param: Any, grad: Any) -> Any:
        """Return the gradient of parameter number ``i``."""
        if grad is None or (self.required[i] and not param.requires_grad):
            return None
        if grad.layout is not torch.strided:
            return row_sparse(grad) if self.orders[i] is None else as_array(grad.to_dense(), self.orders[i])
        if self.layout_of(grad) != self.layouts[i] or grad.nbytes != self.bytes[i] or grad.nbytes == 0:
            return as_array(grad, self.orders[i])
        known, place = self.known[i], grad.data_ptr()
        if place not in known:
            if len(known) == MOST_PLACES:
                known.clear()
            known[place] = array_at(place, self.arrays[i])
        return known[place]


def array_at(place: int, like: Array) -> Array:
    """Return the array at a place in memory, without owning the memory."""
    memory: Any = (ctypes.c_char * like.nbytes).from_address(place)
    array: Array = np.frombuffer(memory, like.dtype).reshape(like.shape, order="C" if like.flags.c_contiguous else "F")
    return array


def row_sparse(grad: Any) -> Any:
    """Return a sparse gradient by its rows, such as that of ``nn.Embedding(sparse=True)``; any other as a dense one."""
    if grad.layout is torch.sparse_coo and grad.sparse_dim() == 1:
        indices, values = grad._indices(), grad._values()
        return RowSparse(as_array(indices[0]), as_array(values))
    return as_array(grad.to_dense())
