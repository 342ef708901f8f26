"""Building an optimizer, and its first step, which makes the state."""

from typing import Any

from bench.case import Case, Stepper
from bench.contenders import Contender
from bench.rules import LR


def fastopt_building(case: Case) -> Stepper:
    """fastopt."""
    import fastopt

    name, keywords = case.work.fastopt
    params = case.arrays()

    def build_and_step(grads: Any) -> None:
        getattr(fastopt, name)(params, lr=LR, backend="native", **keywords).step(grads)

    return Stepper(build_and_step, [case.arrays(seed=7)])


def torch_building(case: Case) -> Stepper:
    """torch.optim, fused, on tensors that have their gradients."""
    import torch

    name, keywords = case.work.torch
    tensors = [torch.from_numpy(array).requires_grad_() for array in case.arrays()]
    for tensor, grad in zip(tensors, case.arrays(seed=7), strict=True):
        tensor.grad = torch.from_numpy(grad)

    def build_and_step(_: None) -> None:
        getattr(torch.optim, name)(tensors, lr=LR, **keywords, fused=True).step()

    return Stepper(build_and_step, [None])


BUILD: dict[str, Contender] = {"torch fused": torch_building, "fastopt": fastopt_building}
