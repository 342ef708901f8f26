"""Tell the other ranks that this one has failed, or that its program has ended, so that none waits for it for ever.

MPI does not: a rank that raises an exception leaves the others in their collective. Here such a rank sends a notice to
each of the others, over a communicator that has notices alone. A rank that has waited for a while reads the notices,
and raises an error that says who failed. At the end of a program each rank waits until the others have left too. If
some of them began a collective that the others never will, MPI can't be finalized any more: then the program is
aborted, after everybody could print what went wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, NamedTuple

#: How many seconds a failed rank gives the others to leave before it aborts the program: they may be in a call of MPI's
#: own, which never returns.
GRACE = 30.0
#: How many seconds the ranks get to print what went wrong before one aborts them, and mpiexec to pass it on: it drops
#: what it has not read from a process that it ends.
TIME_TO_PRINT = 1.0
#: Notices are short: MPI sends such messages at once, while the receiver computes.
LONGEST_TEXT = 1500
#: The tag of failures in COMM_WORLD, told to ranks with which there is no group yet. MPI allows tags up to 32,767.
TAG = 31_547
#: So often MPI is asked for such messages at the end: the first questions may not find one that has come.
QUESTIONS = 100


class RankError(RuntimeError):
    """Another rank failed, or ended its program, while this one waited for it; or the ranks wait for each other."""

    #: The group whose ranks the text names.
    group: Group | None = None


class Notice(NamedTuple):
    """The state of a rank that has failed or ended."""

    rank: int
    #: For each of its :class:`Ranks`, the number of collectives that it began.
    begun: tuple[int, ...]
    #: It does nothing more.
    has_left: bool
    #: The exception, where there was one.
    failure: str | None
    #: The ranks wait for each other: no one can go on.
    concerns_all: bool = False

    def has_begun(self, ranks: int, number: int) -> bool:
        """Return whether it began this many collectives of its Ranks of this number."""
        return ranks < len(self.begun) and self.begun[ranks] >= number

    def __str__(self) -> str:
        return self.failure or f"rank {self.rank} has ended its program, while this rank waits for it"


class Waiting(NamedTuple):
    """A wait of a rank, for other ranks."""

    #: No other wait has it.
    token: str
    #: The number of the rank in COMM_WORLD.
    rank: int
    #: The call that waits.
    call: str


class Probe(NamedTuple):
    """A message of a rank that waits for an exchange, or a group, of the one that gets it. See ``deadlocks.py``."""

    #: The number of the Ranks in the group, and of their exchange.
    ranks: int
    number: int
    #: The processes that make a group, if the sender waits for that; else none.
    members: tuple[int, ...]
    #: Waits, of which each is for the rank of the next one; the last is that of the sender.
    path: tuple[Waiting, ...]


class Group:
    """The processes of a communicator, for notices and probes.

    Parameters
    ----------
    comm
        An mpi4py communicator that nothing else uses.
    members
        The number of each rank in COMM_WORLD.
    """

    def __init__(self, comm: Any, members: tuple[int, ...]) -> None:
        self.comm = comm
        self.members = members
        self.rank: int = comm.rank
        self.size: int = comm.size
        #: For each Ranks of these processes, the number of collectives that this one began. Ranks that are gone count:
        #: another process may still wait for their last exchange.
        self.begun: list[int] = []
        #: How many optimizers these processes have made together.
        self.owner_count = 0
        self.notices: dict[int, Notice] = {}
        self.own: Notice | None = None
        self.failed_at: float | None = None
        self.probes: list[Probe] = []
        self.sends: list[Any] = []
        #: How often an exchange is tested before the process sleeps.
        self.polls = 0

    def tell(self, failure: str | None, has_left: bool) -> None:
        """Send a notice to each of the others, without waiting for them."""
        if self.own is not None and self.own.failure is not None:  # the first failure is the reason of the others
            failure = self.own.failure
        elif failure is not None and not has_left:
            self.failed_at = time.monotonic()
        has_given_up = self.rank in self.notices
        begun = () if has_given_up else tuple(self.begun)
        self.own = Notice(self.rank, begun, has_left, failure, has_given_up)
        self.send(self.own)

    def give_up(self, failure: str) -> None:
        """Refuse all exchanges from now on, here and on the other ranks, also those that have begun."""
        if self.rank not in self.notices:
            self.notices[self.rank] = Notice(self.rank, (), False, failure)
            self.tell(failure, has_left=False)

    def send(self, message: Notice | Probe, to: Collection[int] | None = None) -> None:
        """Send a message to each of the others, or those with these numbers in COMM_WORLD, without waiting for them."""
        self.sends = [send for send in self.sends if not send.Test()]
        for rank, member in enumerate(self.members):
            if rank != self.rank and (to is None or member in to):
                self.sends.append(self.comm.isend(message, rank))

    def listen(self) -> None:
        """Read the messages that have come."""
        while (message := self.comm.improbe()) is not None:
            received = message.recv()
            if isinstance(received, Notice):
                self.notices[received.rank] = received
            else:
                self.probes = [*self.open_probes(), received]

    def open_probes(self) -> list[Probe]:
        """Return the probes that have come from ranks which still wait for this one."""
        begun = dict(enumerate(self.begun))
        return [
            probe
            for probe in self.probes
            if (not this_process.makes(probe.members) if probe.members else begun.get(probe.ranks, 0) < probe.number)
        ]

    def absent(self, ranks: int, number: int) -> list[Notice]:
        """Return the notices of ranks that failed or ended before they began exchange ``number`` of these Ranks."""
        return [notice for notice in self.notices.values() if not notice.has_begun(ranks, number)]

    def refuse(self, ranks: int, number: int) -> None:
        """Raise RankError if a rank that has failed or ended never began exchange ``number`` of these Ranks."""
        if absent := self.absent(ranks, number):
            first = min(absent, key=lambda notice: notice.failure is None)
            if first.concerns_all:
                this_process.give_up(str(first))
            error = RankError(str(first))
            error.group = self
            raise error

    def have_all_left(self) -> bool:
        """Return whether nobody else does anything more; make MPI's progress."""
        self.listen()
        self.sends = [send for send in self.sends if not send.Test()]
        return not self.sends and sum(notice.has_left for notice in self.notices.values()) == self.size - 1

    def is_late(self) -> bool:
        """Return whether this rank failed so long ago that the others will never notice."""
        return self.failed_at is not None and time.monotonic() - self.failed_at > GRACE

    def is_broken(self) -> bool:
        """Return whether a collective was begun by some ranks alone."""
        return any(notice.begun != tuple(self.begun) for notice in self.notices.values())


