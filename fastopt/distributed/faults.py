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
import os
import sys
import time
from types import TracebackType
from typing import Any, NamedTuple

#: How many seconds a failed rank gives the others to leave, before it ends them.
GRACE = 10.0
#: Notices are short: MPI sends such messages at once, while the receiver computes.
LONGEST_TEXT = 1500


class RankError(RuntimeError):
    """Another rank failed, or ended its program, while this one waited for it."""

    #: The group whose ranks the text names.
    group: Group | None = None


class Notice(NamedTuple):
    """The state of a rank that has failed or ended."""

    rank: int
    #: The number of collectives that it began.
    begun: int
    #: It does nothing more.
    has_left: bool
    #: The exception, where there was one.
    failure: str | None

    def __str__(self) -> str:
        return self.failure or f"rank {self.rank} has ended its program, while this rank waits for it"


class Group:
    """The processes of a communicator, for notices.

    Parameters
    ----------
    comm
        An mpi4py communicator that nothing else uses.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.begun = 0
        self.notices: dict[int, Notice] = {}
        self.own: Notice | None = None
        self.told_at = 0.0
        self.sends: list[Any] = []

    def tell(self, failure: str | None, has_left: bool) -> None:
        """Send a notice to each of the others, without waiting for them."""
        if self.own is not None and self.own.failure is not None:  # the first failure is the reason of the others
            failure = self.own.failure
        else:
            self.told_at = time.monotonic()
        self.own = Notice(self.rank, self.begun, has_left, failure)
        self.sends += [self.comm.isend(tuple(self.own), rank) for rank in range(self.size) if rank != self.rank]

    def listen(self) -> None:
        """Read the notices that have come."""
        while (message := self.comm.improbe()) is not None:
            notice = Notice(*message.recv())
            self.notices[notice.rank] = notice

    def refuse(self, number: int) -> None:
        """Raise RankError if a rank that has failed or ended never began a collective."""
        absent = [notice for notice in self.notices.values() if notice.begun < number]
        if absent:
            error = RankError(str(min(absent, key=lambda notice: notice.failure is None)))
            error.group = self
            raise error

    def have_all_left(self) -> bool:
        """Return whether nobody else does anything more; make MPI's progress."""
        self.listen()
        self.sends = [send for send in self.sends if not send.Test()]
        return not self.sends and sum(notice.has_left for notice in self.notices.values()) == self.size - 1

    def is_broken(self) -> bool:
        """Return whether a collective was begun by some ranks alone."""
        return any(notice.begun != self.begun for notice in self.notices.values())


class Process:
    """This process: its groups, and the hooks that run when its program fails or ends."""

    def __init__(self) -> None:
        self.groups: dict[object, Group] = {}
        self.has_ended = False

    def watch(self, key: object, group: Group) -> None:
        """Tell the ranks of a group when the program of this one fails or ends."""
        if not self.groups:
            self.excepthook = sys.excepthook
            sys.excepthook = self.tell_of_failure
            atexit.register(self.end)
        self.groups[key] = group

    def forget(self) -> None:
        """Forget all groups, in the child of a fork, whose parent has the ranks."""
        self.groups = {}

    def tell_of_failure(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print an exception that nothing caught, and tell the other ranks."""
        try:
            self.excepthook(kind, error, trace)
        finally:
            if not hasattr(sys, "ps1"):  # at a prompt the program goes on
                for group in self.groups.values():
                    group.tell(failure_of(group, error), has_left=False)

    def end(self) -> None:
        """Tell the other ranks that this one leaves; return when all have, or abort them if that can't be."""
        if self.has_ended or not self.groups:
            return
        self.has_ended = True
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        groups = list(self.groups.values())
        for group in groups:
            group.tell(None, has_left=True)
        patience = 1e-5
        while not all(group.have_all_left() for group in groups):
            patience = min(2 * patience, 0.005)
            time.sleep(patience)
            if late := next((group for group in groups if is_late(group)), None):
                print(f"fastopt: rank {late.rank} failed {GRACE:.0f} s ago; it ends the other ranks", file=sys.stderr)
                sys.stderr.flush()
                late.comm.Abort(1)
        for group in groups:
            if group.is_broken():
                group.comm.Abort(1)


def is_late(group: Group) -> bool:
    assert group.own is not None
    return group.own.failure is not None and time.monotonic() - group.told_at > GRACE


def failure_of(group: Group, error: BaseException) -> str:
    """Return the text of an exception, for the other ranks."""
    if isinstance(error, RankError) and error.group is group:
        return str(error)  # the reason is another rank of theirs
    text = str(error)
    return f"rank {group.rank} raised {type(error).__name__}{': ' if text else ''}{text[:LONGEST_TEXT]}"


#: Its groups are those of the processes that run together.
this_process = Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=this_process.forget)
