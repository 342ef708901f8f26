"""fastopt.torch: fastopt's step on tensors, as an optimizer of torch. Gradients are set outside the measured time."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.case import Case, Stepper
from bench.contenders import Contender, refill
from bench.networks import TOTAL, Layers, Update, in_loop, rate, tiny
from bench.rules import LR


def tensors_step(case: Case) -> Stepper:
    """fastopt.torch, on tensors that share the arrays' memory."""
    import torch

    params = [torch.from_numpy(array).requires_grad_() for array in case.arrays()]
    opt = optimizer(case, params)

    def before(grads: tuple) -> None:
        arrays, tensors = grads
        if case.work.write_grads:
            refill(arrays)
        for param, tensor in zip(params, tensors, strict=True):
            param.grad = tensor

    sets = [(arrays, [torch.from_numpy(array) for array in arrays]) for arrays in case.gradient_sets()]
    return Stepper(lambda _: opt.step(), sets, before)


def tensors_update(case: Case, params: Layers) -> Update:
    """The same for a network."""
    import torch

    tensors = {
        name: {key: torch.from_numpy(p).requires_grad_() for key, p in layer.items()} for name, layer in params.items()
    }
    opt = optimizer(case, [p for layer in tensors.values() for p in layer.values()])
    scheduler = None
    if case.work.lr in ("scheduled", "driven"):
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, TOTAL)
    steps = itertools.count()

    def take(grads: Layers) -> None:
        for name, layer in tensors.items():
            for key, param in layer.items():
                param.grad = torch.from_numpy(grads[name][key])

    def step(_: Layers) -> None:
        if case.work.lr == "written":
            opt.param_groups[0]["lr"] = rate(case.work, next(steps))
        opt.step()
        if scheduler:
            scheduler.step()

    return Update(step, take)


def optimizer(case: Case, params: list[Any]) -> Any:
    import torch

    import fastopt.torch

    torch.set_num_threads(case.threads)
    fastopt.set_num_threads(case.threads)
    name, keywords = case.work.fastopt
    kind: Callable[..., Any] = getattr(fastopt.torch, name)
    return kind(params, lr=LR, backend="native", **keywords)


TENSORS: dict[str, Contender] = {"fastopt.torch": tensors_step}
TENSORS_IN_LOOP: dict[str, Contender] = {"fastopt.torch": partial(in_loop, tensors_update)}
TENSORS_OVERHEAD: dict[str, Contender] = {"fastopt.torch": partial(tiny, tensors_update)}
