"""Bad input: an error that names the array, what came and the remedy, and nothing changed, whenever it comes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import everything, needs_native

import fastopt
from fastopt import rules
from fastopt.backends.native import library as native


class Bad(NamedTuple):
    """What is wrong, how to do it, and what the error is and says."""

    what: str
    do: Callable[..., Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


SWAPPED = np.dtype(np.float32).newbyteorder()


def f32(*shape: int, fill: float = 1.0) -> Any:
    return np.full(shape, fill, np.float32)


def misaligned(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(size + 1, np.uint8)[1:].view(dtype).reshape(shape)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


class Tensor:
    """What is like an array, but is none."""

    shape, dtype = (3,), np.dtype(np.float32)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return f32(3)


def overlapping() -> dict[str, Any]:
    whole = f32(10)
    return {"left": whole[:6], "right": whole[5:]}


def twice() -> list[Any]:
    array = f32(3)
    return [array, f32(2), array]


def in_two_groups() -> list[Any]:
    array = f32(4)
    return [{"params": [array]}, {"params": [array[2:]], "lr": 0.1}]


BAD_PARAMS = [
    Bad("int array", lambda: {"W": np.ones(3, int)}, TypeError, ("'W'", "int64", "float32", "astype")),
    Bad("complex array", lambda: {"W": np.ones(3, complex)}, TypeError, ("'W'", "complex128", "astype")),
    Bad("object array", lambda: {"W": np.array([1.0, None])}, TypeError, ("'W'", "object")),
    Bad("bool array", lambda: [f32(2), np.ones(3, bool)], TypeError, ("'1'", "bool")),
    Bad("swapped array", lambda: {"W": np.ones(3, SWAPPED)}, TypeError, ("'W'", SWAPPED.str, "byte order", "astype")),
    Bad("masked array", lambda: {"W": np.ma.ones(3)}, TypeError, ("'W'", "masked", ".data")),
    Bad("array-like", lambda: {"a": {"W": Tensor()}}, TypeError, ("'a.W'", "Tensor", "np.asarray")),
    Bad("list of floats", lambda: {"W": [1.0, 2.0]}, TypeError, ("'W.0'", "float", "NumPy array")),
    Bad("one float", lambda: 1.0, TypeError, ("'0'", "float", "NumPy array")),
    Bad("NumPy scalar", lambda: np.float64(1), TypeError, ("'0'", "numpy.float64")),
    Bad("None", lambda: {"W": f32(2), "b": None}, TypeError, ("'b'", "NoneType")),
    Bad("text", lambda: ["weights"], TypeError, ("'0'", "str")),
    Bad("view of a dict", lambda: {"W": f32(2)}.values(), TypeError, ("dict_values",)),
    Bad("read-only", lambda: {"W": read_only(f32(3))}, ValueError, ("'W'", "read-only", "copy")),
    Bad("strided", lambda: {"W": f32(6)[::2]}, ValueError, ("'W'", "(8,)", "ascontiguousarray")),
    Bad("columns", lambda: [f32(4, 4)[:, :2]], ValueError, ("'0'", "(4, 2)", "contiguous")),
    Bad("reversed", lambda: [f32(4)[::-1]], ValueError, ("'0'", "(-4,)")),
    Bad("axes moved", lambda: [f32(2, 3, 4).transpose(1, 0, 2)], ValueError, ("'0'", "contiguous")),
    Bad("misaligned", lambda: {"W": misaligned((3,))}, ValueError, ("'W'", "aligned")),
    Bad("twice", twice, ValueError, ("'0'", "'2'", "share memory", "once")),
    Bad("overlapping", overlapping, ValueError, ("'left'", "'right'", "share memory", "copies")),
    Bad("overlapping groups", in_two_groups, ValueError, ("'0.0'", "'1.0'", "share memory")),
    Bad("same memory, other dtype", lambda: (lambda a: [a, a.view("f4")])(np.ones(3)), ValueError, ("'0'", "'1'")),
    Bad("empty list", list, ValueError, ("no array", "at least one")),
    Bad("empty dict", dict, ValueError, ("no array", "at least one")),
    Bad("nested empties", lambda: {"a": [], "b": {"c": ()}}, ValueError, ("no array",)),
    Bad("empty group", lambda: [{"params": []}, {"params": f32(2)}], ValueError, ("no array",)),
    Bad("colliding names", lambda: {"a.b": f32(1), "a": {"b": f32(1)}}, ValueError, ("'a.b'", "rename")),
    Bad("colliding keys", lambda: {1: f32(1), "1": f32(1)}, ValueError, ("'1'", "rename")),
    Bad("group among arrays", lambda: [{"params": f32(2)}, f32(2)], TypeError, ("'params'", "array")),
    Bad("unknown option", lambda: [{"params": f32(2), "rate": 1}], ValueError, ("'rate'", "'lr'", "'betas'")),
    Bad("bad option", lambda: [{"params": f32(2)}, {"params": f32(2), "lr": -1}], ValueError, ("groups[1]", "lr=-1")),
]


def check_says(raised: Any, says: tuple[str, ...]) -> None:
    missing = [part for part in says if part not in str(raised.value)]
    assert not missing, f"{missing} not in: {raised.value}"


@pytest.mark.parametrize("bad", BAD_PARAMS, ids=str)
def test_params(bad: Bad) -> None:
    with pytest.raises(bad.error) as raised:
        fastopt.Adam(bad.do())
    check_says(raised, bad.says)


NOT_NEGATIVE: tuple[Any, ...] = (-1, -1e-9, float("nan"), float("inf"), float("-inf"), 10**400, np.float32("nan"))
NO_NUMBER: tuple[Any, ...] = (True, np.True_, "0.1", None, [0.1], 1j, np.array(0.1), np.array([0.1, 0.2]))
NO_BOOL: tuple[Any, ...] = (1, 0.0, "yes", None, [])
OPTIMIZERS = (fastopt.SGD, fastopt.Adagrad, fastopt.RMSprop, fastopt.Adam, fastopt.AdamW)
OPTIONAL = ("clip_value", "clip_norm", "clip_global_norm", "max_norm")


def every_bad_option() -> list[Any]:
    """Return (optimizer, option, values of the wrong kind, values out of range) for every option there is."""
    rows = []
    for optimizer in OPTIMIZERS:
        for option, default in {**optimizer(f32(1)).defaults, "clip_global_norm": None}.items():
            wrong_kind, out_of_range = NO_NUMBER, NOT_NEGATIVE
            if isinstance(default, bool):
                wrong_kind, out_of_range = NO_BOOL, ()
            elif option in OPTIONAL:
                wrong_kind = tuple(value for value in NO_NUMBER if value is not None)
            elif option == "betas":
                wrong_kind = (0.9, (0.9,), (0.9, 0.9, 0.9), ("a", 0.9), (True, 0.9), np.array([0.9, 0.9]), "ab", None)
                out_of_range = ((1.0, 0.9), (0.9, -0.1), (0.9, float("nan")))
            elif option == "max_norm_axis":
                wrong_kind, out_of_range = (True, "0", None, 1.5, (0, 1.5), 1j), ()
            elif option == "dampening":
                out_of_range = (float("nan"), float("inf"), 10**400)
            elif option == "alpha":
                out_of_range = (*NOT_NEGATIVE, 1.0)
            rows.append(pytest.param(optimizer, option, wrong_kind, out_of_range, id=f"{optimizer.__name__}-{option}"))
    return rows


@pytest.mark.parametrize(("optimizer", "option", "wrong_kind", "out_of_range"), every_bad_option())
def test_options(optimizer: Any, option: str, wrong_kind: Any, out_of_range: Any) -> None:
    """In the constructor, in a group, and written into a group between two steps."""
    params = [f32(3), f32(2)]
    opt = optimizer(params)
    opt.step([f32(3), f32(2)])
    before = everything(params, opt)
    for error, values in ((TypeError, wrong_kind), (ValueError, out_of_range)):
        for value in values:
            with pytest.raises(error, match=rf"^{option}(\[\d\])?=.*: expected "):
                optimizer(f32(2), **{option: value})
            if option == "clip_global_norm":
                opt.clip_global_norm = value
                with pytest.raises(error, match=r"^clip_global_norm=.*: expected "):
                    opt.step([f32(3), f32(2)])
                opt.clip_global_norm = None
            else:
                with pytest.raises(error, match=rf"^param_groups\[1\]: {option}(\[\d\])?=.*: expected "):
                    opt.add_param_group({"params": f32(1), option: value})
                good = opt.param_groups[0][option]
                opt.param_groups[0][option] = value
                if not (isinstance(good, bool) and value in (0, 1) and value == good):  # 1 is as good as True
                    with pytest.raises(error, match=rf"^{option}(\[\d\])?=.*: expected "):
                        opt.step([f32(3), f32(2)])
                opt.param_groups[0][option] = good
            assert everything(params, opt) == before
            assert len(opt.param_groups) == opt.step_count == 1
    assert opt.step([f32(3), f32(2)]).step == 2


def test_a_list_of_betas_is_watched() -> None:
    betas = [0.9, 0.999]
    opt = fastopt.Adam(f32(2), betas=betas)
    opt.step(f32(2))
    betas[0] = float("nan")
    with pytest.raises(ValueError, match=r"betas\[0\]=nan"):
        opt.step(f32(2))


def test_scalars_are_made_in_double_precision() -> None:
    """Whatever NumPy type an option has: its value is taken, and the arithmetic is that of Python's floats."""
    given: list[Any] = []
    for kind in (np.float32, float):
        param = np.array([1.0, -2.0])
        lr, beta2 = kind(np.float32(1e-3)), kind(np.float32(0.999))
        opt = fastopt.Adam(param, lr=lambda step, lr=lr: lr, betas=(kind(0.5), beta2))
        given.append([opt.step(np.array([0.3, 0.4])) for _ in range(3)])
        given.append(param.tobytes())
    assert given[:2] == given[2:]


