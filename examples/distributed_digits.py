"""
Training on several ranks
=========================

A network learns handwritten digits on as many processes (ranks) as MPI starts, with the state of AdamW shared out among
them. Each step has eight micro-batches, which the ranks deal out among themselves; with ``exact=True`` the losses have
the same bits on every number of ranks that divides eight, and in plain fastopt without MPI. Needs scikit-learn, mpi4py
and an MPI such as the package mpich. On four ranks, or on one::

    mpiexec -n 4 python examples/distributed_digits.py
    python examples/distributed_digits.py
"""

from __future__ import annotations

from collections.abc import Callable

import data
import nets
import numpy as np
from mpi4py import MPI
from setting import SHORT

import fastopt
from fastopt.distributed import Sharded

STEPS, MICRO_BATCHES, EXAMPLES = 40 if SHORT else 400, 8, 16
OPTIONS = {
    "lr": fastopt.schedules.warmup_cosine(0.01, warmup=10, total=STEPS),
    "weight_decay": 0.01,
    "clip_global_norm": 1.0,
}

x, labels, test_x, test_labels = data.digits()


def new_net() -> nets.Net:
    rng = np.random.default_rng(0)
    layers = [nets.Dense(rng, 64, 128), nets.ReLU(), nets.Dense(rng, 128, 64), nets.ReLU(), nets.Dense(rng, 64, 10)]
    return nets.Net(layers)


def loss_and_grads(net: nets.Net, batch: np.ndarray) -> tuple[float, dict]:
    """Return the loss of a micro-batch, and gradients that the next one does not overwrite."""
    loss, dlogits = nets.softmax_cross_entropy(net.forward(x[batch]), labels[batch])
    net.backward(dlogits)
    return loss, {name: dict(grads) for name, grads in net.grads.items()}


def train(net: nets.Net, update: Callable[[np.ndarray], list[float]]) -> list[float]:
    """Return the loss of each step. ``update`` gets the micro-batches of a step, and returns the loss of each."""
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(STEPS):
        micro_batches = rng.integers(len(x), size=(MICRO_BATCHES, EXAMPLES))  # the same on every rank
        losses.append(sum(update(micro_batches)) / MICRO_BATCHES)
    return losses


def train_on_ranks(comm: MPI.Comm) -> tuple[list[float], nets.Net]:
    net = new_net()
    opt = Sharded(fastopt.AdamW, net.params, comm, exact=True, **OPTIONS)

    def update(micro_batches: np.ndarray) -> list[float]:
        found = [loss_and_grads(net, batch) for batch in micro_batches[comm.rank :: comm.size]]
        opt.step([grads for _, grads in found])
        of_ranks = comm.allgather([loss for loss, _ in found])
        return [of_ranks[number % comm.size][number // comm.size] for number in range(MICRO_BATCHES)]

    return train(net, update), net


def train_alone() -> tuple[list[float], nets.Net]:
    net = new_net()
    opt = fastopt.AdamW(net.params, accumulate_steps=MICRO_BATCHES, **OPTIONS)

    def update(micro_batches: np.ndarray) -> list[float]:
        losses = []
        for batch in micro_batches:
            loss, grads = loss_and_grads(net, batch)
            opt.step(grads)
            losses.append(loss)
        return losses

    return train(net, update), net


def main() -> None:
    comm = MPI.COMM_WORLD
    losses, net = train_on_ranks(comm)
    if comm.rank == 0:
        accuracy = nets.accuracy(net.forward(test_x, train=False), test_labels)
        ranks = "1 rank" if comm.size == 1 else f"{comm.size} ranks"
        print(f"{ranks}: loss {losses[0]:.3f}, then {losses[-1]!r}; test accuracy {accuracy:.1%}")
        losses_alone, net_alone = train_alone()
        assert losses == losses_alone
        for name, params in net.params.items():
            assert all(np.array_equal(params[key], net_alone.params[name][key]) for key in params)
        print("fastopt.AdamW without MPI: the same losses and parameters, to the last bit")


if __name__ == "__main__":
    main()
