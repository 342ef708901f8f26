"""Averages, and values that stand in for those of the parameters: on all ranks they have the bits of one process."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from saved_runs import Run, difference, error_of, leaves, over, steps

import fastopt
from fastopt.distributed import Sharded

SIZES = pytest.mark.parametrize("size", [1, 4])
AVERAGED = Run(fastopt.AdamW, {"ema_decay": 0.5})
AHEAD = Run(fastopt.SGD, {"momentum": 0.5})


def both(run: Run, comm: Any, count: int, **more: Any) -> tuple[Any, Any, Any, Any]:
    """Return a sharded and a plain optimizer after some steps, each with its parameters."""
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm, **more), run.plain(like, **more)
    steps(opt, params, comm.size, range(count))
    steps(plain, like, comm.size, range(count))
    return opt, params, plain, like


def averages(comm: Any) -> list[str]:
    """Return how averages differ, before a step and after some, and the parameters with and without them."""
    found = []
    for dtype in ("float32", "float16"):
        for count in (0, 3):
            opt, params, plain, like = both(AVERAGED._replace(dtype=dtype), comm, count)
            found.append(difference(plain.ema, opt.ema, "ema"))
            before = over(np.copy, params)
            with opt.averaged(), plain.averaged():
                found.append(difference(leaves(like), leaves(params), "averaged"))
                found += [] if "averaged ones" in error_of(opt.reload_params) else ["reload_params is not refused"]
            found.append(difference(leaves(before), leaves(params), "left"))
            try:
                with opt.averaged():
                    raise KeyError
            except KeyError:
                found.append(difference(leaves(before), leaves(params), "left by an error"))
            steps(opt, params, comm.size, range(3, 5))
            steps(plain, like, comm.size, range(3, 5))
            found.append(difference(leaves(like), leaves(params), "onward"))
    return [text for text in found if text]


@SIZES
def test_averages(size: int) -> None:
    assert on_ranks(size, averages) == [[]] * size


def copies(comm: Any) -> list[str]:
    """Return how copies of the parameters differ, averaged and after a load."""
    each, states, others = [], [], []
    for is_sharded in (True, False):
        params = AVERAGED.params()
        copy_to = over(partial(np.zeros_like, dtype=np.float16), params)
        opt = (
            Sharded(fastopt.AdamW, params, comm, ema_decay=0.5, copy_to=copy_to)
            if is_sharded
            else fastopt.AdamW(params, ema_decay=0.5, copy_to=copy_to)
        )
        steps(opt, params, comm.size, range(2))
        with opt.averaged():
            each.append(over(np.copy, copy_to))
        states.append(over(np.copy, copy_to))
        over(lambda array: array.fill(3), params)
        opt.reload_params()
        others.append(copy_to)
    return [difference(*map(leaves, pair)) for pair in (each, states, others)]


def test_copies_follow() -> None:
    assert on_ranks(3, copies) == [[""] * 3] * 3


def no_averages(comm: Any) -> list[str]:
    opt = AHEAD.sharded(AHEAD.params(), comm)
    return [error_of(lambda: opt.ema), error_of(lambda: opt.averaged().__enter__())]


def test_without_averages_there_is_the_error_of_one_process() -> None:
    for errors in on_ranks(2, no_averages):
        assert all("this optimizer keeps no average" in error for error in errors)


def ahead(comm: Any) -> list[str]:
    found = []
    opt, params, plain, like = both(AHEAD, comm, 2)
    before = over(np.copy, params)
    with opt.lookahead(), plain.lookahead():
        found.append(difference(leaves(like), leaves(params)))
        found += ["nothing moved"] * (difference(leaves(before), leaves(params)) == "")
        found += [] if "those ahead" in error_of(lambda: opt.step(params)) else ["a step is not refused"]
    found.append(difference(leaves(before), leaves(params)))
    steps(opt, params, comm.size, range(2, 3))
    found += [] if not hasattr(AVERAGED.sharded(AVERAGED.params(), comm), "lookahead") else ["AdamW has lookahead"]
    return [text for text in found if text]


@SIZES
def test_lookahead(size: int) -> None:
    assert on_ranks(size, ahead) == [[]] * size


def modes(comm: Any) -> list[str]:
    """Return how the two modes of Schedule-Free differ."""
    found = []
    for dtype in ("float32", "float16"):
        opt, params, plain, like = both(Run(fastopt.ScheduleFreeAdamW, {}, dtype), comm, 3)
        for name in ("eval", "train", "eval", "eval"):
            for each in (opt, plain):
                getattr(each, name)()
            found.append(difference(leaves(like), leaves(params), name))
            found += [] if opt.is_training == plain.is_training else ["is_training"]
        found += [] if "in eval mode" in error_of(partial(opt.step, params)) else ["a step is not refused"]
        opt.train()
        plain.train()
        steps(opt, params, comm.size, range(3, 5))
        steps(plain, like, comm.size, range(3, 5))
        found.append(difference(leaves(like), leaves(params), "onward"))
        found += ["AdamW has train"] * hasattr(AVERAGED.sharded(AVERAGED.params(), comm), "train")
    return [text for text in found if text]


@SIZES
def test_train_and_eval(size: int) -> None:
    assert on_ranks(size, modes) == [[]] * size


def written(comm: Any) -> list[str]:
    """Return how runs differ whose parameters were written meanwhile: on this rank's slices alone, and everywhere."""
    found = []
    for run in (Run(fastopt.AdamW, {}, "float16"), Run(fastopt.ScheduleFreeAdamW), AVERAGED):
        opt, params, plain, like = both(run, comm, 2)
        for array in opt.parts.parameters.arrays:
            array[...] = 2
        over(lambda array: array.fill(2), like)
        found += [] if opt.reload_params("layers.*") == plain.reload_params("layers.*") else ["names"]
        opt.reload_params("F")
        plain.reload_params("F")
        found.append(difference(leaves(like), leaves(params), "written"))
        steps(opt, params, comm.size, range(2, 4))
        steps(plain, like, comm.size, range(2, 4))
        found.append(
            difference(leaves(like), leaves(params), "onward") or difference(plain.state_dict(), opt.state_dict())
        )
    found.append(error_of(lambda: opt.reload_params("unknown")))
    return [text for text in found if text]


@SIZES
def test_reload_params(size: int) -> None:
    for (error,) in on_ranks(size, written):
        assert error.startswith("ValueError: no array's name matches 'unknown'")
