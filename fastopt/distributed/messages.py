"""The memory of the first message of a meeting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

#: How many numbers a head has.
MESSAGE = 32
HEAD_BYTES = 8 * MESSAGE


class Message:
    """A rank sends each rank a head of numbers and a payload of bytes, and gets such from each.

    Parameters
    ----------
    rank : int
        The number of this rank.
    payloads : sequence of int
        How many bytes each rank gets from each other one, besides the head.

    Attributes
    ----------
    heads : int64 array of shape (ranks, MESSAGE)
        The head of each rank.
    own : memoryview of HEAD_BYTES bytes
        That of this rank, a part of ``heads``.
    copies : list of memoryview
        Its places in what is sent: none if there are no payloads, and ``heads`` is gathered.
    payloads_to, payloads_from : list of uint8 array
        The payload to each rank, and that from each; those of this rank itself go nowhere.
    send, recv : uint8 array
        All that is sent and received, with the counts and beginnings of the parts of each rank.
    """

    def __init__(self, rank: int, payloads: Sequence[int]) -> None:
        # Each part begins where a number can.
        rooms = [HEAD_BYTES - (-size // 8) * 8 for size in payloads]
        ranks, room, size = len(rooms), rooms[rank], payloads[rank]
        self.send_begins, self.recv_begins = [0, *accumulate(rooms[:-1])], [room * r for r in range(ranks)]
        self.send_counts = [HEAD_BYTES + its if r != rank else 0 for r, its in enumerate(payloads)]
        self.recv_counts = [HEAD_BYTES + size if r != rank else 0 for r in range(ranks)]
        self.send, self.recv = np.zeros(sum(rooms), np.uint8), np.zeros(room * ranks, np.uint8)
        self.heads: npt.NDArray[np.int64] = self.recv.view(np.int64).reshape(ranks, -1)[:, :MESSAGE]
        self.own = self.heads[rank].data.cast("B")
        self.payloads_to = [
            self.send[begin + HEAD_BYTES :][:its] for begin, its in zip(self.send_begins, payloads, strict=True)
        ]
        self.payloads_from = [self.recv[begin + HEAD_BYTES :][:size] for begin in self.recv_begins]
        self.copies = (
            [self.send.data[begin : begin + HEAD_BYTES] for r, begin in enumerate(self.send_begins) if r != rank]
            if any(payloads)
            else []
        )
