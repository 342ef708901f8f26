"""The numbers of optax over 50 steps, for the optimizers that torch has too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import fastopt
from fastopt import SGD, Adagrad, Adam, AdamW, RMSprop, schedules

STEPS = 50

OPTAX_SCRIPT = """
import json, sys
import jax, numpy as np, optax
rows, grads, start = json.loads(sys.argv[1]), np.load("grads.npy"), np.load("start.npy")
rates = jax.numpy.asarray([0.1 * 0.97**count for count in range(len(grads))])
trajectories = []
for name, options in rows:
    # Not optax's own schedule, which computes in float32.
    optimizer = getattr(optax, name)(learning_rate=lambda count: rates[count], **options)
    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state
    params, trajectory = jax.numpy.asarray(start), []
    state = optimizer.init(params)
    for grad in grads:
        params, state = step(params, state, grad)
        trajectory.append(np.asarray(params))
    trajectories.append(trajectory)
np.save("optax.npy", np.array(trajectories))
"""


#: The optimizer and its options, optax's name and options; the learning rate falls by 3 % each step.
OPTAX: dict[str, tuple[type[fastopt.Optimizer], dict[str, Any], dict[str, Any]]] = {
    "adam": (Adam, {}, {}),
    "adam eps_root": (Adam, {"eps_root": 1e-3}, {"eps_root": 1e-3}),
    "adamw": (AdamW, {"weight_decay": 0.3, "eps_root": 1e-9}, {"weight_decay": 0.3, "eps_root": 1e-9}),
    "amsgrad": (Adam, {"amsgrad": "corrected"}, {}),
    "amsgrad eps_root": (Adam, {"amsgrad": "corrected", "eps_root": 1e-3}, {"eps_root": 1e-3}),
    "adagrad": (
        Adagrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-3, "eps_in_root": True},
        {"initial_accumulator_value": 0.1, "eps": 1e-3},
    ),
    "rmsprop": (RMSprop, {"alpha": 0.9, "eps": 1e-3, "eps_in_root": True}, {"decay": 0.9, "eps": 1e-3}),
    "rmsprop momentum": (
        RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "eps_in_root": True, "momentum": 0.9, "lr_in_momentum": True},
        {"decay": 0.9, "eps": 1e-3, "momentum": 0.9},
    ),
    "rmsprop centered": (
        RMSprop,
        {"alpha": 0.9, "eps": 1e-3, "centered": True},
        {"decay": 0.9, "eps": 1e-3, "centered": True, "eps_in_sqrt": False},
    ),
    "sgd nesterov": (SGD, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
}


class Trajectories(NamedTuple):
    start: npt.NDArray[Any]
    grads: npt.NDArray[Any]
    optax: dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Run optax over all rows, in a process of its own: JAX starts threads, and its dtypes are set for a process."""
    for package in ("jax", "optax"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    folder = tmp_path_factory.mktemp("optax")
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=40), rng.normal(size=(STEPS, 40))
    grads[:, :8] *= 1e-5
    np.save(folder / "start.npy", start)
    np.save(folder / "grads.npy", grads)
    rows = [(name.split()[0], options) for name, (_, _, options) in OPTAX.items()]
    subprocess.run(
        [sys.executable, "-c", OPTAX_SCRIPT, json.dumps(rows)],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return Trajectories(start, grads, dict(zip(OPTAX, np.load(folder / "optax.npy"), strict=True)))


@pytest.mark.parametrize("name", OPTAX)
def test_optax_in_float64(trajectories: Trajectories, name: str) -> None:
    """Within 1e-12 after each of 50 steps, relative to the largest value that the element has had."""
    optimizer, options, _ = OPTAX[name]
    param = trajectories.start.copy()
    opt = optimizer(param, lr=schedules.exponential(0.1, 0.97), **options)
    largest = np.abs(param)
    for grad, expected in zip(trajectories.grads, trajectories.optax[name], strict=True):
        opt.step(grad)
        largest = np.maximum(largest, np.abs(expected))
        assert (np.abs(param - expected) <= 1e-12 * largest).all()
