"""What has no meaning for an optimizer is refused, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES

import fastopt

pytestmark = pytest.mark.usefixtures("restored")


@pytest.mark.parametrize("optimizer", sorted({case.optimizer for case in CASES} | {fastopt.Muon}, key=str), ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"l1": 0.1},
        {"prox_l1": 0.1},
        {"max_weight_norm": 1.0},
        {"bounds": (-1, 2)},
        {"bounds": (None, [np.full((2, 2), 2)])},
        {"cautious_decay": True, "decoupled": True},
        {"ema_decay": 0.9},
        {"polyak": True},
        {"zero_grads": True},
        {"accumulate_steps": 2},
        {"state_dtype": "bfloat16"},
        {"stochastic_rounding": True},
        {"copy_to": [np.zeros((2, 2), np.float16)]},
    ],
    ids=str,
)
def test_an_option_is_taken_or_refused_when_built(optimizer: type[fastopt.Optimizer], options: dict[str, Any]) -> None:
    name = next(iter(options))
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "stochastic_rounding" else np.float32
    params = [np.ones((2, 2), dtype)]
    if name not in optimizer.refused:
        assert optimizer(params, **options).step([np.ones((2, 2))]).step in (0, 1)
        return
    with pytest.raises(ValueError, match=f"(?s){name}=.*: {optimizer.__name__} does not take it: .*; leave it out"):
        optimizer(params, **options)
    for words in (name, "error"):
        assert words in (optimizer.__doc__ or ""), "what is refused is documented"


def test_a_group_can_not_ask_later_for_what_is_refused() -> None:
    opt = fastopt.ScheduleFreeSGD([np.ones(2)])
    opt.param_groups[0]["prox_l1"] = 0.1
    with pytest.raises(ValueError, match=r"prox_l1=0\.1: ScheduleFreeSGD does not take it: the parameters are y"):
        opt.step([np.ones(2)])
