"""The state of a sharded optimizer is that of one process."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from saved_runs import RUNS, Run, difference, error_of, gradients, leaves, steps, summed, write

import fastopt
from fastopt import DynamicLossScale
from fastopt.distributed import Sharded

SIZES = pytest.mark.parametrize("size", [1, 2, 4])
ADAM = Run(fastopt.Adam)


def states(comm: Any, run: Run) -> list[str]:
    """Return how the states of a sharded and a plain optimizer differ, and those of a run that went across."""
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    found = [difference(plain.state_dict(), opt.state_dict(), "fresh")]
    for number in range(4):
        for each, its in ((opt, params), (plain, like)):
            steps(each, its, comm.size, range(number, number + 1))
        if number in (0, 3):
            found.append(difference(plain.state_dict(), opt.state_dict(), f"after step {number}"))
    # Both go on from the state of the other, in new optimizers.
    crossed, crossed_like = run.params(), run.params()
    across, back = run.sharded(crossed, comm), run.plain(crossed_like)
    results = [across.load_state_dict(plain.state_dict()), back.load_state_dict(opt.state_dict())]
    found.append(difference(*map(tuple, results)) or difference(*(each.options for each in results)))
    write(crossed, like)
    write(crossed_like, params)
    everyone = [(opt, params), (plain, like), (across, crossed), (back, crossed_like)]
    for each, its in everyone:
        steps(each, its, comm.size, range(4, 7))
    expected = plain.state_dict()
    for each, its in everyone:
        found += [difference(expected, each.state_dict(), "onward"), difference(leaves(like), leaves(its), "params")]
    return [text for text in found if text]


@pytest.mark.parametrize(("size", "run"), [*((4, run) for run in RUNS), (1, RUNS[0]), (2, RUNS[1])], ids=repr)
def test_the_state_is_that_of_one_process_and_crosses_over(size: int, run: Run) -> None:
    assert on_ranks(size, states, run) == [[]] * size


def groups(comm: Any) -> list[str]:
    """Return how states differ that have groups, schedules, frozen arrays and a dynamic scale of the loss."""
    found = []
    schedule = fastopt.schedules.cosine(0.1, 10)
    both: list[tuple[Any, Any]] = []
    for is_sharded in (True, False):
        scale = DynamicLossScale(init_scale=4.0, growth_interval=2)
        options: dict[str, Any] = {"lr": schedule, "grad_scale": scale, "nonfinite": "skip"}
        params = ADAM.params()
        parts = [{"params": params["layers"][0]["W"]}, {"params": params["F"], "lr": 0.5}]
        opt: Any = Sharded(fastopt.AdamW, parts, comm, **options) if is_sharded else fastopt.AdamW(parts, **options)
        opt.add_param_group({"params": params["layers"][1]["b"], "weight_decay": 0.25})
        opt.freeze("1")
        both.append((opt, [params["layers"][0]["W"], params["F"], params["layers"][1]["b"]]))
    (opt, params), (plain, like) = both
    for number in range(3):
        opt.step([4 * grad for grad in gradients(params, comm.rank, number)])
        plain.step([4 * grad for grad in summed(like, comm.size, number)])
        found.append(difference(plain.state_dict(), opt.state_dict()))
    return [text for text in found if text]


def test_groups_schedules_frozen_arrays_and_scales() -> None:
    assert on_ranks(3, groups) == [[]] * 3


# --- loading a part ---------------------------------------------------------------------------------------------------


def saved_of(run: Run = ADAM) -> dict[str, Any]:
    """Return the state of a run in one process."""
    params = run.params()
    opt = run.plain(params)
    for number in range(2):
        opt.step(summed(params, 1, number))
    return opt.state_dict()


def wrong_state() -> dict[str, Any]:
    """Return a state of which much does not fit: shapes, also that of a slice; dtypes, slots, arrays."""
    saved = saved_of()
    state = saved["state"]
    state["layers.0.W"]["m"] = np.zeros(4096, np.float32)
    state["layers.0.b"]["v"] = state["layers.0.b"]["v"].astype(np.float64)
    state["layers.1.W"]["other"] = np.zeros(3)
    del state["layers.1.b"]["m"]
    state["unknown"] = state.pop("F")
    return saved


def result_of(opt: Any, saved: Any, arguments: dict[str, bool]) -> Any:
    """Return the result of a load, or its error."""
    try:
        result = opt.load_state_dict(saved, **arguments)
        return tuple(result), result.options
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def loads(comm: Any, saved: dict[str, Any], arguments: dict[str, bool]) -> str:
    """Return how a load differs from that of one process: its result or error, and the state after it."""
    params, like = ADAM.params(), ADAM.params()
    opt, plain = ADAM.sharded(params, comm, lr=0.5), ADAM.plain(like, lr=0.5)
    steps(opt, params, comm.size, range(1))
    steps(plain, like, comm.size, range(1))
    first, second = (result_of(each, saved, arguments) for each in (opt, plain))
    return difference(first, second) or difference(plain.state_dict(), opt.state_dict())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strict": False},
        {"state": False},
        {"options": False},
        {"strict": False, "options": False},
        {"state": False, "options": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_wrong", [False, True])
def test_loads_have_the_results_and_errors_of_one_process(arguments: dict[str, bool], is_wrong: bool) -> None:
    saved = wrong_state() if is_wrong else saved_of()
    assert on_ranks(3, loads, saved, arguments) == [""] * 3


def test_loads_of_something_else_have_the_errors_of_one_process() -> None:
    for saved in (saved_of(Run(fastopt.AdamW)), {}, None, "path"):
        assert on_ranks(2, loads, saved, {}) == [""] * 2


def errors_on_one_rank(comm: Any) -> tuple[str, list[str], str]:
    """Return the error of a load that is wrong on rank 1 alone, those of two that differ, and what has changed."""
    params = ADAM.params()
    opt = ADAM.sharded(params, comm)
    steps(opt, params, comm.size, range(1))
    before = opt.state_dict()
    saved = saved_of()
    if comm.rank == 1:
        saved["frozen"] = 3
    error = error_of(lambda: opt.load_state_dict(saved))
    others = [saved_of(), saved_of()]
    others[0]["step_count"] += comm.rank == 1
    others[1]["param_groups"][0]["lr"] *= 1 + (comm.rank == 1)
    return (
        error,
        [error_of(partial(opt.load_state_dict, each)) for each in others],
        difference(before, opt.state_dict()),
    )


def test_an_error_on_one_rank_raises_on_all_and_nothing_changes() -> None:
    results = on_ranks(3, errors_on_one_rank)
    assert results[1][0].startswith("TypeError: state_dict: 'frozen' is ")
    for rank in (0, 2):
        assert results[rank][0].startswith("RankError: rank 1 raised TypeError: state_dict: 'frozen' is ")
    for _, (of_count, of_rate), changes in results:
        start = "ValueError: the ranks differ: the load's change of "
        assert of_count.startswith(f"{start}step_count is (1, 2) on ranks 0 and 2, (1, 3) on rank 1;")
        assert of_rate.startswith(f"{start}lr is missing on ranks 0 and 2, (0.001, 0.002) on rank 1;")
        assert changes == ""


# --- accumulation -----------------------------------------------------------------------------------------------------


def accumulations(comm: Any) -> list[str]:
    """Return how runs differ that go on with exact sums from a state with ``accumulate_steps``, and back."""
    params, like = ADAM.params(), ADAM.params()
    opt, plain = ADAM.sharded(params, comm, exact=True), ADAM.plain(like, accumulate_steps=4)

    def step_both(number: int) -> None:
        grads = [gradients(like, micro, number) for micro in range(4)]
        for its in grads:
            plain.step(its)
        opt.step(grads[comm.rank :: comm.size])

    step_both(0)
    opt.load_state_dict(plain.state_dict())
    step_both(1)
    plain.load_state_dict(opt.state_dict())
    step_both(2)
    found = [difference(leaves(like), leaves(params))]
    plain.step(gradients(like, 0, 3))
    found.append(error_of(lambda: opt.load_state_dict(plain.state_dict())))
    return found


@SIZES
def test_exact_sums_go_on_from_accumulated_ones_and_back(size: int) -> None:
    for equal, error in on_ranks(size, accumulations):
        assert equal == ""
        assert "accumulated_calls=1: expected a number below accumulate_steps=1" in error


# --- other readers ----------------------------------------------------------------------------------------------------


def slots(comm: Any) -> list[str]:
    found = []
    for run in (Run(fastopt.AdamW, {"state_dtype": "uint8"}), Run(fastopt.AdamW, {"state_dtype": "bfloat16"}), ADAM):
        params, like = run.params(), run.params()
        opt, plain = run.sharded(params, comm), run.plain(like)
        steps(opt, params, comm.size, range(2))
        steps(plain, like, comm.size, range(2))
        found += [difference(plain.slot(name, "m"), opt.slot(name, "m"), name) for name in opt.whole.names]
    found.append(error_of(lambda: opt.slot("F", "unknown")))
    return [text for text in found if text]


@pytest.mark.parametrize("size", [1, 4])
def test_slot_returns_whole_slots(size: int) -> None:
    assert on_ranks(size, slots) == [["KeyError: 'unknown'"]] * size
