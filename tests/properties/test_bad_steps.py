"""Bad gradients, options and groups: an error that says what to do, nothing changed, and no trace in later steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bad_input import Bad, Tensor, check_says, f32, read_only
from cases import everything

import fastopt


def new_params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a": {"W": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)},
        "c": rng.normal(size=5).astype(np.float32),
    }


def flat(params: Any) -> list[Any]:
    return [params["a"]["W"], params["a"]["b"], params["c"]]


def new_grads(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "a": {"W": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)},
        "c": rng.normal(size=5).astype(np.float32),
    }


def last_is(value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what makes gradients that are good but for the last."""
    return lambda params: {**new_grads(9), "c": value(params)}


def with_key(key: Any, where: str | None = None) -> Callable[[Any], Any]:
    def do(params: Any) -> Any:
        grads = new_grads(9)
        (grads if where is None else grads[where])[key] = f32(2)
        return grads

    return do


def others_for(b: Any, c: Any) -> Callable[[Any], Any]:
    return lambda params: {"a": {"W": f32(3, 4), "b": b(params)}, "c": c(params)}


def made_up(params: Any) -> Any:
    return defaultdict(lambda: None, {"a": new_grads(9)["a"], "C": f32(5)})


BAD_GRADS = [
    Bad("one array", lambda params: f32(3), TypeError, ("grads", "'a'", "ndarray", "same structure")),
    Bad("None", lambda params: None, TypeError, ("grads", "NoneType")),
    Bad("list for dict", lambda params: [f32(3, 4), f32(4), f32(5)], TypeError, ("grads", "dict", "list")),
    Bad("array for dict", lambda params: {"a": f32(3, 4), "c": f32(5)}, TypeError, ("grads.a", "'W'", "ndarray")),
    Bad("extra name", with_key("d"), ValueError, ("grads:", "'d'", "['a', 'c']")),
    Bad("extra name inside", with_key("B", "a"), ValueError, ("grads.a", "'B'", "['W', 'b']")),
    Bad("wrong name", lambda params: {"a": {}, "C": f32(5)}, ValueError, ("'C'", "['a', 'c']")),
    Bad("wrong name in a defaultdict", made_up, ValueError, ("'C'", "['a', 'c']")),
    Bad("other shape", last_is(lambda params: f32(4)), ValueError, ("'c'", "(4,)", "(5,)")),
    Bad("other axes", last_is(lambda params: f32(2, 5)), ValueError, ("'c'", "(2, 5)", "sum over")),
    Bad("column", last_is(lambda params: f32(5, 1)), ValueError, ("'c'", "(5, 1)", "reshape")),
    Bad("int array", last_is(lambda params: np.ones(5, int)), TypeError, ("'c'", "int64", "astype")),
    Bad("bool array", last_is(lambda params: np.ones(5, bool)), TypeError, ("'c'", "bool")),
    Bad("complex array", last_is(lambda params: np.ones(5, complex)), TypeError, ("'c'", "complex128")),
    Bad("object array", last_is(lambda params: np.ones(5, object)), TypeError, ("'c'", "object")),
    Bad("text array", last_is(lambda params: np.array(["1"] * 5)), TypeError, ("'c'", "<U1")),
    Bad("masked array", last_is(lambda params: np.ma.ones(5)), TypeError, ("'c'", "masked", "filled")),
    Bad("array-like", last_is(lambda params: Tensor()), ValueError, ("'c'", "has shape (3,)")),
    Bad("list of floats", last_is(lambda params: [1.0] * 5), TypeError, ("'c'", "list", "(5,)")),
    Bad("one float", last_is(lambda params: 1.0), ValueError, ("'c'", "()", "(5,)")),
    Bad("one int", last_is(lambda params: 1), TypeError, ("'c'", "int")),
    Bad("its parameter", last_is(lambda params: params["c"]), ValueError, ("'c'", "overlaps", "copy")),
    Bad("part of its parameter", last_is(lambda p: p["a"]["W"].reshape(-1)[2:7]), ValueError, ("'c'", "'a.W'")),
    Bad("another parameter", others_for(lambda p: p["a"]["W"][1], lambda p: f32(5)), ValueError, ("'a.b'", "'a.W'")),
    Bad("bytes of a parameter", last_is(lambda p: p["a"]["W"].reshape(-1)[:10].view("f8")), ValueError, ("'a.W'",)),
    Bad("the parameters", lambda params: params, ValueError, ("'a.W'", "overlaps")),
    # After float16 and None, what the optimizer knows of the sizes of gradients must be that of the last good step.
    Bad("overlap, other dtypes", others_for(lambda p: np.ones(4), lambda p: p["c"]), ValueError, ("'c'", "overlaps")),
    Bad("overlap, some None", others_for(lambda p: None, lambda p: p["c"]), ValueError, ("'c'", "overlaps")),
]


