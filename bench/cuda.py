"""Contenders on a GPU: the same work and arrays as on the CPU, each step timed until the device is done."""

from collections.abc import Callable

import numpy as np

from bench.case import Case, Stepper
from bench.rules import LR, MAX_NORM


def finished(step: Callable[[list], object]) -> Callable[[list], None]:
    """A step, and the wait for the device."""
    import torch

    def whole(grads: list) -> None:
        step(grads)
        torch.cuda.synchronize()

    return whole


def device() -> str:
    """The GPU, said at once where there is none: the arrays of a case take time to make."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("there is no GPU that torch can use")
    return "cuda"


def on_device(arrays: list[np.ndarray]) -> list:
    import torch

    return [torch.from_numpy(array).to(device()) for array in arrays]


def fastopt_step(case: Case) -> Stepper:
    """fastopt on torch's arrays, in torch's default stream."""
    import fastopt

    device()
    name, keywords = case.work.fastopt
    opt = getattr(fastopt, name)(on_device(case.arrays()), lr=LR, **keywords)
    return Stepper(finished(opt.step), [on_device(grads) for grads in case.gradient_sets()])


def torch_step(case: Case) -> Stepper:
    """torch.optim, fused; clipping, where the work has it, by torch's own function."""
    import torch

    device()
    name, keywords = case.work.torch
    params = [p.requires_grad_() for p in on_device(case.arrays())]
    opt = getattr(torch.optim, name)(params, lr=LR, **keywords, fused=True)

    def before(grads: list) -> None:
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad

    def step(grads: list) -> None:
        if case.work.norm:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        opt.step()

    return Stepper(finished(step), [on_device(grads) for grads in case.gradient_sets()], before)


def copy(case: Case) -> Stepper:
    """The limit: the card's own copy of as many bytes as the step must read and write."""
    import torch

    source = torch.ones(case.bytes_moved // 8, device=device())
    target = torch.empty_like(source)
    return Stepper(finished(lambda grads: target.copy_(source)), [[]])


CUDA: dict[str, Callable[[Case], Stepper]] = {"limit": copy, "fastopt": fastopt_step, "torch fused": torch_step}


def gpu() -> str:
    """The GPU's name and the driver's version, for the report."""
    try:
        import fastopt

        found = fastopt.info()["cuda"]
    except (ImportError, RuntimeError):
        return ""
    return "" if found["missing"] else f"{', '.join(found['devices'])}, driver of CUDA {found['driver']}"
