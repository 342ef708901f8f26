"""The numbers of torch: every row of cases.py that names a torch optimizer, over 50 steps, and at tiny gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, every_dtype

torch = pytest.importorskip("torch", reason="needs torch")

SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3), (2, 3, 2, 3)]
STEPS = 50

#: The parameters are made equal after each step; the slots keep the rounding of all steps, which is in this too.
FEW_ULP = 16 * 2.0**-23

every_torch_case = pytest.mark.parametrize("case", [case for case in CASES if case.torch], ids=str)


@pytest.fixture(autouse=True)
def double_scalars() -> Iterator[None]:
    """Let torch keep its scalars (ASGD's eta, NAdam's product) in double precision, as fastopt does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def compare(case: Case, dtype: Any, steps: int, scale: float, close: float) -> None:
    """Step both, with None gradients in the middle, and compare the parameters after every step."""
    assert case.torch is not None
    name, options = case.torch
    rng = np.random.default_rng(1)
    params = [np.array(rng.normal(size=shape), dtype) for shape in SHAPES]
    tensors = [torch.tensor(param, requires_grad=True) for param in params]
    opt, reference = case.build(params), getattr(torch.optim, name)(tensors, **options)
    for step in range(steps):
        grads: list[Any] = [np.array(scale * rng.normal(size=shape), dtype) for shape in SHAPES]
        if 10 <= step < 13:
            grads[step - 10] = None
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad)
        before = [param.copy() for param in params]
        opt.step(grads)
        reference.step()
        for start, param, tensor in zip(before, params, tensors, strict=True):
            wanted = tensor.detach().numpy()
            # Relative to the largest of what was added (of steps lr is the size): near zero a sum has no more digits.
            error = np.abs(param - wanted) / np.maximum(np.maximum(np.abs(wanted), np.abs(start)), options["lr"])
            assert error.max() <= close, (step, param.shape, error.max())
            if dtype == np.float32:
                param[...] = wanted


@every_torch_case
def test_float64_within_1e_12(case: Case) -> None:
    compare(case, np.float64, STEPS, 1.0, 1e-12)


@every_torch_case
def test_float32_within_a_few_ulp_each_step(case: Case) -> None:
    compare(case, np.float32, STEPS, 1.0, FEW_ULP)


@every_dtype
@every_torch_case
def test_tiny_gradients(case: Case, dtype: Any) -> None:
    """Gradients of about eps: where it is added, inside or outside the root, before or after the correction, shows."""
    close = 1e-12 if dtype == np.float64 else FEW_ULP
    compare(case, dtype, 10, 1e-8, close)