def snapshot(params: Any, opt: fastopt.Optimizer, grads: Any = ()) -> list[Any]:
    arrays = [leaf.tobytes() for leaf in leaves(grads) if isinstance(leaf, np.ndarray)]
    return [everything(flat(params), opt), [list(slots) for slots in opt.state.values()], opt.step_count, arrays]


def leaves(grads: Any) -> list[Any]:
    if isinstance(grads, dict):
        grads = list(grads.values())
    if isinstance(grads, (list, tuple)):
        return [leaf for child in grads for leaf in leaves(child)]
    return [grads]


def as_if_never_done(bad: Bad, at: int, **options: Any) -> None:
    """A bad step before good step number ``at`` raises, changes nothing, and leaves no trace in the steps after it."""
    params, reference_params = new_params(), new_params()
    opt, reference = fastopt.Adam(params, **options), fastopt.Adam(reference_params, **options)
    for step in range(3):
        if step == at:
            grads = bad.do(params)
            before = snapshot(params, opt, grads)
            for _ in range(2):
                with pytest.raises(bad.error) as raised:
                    opt.step(grads)
                check_says(raised, bad.says)
                assert snapshot(params, opt, grads) == before
        assert opt.step(new_grads(step)) == reference.step(new_grads(step))
    assert snapshot(params, opt) == snapshot(reference_params, reference)


@pytest.mark.parametrize("bad", BAD_GRADS, ids=str)
@pytest.mark.parametrize("at", [0, 1])
def test_grads(bad: Bad, at: int) -> None:
    as_if_never_done(bad, at)
    as_if_never_done(bad, at, clip_norm=1.0, clip_global_norm=1.0, amsgrad=True)


def test_an_overlap_is_seen_after_any_failed_step() -> None:
    """Fresh gradients take a short way, which must not go by the sizes of a step that failed."""
    params = [f32(1000), f32(1000)]
    opt = fastopt.SGD(params, lr=0.5)
    opt.step([f32(1000), f32(1000)])
    with pytest.raises(ValueError, match="overlaps"):
        opt.step([None, params[1]])
    with pytest.raises(ValueError, match="'0' overlaps the memory of the parameter '0'"):
        opt.step([params[0], f32(1000)])
    with pytest.raises(ValueError, match="'1' overlaps the memory of the parameter '0'"):
        opt.step([f32(1000), params[0]])
    opt.step([f32(1000), f32(1000)])
    assert (params[0] == 0).all()
    assert (params[1] == 0).all()


def test_grads_beside_a_parameter_are_no_overlap() -> None:
    """Neighbours in one buffer touch, and don't overlap; a false alarm after a failed step would be as bad."""
    buffer = np.ones(40, np.float32)
    params, grads = [buffer[:10], buffer[20:30]], [buffer[10:20], buffer[30:]]
    opt = fastopt.SGD(params, lr=1.0)
    opt.step(grads)
    with pytest.raises(ValueError, match="overlaps"):
        opt.step([buffer[:20].view("f8"), buffer[30:]])
    opt.step([buffer[10:20], buffer[30:]])
    assert buffer.tolist() == [-1] * 10 + [1] * 10 + [-1] * 10 + [1] * 10


def replace_param(params: Any, opt: Any) -> Callable[[], Any]:
    kept, params["a"]["b"] = params["a"]["b"], f32(4)
    return lambda: params["a"].update(b=kept)