def test_constructor_keywords() -> None:
    with pytest.raises(TypeError, match="weight_deacy"):
        fastopt.Adam(f32(2), weight_deacy=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="backend=torch: expected one of native, numpy, cuda"):
        fastopt.Adam(f32(2), backend="torch")
    for options in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov=True: expected momentum above 0 and dampening 0"):
            fastopt.SGD(f32(2), **options)


# The step. The parameters are {"a": {"W": (3, 4), "b": (4,)}, "c": (5,)}, in two groups of lists where it says so.


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
    Bad("array-like", last_is(lambda params: Tensor()), TypeError, ("'c'", "Tensor", "or None")),
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


# What the user changed since: a row makes the optimizer bad, and gives back what mends it.


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
    Bad("parameter replaced", replace_param, ValueError, ("'a.b'", "no longer", "in place")),
    Bad("parameter replaced by a list", replace_param_by_list, ValueError, ("'c'", "no longer", "in place")),
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
    Bad("maker of schedules", write("lr", fastopt.schedules.constant), TypeError, (SCHEDULE, "call it first")),
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


BAD_SLOTS = [
    Bad("short", lambda: f32(2), ValueError, ("(2,)", "(3,)", "[...] = values")),
    Bad("other dtype", lambda: np.zeros(3), TypeError, ("float64", "float32")),
    Bad("list", lambda: [0.0] * 3, TypeError, ("list",)),
    Bad("strided", lambda: f32(6)[::2], ValueError, ("strides (8,)",)),
    Bad("read-only", lambda: read_only(f32(3)), ValueError, ("writeable",)),
    Bad("misaligned", lambda: misaligned((3,)), ValueError, ("state['0']['m']",)),
]


