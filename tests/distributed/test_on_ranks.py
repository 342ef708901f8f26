"""The helper that runs functions on ranks reports what goes wrong in them, and later functions run."""

from __future__ import annotations

import os
import re
from typing import Any

import on_ranks
import pytest


def go_wrong(comm: Any) -> None:
    if comm.rank == 1:
        raise ValueError("bad")
    if comm.rank == 2:
        os._exit(0)
    comm.recv(source=1)


def rank_of(comm: Any) -> int:
    rank: int = comm.rank
    return rank


def test_a_function_that_fails_fails_its_test_alone() -> None:
    with pytest.raises(AssertionError) as told:
        on_ranks.on_ranks(4, go_wrong)
    text = str(told.value)
    # The process manager may end the others before they could tell.
    assert re.search("rank 1: (?s:.*ValueError: bad|died)", text)
    assert re.search("rank 2: died", text)
    assert on_ranks.on_ranks(2, rank_of) == [0, 1]


def test_a_function_that_hangs_fails_its_test() -> None:
    with pytest.raises(AssertionError, match="rank 0: did not return within 1 s\n\nrank 1: did not return within 1 s"):
        on_ranks.on_ranks(2, wait_for_each_other, timeout=1)


def wait_for_each_other(comm: Any) -> None:
    comm.recv()
