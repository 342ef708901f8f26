"""The optimizers of docs/guide/own_rules.rst that optax has too: the same numbers over 50 steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from own_rules_page import PAGE, shown

optax = pytest.importorskip("optax", reason="needs optax")
jax = pytest.importorskip("jax", reason="needs jax")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")

LR = 0.01
ROWS = {
    "NAdamW": (
        optax.nadamw(LR, b1=0.8, b2=0.99, weight_decay=0.1),
        {"betas": (0.8, 0.99), "weight_decay": 0.1},
    ),
    "ADOPT": (optax.contrib.adopt(LR, b1=0.8, b2=0.99), {"betas": (0.8, 0.99)}),
    "MADGRAD": (
        optax.contrib.madgrad(LR, momentum=0.8, weight_decay=0.1),
        {"momentum": 0.8, "weight_decay": 0.1},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_of_optax(name: str) -> None:
    transformation, options = ROWS[name]
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        params = rng.normal(size=11)
        theirs: Any = jax.numpy.asarray(params)
        opt = shown()[name](params, lr=LR, **options)
        # Of a count in int32 JAX would round the root to float32.
        state = jax.tree.map(lambda each: each.astype(float), transformation.init(theirs))
        update = jax.jit(transformation.update)
        for _ in range(50):
            grad = rng.normal(size=11)
            updates, state = update(jax.numpy.asarray(grad), state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            opt.step(grad)
            np.testing.assert_allclose(params, np.asarray(theirs), rtol=1e-12, atol=1e-13)