class Process:
    """This process: its groups, and the hooks that run when its program fails or ends."""

    def __init__(self) -> None:
        self.groups: dict[object, Group] = {}
        #: The processes of the group that this one makes.
        self.new_members: tuple[int, ...] = ()
        #: The numbers of the threads that have begun exchanges.
        self.callers: set[int] = set()
        self.has_ended = False
        #: It began to duplicate a communicator, which another rank never will: it failed before.
        self.is_stuck = False
        self.sends: list[Any] = []

    def watch(self) -> None:
        """Run the hooks in this process."""
        self.excepthook = sys.excepthook
        sys.excepthook = self.tell_of_failure
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Leave the ranks to the parent, in the child of a fork."""
        for group in self.groups.values():
            text = f"this process is a fork of rank {group.rank}: only the parent can use the communicator"
            group.notices = {group.rank: Notice(group.rank, (), False, text)}
        self.groups = {}
        self.has_ended = True

    def tell_of_failure(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print an exception that nothing caught, and tell the other ranks."""
        try:
            as_one_text(lambda: self.excepthook(kind, error, trace))
        finally:
            if not hasattr(sys, "ps1") and not self.has_ended:  # at a prompt the program goes on
                self.tell(error)

    def tell(self, error: BaseException) -> None:
        for group in self.groups.values():
            group.tell(failure_of(f"rank {group.rank}", error, group), has_left=False)
        world = world_of_mpi()
        if world is not None:
            text = failure_of(f"rank {world.rank} of COMM_WORLD", error, None)
            known = {world.rank, *(rank for group in self.groups.values() for rank in group.members)}
            self.sends = [world.isend(text, rank, TAG) for rank in range(world.size) if rank not in known]

    def give_up(self, failure: str) -> None:
        """Refuse all exchanges from now on, here and on the other ranks."""
        for group in self.groups.values():
            group.give_up(failure)

    def makes(self, members: tuple[int, ...]) -> bool:
        """Return whether this process has made the group of these processes, or has begun to."""
        return members in self.groups or members == self.new_members

    def has_other_callers(self) -> bool:
        """Return whether another thread may begin an exchange: it has begun some, or the program waits for its end."""
        main, this = threading.main_thread(), threading.current_thread()
        others = [thread for thread in threading.enumerate() if thread is not this]
        return any(each.ident in self.callers or not (each.daemon or each is main) for each in others)

    def refuse_missing(self, members: tuple[int, ...]) -> None:
        """Raise RankError if a rank of a group to come has failed or ended."""
        texts = self.failures_in_world()
        for group in list(self.groups.values()):
            group.listen()
            for notice in list(group.notices.values()):
                if group.members[notice.rank] in members:
                    texts.append(str(notice))
                    if notice.concerns_all:
                        self.give_up(str(notice))
        if texts:
            self.is_stuck = True
            raise RankError(texts[0])

    def failures_in_world(self) -> list[str]:
        """Return the failures that ranks told with which this one has no group."""
        world, texts = world_of_mpi(), []
        while world is not None and (message := world.improbe(tag=TAG)) is not None:
            texts.append(message.recv())
        return texts

    def end(self) -> None:
        """Tell the other ranks that this one leaves; return when all have, or abort them if that can't be."""
        if self.has_ended:
            return
        self.has_ended = True
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        groups = list(self.groups.values())
        error: BaseException | None = getattr(sys, "last_value", None)  # for hooks that are set after and not chained
        for group in groups:
            group.tell(None if error is None else failure_of(f"rank {group.rank}", error, group), has_left=True)
        pause = 1e-5
        while not all(group.have_all_left() for group in groups):
            pause = min(2 * pause, 0.005)
            time.sleep(pause)
            if late := next((group for group in groups if group.is_late()), None):
                sys.stderr.write(f"fastopt: rank {late.rank} failed {GRACE:g} s ago, and others go on: aborting them\n")
                sys.stderr.flush()
                abort(late.comm)
        for _ in range(QUESTIONS):  # MPI.Finalize fails if a message has not been received
            self.failures_in_world()
        world = world_of_mpi()
        if world is not None and (self.is_stuck or any(group.is_broken() for group in groups)):
            abort(world)


def abort(comm: Any) -> None:
    """End the processes of a communicator, after they could print what went wrong."""
    time.sleep(TIME_TO_PRINT)
    comm.Abort(1)


def world_of_mpi() -> Any:
    """Return mpi4py's COMM_WORLD; None where MPI is not in use."""
    mpi: Any = sys.modules.get("mpi4py.MPI")
    return mpi.COMM_WORLD if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() else None


def as_one_text(call: Callable[[], None]) -> None:
    """Write what a call prints as an error at once, so that the lines of several ranks are not mixed."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            call()
    finally:
        if sys.stderr is not None:
            sys.stderr.write(text.getvalue())
            sys.stderr.flush()


def failure_of(name: str, error: BaseException, group: Group | None) -> str:
    """Return the text that tells other ranks which one raised an exception."""
    if isinstance(error, RankError) and error.group is group:
        return str(error)  # the reason is another rank of theirs
    text = str(error)
    return f"{name} raised {type(error).__name__}{': ' if text else ''}{text[:LONGEST_TEXT]}"


this_process = Process()
this_process.watch()
