"""Programs for mpiexec in which ranks wait for each other, or could seem to; test_deadlocks.py names the function."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from fault_programs import RANK, WORLD, say

import fastopt
from fastopt.distributed import RankError, Sharded, deadlocks, save

GRADS = {"W": np.ones((30, 200), np.float32), "b": np.ones(4096, np.float32)}
#: For programs in which nobody waits for ever: they send probes in every wait that is not over at once.
AT_ONCE = 0.0


def optimizer(comm: Any = WORLD, kind: type[fastopt.Optimizer] = fastopt.AdamW) -> Any:
    return Sharded(kind, {name: np.zeros_like(grad) for name, grad in GRADS.items()}, comm, bucket_bytes=4096)


def check_alike(*opts: Any) -> None:
    """Say what shows that all ranks have made the same steps."""
    say(" ".join(f"{opt.step_count} {float(opt.params['W'].sum() + opt.params['b'].sum()):.3f}" for opt in opts))


# --- ranks that wait for each other -----------------------------------------------------------------------------------


def opposite_orders() -> None:
    first, second = optimizer(), optimizer(kind=fastopt.SGD)
    for opt in (first, second) if RANK == 0 else (second, first):
        opt.step(GRADS)


def step_and_save() -> None:
    first, second = optimizer(), optimizer()
    if RANK == 0:
        first.step(GRADS)
    save(Path(tempfile.gettempdir(), "never written"), second)


def state_dict_and_step() -> None:
    first, second = optimizer(), optimizer()
    if RANK == 0:
        first.state_dict()
    second.step(GRADS)


def constructor_and_step() -> None:
    first = optimizer()
    if RANK == 0:
        first.step(GRADS)
    optimizer()


def added_and_step() -> None:
    first, second = optimizer(), optimizer()
    if RANK == 1:
        for name, grad in GRADS.items():
            first.add(name, grad)
    (first if RANK == 0 else second).step(GRADS)


def two_and_two() -> None:
    """Ranks 0 and 1 make one step, 2 and 3 the other one."""
    opts = optimizer(), optimizer()
    opts[RANK // 2].step(GRADS)


def ring() -> None:
    """Each rank has an optimizer with the next one and one with the rank before, and begins with that of the next."""
    opts: dict[int, Any] = {}
    for pair in range(WORLD.size):
        members = [pair, (pair + 1) % WORLD.size]
        if RANK in members:
            opts[pair] = optimizer(WORLD.Create_group(WORLD.group.Incl(members)))
    opts[RANK].step(GRADS)
    opts[(RANK - 1) % WORLD.size].step(GRADS)


def part_and_world() -> None:
    """Rank 2 is in no circle: it waits for rank 0, which is in one."""
    part = WORLD.Split(RANK // 2)
    of_part, of_all = optimizer(part), optimizer()
    if RANK == 0:
        of_part.step(GRADS)
    of_all.step(GRADS)


def first_of_part_and_step() -> None:
    """Rank 0 makes the first optimizer of a part of the ranks, before a step of all that others make before it."""
    of_all = optimizer()
    part = WORLD.Split(RANK // 2)
    if RANK != 0:
        of_all.step(GRADS)
    optimizer(part, fastopt.SGD)
    of_all.step(GRADS)


def circle_after_good_steps() -> None:
    """Rank 0 is slow in its first steps, and is asked by the others."""
    first, second = optimizer(), optimizer()
    deadlocks.PATIENCE = AT_ONCE
    for _ in range(3):
        if RANK == 0:
            time.sleep(0.1)
        first.step(GRADS)
        second.step(GRADS)
    (first if RANK == 0 else second).step(GRADS)


def error_is_caught() -> None:
    first, second = optimizer(), optimizer()
    for opt in (first, second, first) if RANK == 0 else (second, first, second):
        try:
            opt.step(GRADS)
        except RankError as error:
            say(str(error))


# --- ranks that do not ------------------------------------------------------------------------------------------------


def adds_in_other_orders() -> None:
    """Rank 0 gives gradients of one optimizer before a step of another one, rank 1 after it."""
    deadlocks.PATIENCE = AT_ONCE
    first, second = optimizer(), optimizer()
    for number in range(20):
        if number % 2 == RANK:
            for name, grad in GRADS.items():
                first.add(name, grad)
                time.sleep(0.01)
        second.step(GRADS)
        if number % 2 != RANK:
            for name, grad in GRADS.items():
                time.sleep(0.01)
                first.add(name, grad)
        first.step()
    check_alike(first, second)


def slow_ranks() -> None:
    """In turn one rank computes while the others wait, some of them in a part of the ranks."""
    deadlocks.PATIENCE = AT_ONCE
    opts = [optimizer(), optimizer(WORLD.Split(RANK // 2)), optimizer(WORLD.Split(RANK % 2)), optimizer()]
    for number in range(24):
        if number % WORLD.size == RANK:
            time.sleep(0.05)
        opts[number % 4].step(GRADS)
    check_alike(*opts)


def slow_constructors() -> None:
    """Ranks 0 and 3 come late to the first optimizer of their half, while the other half steps."""
    deadlocks.PATIENCE = AT_ONCE
    of_all = optimizer()
    for parts in (RANK // 2, RANK % 2):
        if RANK in (0, 3):
            time.sleep(0.3)
        of_part = optimizer(WORLD.Split(parts))
        of_part.step(GRADS)
        of_all.step(GRADS)
    check_alike(of_all)


def in_a_call_of_mpi() -> None:
    """Rank 0 waits for rank 1 in a step, rank 1 for rank 0 in a call of MPI's that rank 0 has answered before."""
    deadlocks.PATIENCE = AT_ONCE
    first, second = optimizer(), optimizer()
    if RANK == 0:
        request = WORLD.isend("go on", 1)
        first.step(GRADS)
        second.step(GRADS)
        request.wait()
    else:
        time.sleep(0.2)
        WORLD.recv(source=0)
        first.step(GRADS)
        second.step(GRADS)
    check_alike(first, second)


def in_threads() -> None:
    """Rank 0 steps two optimizers at once, in threads; rank 1 one after the other."""
    deadlocks.PATIENCE = AT_ONCE
    first, second, has_begun = optimizer(), optimizer(), threading.Event()

    def other_thread() -> None:
        for _ in range(10):
            first.step(GRADS)
            has_begun.set()
            time.sleep(0.02)

    if RANK == 0:
        thread = threading.Thread(target=other_thread)
        thread.start()
        has_begun.wait()
        for _ in range(10):
            second.step(GRADS)
        thread.join()
    else:
        for _ in range(10):
            first.step(GRADS)
            second.step(GRADS)
    check_alike(first, second)


def in_a_thread_that_is_late() -> None:
    """As ``in_threads``; the other thread of rank 0 has made no call when rank 1 begins to wait for it."""
    deadlocks.PATIENCE = AT_ONCE
    first, second = optimizer(), optimizer()

    def other_thread() -> None:
        time.sleep(0.3)
        first.step(GRADS)

    if RANK == 0:
        thread = threading.Thread(target=other_thread)
        thread.start()
        second.step(GRADS)
        thread.join()
    else:
        first.step(GRADS)
        second.step(GRADS)
    check_alike(first, second)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
