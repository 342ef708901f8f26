"""The step as a pure function, in the form of optax: new parameters and a new state, and nothing changes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.case import Case, Stepper
from bench.contenders import Contender, fastopt_step
from bench.rules import LR


def fastopt_functional(case: Case, by_updates: bool) -> Stepper:
    """fastopt.functional on NumPy arrays: by `apply`, or by `update` and a sum."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    name, keywords = case.work.fastopt
    tx = fastopt.functional(getattr(fastopt, name), lr=LR, **keywords)
    params: Any = case.arrays()
    state = tx.init(params)

    def step(grads: list) -> None:
        nonlocal params, state
        if by_updates:
            updates, state = tx.update(grads, state, params)
            params = [param + update for param, update in zip(params, updates, strict=True)]
        else:
            params, state = tx.apply(grads, state, params)

    return Stepper(step, case.gradient_sets())


def optax_functional(case: Case, is_jitted: bool) -> Stepper:
    """optax, its buffers not donated."""
    import jax
    import jax.numpy as jnp
    import optax

    tx = case.work.optax(optax)
    params = [jnp.array(array) for array in case.arrays()]
    state = tx.init(params)

    def update(grads: list, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled: Callable = jax.jit(update) if is_jitted else update

    def step(grads: list) -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(compiled(grads, state, params))

    return Stepper(step, [jax.block_until_ready(list(map(jnp.array, grads))) for grads in case.gradient_sets()])


FUNCTIONAL: dict[str, Contender] = {
    "fastopt": partial(fastopt_step, backend="native"),
    "functional, apply": partial(fastopt_functional, by_updates=False),
    "functional, update": partial(fastopt_functional, by_updates=True),
    "optax jit": partial(optax_functional, is_jitted=True),
    "optax": partial(optax_functional, is_jitted=False),
}
