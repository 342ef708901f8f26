"""The check on demand that all ranks have the same values in their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from saved_runs import Run, error_of, leaves, steps

import fastopt


def errors(comm: Any, dtype: str) -> list[str]:
    """Return the errors of checks: after steps, after one rank has written, and when it was mended in two ways."""
    run = Run(fastopt.AdamW, {}, dtype)
    params = run.params()
    opt = run.sharded(params, comm)
    steps(opt, params, comm.size, range(2))
    found = [error_of(opt.check_params)]
    for mend in (opt.reload_params, lambda: steps(opt, params, comm.size, range(2, 3))):
        if comm.rank == 1:
            begin, _ = opt.slices["layers.1.W"]
            params["layers"][1]["W"].flat[0 if begin > 0 else -1] += 1  # another rank owns it
        found.append(error_of(opt.check_params))
        mend()
        found.append(error_of(opt.check_params))
    if comm.rank == 1:
        params["F"] = params["F"].copy()
    found.append(error_of(opt.check_params))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_rank_that_has_other_values_is_named_on_all(dtype: str) -> None:
    of_ranks = on_ranks(3, errors, dtype)
    for good, wrong, mended, wrong_again, mended_again, _ in of_ranks:
        assert good == mended == mended_again == "nothing"
        assert wrong.startswith("ValueError: the ranks differ: the checksum of params: 'layers.1.W' is ")
        assert " on ranks 0 and 2, " in wrong
        assert wrong.endswith(
            " on rank 1; give all the same: write the same on every rank, or call reload_params(), which takes each "
            "slice from its owner"
        )
        assert "'layers.1.W'" in wrong_again
    replaced = [found[-1] for found in of_ranks]
    assert replaced[1].startswith("ValueError: params: 'F' is no longer the object")
    assert replaced[0] == replaced[2] == f"RankError: rank 1 raised {replaced[1]}"


def alone(comm: Any) -> str:
    opt = Run(fastopt.SGD).sharded([np.ones(3)], comm)
    return error_of(opt.check_params) + str(leaves(opt.params))


def test_a_single_rank_agrees_with_itself() -> None:
    assert on_ranks(1, alone) == ["nothing[array([1., 1., 1.])]"]
