"""The demo's work: train one network on handwritten digits with each optimizer, and time the updates alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ... import schedules
from . import mlp, naive
from .methods import Method

# Wider layers would flatter fastopt: from about half a megabyte per array on, malloc returns naive Adam's temporaries
# to the system at every step, which then takes four times as long.
SIZES = (64, 384, 192, 10)
BATCH = 64
TARGET = 0.95


class Digits(NamedTuple):
    """Handwritten digits: rows of 64 pixels from 0 to 1, and their labels."""

    x_train: mlp.Floats
    x_test: mlp.Floats
    y_train: mlp.Labels
    y_test: mlp.Labels


@dataclass
class Run:
    """The record of one optimizer's training."""

    method: Method
    backend: str
    losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch."""
    accuracies: list[float] = field(default_factory=list)
    """Test accuracy after each epoch."""
    lrs: list[float] = field(default_factory=list)
    """Learning rate of each step."""

    @property
    def epochs_to_target(self) -> int | None:
        """The first epoch, from 1, that ended at `TARGET` test accuracy or above; None if none did."""
        return next((epoch for epoch, accuracy in enumerate(self.accuracies, 1) if accuracy >= TARGET), None)


class UpdateTime(NamedTuple):
    """Median time of one update of the whole network, in microseconds."""

    fastopt: float
    naive: float


def load() -> Digits:
    """Return scikit-learn's bundled digits, with a fifth of each class for testing; the split is always the same."""
    x, y = load_digits(return_X_y=True)
    return Digits(*train_test_split((x / 16).astype(np.float32), y, test_size=0.2, stratify=y, random_state=0))


def train(method: Method, digits: Digits, epochs: int, seed: int, on_epoch: Callable[[], object]) -> Run:
    """Train a fresh network; every method sees the same initial weights and the same batches.

    Parameters
    ----------
    method : Method
        The optimizer.
    digits : Digits
        The images and labels.
    epochs : int
        Passes over the training images.
    seed : int
        The seed of the initial weights and of the order of the images.
    on_epoch : callable
        Called after each epoch.

    Returns
    -------
    Run
        Losses, accuracies and learning rates.
    """
    rng = np.random.default_rng(seed)
    params = mlp.init(rng, SIZES)
    images = len(digits.y_train)
    steps = epochs * -(-images // BATCH)
    schedule = schedules.warmup_cosine(method.peak_lr, warmup=steps // 10, total=steps)
    opt = method.optimizer(params, lr=schedule, **method.options)
    run = Run(method, opt.backend)
    for _ in range(epochs):
        order = rng.permutation(images)
        total_loss = 0.0
        for start in range(0, images, BATCH):
            batch = order[start : start + BATCH]
            loss, grads = mlp.loss_and_grads(params, digits.x_train[batch], digits.y_train[batch])
            run.lrs.append(opt.step(grads).lr)
            total_loss += loss * len(batch)
        run.losses.append(total_loss / images)
        run.accuracies.append(mlp.accuracy(params, digits.x_test, digits.y_test))
        on_epoch()
    return run


def time_update(method: Method, digits: Digits, repeats: int) -> UpdateTime:
    """Time one update by fastopt and by naive NumPy, in turns, on copies of the same arrays."""
    theirs = mlp.init(np.random.default_rng(0), SIZES)
    ours = {layer: {name: array.copy() for name, array in arrays.items()} for layer, arrays in theirs.items()}
    options = {"lr": method.peak_lr, **method.options}
    steps: list[Callable[[mlp.Layers], object]] = [
        method.optimizer(ours, **options).step,
        naive.Optimizer(method.rule, theirs, **options).step,
    ]
    times = []
    for _ in range(repeats):
        for step in steps:
            # As in training, matrix products come first, so that caches and cores are in the same state.
            _, grads = mlp.loss_and_grads(ours, digits.x_train[:BATCH], digits.y_train[:BATCH])
            start = perf_counter_ns()
            step(grads)
            times.append((perf_counter_ns() - start) / 1000)
    return UpdateTime(fastopt=median(times[0::2]), naive=median(times[1::2]))
