"""The ranks of a communicator, and how they exchange arrays. The only module that imports mpi4py."""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import re
import struct
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from ..backends import cores
from .deadlocks import WaitForExchange, WaitForGroup
from .faults import Group, RankError, this_process
from .messages import MESSAGE, Message
from .requests import PersistentRequest, Request, free, starter_of

__all__ = ["CallsDiffer", "PersistentRequest", "RankError", "Ranks", "Request"]

#: The communicators of Ranks that are gone, with the requests and MPI's persistent ones. To be freed.
UNUSED: list[tuple[Any, set[Request], list[Any]]] = []
give_core_away = getattr(os, "sched_yield", lambda: time.sleep(0))
#: How often an exchange is tested before the process sleeps in between: where each rank has a core, and where it must
#: leave its core to another rank, which it waits for. A sleep takes 60 us at least.
POLLS, POLLS_ON_SHARED_CORES = 500, 5
#: How often it is tested, where each rank has a core, before the process offers its core to others in between.
POLLS_ALONE = 100
#: A sleep takes this part of the time waited, and at most this many seconds.
SLEEP, LONGEST_SLEEP = 0.02, 1e-3
#: After so many exchanges a rank reads the messages about faults, also if it never waits: those that do send some.
LISTENING = 64
#: After how many seconds it is told that other ranks have not made their Ranks.
PATIENCE = 30.0
#: The beginning of the first message of a meeting: whether there is an error, the call, and the length of the header.
BEGINNING = struct.Struct("=3q")
#: The room for a header in it.
ROOM = MESSAGE - 3


class CallsDiffer(RuntimeError):
    """The ranks make different calls, which can't meet."""