def replace_param_by_list(params: Any, opt: Any) -> Callable[[], Any]:
    kept, params["c"] = params["c"], params["c"].tolist()
    return lambda: params.update(c=kept)


def replace_branch(params: Any, opt: Any) -> Callable[[], Any]:
    kept, params["a"] = params["a"], dict(params["a"])
    return lambda: params.update(a=kept)


def delete_param(params: Any, opt: Any) -> Callable[[], Any]:
    kept = params.pop("c")
    return lambda: params.update(c=kept)


def write(option: str, value: Any) -> Callable[..., Callable[[], Any]]:
    def do(params: Any, opt: Any) -> Callable[[], Any]:
        group = opt.param_groups[-1]
        kept, group[option] = group[option], value
        return lambda: group.update({option: kept})

    return do


def delete_option(params: Any, opt: Any) -> Callable[[], Any]:
    kept = opt.param_groups[0].pop("lr")
    return lambda: opt.param_groups[0].update(lr=kept)


def add_option(params: Any, opt: Any) -> Callable[[], Any]:
    opt.param_groups[0]["rate"] = 1.0
    return lambda: opt.param_groups[0].pop("rate")


def add_group_by_hand(params: Any, opt: Any) -> Callable[[], Any]:
    opt.param_groups.append({"params": (f32(2),), "lr": 0.1})
    return opt.param_groups.pop


def drop_groups(params: Any, opt: Any) -> Callable[[], Any]:
    kept, opt.param_groups = opt.param_groups, []
    return lambda: setattr(opt, "param_groups", kept)


def fails(step: int) -> float:
    raise ZeroDivisionError("in the schedule")


SCHEDULE = "the schedule at step"

BAD_CHANGES = [
    Bad("parameter replaced", replace_param, ValueError, ("'a.b'", "no longer", "array[...] = value")),
    Bad("parameter replaced by a list", replace_param_by_list, ValueError, ("'c'", "no longer", "array[...] = value")),
    Bad("branch replaced", replace_branch, ValueError, ("'a'", "no longer")),
    Bad("parameter deleted", delete_param, ValueError, ("'c'", "no longer")),
    Bad("params of a group", write("params", ()), ValueError, ("param_groups[0]", "'params'", "add_param_group")),
    Bad("option deleted", delete_option, ValueError, ("param_groups[0]", "'lr'")),
    Bad("option added", add_option, ValueError, ("param_groups[0]", "'rate'")),
    Bad("group added by hand", add_group_by_hand, ValueError, ("expected 1 groups, got 2", "add_param_group")),
    Bad("groups dropped", drop_groups, ValueError, ("expected 1 groups, got 0",)),
    Bad("schedule of NaN", write("lr", lambda step: float("nan")), ValueError, (SCHEDULE, "lr=nan")),
    Bad("negative schedule", write("lr", lambda step: -0.1), ValueError, (SCHEDULE, "lr=-0.1", "at least 0")),
    Bad("schedule of None", write("lr", lambda step: None), TypeError, (SCHEDULE, "lr=None")),
    Bad("schedule of text", write("lr", lambda step: "0.1"), TypeError, (SCHEDULE, "lr='0.1'")),
    Bad("maker of schedules", write("lr", fastopt.schedules.constant), TypeError, ("lr=constant", "make one")),
    Bad("schedule that raises", write("lr", fails), ZeroDivisionError, ("in the schedule",)),
]


@pytest.mark.parametrize("bad", BAD_CHANGES, ids=str)
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "clip_global_norm": 0.1}], ids=["plain", "clipped"])
def test_changes(bad: Bad, at: int, options: dict[str, Any]) -> None:
    params, reference_params = new_params(), new_params()
    arrays = flat(params)
    opt, reference = fastopt.Adam(params, **options), fastopt.Adam(reference_params, **options)
    for step in range(3):
        grads = new_grads(step)
        if step == at:
            before = everything(arrays, opt), [list(slots) for slots in opt.state.values()]
            mend = bad.do(params, opt)
            for _ in range(2):
                with pytest.raises(bad.error) as raised:
                    opt.step(grads)
                check_says(raised, bad.says)
                assert (everything(arrays, opt), [list(slots) for slots in opt.state.values()]) == before
                assert opt.step_count == step
            mend()
        assert opt.step(grads) == reference.step(new_grads(step))
    assert snapshot(params, opt) == snapshot(reference_params, reference)


