"""Who does the step: one function each, from a case to a stepper on arrays of its own.

A peer is imported by its own function, so one that is missing or can't be built is left out with its reason.
"""

import math
import os
import sysconfig
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.case import Case, Stepper, fill
from bench.limit import limit
from bench.rules import EMA_DECAY, LR, MAX_NORM

Contender = Callable[[Case], Stepper]


def thinc_decay(t: int) -> float:
    """Return the decay of thinc's averages at step ``t``."""
    return min(0.9999, (1 + t) / (10 + t))


def refill(grads: list[np.ndarray]) -> None:
    """Gradients as they were before the last step cleared or clipped them."""
    for grad in grads:
        fill(grad, seed=7)


def before_step(case: Case) -> Callable[[list[np.ndarray]], None] | None:
    """What NumPy gradients need before a step, outside the measured time."""
    return refill if case.work.write_grads else None


# ---- steps


def fastopt_step(case: Case, backend: str, **more: Any) -> Stepper:
    """fastopt with this backend, and more keywords."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    name, keywords = case.work.fastopt
    opt = getattr(fastopt, name)(case.arrays(), lr=LR, backend=backend, **keywords, **more)
    return Stepper(opt.step, case.gradient_sets(), before_step(case))


def naive_step(case: Case) -> Stepper:
    """The textbook expression, array by array."""
    params, rule = case.arrays(), case.work
    slots = [[np.zeros_like(p) for _ in range(rule.slots)] for p in params]
    average = [p.copy() for p in params] if rule.whole else []
    count = 0

    def step(grads: list[np.ndarray]) -> None:
        nonlocal count
        count += 1
        if rule.whole:
            naive_clip(grads)
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            rule.naive(p, g, slots[i], count, LR)
            if rule.whole:
                average[i] = EMA_DECAY * average[i] + (1 - EMA_DECAY) * p
                g[...] = 0

    return Stepper(step, case.gradient_sets(), before_step(case))


def torch_step(case: Case, kind: str, set_to_none: bool = False) -> Stepper:
    """torch.optim, "fused" or "foreach", or "DeepSpeed"'s optimizers for torch parameters on the CPU."""
    import torch

    torch.set_num_threads(case.threads)
    rule = case.work
    params = [torch.from_numpy(array).requires_grad_() for array in case.arrays()]
    if kind == "DeepSpeed":
        name, keywords = rule.deepspeed or (None, {})
        opt = deepspeed_class(name)(params, lr=LR, **keywords)
    else:
        name, keywords = rule.torch
        if not name:
            raise NotImplementedError("torch has no such optimizer")
        opt = getattr(torch.optim, name)(params, lr=LR, **keywords, **{kind: True})
    # Averaged as torch.optim.swa_utils.get_ema_multi_avg_fn does it: all arrays in one call.
    average = [p.detach().clone() for p in params] if rule.whole else []
    values = [p.detach() for p in params]

    def before(grads: tuple) -> None:
        arrays, tensors = grads
        if rule.write_grads:
            refill(arrays)
        for p, grad in zip(params, tensors, strict=True):
            p.grad = grad

    def step(grads: tuple) -> None:
        if rule.whole:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        opt.step()
        if rule.whole:
            torch._foreach_lerp_(average, values, 1 - EMA_DECAY)
            opt.zero_grad(set_to_none=set_to_none)

    sets = [(grads, [torch.from_numpy(grad) for grad in grads]) for grads in case.gradient_sets()]
    return Stepper(step, sets, before)


def deepspeed_class(name: str | None) -> type:
    """A DeepSpeed optimizer; its C++ is compiled when it is first used, for about a minute."""
    if name is None:
        raise NotImplementedError("DeepSpeed has no such optimizer for the CPU")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # don't look for others
    # torch's extension builder calls the program ninja, which is beside a virtual environment's Python.
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
    from deepspeed.ops import adagrad, adam

    return getattr(adam, name, None) or getattr(adagrad, name)


def optax_step(case: Case) -> Stepper:
    """optax, the whole update compiled as one with its buffers donated, so that XLA may work in place."""
    import jax
    import jax.numpy as jnp
    import optax

    rule = case.work
    if rule.optax is None:
        raise NotImplementedError("optax has no such optimizer")
    tx = rule.optax(optax)
    params = [jnp.array(array) for array in case.arrays()]
    average = [jnp.array(array) for array in case.arrays()] if rule.whole else []
    held = (params, tx.init(params), average)

    def update(held: tuple, grads: list) -> tuple:
        params, state, average = held
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if not rule.whole:
            return (params, state, average), []
        average = optax.incremental_update(params, average, 1 - EMA_DECAY)
        return (params, state, average), [jnp.zeros_like(grad) for grad in grads]

    compiled = jax.jit(update, donate_argnums=(0, 1) if rule.whole else 0)

    def step(grads: list) -> None:
        nonlocal held
        held = jax.block_until_ready(compiled(held, grads))[0]

    return jax_stepper(case, step)


def jax_stepper(case: Case, step: Callable[[list], None]) -> Stepper:
    """A stepper on jax arrays; donated gradients are gone after a step, so they are made anew before each."""
    import jax
    import jax.numpy as jnp

    def put(grads: list[np.ndarray]) -> list:
        return jax.block_until_ready([jnp.array(grad) for grad in grads])

    if case.work.write_grads:
        return Stepper(step, case.gradient_sets(), put)
    return Stepper(step, [put(grads) for grads in case.gradient_sets()])


