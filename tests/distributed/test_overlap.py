"""add(): gradients one by one, in any order, exchanged while others are computed; steps that fail or are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks

import fastopt
from fastopt.distributed import RankError, Sharded

#: Each is a bucket alone, but the last three.
SHAPES = {"a": (5000,), "b": (70, 80), "c": (4500,), "d": (3,), "e": (4, 5), "f": ()}
NAMES = list(SHAPES)
BUCKET_BYTES = 2**12


def params() -> dict[str, Any]:
    return {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}


def gradients(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {name: np.asarray(rng.normal(size=shape)).astype("f4") for name, shape in SHAPES.items()}


def sharded(comm: Any, **options: Any) -> Sharded:
    return Sharded(fastopt.AdamW, params(), comm, bucket_bytes=BUCKET_BYTES, **options)


def differences(opt: Sharded, other: Sharded) -> list[str]:
    """Return the names of the arrays whose values or slots differ between two sharded optimizers."""
    arrays = zip(opt.whole.names, opt.whole.arrays, other.whole.arrays, strict=True)
    found = [name for name, array, its in arrays if array.tobytes() != its.tobytes()]
    for name in NAMES:
        slots = opt.state[name], other.state[name]
        found += [name] * any(slots[0][slot].tobytes() != slots[1][slot].tobytes() for slot in slots[1])
    return found


def order_of(rank: int, step: int) -> list[str]:
    """Return the names, in another order on each rank and in each step."""
    return np.random.default_rng((rank, step)).permutation(NAMES).tolist()


def wrong(comm: Any, exact: bool, without: Sequence[str]) -> list[str]:
    """Return what differs from steps that get all gradients at once."""
    opt, other = sharded(comm, exact=exact), sharded(comm, exact=exact)
    found = []
    for step in range(4):
        count = 2 if exact else 1
        grads = [gradients(8 * step + 4 * k + comm.rank) for k in range(count)]
        for each in grads:
            for name in order_of(comm.rank, step):
                if name not in without:
                    opt.add(name, each[name])
        info = opt.step()
        given = [{name: None if name in without else grad for name, grad in each.items()} for each in grads]
        found += [f"{info}"] * (info != other.step(given if exact else given[0]))
        found += differences(opt, other)
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("without", [[], ["b", "e"]])
def test_bits_of_a_step_with_all_gradients(size: int, exact: bool, without: list[str]) -> None:
    assert on_ranks(size, wrong, exact, without) == [[]] * size


def early(comm: Any) -> list[int]:
    """Return how many pieces have begun before step() is called: in the first steps, and for one that adds forwards."""
    opt, found = sharded(comm), []
    for names in (NAMES[::-1], NAMES, NAMES, NAMES[::-1]):
        for name in names:
            opt.add(name, gradients(0)[name])
        found.append(opt.gradients.exchange.begun)
        opt.step()
    return found


def test_exchanges_begin_before_the_step() -> None:
    # Three are on their way at a time; nobody waits in add(), so that there may be more.
    for found in on_ranks(2, early):
        assert min(found) >= 3


def begun_at_the_meeting(comm: Any) -> list[int]:
    """Return how many pieces have begun when the ranks meet: in steps that get all gradients, and in flush()."""
    opt, found = sharded(comm, accumulate_steps=2), []
    meet = opt.ranks.meet

    def meet_and_look(*arguments: Any) -> Any:
        found.append(opt.gradients.exchange.begun)
        return meet(*arguments)

    opt.ranks.meet = meet_and_look  # type: ignore[method-assign]
    for _ in range(3):
        opt.step(gradients(comm.rank))
    opt.flush()
    return found


def test_exchanges_of_a_step_begin_before_the_ranks_meet() -> None:
    for found in on_ranks(2, begun_at_the_meeting):
        assert min(found[:3]) >= 3
        assert found[3] == 0


def order_in_use(comm: Any, names: Sequence[str]) -> list[int]:
    opt = sharded(comm)
    for name in names if comm.rank == 0 else order_of(comm.rank, 0):
        opt.add(name, gradients(0)[name])
    opt.step()
    return opt.gradients.order


def test_order_of_buckets_is_that_of_rank_0() -> None:
    assert on_ranks(3, order_in_use, ["b", "d", "f", "e", "a", "c"]) == [[1, 3, 0, 2]] * 3


def wrong_calls(comm: Any) -> list[str]:
    """Return the errors of wrong calls of add(), which count for nothing."""
    opt, other, found = sharded(comm), sharded(comm), []
    grads = gradients(comm.rank)
    opt.add("a", grads["a"])
    calls: list[tuple[str, Any]] = [
        ("z", grads["a"]),
        ("a", grads["a"]),
        ("b", grads["a"]),
        ("c", fastopt.RowSparse(np.zeros(1, int), np.zeros(1, "f4"))),
        ("d", [1.0]),
    ]
    if comm.rank == 0:
        for name, grad in calls:
            try:
                opt.add(name, grad)
            except (TypeError, ValueError) as error:
                found.append(str(error))
    for name in NAMES[1:]:
        opt.add(name, grads[name])
    opt.step()
    other.step(grads)
    assert not differences(opt, other)
    return found


def test_wrong_calls_are_told_at_once() -> None:
    found = on_ranks(2, wrong_calls)[0]
    starts = [
        "add: there is no array 'z'; the arrays are ['a', 'b'",
        "add: 'a' has a gradient in this step already",
        "grads: 'b' has shape (5000,)",
        "grads: 'c' is row-sparse",
        "grads: 'd' is of type list",
    ]
    assert len(found) == len(starts)
    assert all(text.startswith(start) for text, start in zip(found, starts, strict=True)), found


def broken(comm: Any, how: str) -> list[Any]:
    """Return how a step ends that rank 1 breaks after some calls of add(), and whether the next ones are right."""
    opt, other, found = sharded(comm), sharded(comm), []
    for step in range(4):
        grads = gradients(4 * step + comm.rank)
        is_broken = step in (1, 2)
        names = NAMES[::-1] if not is_broken or comm.rank == 0 else NAMES[: 2 * step - 1 : -1]
        for name in names:
            opt.add(name, grads[name])
        try:
            if is_broken and comm.rank == 1:
                if how == "drop":
                    opt.drop()
                    found.append("dropped")
                else:
                    opt.step(grads)
            else:
                opt.step()
        except (RankError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
        if not is_broken:
            other.step(grads)
        found += differences(opt, other)
    return found


@pytest.mark.parametrize("how", ["drop", "error"])
def test_a_step_that_one_rank_breaks_is_none(how: str) -> None:
    first, second = on_ranks(2, broken, how)
    if how == "drop":
        assert first == ["RankError: rank 1 raised Dropped: this rank dropped the step: drop()"] * 2
        assert second == ["dropped"] * 2
    else:
        assert first == [f"RankError: rank 1 raised {text}" for text in second]
        assert second == ["ValueError: step: gradients were given after add(); give all by add(), then call step()"] * 2


def mixed(comm: Any) -> list[str]:
    """Return the error where one rank gives all gradients at once, and whether the next step is right."""
    opt, other, grads = sharded(comm), sharded(comm), gradients(comm.rank)
    for name in NAMES[::-1] if comm.rank else ():
        opt.add(name, grads[name])
    with pytest.raises(ValueError, match="the ranks differ: whether gradients come by add"):
        opt.step(None if comm.rank else grads)
    opt.step(grads)
    other.step(grads)
    return differences(opt, other)


def test_all_ranks_give_gradients_alike() -> None:
    assert on_ranks(2, mixed) == [[]] * 2


def with_a_new_group(comm: Any) -> bool:
    """Return whether a step is right after a group was refused between calls of add()."""
    opt, other, grads = sharded(comm), sharded(comm), gradients(comm.rank)
    opt.add("a", grads["a"])
    with pytest.raises(RuntimeError, match="there are gradients of add"):
        opt.add_param_group({"params": {"g": np.ones(3, "f4")}})
    for name in NAMES[1:]:
        opt.add(name, grads[name])
    opt.step()
    other.step(grads)
    return not differences(opt, other)


def test_a_group_is_not_added_between_gradients() -> None:
    assert on_ranks(2, with_a_new_group) == [True] * 2


def scaled(comm: Any) -> str:
    opt = sharded(comm, exact=True, grad_scale=2.0)
    opt.step([gradients(0)])
    for name in NAMES[::-1]:
        opt.add(name, gradients(0)[name])
    with pytest.raises(ValueError, match=r"grad_scale is 4\.0") as caught:
        opt.step(grad_scale=4.0)
    return str(caught.value)


def test_another_scale_than_that_of_add_is_refused() -> None:
    assert "set opt.grad_scale before the first add()" in on_ranks(2, scaled)[1]


def unfrozen(comm: Any) -> list[str]:
    """Return what differs from steps that get all gradients, where one is frozen for a step."""
    opt, other, found = sharded(comm), sharded(comm), []
    for step in range(3):
        for each in (opt, other):
            if step == 1:
                each.freeze("b")
            else:
                each.unfreeze()
        grads = gradients(step)
        for name in NAMES:
            opt.add(name, grads[name])
        opt.step()
        other.step(grads)
        found += [f"step {step}: {name}" for name in differences(opt, other)]
    return found


@pytest.mark.parametrize("size", [1, 2])
def test_add_takes_a_gradient_again_after_unfreeze(size: int) -> None:
    assert on_ranks(size, unfrozen) == [[]] * size


def cleared(comm: Any) -> list[bool]:
    opt, grads = sharded(comm, zero_grads=True), gradients(0)
    for name in NAMES:
        opt.add(name, grads[name])
    opt.step()
    return [bool(grad.any()) for grad in grads.values()]


def test_zero_grads_clears_what_was_added() -> None:
    assert on_ranks(2, cleared) == [[False] * 6] * 2
