"""The ranks of a communicator, and what they say to each other. The one place that knows MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..arrays.dtypes import Array


class RankError(RuntimeError):
    """Another rank failed."""


class Ranks:
    """The ranks of a communicator."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm.Dup()
        self.rank: int = self.comm.rank
        self.size: int = self.comm.size

    def wait(self, requests: Sequence[Any]) -> None:
        while not self.test(requests):
            os.sched_yield()

    def test(self, requests: Sequence[Any]) -> bool:
        return bool(MPI.Request.Testall(list(requests)))

    def all_gather(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = np.empty((self.size, *values.shape), values.dtype)
        self.wait([self.comm.Iallgather(np.ascontiguousarray(values), found)])
        return found

    def all_gather_objects(self, value: Any) -> list[Any]:
        return list(self.comm.allgather(value))

    def start_all_to_all(self, send: Array, send_counts: Sequence[int], recv: Array, recv_counts: Sequence[int]) -> Any:
        size = send.dtype.itemsize
        return self.comm.Ialltoallv(
            [send.view(np.uint8), [n * size for n in send_counts]],
            [recv.view(np.uint8), [n * size for n in recv_counts]],
        )

    def start_all_gather(self, buffer: Array, counts: Sequence[int]) -> Any:
        size = buffer.dtype.itemsize
        return self.comm.Iallgatherv(MPI.IN_PLACE, [buffer.view(np.uint8), [n * size for n in counts]])

    def agree(self, what: Mapping[str, Any]) -> None:
        everyone = self.all_gather_objects({name: repr(value) for name, value in what.items()})
        for name, value in everyone[0].items():
            for rank, its in enumerate(everyone):
                if its.get(name) != value:
                    raise ValueError(f"{name}: rank {rank} has {its.get(name)}, rank 0 has {value}")

    def meet(self, error: Exception | None, header: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        everyone = self.all_gather_objects((None if error is None else repr(error), header))
        if error is not None:
            raise error
        for rank, (text, _) in enumerate(everyone):
            if text is not None:
                raise RankError(f"rank {rank}: {text}")
        return np.array([its for _, its in everyone])
