"""The update of a network, a nested dict of arrays, as NumPy training code has it: in a loop, and of tiny arrays."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.case import Case, Stepper
from bench.contenders import Contender, naive_global_norm
from bench.rules import LR, MAX_NORM, NumPyRule, Rule

Layers = dict[str, dict[str, np.ndarray]]

BATCH = 64
IMAGES = 4096
#: So many steps that a schedule of this length changes the rate in every step and never ends.
TOTAL = 10**8


class Update(NamedTuple):
    """One step of a contender, and what it does with new gradients outside the measured time."""

    step: Callable[[Any], Any]
    take: Callable[[Layers], None] | None = None


def nested(arrays: Iterable[np.ndarray]) -> Layers:
    """Arrays as layers of a weight and a bias."""
    pairs = itertools.zip_longest(*[iter(arrays)] * 2)
    return {f"layer{i}": {"W": W} if b is None else {"W": W, "b": b} for i, (W, b) in enumerate(pairs)}


def groups_of_one(arrays: Iterable[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"params": array} for array in arrays]


def flat(layers: Layers) -> list[np.ndarray]:
    return [array for layer in layers.values() for array in layer.values()]


def rate(rule: Rule, step: int) -> float:
    """The learning rate of a step, from 0: constant, or along half a cosine."""
    return LR if rule.lr == "constant" else LR * 0.5 * (1 + math.cos(math.pi * step / TOTAL))


# ---- updates


def fastopt_update(case: Case, params: Layers | list[np.ndarray]) -> Update:
    """fastopt."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    rule = case.work
    name, keywords = rule.fastopt
    lr = fastopt.schedules.cosine(LR, total=TOTAL) if rule.lr == "scheduled" else LR
    opt = getattr(fastopt, name)(params, lr=lr, backend="native", **keywords)
    steps = itertools.count()

    def write_and_step(grads: Any) -> None:
        lr = rate(rule, next(steps))
        for group in opt.param_groups:
            group["lr"] = lr
        opt.step(grads)

    if rule.lr == "driven":
        driver = fastopt.lr_scheduler.CosineAnnealingLR(opt, TOTAL)
        return Update(lambda grads: (opt.step(grads), driver.step()))
    return Update(write_and_step if rule.lr == "written" else opt.step)


def naive_update(case: Case, params: Layers) -> Update:
    """The textbook expression, array by array."""
    return numpy_update(case.work, case.work.naive, params, case.work.slots)


def in_place_update(case: Case, params: Layers) -> Update:
    """The same without new arrays."""
    return numpy_update(case.work, case.work.in_place, params, case.work.slots + 1)


def numpy_update(rule: Rule, function: NumPyRule, params: Layers, slots: int) -> Update:
    """A function of one array, for all arrays of the network."""
    state = {
        name: {key: [np.zeros_like(p) for _ in range(slots)] for key, p in layer.items()}
        for name, layer in params.items()
    }
    steps = itertools.count()

    def step(grads: Layers) -> None:
        count = next(steps)
        lr = rate(rule, count)
        if rule.norm:
            grads = clipped(grads)
        for name, layer in params.items():
            for key, p in layer.items():
                function(p, grads[name][key], state[name][key], count + 1, lr)

    return Update(step)


def clipped(grads: Layers) -> Layers:
    """New gradients, scaled to the largest norm that is allowed."""
    scale = min(1.0, MAX_NORM / (naive_global_norm(flat(grads)) + 1e-6))
    return {name: {key: scale * grad for key, grad in layer.items()} for name, layer in grads.items()}


def torch_update(case: Case, params: Layers) -> Update:
    """torch.optim, fused, on tensors that share the arrays' memory; it gets its gradients outside the measured time."""
    import torch

    torch.set_num_threads(case.threads)
    rule = case.work
    tensors = [[torch.from_numpy(p).requires_grad_() for p in layer.values()] for layer in params.values()]
    name, keywords = rule.torch
    opt = getattr(torch.optim, name)([p for layer in tensors for p in layer], lr=LR, **keywords, fused=True)
    has_scheduler = rule.lr in ("scheduled", "driven")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, TOTAL) if has_scheduler else None
    steps = itertools.count()

    def take(grads: Layers) -> None:
        for layer, (name, arrays) in zip(tensors, params.items(), strict=True):
            for p, key in zip(layer, arrays, strict=True):
                p.grad = torch.from_numpy(grads[name][key])

    def step(grads: Layers) -> None:
        if rule.lr == "written":
            opt.param_groups[0]["lr"] = rate(rule, next(steps))
        if rule.norm:
            torch.nn.utils.clip_grad_norm_(opt.param_groups[0]["params"], MAX_NORM)
        opt.step()
        if scheduler:
            scheduler.step()

    return Update(step, take)


# ---- inside a training loop


def in_loop(update: Callable[[Case, Layers], Update], case: Case) -> Stepper:
    """The update of a network, right after the forward and backward pass over a new batch."""
    from fastopt.commands.demo import mlp

    params = nested(case.arrays())
    for layer in params.values():
        layer["W"] *= math.sqrt(2 / len(layer["W"]))
        layer["b"][:] = 0
    step, take = update(case, params)
    batches = batches_of_noise(case.set.shapes[0][0], case.set.shapes[-1][0])

    def backward(_: None) -> Layers:
        grads = mlp.loss_and_grads(params, *next(batches))[1]
        if take:
            take(grads)
        return grads

    return Stepper(step, [None], backward)


def batches_of_noise(inputs: int, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches without end; no network fits labels that are drawn anew, so gradients stay as large as at the start."""
    random = np.random.default_rng(0)
    images = random.standard_normal((IMAGES, inputs), np.float32)
    while True:
        yield images[random.integers(IMAGES, size=BATCH)], random.integers(classes, size=BATCH)


# ---- tiny arrays


def tiny(
    update: Callable[[Case, Any], Update],
    case: Case,
    structure: Callable[[list[np.ndarray]], Any] = nested,
    new_gradients: bool = True,
) -> Stepper:
    """The update of arrays in this structure; new gradients are other arrays than those of the step before."""
    step, take = update(case, structure(case.arrays()))
    sets = [structure(case.arrays(seed=7)) for _ in range(4 if new_gradients else 1)]
    return Stepper(step, sets, take)


LOOP: dict[str, Contender] = {
    "naive NumPy": partial(in_loop, naive_update),
    "in-place NumPy": partial(in_loop, in_place_update),
    "torch fused": partial(in_loop, torch_update),
    "fastopt": partial(in_loop, fastopt_update),
}
OVERHEAD: dict[str, Contender] = {
    "naive NumPy": partial(tiny, naive_update),
    "torch fused": partial(tiny, torch_update),
    "fastopt": partial(tiny, fastopt_update),
    "fastopt, same gradients": partial(tiny, fastopt_update, new_gradients=False),
    "fastopt, list": partial(tiny, fastopt_update, structure=list),
    "fastopt, list, same gradients": partial(tiny, fastopt_update, structure=list, new_gradients=False),
    "fastopt, a group for each array": partial(tiny, fastopt_update, structure=groups_of_one),
}
