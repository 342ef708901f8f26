"""The calls of an optimizer that may not run at the same time: they take turns, in the order in which they came.

A change (a step, a load, freezing) that meets another change is a mistake of the program, and is refused at once. A
call that reads waits for the change that is running, and a change waits for the calls that read.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from functools import wraps
from types import FrameType
from typing import Concatenate, NoReturn, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

#: The shortest and the longest pause between two looks at the queue, in seconds.
SHORTEST, LONGEST = 2e-5, 1e-3

#: The stack of each thread that this process has; threading knows only of those that it started.
stacks_of_threads: Callable[[], dict[int, FrameType]] = getattr(sys, "_current_frames")  # noqa: B009, it is documented

P = ParamSpec("P")
T = TypeVar("T")
Opt = TypeVar("Opt", bound="Owner")


class Kind(Enum):
    """How a call meets the others."""

    #: It is refused if another thread makes a change, and inside any call of its own thread.
    CHANGE = auto()
    #: It waits for other threads, and is refused inside any call of its own thread.
    EXCHANGE = auto()
    #: The end of an exchange. It waits for other threads, and runs inside any call of its own thread.
    RETURN = auto()
    #: It waits for other threads, and runs inside a reader of its own thread.
    READER = auto()


class Turn:
    """A call that runs, or waits until it may."""

    __slots__ = ("kind", "thread", "what")

    def __init__(self, what: str, kind: Kind) -> None:
        self.what, self.kind, self.thread = what, kind, threading.get_ident()


class Turns:
    """The calls of an optimizer that run or wait, but planned steps: C makes one only while there is no call.

    Python's lock makes each use of ``queue`` and ``marks`` one action.

    Attributes
    ----------
    queue : list of Turn
        The first one runs.
    marks : int64 array of shape (3,)
        The thread that makes a planned step, or 0; how many steps were planned; the thread that has other values stand
        in for the parameters, or 0. C reads all and writes the first two (csrc/python/plan.c).
    """

    __slots__ = ("_guard", "marks", "queue")

    def __init__(self) -> None:
        self.queue: list[Turn] = []
        self.marks: npt.NDArray[np.int64] = np.zeros(3, np.int64)
        #: Makes it one action to join the queue and to find out whether that is allowed.
        self._guard = threading.RLock()

    @property
    def planned_steps(self) -> int:
        """How many steps were planned."""
        return self.marks.item(1)

    def run(self, what: str, kind: Kind, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call when it is its turn; ``what`` names it in errors.

        Raises
        ------
        RuntimeError
            If it is refused.
        """
        turn = Turn(what, kind)
        try:
            try:
                self._begin(turn)
                return call(*args, **kwargs)
            finally:
                self._end(turn)
        finally:
            self._end(turn)  # an interrupt may have come before the first one was done

    def _end(self, turn: Turn) -> None:
        """Take a call out of the queue."""
        if turn in self.queue:
            self.queue.remove(turn)

    def _begin(self, turn: Turn) -> None:
        """Return when it is the turn of this call."""
        for around in list(self.queue):
            if around.thread == turn.thread:
                if not (turn.kind is Kind.RETURN or turn.kind is around.kind is Kind.READER):
                    refuse_inside(turn.what, around.what)
                self._wait_for(around)
                return
        with self._guard:
            self.queue.append(turn)  # from here on no planned step begins
            if self.queue[0] is not turn or self.marks.item(0):
                self._check_allowed(turn)
        self._wait_for(turn)

    def _check_allowed(self, turn: Turn) -> None:
        """Take a call out of the queue again, and raise, if it meets another one that it must not meet."""
        stepping = self.marks.item(0)
        changes = [each.what for each in self.queue if each.kind is Kind.CHANGE and each is not turn]
        is_inside, meets_change = stepping == turn.thread, stepping or changes
        if is_inside or (meets_change and turn.kind is Kind.CHANGE):
            self.queue.remove(turn)
            if is_inside:
                refuse_inside(turn.what, "step")
            refuse_beside(turn.what, changes[0] if changes else "step")

    def _wait_for(self, turn: Turn) -> None:
        pause = SHORTEST
        while self.queue[0] is not turn or self.marks.item(0):
            time.sleep(pause)
            if pause == LONGEST:
                self._check_not_lost(turn)
            pause = min(2 * pause, LONGEST)

    def _check_not_lost(self, turn: Turn) -> None:
        """Raise if a call waits for a change whose thread a fork left out; forget a reader of such a thread."""
        stepping, first = self.marks.item(0), self.queue[0]
        threads = set(stacks_of_threads())  # between two looks, since a thread may end when its call does
        if (stepping or first.thread) in threads or (stepping, first) != (self.marks.item(0), self.queue[0]):
            return
        if not stepping and first.kind is Kind.READER:
            self._end(first)
            return
        what = shown("step" if stepping else first.what)
        raise RuntimeError(
            f"{turn.what}: another thread was at {what} of this optimizer when this process was forked; fork between "
            "such calls"
        )


def refuse_inside(what: str, around: str) -> NoReturn:
    raise RuntimeError(
        f"{what}: {shown(around)} of this optimizer is running around this call; make the call after it (in a signal "
        "handler: set a flag, and look at the flag after the step)"
    )


def refuse_beside(what: str, other: str) -> NoReturn:
    raise RuntimeError(
        f"{what}: {shown(other)} of this optimizer is running in another thread; make one call after the other, or "
        "give each thread an optimizer of its own"
    )


def shown(what: str) -> str:
    """Return how errors name a call that is running."""
    return "a step" if what == "step" else what


class PartsOfOwner(Protocol):
    """The parts of an optimizer, as far as turns need them."""

    @property
    def turns(self) -> Turns: ...


class Owner(Protocol):
    """An optimizer, as far as turns need it."""

    @property
    def parts(self) -> PartsOfOwner: ...


def takes_turns(kind: Kind) -> Callable[[Callable[Concatenate[Opt, P], T]], Callable[Concatenate[Opt, P], T]]:
    """Have a method of an optimizer wait for its turn, or be refused."""

    def decorate(method: Callable[Concatenate[Opt, P], T]) -> Callable[Concatenate[Opt, P], T]:
        @wraps(method)
        def call(opt: Opt, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return opt.parts.turns.run(method.__name__, kind, method, opt, *args, **kwargs)

        return call

    return decorate


change, reader = takes_turns(Kind.CHANGE), takes_turns(Kind.READER)
