"""``fastopt.functional`` is at home in optax: in its loop and its chains, and where JAX traces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from pure_runs import bits, grads_of, params_of

import fastopt


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax", reason="compares with the live optax")


@pytest.fixture
def optax(jax: Any) -> Iterator[Any]:
    """In double precision, where two ways to compute the same agree to many digits."""
    optax = pytest.importorskip("optax", reason="compares with the live optax")
    jax.config.update("jax_enable_x64", True)
    yield optax
    jax.config.update("jax_enable_x64", False)


def loss(params: Any) -> Any:
    import jax.numpy as jnp

    return jnp.sum(jnp.tanh(params["a"]) ** 2) + sum(jnp.sum((each - 1) ** 4) for each in params["b"])


@cache
def gradient() -> Any:
    import jax

    return jax.jit(jax.grad(loss))


def run(jax: Any, optax: Any, tx: Any, is_jitted: bool = False, steps: int = 6) -> Any:
    """optax's own loop, as its documentation has it."""

    def step(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if is_jitted else step
    params = jax.tree.map(jax.numpy.asarray, params_of(dtype=np.float64))
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(gradient()(params), state, params)
    return params


def assert_close(jax: Any, found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)


def test_in_the_loop_of_optax(jax: Any, optax: Any) -> None:
    """optax's numbers, and those of fastopt's own loop."""
    for name, options, theirs in (
        ("SGD", {"lr": 0.05, "momentum": 0.9}, optax.sgd(0.05, momentum=0.9)),
        ("Adam", {"lr": 0.05, "eps": 1e-8}, optax.adam(0.05)),
        ("AdamW", {"lr": 0.05, "weight_decay": 0.1}, optax.adamw(0.05, weight_decay=0.1)),
        ("Lion", {"lr": 0.01, "weight_decay": 0.1}, optax.lion(0.01, weight_decay=0.1)),
    ):
        found = run(jax, optax, fastopt.functional(getattr(fastopt, name), **options))
        assert_close(jax, found, run(jax, optax, theirs, is_jitted=True))
        own = params_of(dtype=np.float64)
        opt = getattr(fastopt, name)(own, **options)
        for _ in range(6):
            opt.step(gradient()(own))
        assert_close(jax, found, own)


def test_chains(jax: Any, optax: Any) -> None:
    """Around ours, and ours between others."""
    ours = fastopt.functional(fastopt.SGD, lr=0.05, momentum=0.9)
    theirs = optax.sgd(0.05, momentum=0.9)
    for around in (
        lambda tx: optax.chain(optax.clip_by_global_norm(0.5), tx),
        lambda tx: optax.chain(optax.clip(0.1), tx, optax.scale(0.5)),
        lambda tx: optax.chain(optax.add_decayed_weights(0.1), optax.chain(tx)),
        lambda tx: optax.multi_transform({"a": tx, "b": optax.adam(0.01)}, {"a": "a", "b": ["b", "a"]}),
        lambda tx: optax.multi_transform({"a": optax.adam(0.01), "unused": tx}, {"a": "a", "b": ["a", "a"]}),
        lambda tx: optax.apply_if_finite(tx, 3),
    ):
        assert_close(jax, run(jax, optax, around(ours)), run(jax, optax, around(theirs), is_jitted=True))


def test_multi_steps(jax: Any, optax: Any) -> None:
    """It traces what it wraps; our option has its numbers."""
    multi = optax.MultiSteps(optax.adam(0.05), 2, accumulator_dtype=jax.numpy.float64)
    ours = fastopt.functional(fastopt.Adam, lr=0.05, accumulate_steps=2)
    assert_close(jax, run(jax, optax, ours), run(jax, optax, multi, is_jitted=True))
    with pytest.raises(TypeError, match="a value that JAX traces"):
        run(jax, optax, optax.MultiSteps(ours, 2))


def test_states_are_trees(jax: Any) -> None:
    tx = fastopt.functional(fastopt.Adam, lr=0.1)
    params = params_of()
    state = tx.init(params)
    mapped = jax.tree.map(jax.numpy.asarray, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    grads = grads_of(params, 0)
    (updates, after), (expected, _) = tx.update(grads, mapped, params), tx.update(grads, state, params)
    assert bits(updates) == bits(expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(after["counts"])} == {mapped["counts"]["step_count"].dtype}


def test_traced_values(jax: Any) -> None:
    """An error with the remedy, whichever argument it is; and both remedies work."""
    tx = fastopt.functional(fastopt.Adam, lr=0.1)
    params, grads = params_of(), jax.tree.map(np.float32, grads_of(params_of(), 0))
    state = tx.init(params)
    expected = tx.update(grads, state, params)
    for position, name in enumerate(("grads", "state", "params")):

        @jax.jit
        def update(traced: Any, position: int = position) -> Any:
            arguments = [grads, state, params]
            arguments[position] = traced
            return tx.update(*arguments)

        with pytest.raises(TypeError, match=rf"^{name}.*: a value that JAX traces .* through jax\.pure_callback"):
            update([grads, state, params][position])

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        return jax.pure_callback(tx.update, form((params, state)), grads, state, params)

    found = step(grads, state, params)
    assert bits(found[0]) == bits(expected[0])
    assert bits(found[1]["arrays"]["a"]["m"]) == bits(expected[1]["arrays"]["a"]["m"])
    again = step(grads, found[1], params)
    assert int(again[1]["counts"]["step_count"]) == 2