# ---- norm and clip: the global norm of the gradients; with case.work.write_grads also scaled to MAX_NORM


def fastopt_norm(case: Case) -> Stepper:
    """fastopt.clip."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    step = partial(fastopt.clip_grad_norm_, max_norm=MAX_NORM) if case.work.write_grads else fastopt.clip.global_norm
    return Stepper(step, case.gradient_sets(), before_step(case))


def naive_clip(grads: list[np.ndarray]) -> None:
    """Scale gradients to the largest norm that is allowed."""
    scale = MAX_NORM / (naive_global_norm(grads) + 1e-6)
    if scale < 1:
        for grad in grads:
            grad *= scale


def naive_global_norm(grads: list[np.ndarray]) -> float:
    return math.sqrt(sum(np.linalg.norm(grad) ** 2 for grad in grads))


def naive_norm(case: Case) -> Stepper:
    """numpy.linalg.norm of each array (a BLAS dot product)."""
    step = naive_clip if case.work.write_grads else naive_global_norm
    return Stepper(step, case.gradient_sets(), before_step(case))


def torch_norm(case: Case) -> Stepper:
    """torch.nn.utils, which takes the foreach functions by itself."""
    import torch

    torch.set_num_threads(case.threads)
    sets = []
    for grads in case.gradient_sets():
        tensors = [torch.from_numpy(grad) for grad in grads]
        params = [torch.empty_like(tensor).requires_grad_() for tensor in tensors]
        for p, tensor in zip(params, tensors, strict=True):
            p.grad = tensor
        sets.append((grads, tensors, params))

    def step(grads: tuple) -> None:
        if case.work.write_grads:
            torch.nn.utils.clip_grad_norm_(grads[2], MAX_NORM)
        else:
            torch.nn.utils.get_total_norm(grads[1])

    return Stepper(step, sets, (lambda grads: refill(grads[0])) if case.work.write_grads else None)


def optax_norm(case: Case) -> Stepper:
    """optax.global_norm and optax.clip_by_global_norm, compiled, the clipped gradients donated."""
    import jax
    import optax

    clip = optax.clip_by_global_norm(MAX_NORM)
    if case.work.write_grads:
        compiled = jax.jit(lambda grads: clip.update(grads, clip.init(None))[0], donate_argnums=0)
    else:
        compiled = jax.jit(optax.global_norm)
    return jax_stepper(case, lambda grads: jax.block_until_ready(compiled(grads)))


STEP: dict[str, Contender] = {
    "limit": limit,
    "fastopt": partial(fastopt_step, backend="native"),
    "fastopt NumPy": partial(fastopt_step, backend="numpy"),
    "torch fused": partial(torch_step, kind="fused"),
    "torch foreach": partial(torch_step, kind="foreach"),
    "DeepSpeed": partial(torch_step, kind="DeepSpeed"),
    "optax jit": optax_step,
    "naive NumPy": naive_step,
}
# torch's zero_grad by default drops the gradients and leaves clearing to the next backward pass: both are shown.
WHOLE = STEP | {"torch fused, grads dropped": partial(torch_step, kind="fused", set_to_none=True)}
FAST = {name: STEP[name] for name in ("limit", "fastopt", "torch fused", "DeepSpeed", "optax jit")}
UPDATE = {name: STEP[name] for name in ("limit", "fastopt", "torch fused", "naive NumPy")}
BRIEF = {name: STEP[name] for name in ("limit", "fastopt", "torch fused", "torch foreach", "optax jit")}
NORMS: dict[str, Contender] = {
    "limit": limit,
    "fastopt": fastopt_norm,
    "torch": torch_norm,
    "optax jit": optax_norm,
    "naive NumPy": naive_norm,
}
# Each option of the pass alone, on the same work, to set beside the plain step.
CAUTIOUS: dict[str, Any] = {"weight_decay": 1e-2, "decoupled": True, "cautious_decay": True}
OPTIONS: dict[str, Contender] = {
    "limit": limit,
    "fastopt": partial(fastopt_step, backend="native"),
    "ema_decay": partial(fastopt_step, backend="native", ema_decay=EMA_DECAY),
    "ema_decay by a function": partial(fastopt_step, backend="native", ema_decay=thinc_decay, ema_start="zero"),
    "zero_grads": partial(fastopt_step, backend="native", zero_grads=True),
    "nonfinite": partial(fastopt_step, backend="native", nonfinite="skip"),
    "clip_global_norm": partial(fastopt_step, backend="native", clip_global_norm=MAX_NORM),
    "skip_above": partial(fastopt_step, backend="native", skip_above=np.inf),
    "l1": partial(fastopt_step, backend="native", l1=1e-6),
    "prox_l1": partial(fastopt_step, backend="native", prox_l1=1e-6),
    "bounds": partial(fastopt_step, backend="native", bounds=(-1.0, 1.0)),
    "cautious_decay": partial(fastopt_step, backend="native", **CAUTIOUS),
    "accumulate_steps": partial(fastopt_step, backend="native", accumulate_steps=2),
    "bfloat16 slots": partial(fastopt_step, backend="native", state_dtype="bfloat16"),
    "8-bit slots": partial(fastopt_step, backend="native", state_dtype="uint8"),
}
#: How the names of others than fastopt begin.
PEERS = ("torch", "DeepSpeed", "optax", "SciPy", "scikit-learn", "naive", "in-place", "thinc")
