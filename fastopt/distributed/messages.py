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
    """What a rank sends to each rank, and gets from each: a head of numbers, and as many further bytes as it carries.

    Parameters
    ----------
    rank : int
        The number of this rank.
    carried : sequence of int
        How many further bytes each rank gets from each other one.

    Attributes
    ----------
    heads : int64 array of shape (ranks, MESSAGE)
        The head of each rank.
    own : memoryview of HEAD_BYTES bytes
        That of this rank, a part of ``heads``.
    copies : list of memoryview
        Its places in what is sent: none if nothing is carried, and ``heads`` is gathered.
    sent, received : list of uint8 array
        The bytes carried to each rank, and those from each; those of this rank itself go nowhere.
    send, recv : uint8 array
        All that is sent and received, with the counts and beginnings of the parts of each rank.
    """

    def __init__(self, rank: int, carried: Sequence[int]) -> None:
        # Each part begins where a number can.
        rooms = [HEAD_BYTES - (-size // 8) * 8 for size in carried]
        ranks, room, size = len(rooms), rooms[rank], carried[rank]
        self.send_begins, self.recv_begins = [0, *accumulate(rooms[:-1])], [room * r for r in range(ranks)]
        self.send_counts = [HEAD_BYTES + its if r != rank else 0 for r, its in enumerate(carried)]
        self.recv_counts = [HEAD_BYTES + size if r != rank else 0 for r in range(ranks)]
        self.send, self.recv = np.zeros(sum(rooms), np.uint8), np.zeros(room * ranks, np.uint8)
        self.heads: npt.NDArray[np.int64] = self.recv.view(np.int64).reshape(ranks, -1)[:, :MESSAGE]
        self.own = self.heads[rank].data.cast("B")
        self.sent = [
            self.send[begin + HEAD_BYTES :][:its] for begin, its in zip(self.send_begins, carried, strict=True)
        ]
        self.received = [self.recv[begin + HEAD_BYTES :][:size] for begin in self.recv_begins]
        self.copies = (
            [self.send.data[begin : begin + HEAD_BYTES] for r, begin in enumerate(self.send_begins) if r != rank]
            if any(carried)
            else []
        )
