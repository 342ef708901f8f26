"""The numbers of torch at tiny gradients, for every row of cases.py that names a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, every_dtype

SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3), (2, 3, 2, 3)]


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")
    # So it keeps its scalars (ASGD's eta, NAdam's product) in double precision, as fastopt does.
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(torch.float32)


@every_dtype
@pytest.mark.parametrize("case", [case for case in CASES if case.torch], ids=str)
def test_tiny_gradients(torch: ModuleType, case: Case, dtype: Any) -> None:
    """Gradients of about eps: where it is added, inside or outside the root, before or after the correction, shows."""
    assert case.torch is not None
    name, options = case.torch
    # In float32 the slots keep the rounding of all steps: more than the few ulp of one step.
    close = 1e-12 if dtype == np.float64 else 16 * 2.0**-23
    rng = np.random.default_rng(1)
    params = [np.array(rng.normal(size=shape), dtype) for shape in SHAPES]
    tensors = [torch.tensor(param, requires_grad=True) for param in params]
    opt, reference = case.build(params), getattr(torch.optim, name)(tensors, **options)
    for step in range(10):
        grads: list[Any] = [np.array(1e-8 * rng.normal(size=shape), dtype) for shape in SHAPES]
        if step == 5:
            grads[2] = None
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad)
        before = [param.copy() for param in params]
        opt.step(grads)
        reference.step()
        for start, param, tensor in zip(before, params, tensors, strict=True):
            wanted = tensor.detach().numpy()
            # Relative to the largest of what was added (of steps lr is the size): near zero a sum has no more digits.
            size = np.maximum(np.maximum(np.abs(wanted), np.abs(start)), options["lr"])
            assert (np.abs(param - wanted) <= close * size).all()
            if dtype == np.float32:
                param[...] = wanted
