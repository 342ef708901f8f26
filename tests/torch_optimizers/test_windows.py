"""Arrays that C moves to the gradients of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

import fastopt.torch  # noqa: E402
from fastopt.backends.backend import Backend  # noqa: E402
from fastopt.backends.native import library as native  # noqa: E402
from fastopt.torch.gradients import EXCHANGE  # noqa: E402

HAS_WINDOWS = EXCHANGE is not None and native.missing is None

needs_windows = pytest.mark.skipif(
    not HAS_WINDOWS, reason="this torch has no interface for C, or fastopt no native part"
)


def parameters() -> list[Any]:
    shapes = [(2, 3), (4,), (), (0, 2), (1, 5)]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    params.append(torch.nn.Parameter(torch.randn(4, 3, 2, 5).to(memory_format=torch.channels_last)))
    return [*params, torch.nn.Parameter(torch.randn(3, dtype=torch.float64)), torch.nn.Parameter(torch.randn(3).half())]


def ready(params: list[Any]) -> Any:
    opt = fastopt.torch.SGD(params, lr=0.5)
    for param in params:
        param.grad = torch.randn_like(param)
    return opt.gradients


@needs_windows
def test_arrays_are_moved_to_the_gradients() -> None:
    params = parameters()
    gradients = ready(params)
    for _ in range(3):
        for param in params:
            param.grad = torch.randn_like(param)
        tensors, arrays = gradients.move(params)
        assert arrays is gradients.arrays
        for tensor, array, order, param in zip(tensors, arrays, gradients.orders, params, strict=True):
            assert tensor is param.grad
            values = tensor.numpy() if order is None else tensor.permute(order).numpy()
            assert np.array_equal(array, values)
            assert array.size == 0 or np.shares_memory(array, values)


@needs_windows
def test_parameters_without_a_gradient() -> None:
    params = parameters()
    gradients = ready(params)
    params[1].grad = params[4].grad = None
    tensors, arrays = gradients.move(params)
    assert [i for i, tensor in enumerate(tensors) if tensor is None] == [1, 4]
    assert [i for i, array in enumerate(arrays) if array is None] == [1, 4]
    assert all(array is None or array is own for array, own in zip(arrays, gradients.arrays, strict=True))


def unaligned(like: Any) -> Any:
    return torch.frombuffer(bytearray(like.nbytes + 1), dtype=like.dtype, offset=1).view(like.shape)


GRADIENTS = {
    "another order": lambda grad: grad.t().contiguous().t(),
    "strided": lambda grad: torch.cat([grad, grad], 1)[:, :3],
    "negative": torch._neg_view,
    "unaligned": unaligned,
    "sparse": lambda grad: grad.to_sparse(),
}


@needs_windows
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_gradient_of_another_kind_is_not_moved_to(kind: str) -> None:
    params = parameters()
    gradients = ready(params)
    params[0].grad = GRADIENTS[kind](params[0].grad)
    assert gradients.move(params) is None
    arrays = gradients.one_by_one(params)[1]
    assert np.array_equal(arrays[0], params[0].grad.to_dense().resolve_neg().numpy()) or kind == "sparse"


def assign(data: Callable[[Any], Any]) -> Callable[[list[Any]], None]:
    def change(params: list[Any]) -> None:
        params[0].data = data(params[0].data)

    return change


CHANGES: dict[str, Callable[[list[Any]], Any]] = {
    "elsewhere": assign(torch.clone),
    "another shape": assign(lambda data: data.view(3, 2)),
    "one more": lambda params: params.append(params[0]),
    "one less": lambda params: params.pop(),
    "no tensor": lambda params: params.__setitem__(0, None),
}


@needs_windows
@pytest.mark.parametrize("change", CHANGES)
def test_other_parameters_are_noticed(change: str) -> None:
    params = parameters()
    gradients = ready(params)
    assert gradients.move(params) is not None
    CHANGES[change](params)
    assert gradients.move(params) is None


@needs_windows
def test_errors_of_a_tensors_own_code_come_through() -> None:
    class Strange(torch.nn.Parameter):
        @property
        def grad(self) -> Any:
            raise KeyError("no gradient today")

    params = [Strange(torch.zeros(3))]
    opt = fastopt.torch.SGD(params)
    with pytest.raises(KeyError, match="no gradient today"):
        opt.step()


def test_entries_are_compared_by_their_objects() -> None:
    backend = fastopt.torch.SGD([torch.nn.Parameter(torch.zeros(1))]).inner.parts.backend
    number, key = float("1.5"), "".join(["a", "b"])
    groups = [{"lr": number, key: []}, {}]
    seen = [(list(group), list(group.values())) for group in groups]
    others: list[Any] = [
        [{"lr": number}, {}],
        [{"lr": float("1.5"), key: groups[0][key]}, {}],
        [{key: groups[0][key], "lr": number}, {}],
        [{"lr": number, "".join(["a", "b"]): groups[0][key]}, {}],
        [groups[0]],
        [groups[0], {"lr": number}],
    ]
    for compare in (backend.same_entries, Backend().same_entries):
        assert compare(groups, seen)
        assert not any(compare(other, seen) for other in others)
