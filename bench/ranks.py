"""Steps on several ranks: this runs under mpiexec, every contender in turn on all ranks at once.

    mpiexec -n 2 python -m bench.ranks distributed --rows rows.json

A turn is some steps in a row, as in training; its time is that of the slowest rank. Rank 0 writes the rows.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.case import Case
from bench.distributed import CONTENDERS, MEMORY, MODEL, OVERLAP
from bench.groups import GROUPS
from bench.harness import Row, cores, pair_name, reason, summary
from bench.rules import LR

#: Makes one step; all ranks call it together.
Step = Callable[[], Any]
Build = Callable[[Any, Case], Step]

TURN = 0.1  # seconds of steps in one turn
SECONDS = 8.0  # of rounds for each row
LEAST_ROUNDS, MOST_ROUNDS = 5, 60
BUCKET = 2**20  # bytes: the arrays of a backward pass are in several buckets, so that one can be on its way
BATCH = 256


# ---- contenders


def sharded(comm: Any, case: Case, **options: Any) -> Step:
    """fastopt.distributed."""
    import fastopt
    from fastopt.distributed import Sharded

    opt = Sharded(fastopt.Adam, case.arrays(), comm, lr=LR, **options)
    return partial(opt.step, case.arrays(seed=7))


def added_by_mpi(comm: Any, case: Case) -> Callable[[], list[np.ndarray]]:
    """The gradients of all ranks, array by array, as home-made loops add them."""
    grads, totals = case.arrays(seed=7), case.arrays()

    def add() -> list[np.ndarray]:
        for grad, total in zip(grads, totals, strict=True):
            comm.Allreduce(grad, total)
        return totals

    return add


def all_reduce_fastopt(comm: Any, case: Case) -> Step:
    import fastopt

    opt, add = fastopt.Adam(case.arrays(), lr=LR), added_by_mpi(comm, case)
    return lambda: opt.step(add())


def all_reduce_naive(comm: Any, case: Case) -> Step:
    params, add, rule = case.arrays(), added_by_mpi(comm, case), case.work
    slots = [[np.zeros_like(p) for _ in range(rule.slots)] for p in params]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for p, grad, its in zip(params, add(), slots, strict=True):
            rule.naive(p, grad, its, count, LR)

    return step


def torch_zero(comm: Any, case: Case, in_buckets: bool = True) -> Step:
    """torch's sharded optimizer over gloo; the gradients are one flat bucket, as DistributedDataParallel has them.

    With `in_buckets`, its faster way, the parameters leave the case's arrays for memory of its own.
    """
    import torch
    from torch import distributed
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.set_num_threads(case.threads)
    if not distributed.is_initialized():
        folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None)
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size
        )
    params = [torch.from_numpy(array).requires_grad_() for array in case.arrays()]
    grads = [torch.from_numpy(array) for array in case.arrays(seed=7)]
    opt = ZeroRedundancyOptimizer(params, torch.optim.Adam, parameters_as_bucket_view=in_buckets, lr=LR)
    flat = torch.empty(case.elements)
    places = np.cumsum([0, *(grad.numel() for grad in grads)])
    parts = [flat[places[i] : places[i + 1]].view(grad.shape) for i, grad in enumerate(grads)]
    for p, part in zip(params, parts, strict=True):
        p.grad = part

    def step() -> None:
        for part, grad in zip(parts, grads, strict=True):
            part.copy_(grad)
        distributed.all_reduce(flat)
        opt.step()

    return step


class Backward:
    """A backward pass through the layers of a network, with an activation of noise in each."""

    def __init__(self, case: Case, params: list[np.ndarray]) -> None:
        random = np.random.default_rng(3)
        self.params = params
        self.inputs = [random.standard_normal((BATCH, len(W)), np.float32) for W in params[::2]]
        self.error = random.standard_normal((BATCH, params[-1].size), np.float32)

    def run(self, take: Callable[[int, np.ndarray], Any]) -> None:
        """Hand out the gradient of each array, from the last one to the first, with its number."""
        error = self.error
        for layer in reversed(range(len(self.inputs))):
            take(2 * layer + 1, error.sum(axis=0))
            take(2 * layer, self.inputs[layer].T @ error)
            error = error @ self.params[2 * layer].T


def with_backward(comm: Any, case: Case, overlap: bool, is_stepped: bool = True) -> Step:
    """A backward pass and the step, with each gradient given as soon as it is there, or all at the end."""
    import fastopt
    from fastopt.distributed import Sharded

    params = case.arrays()
    opt: Any = Sharded(fastopt.Adam, params, comm, lr=LR, bucket_bytes=BUCKET)
    backward = Backward(case, params)

    def added() -> None:
        backward.run(lambda i, grad: opt.add(str(i), grad))
        opt.step()

    def plain() -> None:
        grads = dict.fromkeys(range(len(params)))
        backward.run(grads.__setitem__)
        opt.step(list(grads.values()))

    def alone() -> None:
        backward.run(lambda i, grad: None)

    return (added if overlap else plain) if is_stepped else alone


STEPS = (sharded, partial(sharded, wire_dtype="float16"), all_reduce_fastopt, all_reduce_naive, torch_zero)
BUILD: dict[str, dict[str, Build]] = {
    "distributed": dict(zip(CONTENDERS, STEPS, strict=True)),
    "distributed-model": dict(zip(MODEL[::2], (sharded, all_reduce_fastopt), strict=True)),
    "distributed-overlap": {
        OVERLAP[0]: partial(with_backward, overlap=True),
        OVERLAP[1]: partial(with_backward, overlap=False),
        OVERLAP[2]: partial(with_backward, overlap=False, is_stepped=False),
    },
}


# ---- measuring


def seconds(comm: Any, step: Step, steps: int) -> float:
    """The time of a step: that of several in a row on all ranks, divided by their number."""
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return max(comm.allgather(time.perf_counter() - start)) / steps


def measure(comm: Any, name: str, label: str, case: Case, least: float) -> Row:
    """One row: in every round a turn of each contender."""
    steps, skipped = {}, {}
    for contender, build in BUILD[name].items():
        try:
            step = build(comm, case)
            seconds(comm, step, 2)
        except Exception as error:  # whatever ails a peer, on all ranks alike, the others are still worth measuring
            skipped[contender] = reason(error)
        else:
            steps[contender] = step
    # All ranks agree on the number of steps, since `seconds` returns the same on all.
    counts = {name: max(1, min(200, int(TURN / seconds(comm, step, 1)))) for name, step in steps.items()}
    rounds: list[dict[str, float]] = []
    passed = 0.0
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and passed < least):
        rounds.append({name: seconds(comm, step, counts[name]) for name, step in steps.items()})
        passed += sum(time * counts[name] for name, time in rounds[-1].items())
    return summary(label, case, rounds, skipped, GROUPS[name].pairs)


def speed(comm: Any) -> dict[str, float]:
    """The arguments of fastopt.distributed.cost that describe this machine, measured by what a step calls."""
    from fastopt.distributed.ranks import Ranks

    ranks = Ranks(comm)
    header, part = np.zeros(1, np.int64), np.zeros(2**22 // comm.size, np.float32)
    vector, found = np.zeros(part.size * comm.size, np.float32), np.zeros(part.size * comm.size, np.float32)
    # As in a step, a rank's own part stays where it is.
    counts = [0 if rank == comm.rank else part.size for rank in range(comm.size)]
    begins = [rank * part.size for rank in range(comm.size)]

    def exchange() -> None:
        ranks.wait([ranks.start_all_to_all(vector, counts, found, counts, begins)])

    memory = np.ones(2**24, np.float32)
    hops = max(1, (comm.size - 1).bit_length())
    times = [
        (seconds(comm, lambda: ranks.all_gather(header), 50), seconds(comm, exchange, 2), seconds(comm, negate, 2))
        for negate in [partial(np.negative, memory, out=memory)] * 15
    ]
    latency, exchanged, negated = map(median, zip(*times, strict=True))
    return {
        "latency": latency / hops,
        "bandwidth": (vector.nbytes - part.nbytes or vector.nbytes) / exchanged,
        "memory_bandwidth": 2 * memory.nbytes / negated,
    }


def predicted(comm: Any, name: str, label: str, case: Case, least: float) -> Row:
    """The predicted time of a step beside the measured one, for both ways of making it."""
    import fastopt
    from fastopt.distributed import cost

    speeds = [speed(comm)]
    row = measure(comm, name, label, case, least)
    speeds.append(speed(comm))
    mean = {each: median(found[each] for found in speeds) for each in speeds[0]}
    found = cost(case.arrays(), fastopt.Adam, comm.size, **mean)
    for column, its in zip(MODEL[1::2], found, strict=True):
        row.micros[column] = 1e6 * its.seconds.total
    for pair in GROUPS[name].pairs:
        row.ratios[pair_name(pair)] = row.micros[pair[0]] / row.micros[pair[1]]
    row.best_peer = "; ".join(f"{each} {value:.3g}" for each, value in mean.items())
    return row


def memory(comm: Any, name: str, label: str, case: Case, least: float) -> Row:
    """Megabytes, in the places of microseconds."""
    import fastopt
    from fastopt.distributed import Sharded, cost

    arrays, grads = case.arrays(), case.arrays(seed=7)
    opt, alone = Sharded(fastopt.Adam, arrays, comm), fastopt.Adam(case.arrays())
    opt.step(grads)
    alone.step(grads)
    buffers = cost(arrays, fastopt.Adam, comm.size).sharded.memory.buffers
    sizes = (max(comm.allgather(opt.state_bytes)), alone.state_bytes, buffers)
    return Row(label, case.elements, micros={each: size / 1e6 for each, size in zip(MEMORY, sizes, strict=True)})


def main() -> None:
    from mpi4py import MPI

    parser = argparse.ArgumentParser(prog="mpiexec -n N python -m bench.ranks")
    parser.add_argument("group", choices=[name for name, group in GROUPS.items() if group.on_ranks])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--rows", type=Path, required=True)
    args = parser.parse_args()
    comm = MPI.COMM_WORLD
    threads = max(1, cores() // comm.size)
    row_of = {"distributed-model": predicted, "distributed-memory": memory}.get(args.group, measure)
    rows = []
    for label, case in GROUPS[args.group].cases(args.quick, threads).items():
        if not args.only or any(part in label for part in args.only):
            shown = f"{label}; {comm.size} rank{'s' * (comm.size > 1)}"
            rows.append(row_of(comm, args.group, shown, case, 0.5 if args.quick else SECONDS))
    if comm.rank == 0:
        args.rows.write_text(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
