"""Optimizers of tensors in torch's own loop: right after a backward pass, and hot, step after step."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bench import tensors
from bench.case import Case, Stepper
from bench.contenders import Contender
from bench.networks import batches_of_noise
from bench.rules import LR
from bench.shapes import NETS, ArraySet, mlp

Optimizer = Callable[[Case, list[Any]], Any]

MODELS = {
    f"{label}, {when}": ArraySet(each.shapes, fresh=when == "after backward")
    for label, each in {**NETS, "784-4096-4096-10": ArraySet(mlp(784, 4096, 4096, 10))}.items()
    for when in ("after backward", "hot")
}


def torch_optimizer(case: Case, params: list[Any], kind: str) -> Any:
    """torch.optim, "fused" or "foreach"."""
    import torch

    torch.set_num_threads(case.threads)
    name, keywords = case.work.torch
    return getattr(torch.optim, name)(params, lr=LR, **keywords, **{kind: True})


def model_step(case: Case, optimizer: Optimizer) -> Stepper:
    """A step of a network's parameters; a backward pass before it, which is not measured, makes new gradients."""
    import torch

    torch.manual_seed(0)
    sizes = [shape for shape in case.set.shapes if len(shape) == 2]
    layers = [layer for size in sizes for layer in (torch.nn.Linear(*size), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers[:-1])
    opt = optimizer(case, list(model.parameters()))
    batches = batches_of_noise(sizes[0][0], sizes[-1][1])

    def backward(_: None) -> None:
        opt.zero_grad()
        images, labels = map(torch.from_numpy, next(batches))
        torch.nn.functional.cross_entropy(model(images), labels).backward()

    backward(None)
    return Stepper(lambda _: opt.step(), [None], backward if case.set.fresh else None)


BACKWARD: dict[str, Contender] = {
    "fastopt.torch": partial(model_step, optimizer=tensors.optimizer),
    "torch fused": partial(model_step, optimizer=partial(torch_optimizer, kind="fused")),
    "torch foreach": partial(model_step, optimizer=partial(torch_optimizer, kind="foreach")),
}
