"""The demo's work: train one network on handwritten digits with each optimizer, and time the updates alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """Median time of one update of the whole network, in microseconds, and its share of a whole training step."""

    fastopt: float
    fastopt_share: float
    naive: float
    naive_share: float


class TimedTraining:
    """A network that is trained with one kind of update, and the time of each update."""

    def __init__(self, params: mlp.Layers, update: Callable[[mlp.Layers], object]) -> None:
        self.params, self.update = params, update
        self.updates: list[int] = []
        self.steps: list[int] = []

    def train_on(self, x: mlp.Floats, labels: mlp.Labels) -> None:
        """Take one training step and note the nanoseconds of all of it and of its update."""
        start = perf_counter_ns()
        _, grads = mlp.loss_and_grads(self.params, x, labels)
        middle = perf_counter_ns()
        self.update(grads)
        end = perf_counter_ns()
        self.updates.append(end - middle)
        self.steps.append(end - start)

    def medians(self) -> tuple[float, float]:
        """Return the microseconds of one update, and its share of a training step."""
        update = median(self.updates)
        return update / 1000, update / median(self.steps)


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
    opt = method.optimizer(params, lr=schedule(method, images, epochs), **method.options)
    run = Run(method, opt.backend)
    for _ in range(epochs):
        total_loss = 0.0
        for batch in batches(rng.permutation(images)):
            loss, grads = mlp.loss_and_grads(params, digits.x_train[batch], digits.y_train[batch])
            run.lrs.append(opt.step(grads).lr)
            total_loss += loss * len(batch)
        run.losses.append(total_loss / images)
        run.accuracies.append(mlp.accuracy(params, digits.x_test, digits.y_test))
        on_epoch()
    return run


def schedule(method: Method, images: int, epochs: int) -> schedules.Schedule:
    """Return the learning rate of a run as a function of its step."""
    steps = epochs * -(-images // BATCH)
    return schedules.warmup_cosine(method.peak_lr, warmup=steps // 10, total=steps)


def batches(order: mlp.Labels) -> Iterator[mlp.Labels]:
    """Cut an epoch's order of the images into batches."""
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def time_update(method: Method, digits: Digits, epochs: int) -> UpdateTime:
    """Time one update by fastopt and by naive NumPy in the loop of `train`.

    Each trains a network of its own: an epoch of one, then the same epoch of the other. So each finds the caches as it
    would alone, and a machine that changes its speed changes both times.
    """
    images = len(digits.y_train)
    options = {"lr": schedule(method, images, epochs), **method.options}
    ours, theirs = (mlp.init(np.random.default_rng(0), SIZES) for _ in range(2))
    fastopt_run = TimedTraining(ours, method.optimizer(ours, **options).step)
    naive_run = TimedTraining(theirs, naive.Optimizer(method.rule, theirs, **options).step)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(images)
        for run in (fastopt_run, naive_run):
            for batch in batches(order):
                run.train_on(digits.x_train[batch], digits.y_train[batch])
    return UpdateTime(*fastopt_run.medians(), *naive_run.medians())