@pytest.mark.parametrize("bad", BAD_SLOTS, ids=str)
def test_slots(bad: Bad) -> None:
    """A slot put into the state before the first step is checked: a short one would be written past its end."""
    param = f32(3)
    opt = fastopt.Adam(param)
    opt.state["0"]["m"] = bad.do()
    with pytest.raises(bad.error) as raised:
        opt.step(f32(3))
    check_says(raised, ("state['0']['m']", *bad.says))
    assert param.tolist() == [1, 1, 1]
    assert list(opt.state["0"]) == ["step", "m"]


@pytest.mark.parametrize(
    "replace",
    [
        lambda opt: opt.state["a"].__setitem__("m", f32(3)),
        lambda opt: opt.state["a"].__setitem__("step", np.array(5)),
        lambda opt: opt.state["a"].__delitem__("m"),
        lambda opt: opt.state["a"].pop("m"),
        lambda opt: opt.state["a"].popitem(),
        lambda opt: opt.state["a"].clear(),
        lambda opt: opt.state["a"].update(m=f32(3)),
        lambda opt: opt.state["a"].__ior__({"m": f32(3)}),
        lambda opt: opt.state.__setitem__("a", {"m": f32(3)}),
        lambda opt: opt.state.pop("a"),
    ],
)
def test_what_is_in_the_state_can_not_be_replaced(replace: Callable[[fastopt.Optimizer], Any]) -> None:
    """It would be ignored: steps go on writing where they wrote."""
    params = {"a": f32(3)}
    opt = fastopt.Adam(params)
    opt.step({"a": f32(3)})
    before = everything(params.values(), opt)
    with pytest.raises(TypeError, match=r"can't be replaced or taken out.*write into it: opt.state\[.*\]\[slot\]"):
        replace(opt)
    assert everything(params.values(), opt) == before
    opt.state["a"]["m"] += 1
    opt.state["a"]["step"][...] = 7
    opt.step({"a": f32(3)})
    assert int(opt.state["a"]["step"]) == 8


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [("lr", 1.0, True), ("weight_decay", 0.0, False), ("momentum", 0, False), ("maximize", False, 0)],
)
def test_what_equals_the_option_but_is_of_another_kind(option: str, good: Any, bad: Any) -> None:
    param = np.ones(2)
    opt = fastopt.SGD(param, **{"lr": 0.5, option: good})
    opt.step(np.ones(2))
    opt.param_groups[0][option] = bad
    before = everything([param], opt)
    with pytest.raises(TypeError, match=f"{option}={bad}: expected "):
        opt.step(np.ones(2))
    assert everything([param], opt) == before
    opt.param_groups[0][option] = good
    opt.step(np.ones(2))


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("count", [1, 1000])
def test_a_parameter_made_read_only_later(count: int, backend: str) -> None:
    """Of many parameters a step looks at some: the error comes within a few steps, and its step changes nothing."""
    params = [f32(1) for _ in range(count)]
    opt = fastopt.SGD(params, momentum=0.9, backend=backend)
    opt.step([f32(1)] * count)
    for i in {0, count // 2, count - 1}:
        read_only(params[i])
        opt.freeze(str(i))
        for _ in range(9):
            opt.step([f32(1)] * count)
        opt.unfreeze()
        told = rf"params: '{i}' was made read-only .*; make it writeable, or keep it as it is: opt.freeze"
        befores = []
        with pytest.raises(ValueError, match=told):  # noqa: PT012
            for _ in range(9):
                befores.append(everything(params, opt))
                opt.step([f32(1)] * count)
        assert everything(params, opt) == befores[-1]
        assert len(befores) == 1 or count > 1
        params[i].flags.writeable = True
        opt.step([f32(1)] * count)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kind", [np.ndarray, type("Subclass", (np.ndarray,), {})])
@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")
def test_a_parameter_given_another_dtype_later(kind: Any, backend: str) -> None:
    """Gradients of its new shape would be too short for the step."""
    params = [f32(8).view(kind), f32(2).view(kind)]
    opt = fastopt.SGD(params, momentum=0.9, backend=backend)
    opt.step([f32(8), f32(2)])
    before = everything(params, opt)
    params[0].dtype = np.float64
    with pytest.raises(ValueError, match=r"params: '0' was an array of float32 .* float64 now; set its dtype back"):
        opt.step([f32(4), f32(2)])
    params[0].dtype = np.float32
    assert everything(params, opt) == before
    opt.step([f32(8), f32(2)])


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize(
    ("optimizer", "slot"), [(fastopt.Adam, "v"), (fastopt.Adam, "ema"), (fastopt.Muon, "b"), (fastopt.LAMB, "m")]
)
def test_gradients_that_are_slots(optimizer: type[fastopt.Optimizer], slot: str, backend: str) -> None:
    params = {"a": f32(2, 3), "b": f32(1, 2)}
    opt = optimizer(params, backend=backend, **({"ema_decay": 0.5} if slot == "ema" else {}))
    opt.step({"a": f32(2, 3), "b": f32(1, 2)})
    held = opt.state["a"][slot]
    for grads in ({"a": held, "b": f32(1, 2)}, {"a": f32(2, 3), "b": held[1:, 1:]}, {"a": None, "b": held[:1, :2]}):
        before = everything(params.values(), opt)
        told = rf"grads: '[ab]' overlaps the memory of state\['a'\]\['{slot}'\], which is changed .*; give a copy"
        with pytest.raises(ValueError, match=told):
            opt.step(grads)
        assert everything(params.values(), opt) == before
    opt.step({"a": held.copy(), "b": f32(1, 2)})


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_what_is_allowed(backend: str) -> None:
    """0-d and empty arrays, either order of memory, and gradients that are converted."""
    params = [np.array(1.0), np.zeros((0, 3)), np.zeros(0), np.ones((2, 3), order="F"), np.ones((2, 3)), np.ones(3)]
    off = misaligned((3,), np.float64)
    off[...] = 1
    grads = [
        np.float64(1),
        np.zeros((0, 3)),
        np.zeros(0, np.float16),
        np.ones((4, 6))[::2, ::2],
        np.ones((2, 3), SWAPPED),
        read_only(off),
    ]
    assert not grads[5].flags.aligned
    opt = fastopt.SGD(params, lr=1.0, backend=backend, clip_global_norm=100.0)
    for step in range(1, 3):
        assert opt.step(grads) == (True, 4.0, 1.0, step)
        assert [param.ravel().tolist() for param in params] == [
            [1 - step],
            [],
            [],
            *[[1 - step] * 6] * 2,
            [1 - step] * 3,
        ]
    assert opt.step([0.5, None, None, None, None, None]).grad_norm == 0.5


def test_a_gradient_too_large_for_its_parameter_is_infinite_without_a_warning() -> None:
    param = f32(2)
    fastopt.SGD(param, lr=1.0).step(np.array([1e300, -1e300], np.longdouble))
    assert param.tolist() == [-np.inf, np.inf]
    fastopt.SGD(param := f32(2), lr=1.0).step(np.array([1e300, -1e300]))
    assert param.tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_a_group_without_clip_norm_is_not_clipped(backend: str) -> None:
    """Nor by a norm that is infinite, which another group's clip_norm has made to be computed."""
    clipped, free = np.zeros(2), np.zeros(2)
    groups = [{"params": clipped, "clip_norm": 5.0}, {"params": free}]
    fastopt.SGD(groups, lr=1.0, backend=backend).step([np.array([-6.0, -8.0]), np.array([np.inf, -1.0])])
    np.testing.assert_allclose(clipped, [3, 4], rtol=1e-6)
    assert free.tolist() == [-np.inf, 1]


def test_lookahead_checks_and_takes_what_was_written() -> None:
    param = np.array([1.0])
    opt = fastopt.SGD(param, lr=0.5, momentum=0.5)
    opt.step(np.array([1.0]))
    opt.param_groups[0].update(momentum=1.0, lr=0.25)
    with opt.lookahead():
        assert param.tolist() == [0.25]
    assert param.tolist() == [0.5]
    opt.param_groups[0]["momentum"] = float("nan")
    with pytest.raises(ValueError, match="momentum=nan"), opt.lookahead():
        pass
    assert param.tolist() == [0.5]


def test_a_rule_of_ones_own_is_told_to_use_numpy() -> None:
    """A function with the name of a compiled rule is not that rule."""

    def sgd(h: rules.SGDScalars, p: Any, g: Any) -> tuple[Any]:
        return (p + h.lr * g,)

    class Own(fastopt.SGD):
        def rule(self, group: Any) -> Any:
            return sgd

    param = np.ones(2)
    Own(param, lr=0.5, backend="numpy").step(np.ones(2))
    assert param.tolist() == [1.5, 1.5]
    if native.missing is None:
        with pytest.raises(ValueError, match='the rule sgd is not among the compiled ones; use backend="numpy"'):
            Own(param, lr=0.5, backend="native").step(np.ones(2))
        assert param.tolist() == [1.5, 1.5]