def test_a_bad_second_group_comes_before_anything_of_the_first() -> None:
    params = [f32(3), f32(2)]
    opt = fastopt.SGD([{"params": [params[0]]}, {"params": [params[1]], "lr": fastopt.schedules.constant(0.5)}], lr=0.5)
    before = everything(params, opt)
    first, second = opt.param_groups
    for option, value in (("lr", fails), ("lr", lambda step: float("nan")), ("momentum", -1), ("nesterov", True)):
        good = second[option]
        first.update(momentum=0.9, lr=0.25)
        second[option] = value
        with pytest.raises((ValueError, ZeroDivisionError)):
            opt.step([[f32(3)], [f32(2)]])
        assert everything(params, opt) == before
        second[option] = good
        first.update(momentum=0.0, lr=0.5)
    opt.step([[f32(3)], [f32(2)]])
    assert [param.tolist() for param in params] == [[0.5] * 3, [0.5] * 2]
    assert list(opt.state["0.0"]) == ["step"]


BAD_GROUPS = [
    Bad("no dict", lambda params: f32(2), TypeError, ("'params'", "array")),
    Bad("no params", lambda params: {"lr": 0.1}, TypeError, ("'params'",)),
    Bad("list for a dict", lambda params: {"params": [f32(2)]}, TypeError, ("dict of new names", "list")),
    Bad("array for a dict", lambda params: {"params": f32(2)}, TypeError, ("dict of new names", "ndarray")),
    Bad("name taken", lambda params: {"params": {"c": f32(2)}}, ValueError, ("'c'", "there already")),
    Bad("path taken", lambda params: {"params": {"a.b": f32(2)}}, ValueError, ("'a.b'", "rename")),
    Bad("array taken", lambda params: {"params": {"d": params["c"]}}, ValueError, ("'c'", "'d'", "share memory")),
    Bad("view taken", lambda params: {"params": {"d": params["c"][1:3]}}, ValueError, ("'c'", "'d'", "share memory")),
    Bad("nothing", lambda params: {"params": {}}, ValueError, ("no array",)),
    Bad("int array", lambda params: {"params": {"d": np.ones(2, int)}}, TypeError, ("'d'", "int64")),
    Bad("last is bad", lambda p: {"params": {"d": f32(2), "e": read_only(f32(2))}}, ValueError, ("'e'", "read-only")),
    Bad(
        "unknown option", lambda p: {"params": {"d": f32(2)}, "clip_global_norm": 1}, ValueError, ("clip_global_norm",)
    ),
    Bad("bad option", lambda params: {"params": {"d": f32(2)}, "eps": -1}, ValueError, ("param_groups[1]", "eps=-1")),
]


@pytest.mark.parametrize("bad", BAD_GROUPS, ids=str)
@pytest.mark.parametrize("at", [0, 1])
def test_add_param_group(bad: Bad, at: int) -> None:
    params, reference_params = new_params(), new_params()
    opt, reference = fastopt.Adam(params), fastopt.Adam(reference_params)
    for step in range(2):
        if step == at:
            before = snapshot(params, opt)
            with pytest.raises(bad.error) as raised:
                opt.add_param_group(bad.do(params))
            check_says(raised, bad.says)
            assert snapshot(params, opt) == before
            assert len(opt.param_groups) == 1
        opt.step(new_grads(step))
        reference.step(new_grads(step))
    assert snapshot(params, opt) == snapshot(reference_params, reference)


def test_a_failed_group_leaves_a_single_array_single() -> None:
    param = f32(2)
    opt = fastopt.SGD(param, lr=1.0)
    for bad in (param, param[:1], np.ones(2, int), [], read_only(f32(2))):
        with pytest.raises((TypeError, ValueError)):
            opt.add_param_group({"params": bad})
    opt.step(f32(2))
    assert param.tolist() == [0, 0]
