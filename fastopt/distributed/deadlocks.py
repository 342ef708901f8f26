"""Find ranks that wait for each other, each for a call that another one of them has not made.

A rank that has waited for some seconds sends a probe to the others. One that has begun the exchange which the sender
waits for drops it. One that has not, and waits itself, adds its own wait and passes the probe on to those that it waits
for. A rank that gets a probe of its own wait back is in a circle in which nobody goes on.

It is no false alarm, however old a message is. Who has not begun the exchange that the sender waits for knows that the
sender still waits, so that it has not begun that of the one before it, and so on to the first.

Source: Chandy, Misra and Haas, ACM Transactions on Computer Systems 1(2), 1983.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from pathlib import Path

from .faults import Group, Probe, Waiting, this_process, world_of_mpi

#: After how many seconds of a wait its probe is sent. Most waits are shorter, and need none.
PATIENCE = 2.0
#: The modules whose callers are shown.
INNER = (__name__.partition(".")[0] + ".", "contextlib")


class Wait:
    """A wait of this rank for others.

    Parameters
    ----------
    call : str
        The call that waits, for people.
    """

    def __init__(self, call: str) -> None:
        self.call = call
        self.began = time.monotonic()
        #: The tokens of the waits whose probes were passed on.
        self.tokens: set[str] = set()
        self.own: Waiting | None = None

    def look(self) -> float:
        """Return how many seconds it has taken.

        Raises
        ------
        RankError
            The wait will never end: a rank failed, or ended its program, or the ranks wait for each other.
        """
        for group in list(this_process.groups.values()):
            group.listen()
        self.refuse()
        waited = time.monotonic() - self.began
        # Another thread may make the call that others wait for.
        if waited > PATIENCE and not this_process.has_other_callers():
            self.probe()
        return waited

    def probe(self) -> None:
        """Send the probe of this wait, and pass on those of the waits for this rank."""
        if self.own is None:
            world = world_of_mpi()
            self.own = Waiting(secrets.token_hex(8), world.rank, f"{self.call} ({caller()})")
            self.send((self.own,))
        for group in list(this_process.groups.values()):
            for probe in group.open_probes():
                first = probe.path[0].token
                if first == self.own.token:
                    this_process.give_up(text_of(probe.path))
                    self.refuse()
                if first not in self.tokens:
                    self.tokens.add(first)
                    self.send((*probe.path, self.own))

    def refuse(self) -> None:
        """Raise RankError if the wait will never end."""
        raise NotImplementedError

    def send(self, path: tuple[Waiting, ...]) -> None:
        """Send a probe with these waits to the ranks that this one waits for."""
        raise NotImplementedError


class WaitForExchange(Wait):
    """A wait for exchange ``number`` of the Ranks of this number in a group."""

    def __init__(self, call: str, group: Group, ranks: int, number: int) -> None:
        super().__init__(call)
        self.group, self.ranks, self.number = group, ranks, number

    def refuse(self) -> None:
        self.group.refuse(self.ranks, self.number)

    def send(self, path: tuple[Waiting, ...]) -> None:
        self.group.send(Probe(self.ranks, self.number, (), path))


class WaitForGroup(Wait):
    """A wait for others to make a group of these processes. It asks those with which this one has a group already."""

    def __init__(self, call: str, members: tuple[int, ...]) -> None:
        super().__init__(call)
        self.members = this_process.new_members = members
        this_process.callers.add(threading.get_ident())

    def refuse(self) -> None:
        this_process.refuse_missing(self.members)

    def send(self, path: tuple[Waiting, ...]) -> None:
        if min(self.members) >= 0:  # a process that was spawned has no number
            for group in list(this_process.groups.values()):
                group.send(Probe(0, 0, self.members, path), self.members)


def text_of(path: tuple[Waiting, ...]) -> str:
    """Return the error about waits of which each is for the rank of the next one."""
    calls = ", ".join(f"rank {each.rank} in {each.call}" for each in sorted(path, key=lambda each: each.rank))
    return f"the ranks wait for each other: {calls}; make these calls in the same order on every rank"


def caller() -> str:
    """Return the place where the program calls this package."""
    stack = traceback.walk_stack(None)
    frame, line = next(each for each in stack if not each[0].f_globals.get("__name__", "").startswith(INNER))
    return f"{Path(frame.f_code.co_filename).name}, line {line}"
