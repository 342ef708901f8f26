"""Ranks that make different calls: an error on all that names the calls, and no harm."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from saved_runs import Run, difference, error_of, gradients, leaves, over, steps

import fastopt
from fastopt.distributed import load, save

NAMES = ["save", "state_dict", "slot", "ema", "averaged()", "reload_params", "check_params", "load", "restore", "flush"]


def calls(comm: Any, path: str) -> list[str]:
    """Return the errors of calls that rank 0 makes instead of a step; and how the run differs that goes on."""
    run = Run(fastopt.AdamW, {"ema_decay": 0.5})
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    steps(opt, params, comm.size, range(1))
    steps(plain, like, comm.size, range(1))
    checkpoint = fastopt.Checkpoint(over(np.copy, like), plain.state_dict(), {})
    others = [
        partial(save, path, opt),
        opt.state_dict,
        partial(opt.slot, "F", "m"),
        lambda: opt.ema,
        lambda: opt.averaged().__enter__(),
        opt.reload_params,
        opt.check_params,
        partial(opt.load_state_dict, plain.state_dict()),
        partial(checkpoint.restore, opt),
        opt.flush,
    ]
    found = []
    for number, call in enumerate(others):
        found.append(error_of(call if comm.rank == 0 else partial(opt.step, gradients(params, comm.rank, number))))
    steps(opt, params, comm.size, range(1, 3))
    steps(plain, like, comm.size, range(1, 3))
    return [*found, difference(leaves(like), leaves(params)), difference(plain.state_dict(), opt.state_dict())]


def test_different_calls_are_an_error_that_names_them_on_all_ranks(tmp_path: Any) -> None:
    for found in on_ranks(3, calls, str(tmp_path / "run")):
        assert found[len(NAMES) :] == ["", ""]
        for name, error in zip(NAMES, found, strict=False):
            shown = "load" if name == "restore" else name
            expected = f"CallsDiffer: the ranks make different calls: {shown} on rank 0, step on ranks 1 and 2; make"
            assert error.startswith(expected), error


def with_added(comm: Any, first: str, others: str) -> list[str]:
    """As :func:`calls`, while gradients are given by ``add``, which every rank loses."""
    run = Run(fastopt.AdamW)
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    for name, grad in zip(opt.whole.names, leaves(gradients(params, comm.rank, 0)), strict=True):
        opt.add(name, grad)
    both = {"state_dict": opt.state_dict, "step": opt.step, "drop": opt.drop, "wrong slot": partial(opt.slot, "F", "z")}
    error = error_of(both[others if comm.rank else first])
    steps(opt, params, comm.size, range(2))
    steps(plain, like, comm.size, range(2))
    return [error.partition(":")[0], difference(leaves(like), leaves(params))]


@pytest.mark.parametrize(
    ("calls", "errors"),
    [
        (("state_dict", "step"), ("CallsDiffer", "CallsDiffer")),
        (("drop", "state_dict"), ("nothing", "RankError")),
        (("wrong slot", "step"), ("KeyError", "RankError")),
        (("drop", "wrong slot"), ("nothing", "KeyError")),
    ],
)
def test_different_calls_drop_the_gradients_that_were_added(calls: tuple[str, str], errors: tuple[str, str]) -> None:
    assert on_ranks(3, with_added, *calls) == [[errors[0], ""], [errors[1], ""], [errors[1], ""]]


def constructors(comm: Any, path: str) -> list[str]:
    """Return the error where rank 0 opens a checkpoint and the others make an optimizer; and how a run goes on."""
    run = Run(fastopt.AdamW)
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    save(path, opt)
    errors = [
        error_of(partial(load, path, comm) if comm.rank == 0 else partial(run.sharded, run.params(), comm)),
        error_of(partial(load, path, comm) if comm.rank == 0 else partial(run.sharded, None, comm)),
    ]
    steps(opt, params, comm.size, range(2))
    steps(plain, like, comm.size, range(2))
    load(path, comm).restore(run.sharded(run.params(), comm))
    return [*errors, difference(leaves(like), leaves(params))]


def test_different_constructors(tmp_path: Any) -> None:
    first, second, third = on_ranks(3, constructors, str(tmp_path / "run"))
    expected = "CallsDiffer: the ranks make different calls: load on rank 0, a constructor on ranks 1 and 2; make"
    assert all(found[0].startswith(expected) for found in (first, second, third))
    assert first[1].startswith("RankError: rank 1 raised TypeError: ")
    assert second[1].startswith("TypeError: ")
    assert {found[2] for found in (first, second, third)} == {""}


def many(comm: Any) -> list[str]:
    """Return how a run differs that has more arrays than one message of a meeting holds, some without a gradient."""
    params, like = ([np.full(2, k, np.float32) for k in range(2000)] for _ in range(2))
    opt, plain = Run(fastopt.SGD).sharded(params, comm), fastopt.SGD(like)
    for number in range(2):
        own = [None if (k + number) % 3 == 0 or k % 5 == comm.rank else np.ones(2) for k in range(2000)]
        present = [(k + number) % 3 != 0 for k in range(2000)]
        opt.step(own)
        counts = [sum(k % 5 != rank for rank in range(comm.size)) for k in range(2000)]
        plain.step(
            [
                np.full(2, float(count)) if there and count else None
                for there, count in zip(present, counts, strict=True)
            ]
        )
    return [difference(like, params)]


@pytest.mark.parametrize("size", [1, 3])
def test_many_arrays_of_which_some_have_no_gradient(size: int) -> None:
    assert on_ranks(size, many) == [[""]] * size
