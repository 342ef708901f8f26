"""Random stacks of drivers, in several phases, resumed and loaded in all orders, against live torch."""

from __future__ import annotations

import random

import pytest
from driver_stacks import Both

pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")


@pytest.mark.parametrize(
    "seeds",
    [
        range(25),
        pytest.param(range(25, 125), marks=pytest.mark.exhaustive),
        pytest.param(range(125, 3125), marks=pytest.mark.long),
    ],
    ids=len,
)
def test_random_stacks_have_torchs_rates(seeds: range) -> None:
    for seed in seeds:
        Both(random.Random(seed)).go(30)
