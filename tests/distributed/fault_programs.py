"""Programs for mpiexec, each of which goes wrong on one rank; test_faults.py names the function to run."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time

import numpy as np
from mpi4py import MPI

from fastopt.distributed import faults
from fastopt.distributed.ranks import RankError, Ranks

WORLD = MPI.COMM_WORLD
RANK: int = WORLD.rank
IS_LAST: bool = WORLD.rank == WORLD.size - 1
NOTHING = np.zeros(0, np.int64)


def say(text: str) -> None:
    """Write a line at once: print would write its end later, after a line of another rank."""
    os.write(1, f"{text}\n".encode())


def step(ranks: Ranks) -> None:
    ranks.meet(None, NOTHING)


def last_rank_raises() -> None:
    ranks = Ranks(WORLD)
    step(ranks)
    if IS_LAST:
        raise ValueError("the loss is\nnot finite")
    step(ranks)


def last_rank_leaves() -> None:
    ranks = Ranks(WORLD)
    step(ranks)
    if IS_LAST:
        sys.exit(3)
    step(ranks)


def last_rank_makes_fewer_steps() -> None:
    ranks = Ranks(WORLD)
    for _ in range(3 - IS_LAST):
        step(ranks)


def interrupted() -> None:
    ranks = Ranks(WORLD)
    if RANK == 1:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(60)
    step(ranks)


def interrupted_in_a_wait() -> None:
    """Rank 0 begins its step when rank 1 has left it."""
    ranks = Ranks(WORLD)
    if RANK == 0:
        WORLD.recv()
    if RANK == 1:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        step(ranks)
    finally:
        if RANK == 1:
            WORLD.send("left", 0)
    step(ranks)


def two_raise() -> None:
    ranks = Ranks(WORLD)
    if RANK > 0:
        raise ValueError(f"bad batch {RANK}")
    step(ranks)


def killed() -> None:
    ranks = Ranks(WORLD)
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(ranks)


def os_exit() -> None:
    ranks = Ranks(WORLD)
    if RANK == 1:
        os._exit(0)
    step(ranks)


def raises_while_others_compute() -> None:
    ranks = Ranks(WORLD)
    if RANK == 1:
        raise ValueError("early")
    time.sleep(1)
    step(ranks)


def raises_while_a_thread_of_it_goes_on() -> None:
    """Rank 1's program ends when rank 0 has heard of its failure."""
    ranks = Ranks(WORLD)
    if RANK == 1:
        threading.Thread(target=WORLD.recv).start()
        raise ValueError("in the main thread")
    try:
        step(ranks)
    finally:
        WORLD.send("heard", 1)


def raises_before_its_ranks() -> None:
    if RANK == 1:
        raise ValueError("no data")
    Ranks(WORLD)


def raises_without_ranks() -> None:
    if RANK == 1:
        raise ValueError("on its own")
    time.sleep(1)


def raises_at_the_end() -> None:
    step(Ranks(WORLD))
    if RANK == 1:
        raise ValueError("on its own")


def raises_before_ranks_of_other_processes() -> None:
    first, others = WORLD.Split(RANK < 2), WORLD.Split(RANK > 0)
    if RANK < 2:
        Ranks(first)
    if RANK == 1:
        raise ValueError("no part")
    if RANK == 2:
        Ranks(others)


def raises_between_two_ranks() -> None:
    Ranks(WORLD)
    if RANK == 1:
        raise ValueError("no data")
    Ranks(WORLD)


def raises_ahead_in_other_ranks() -> None:
    """Rank 1 has begun more exchanges in all than rank 0, but not the one that rank 0 waits for."""
    ranks, others = Ranks(WORLD), Ranks(WORLD)
    if RANK == 1:
        for _ in range(2):
            others.start_all_gather(np.zeros(2), [1, 1])
        raise ValueError("backward pass")
    step(ranks)


def large_exchange_is_left() -> None:
    ranks = Ranks(WORLD)
    array = np.ones(4_000_000, np.float32)
    if RANK == 1:
        raise ValueError("no gradient")
    request = ranks.start_all_to_all(array, [2_000_000] * 2, np.empty_like(array), [2_000_000] * 2)
    del array
    ranks.wait([request])


def error_of_others_is_caught() -> None:
    ranks = Ranks(WORLD)
    if RANK == 1:
        raise ValueError("gone")
    for _ in range(2):
        try:
            step(ranks)
        except RankError as error:
            say(f"rank {RANK} caught: {error}")


def error_of_a_meeting() -> None:
    ranks = Ranks(WORLD)
    ranks.meet(ValueError("bad shape") if RANK == 1 else None, NOTHING)


def others_are_in_a_call_of_mpi() -> None:
    faults.GRACE = 0.5
    Ranks(WORLD)
    if RANK == 1:
        raise ValueError("alone")
    WORLD.Barrier()


def chain_of_groups() -> None:
    """Rank 0 waits for rank 1, which waits for rank 2 in another communicator."""
    pairs = [WORLD.Create_group(WORLD.group.Incl(pair)) for pair in ([0, 1], [1, 2]) if RANK in pair]
    ranks = [Ranks(pair) for pair in pairs]
    if RANK == 2:
        raise ValueError("end of the chain")
    step(ranks[-1])
    if RANK == 1:
        step(ranks[0])


def excepthook_is_replaced() -> None:
    ranks = Ranks(WORLD)
    sys.excepthook = lambda kind, error, trace: say(f"my own hook: {error}")
    if RANK == 1:
        raise ValueError("told at the end")
    step(ranks)


def finalized_by_the_user() -> None:
    ranks = Ranks(WORLD)
    if RANK == 0:
        step(ranks)
    MPI.Finalize()


def forked() -> None:
    ranks = Ranks(WORLD)
    child = os.fork()
    if child == 0:
        try:
            step(ranks)
        except RankError as error:
            say(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    step(ranks)


def ends_well() -> None:
    atexit.register(say, f"rank {RANK} ends")
    ranks = [Ranks(WORLD), Ranks(WORLD), Ranks(WORLD.Split(RANK % 2))]
    for each in ranks:
        step(each)
    thread = threading.Thread(target=step, args=(ranks[0],))
    thread.start()
    thread.join()
    time.sleep(0.3 * RANK)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
