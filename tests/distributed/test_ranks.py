"""The ranks of a communicator: exchanges, agreement and meetings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks

from fastopt.distributed.ranks import Ranks

SIZES = pytest.mark.parametrize("size", [1, 2, 4])


def exchange_all(comm: Any) -> Any:
    ranks = Ranks(comm)
    gathered = ranks.all_gather(np.array([ranks.rank, 7]))
    return gathered.tolist(), ranks.all_gather_objects({"rank": ranks.rank})


@SIZES
def test_all_gather(size: int) -> None:
    everyone = [[rank, 7] for rank in range(size)], [{"rank": rank} for rank in range(size)]
    assert on_ranks(size, exchange_all) == [everyone] * size
