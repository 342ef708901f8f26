"""
Fine-tuning from a checkpoint
=============================

A saved model gets a new head and a lower rate for its old layer, and the run a checkpoint to resume from.

A linear model learns one task and is saved. Its features then serve another task: they are frozen at first, and later
learn more slowly than the new head. The second run saves a checkpoint half-way; resuming from it ends with the same
bits. Needs fastopt only::

    python examples/fine_tune.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import fastopt


def data(outputs: int, count: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets. The targets of every task depend on the same four features of the input."""
    x = np.random.default_rng(0).normal(size=(count, 20))
    features = x @ np.random.default_rng(1).normal(size=(20, 4))
    return x, features @ np.random.default_rng(outputs).normal(size=(4, outputs))


def new_params(outputs: int) -> dict:
    rng = np.random.default_rng(2)
    return {
        "features": fastopt.init.xavier_normal(rng, (20, 4), dtype=np.float64),
        "head": fastopt.init.xavier_normal(rng, (4, outputs), dtype=np.float64),
    }


def train(params: dict, opt: fastopt.Optimizer, steps: int, outputs: int) -> float:
    """Make this many steps, and return the mean squared error before the last one."""
    x, target = data(outputs)
    for _ in range(steps):
        hidden = x @ params["features"]
        error = hidden @ params["head"] - target
        delta = 2 * error / error.size
        opt.step({"features": x.T @ (delta @ params["head"].T), "head": hidden.T @ delta})
    return float((error**2).mean())


def fine_tuning(params: dict) -> fastopt.Optimizer:
    groups = fastopt.group_by(params, {"head": {}, "features": {"lr": 0.01}})
    return fastopt.Adam(groups, lr=fastopt.schedules.cosine(0.1, total=400))


def main(folder: Path) -> None:
    params = new_params(outputs=3)
    opt = fastopt.Adam(params, lr=0.02)
    print(f"first task: error {train(params, opt, 400, outputs=3):.2g}")
    fastopt.save(folder / "first.npz", opt)

    # The new head has another shape: strict=False loads the arrays that fit. state=False takes the parameters only.
    params = new_params(outputs=2)
    result = fastopt.load(folder / "first.npz").restore(fine_tuning(params), strict=False, state=False)
    print(f"not loaded: {result.missing}")

    opt = fine_tuning(params)
    opt.freeze("features")
    train(params, opt, 50, outputs=2)
    opt.unfreeze()
    print(f"second task, half-way: error {train(params, opt, 150, outputs=2):.2g}")
    fastopt.save(folder / "second.npz", opt, extra={"note": "half-way"})
    print(f"second task, at once: error {train(params, opt, 200, outputs=2):.2g}")

    resumed = new_params(outputs=2)
    opt = fine_tuning(resumed)
    fastopt.load(folder / "second.npz").restore(opt)
    print(f"second task, resumed: error {train(resumed, opt, 200, outputs=2):.2g}")
    print(f"the same bits: {all(np.array_equal(params[name], resumed[name]) for name in params)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