class Ranks:
    """The processes of a communicator, each of which calls the same methods in the same order.

    All waiting is for nonblocking exchanges, and gives the core away: processes may share one. If another rank has
    failed, or ended its program, a wait for it raises RankError. One thread of a process may use it at a time; if
    several threads do, MPI must have been initialized with ``MPI.THREAD_MULTIPLE``, as mpi4py does.

    Parameters
    ----------
    comm
        An intracommunicator of mpi4py, such as ``MPI.COMM_WORLD``; all of its processes make their Ranks together. It
        is duplicated, so that no message of the caller is taken for another.
    owner
        The class of the optimizer that exchanges, if one does.

    Attributes
    ----------
    rank
        The number of this process.
    size
        The number of processes.
    call
        The call that this rank makes, for people: those that meet make the same one.
    calls_differ
        Whether the ranks made different calls when they met last: then all have raised.
    owner
        The optimizer that exchanges, and how many the communicator's processes had made with it, for people.

    Raises
    ------
    ImportError
        mpi4py is missing.
    TypeError
        ``comm`` is no intracommunicator of mpi4py.
    ValueError
        ``comm`` is ``COMM_NULL``, which processes have that are not in a communicator.
    """

    def __init__(self, comm: Any, owner: str = "") -> None:
        self._mpi = mpi = import_mpi()
        if isinstance(comm, mpi.Comm) and comm == mpi.COMM_NULL:
            raise ValueError("comm: this process is none of its ranks (COMM_NULL); make no optimizer here")
        if not isinstance(comm, mpi.Intracomm):
            raise TypeError(
                f"comm: expected an intracommunicator of mpi4py, such as mpi4py.MPI.COMM_WORLD, not {comm!r}"
            )
        self.rank: int = comm.rank
        self.size: int = comm.size
        self.call, self.owner = "a constructor", owner
        self.calls_differ = False
        self._running: set[Request] = set()
        self._message = Message(self.rank, [0] * self.size)
        self._units = {1: mpi.BYTE, 2: mpi.UINT16_T, 4: mpi.UINT32_T, 8: mpi.UINT64_T}
        if self.size == 1:
            return
        free_unused()
        self._group = group_of(comm, mpi, self._shown_call())
        #: The number of these Ranks among those of the group, whose processes make them in the same order.
        self._number = len(self._group.begun)
        self._group.begun.append(0)
        if owner:
            self._group.owner_count += 1
            self.owner = f"{owner} {self._group.owner_count}"
        self._comm, handle = comm.Idup()
        self._handles: list[Any] = []
        self._polls_alone = 0
        weakref.finalize(self, UNUSED.append, (self._comm, self._running, self._handles)).atexit = False
        self.wait([self._begun(handle, self._next())])
        if self._group.polls == 0:
            has_cores = have_cores(self.all_gather_objects(this_machine()))
            self._group.polls = POLLS if has_cores else POLLS_ON_SHARED_CORES
        self.carry([0] * self.size)
        if self._group.polls == POLLS:
            self._polls_alone = POLLS_ALONE

    def __reduce__(self) -> Any:
        raise TypeError("the ranks of a communicator can't be copied or pickled; save the optimizer's state_dict()")

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, size={self.size})"

    # --- waiting ------------------------------------------------------------------------------------------------------

    def test(self, requests: Sequence[Request]) -> bool:
        """Return whether exchanges are done; MPI makes progress with all."""
        return all(request.is_done() for request in requests)

    def wait(self, requests: Sequence[Request]) -> None:
        """Wait until exchanges are done.

        Raises
        ------
        RankError
            Another rank failed, or ended its program, before it began one of them; or the ranks wait for each other.
        """
        for request in requests:
            polls = 0
            while not request.is_done():
                polls += 1
                if polls > self._group.polls:
                    self._wait_long(request)
                    break
                if polls > self._polls_alone:
                    give_core_away()

    def _shown_call(self) -> str:
        return f"{self.call} of {self.owner}" if self.owner else self.call

    def _wait_long(self, request: Request) -> None:
        wait = WaitForExchange(self._shown_call(), self._group, self._number, request.number)
        while not request.is_done():
            time.sleep(min(SLEEP * wait.look(), LONGEST_SLEEP))

    def can_go_on(self) -> bool:
        """Return whether no rank is known to have failed, or ended its program, before the next exchange."""
        return self.size == 1 or not self._group.absent(self._number, self._group.begun[self._number] + 1)

    # --- exchanges ----------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        """Return the number of the next exchange; raise if another rank will never begin it."""
        begun, i = self._group.begun, self._number
        if self._group.notices:
            self._group.refuse(i, begun[i] + 1)
        begun[i] += 1
        this_process.callers.add(threading.get_ident())
        if begun[i] % LISTENING == 0:
            self._group.listen()
        return begun[i]

    def _begun(self, handle: Any, number: int, *arrays: Array) -> Request:
        return Request(handle, number, arrays, self._running)

    def _unit(self, array: Array) -> tuple[Array, Any]:
        """Return the memory of an array, and MPI's type for elements of this size: it does not know all of NumPy's."""
        size = array.dtype.itemsize
        if size not in self._units:
            self._units[size] = self._mpi.BYTE.Create_contiguous(size).Commit()
        # Those of ml_dtypes have no buffer of Python's.
        return array if array.dtype.kind != "V" else array.view(np.uint8), self._units[size]

    def start_all_to_all(
        self,
        send: Array,
        send_counts: Sequence[int],
        recv: Array,
        recv_counts: Sequence[int],
        send_begins: Sequence[int] | None = None,
    ) -> Request:
        """Begin to send each rank its part of an array.

        Parameters
        ----------
        send, recv
            One-dimensional contiguous arrays of one dtype: the parts for rank 0, rank 1 ... and those from them.
        send_counts, recv_counts
            The numbers of elements of the parts.
        send_begins
            Where the parts to send begin; None: one after the other.
        """
        if self.size == 1:
            begin = send_begins[0] if send_begins else 0
            recv[: recv_counts[0]] = send[begin : begin + send_counts[0]]
            return self._begun(None, 0)
        (send_view, unit), (recv_view, _) = self._unit(send), self._unit(recv)
        number = self._next()
        handle = self._comm.Ialltoallv([send_view, send_counts, send_begins, unit], [recv_view, recv_counts, unit])
        return self._begun(handle, number, send_view, recv_view)

    def start_all_gather(self, buffer: Array, counts: Sequence[int]) -> Request:
        """Begin to fill a one-dimensional array of which each rank has its own part, ``counts[rank]`` elements."""
        if self.size == 1:
            return self._begun(None, 0)
        view, unit = self._unit(buffer)
        number = self._next()
        return self._begun(self._comm.Iallgatherv(self._mpi.IN_PLACE, [view, counts, unit]), number, view)

    def settle(self, request: PersistentRequest | None = None) -> None:
        """Let an exchange come to its end, if an interrupt ended the wait for it: its arrays can be written.

        None: the first message of a meeting.
        """
        request = request or self._meeting
        if request.handle is not None:
            self.wait([request])

    def start(self, request: PersistentRequest) -> PersistentRequest:
        """Begin an exchange, which is settled, and return its request."""
        request.number = self._next()
        request.handle = request.begin()
        self._running.add(request)
        return request

    def prepare_all_gather(self, buffer: Array, counts: Sequence[int]) -> PersistentRequest:
        """Return the exchange that :meth:`start_all_gather` begins, for several ranks. Collective."""
        view, unit = self._unit(buffer)
        begin = self._starter("allgatherv", self._mpi.IN_PLACE, [view, counts, unit])
        return PersistentRequest(begin, self._running, buffer, [counts[self.rank]] * self.size, buffer, counts)

    def prepare_all_to_all(
        self,
        send: Array,
        send_counts: Sequence[int],
        send_begins: Sequence[int],
        recv: Array,
        recv_counts: Sequence[int],
        recv_begins: Sequence[int],
    ) -> PersistentRequest:
        """Return the exchange that :meth:`start_all_to_all` begins, for several ranks. Collective."""
        (send_view, unit), (recv_view, _) = self._unit(send), self._unit(recv)
        arguments = [send_view, send_counts, send_begins, unit], [recv_view, recv_counts, recv_begins, unit]
        begin = self._starter("alltoallv", *arguments)
        return PersistentRequest(begin, self._running, send, send_counts, recv, recv_counts)

    def _starter(self, name: str, *arguments: Any) -> Callable[[], Any]:
        """Return a function that begins MPI's collective of this name: a persistent one where the library has such."""
        try:
            handle = getattr(self._comm, f"{name.capitalize()}_init")(*arguments)
        except NotImplementedError:
            return partial(getattr(self._comm, f"I{name}"), *arguments)
        self._handles.append(handle)
        return starter_of(handle)

    def free_persistent(self) -> None:
        """Free what was prepared, the first message of a meeting too: other exchanges come in its place."""
        if self.size > 1:
            self._handles[:] = free(self._handles)

    def all_gather(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the arrays of all ranks, which have one shape, as one array with a further first dimension."""
        everyone = np.empty((self.size, *values.shape), values.dtype)
        everyone[self.rank] = values
        if self.size > 1:
            view, unit = self._unit(everyone)
            number = self._next()
            buffer = [view, everyone.size // self.size, unit]
            self.wait([self._begun(self._comm.Iallgather(self._mpi.IN_PLACE, buffer), number, view)])
        return everyone

    def all_gather_objects(self, value: Any) -> list[Any]:
        """Return the objects of all ranks, which are pickled; for what is rare."""
        if self.size == 1:
            return [value]
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        counts = self.all_gather(np.array(data.size))
        ends = np.cumsum(counts)
        buffer = np.empty(ends[-1], np.uint8)
        begins = ends - counts
        buffer[begins[self.rank] : ends[self.rank]] = data
        self.wait([self.start_all_gather(buffer, counts.tolist())])
        return [pickle.loads(buffer[begin:end].data) for begin, end in zip(begins, ends, strict=True)]

    # --- checks -------------------------------------------------------------------------------------------------------

    def agree(self, what: Mapping[str, Any]) -> None:
        """Check that all ranks have the same values, of which they exchange a digest.

        Raises
        ------
        ValueError
            On every rank, if one differs: the name, and the ranks with their values.
        """
        texts = {name: canonical(value) for name, value in what.items()}
        digest = hashlib.blake2b(repr(list(texts.items())).encode(), digest_size=16).digest()
        digests = self.all_gather(np.frombuffer(digest, np.uint64))
        if (digests == digests[0]).all():
            return
        of_ranks: list[dict[str, str]] = self.all_gather_objects(texts)
        for name in dict.fromkeys(name for each in of_ranks for name in each):
            values = [each.get(name, "missing") for each in of_ranks]
            if len(set(values)) > 1:
                raise ValueError(f"the ranks differ: {name} is {values_of_ranks(values)}; give all the same")
        raise ValueError(f"the ranks differ in the order of names: {values_of_ranks([str([*e]) for e in of_ranks])}")

    def carry(self, sizes: Sequence[int]) -> Message:
        """Let the first message of each meeting carry as many further bytes to each rank, and return it. Collective."""
        self._message = message = Message(self.rank, sizes)
        if self.size > 1:
            self._meeting = (
                self.prepare_all_to_all(
                    message.send,
                    message.send_counts,
                    message.send_begins,
                    message.recv,
                    message.recv_counts,
                    message.recv_begins,
                )
                if message.copies
                else self.prepare_all_gather(message.recv.view(np.int64), [MESSAGE] * self.size)
            )
        return message

    def meet(self, error: Exception | None, header: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the headers of all ranks, unless one of them brings an error, or they make different calls.

        Parameters
        ----------
        error
            The error of this rank's own checks, or None.
        header
            Numbers, as many on each rank. Those that do not fit into the first message take another one.

        Returns
        -------
        Headers of shape (size, len(header)), until the next meeting.

        Raises
        ------
        RankError
            Another rank brought an error; a rank that brought one raises its own. All ranks can go on after it.
        CallsDiffer
            :attr:`call` is not the same on all ranks. It is raised on all, and all can go on after it.
        """
        length, heads, own, first = len(header), self._message.heads, self._message.own, header[:ROOM]
        self.calls_differ = False
        if self.size > 1:
            self.settle()
        BEGINNING.pack_into(own, 0, error is not None, number_of_call(self.call), length)
        own[BEGINNING.size : BEGINNING.size + first.nbytes] = first.tobytes()
        if self.size > 1:
            for copy in self._message.copies:
                copy[:] = own
            self.wait([self.start(self._meeting)])
        if error is None and length <= ROOM and heads.tobytes() == own.tobytes() * self.size:
            return heads[:, 3 : 3 + length]
        self.calls_differ = bool((heads[:, 1:3] != heads[self.rank, 1:3]).any())
        if heads[:, 0].any():
            text = None if error is None else f"raised {type(error).__name__}: {error}"
            texts = self.all_gather_objects(text)
            if error is not None:
                raise error
            raise RankError("; ".join(f"rank {rank} {text}" for rank, text in enumerate(texts) if text is not None))
        if self.calls_differ:
            calls = values_of_ranks(self.all_gather_objects(self.call))
            raise CallsDiffer(f"the ranks make different calls: {calls}; make the same ones in the same order on all")
        if length <= ROOM:
            return heads[:, 3 : 3 + length]
        return np.concatenate([heads[:, 3:], self.all_gather(header[ROOM:])], axis=1)


def import_mpi() -> Any:
    """Return mpi4py.MPI, which initializes MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        raise ImportError(
            f"fastopt.distributed needs mpi4py and an MPI library: pip install 'fastopt[mpi]' ({error})"
        ) from error
    return MPI


def group_of(comm: Any, mpi: Any, call: str) -> Group:
    """Return the group of a communicator's processes; those that have none yet make it together, in this call."""
    group, world = comm.Get_group(), mpi.COMM_WORLD.Get_group()
    ranks = tuple(mpi.Group.Translate_ranks(group, None, world))
    # A process that was spawned is not in the world.
    key: object = ranks if mpi.UNDEFINED not in ranks else object()
    group.Free()
    world.Free()
    if key not in this_process.groups:
        own_comm, handle = comm.Idup()
        wait, has_told = WaitForGroup(call, ranks), False
        while not handle.Test():
            waited = wait.look()
            time.sleep(min(SLEEP * waited, LONGEST_SLEEP))
            if waited > PATIENCE and not has_told:
                has_told = True
                print(f"fastopt: rank {comm.rank} waits for others to make their Ranks", file=sys.stderr, flush=True)
        if not this_process.groups:
            # MPI.Finalize deletes the attributes of COMM_SELF first, while exchanges are still possible.
            mpi.COMM_SELF.Set_attr(mpi.Comm.Create_keyval(delete_fn=lambda *_: this_process.end()), None)
        this_process.groups[key] = Group(own_comm, ranks)
    return this_process.groups[key]


def free_unused() -> None:
    """Free the communicators of Ranks that are gone, but for those whose exchanges go on in arrays of theirs."""
    for _ in range(len(UNUSED)):
        comm, running, handles = UNUSED.pop(0)
        if all(request.is_done() for request in list(running)):
            free(handles)
            comm.Free()
        else:
            UNUSED.append((comm, running, handles))


@cache
def number_of_call(call: str) -> int:
    """Return a number that is the same for a call on all ranks."""
    return zlib.crc32(call.encode())


def this_machine() -> tuple[str, list[int], int]:
    """Return the name of this machine, the cores that this process may run on, and how many it may use."""
    usable = cores.usable()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(usable)
    return platform.node(), sorted(allowed), usable


def have_cores(machines: list[tuple[str, list[int], int]]) -> bool:
    """Return whether there is a core for each rank, everywhere."""
    for name in {name for name, _, _ in machines}:
        ranks = [(allowed, usable) for other, allowed, usable in machines if other == name]
        count = len({core for allowed, _ in ranks for core in allowed})
        # Fewer than a rank may run on: a limit for all processes together.
        count = min([count, *(usable for allowed, usable in ranks if usable < len(allowed))])
        if count < len(ranks):
            return False
    return True


def canonical(value: Any) -> str:
    """Return a text that is equal for equal values, on every rank."""
    if isinstance(value, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=8).hexdigest()
        return f"array({value.dtype}, {value.shape}, {digest})" if value.size > 8 else repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{canonical(key)}: {canonical(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return ("({})" if isinstance(value, tuple) else "[{}]").format(", ".join(map(canonical, value)))
    # The address of a function or object differs between processes.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def values_of_ranks(values: Sequence[str]) -> str:
    """Return a text that names each value once, with its ranks."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return ", ".join(f"{value} on {text_of_ranks(numbers)}" for value, numbers in ranks.items())


def text_of_ranks(numbers: Sequence[str]) -> str:
    """Return the text that lists some ranks.

    >>> text_of_ranks(["0", "1", "3"])
    'ranks 0, 1 and 3'
    """
    *most, last = numbers
    return f"ranks {', '.join(most)} and {last}" if most else f"rank {last}"
