"""Arrays that are resized, or given another shape, strides or dtype, between steps: told of before anything changes.

A table goes on with the memory that an array had, which ``resize`` may have freed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, COMBINED_CASES, MATRIX_CASES, Case, raw

import fastopt
from fastopt.backends.native import library as native

pytestmark = pytest.mark.filterwarnings("ignore:Setting the (dtype|shape|strides):DeprecationWarning")

SIDE = 64


class Change(NamedTuple):
    """A change of a square matrix, and that back."""

    make: Callable[[Any], None]
    undo: Callable[[Any], None] | None
    says: str


def set_to(name: str, value: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda array: setattr(array, name, value(array))


def resized(*shape: int) -> Callable[[Any], None]:
    return lambda array: array.resize(shape, refcheck=False)


back = set_to("shape", lambda array: (SIDE, SIDE))
turned = set_to("strides", lambda array: array.strides[::-1])
CHANGES = {
    "shape": Change(set_to("shape", lambda a: (SIDE // 2, 2 * SIDE)), back, "had shape"),
    "flat": Change(set_to("shape", lambda a: (SIDE * SIDE,)), back, "had shape"),
    "resized": Change(resized(SIDE // 4, 4 * SIDE), resized(SIDE, SIDE), "had shape"),
    "larger": Change(resized(50 * SIDE, SIDE), None, "had shape"),
    "smaller": Change(resized(3, 2), None, "had shape"),
    "strides": Change(turned, turned, "strides"),
    "dtype": Change(set_to("dtype", lambda array: f"i{array.itemsize}"), lambda array: None, "array of"),
}
#: An array that views other memory can't change its size.
OF_OWNERS = ("larger", "smaller")


class Target(NamedTuple):
    """An array of a run of Adam: the name that errors give it, the options of the run, and where it is."""

    name: str
    options: dict[str, Any]
    find: Callable[[fastopt.Optimizer, Any], Any]
    dtype: Any = np.dtype(np.float32)


def of_state(slot: str, **options: Any) -> Target:
    dtype = options.pop("dtype", np.dtype(np.float32))
    return Target(f"state['a']['{slot}']", options, lambda opt, params: opt.state["a"][slot], dtype)


TARGETS = {
    "parameter": Target("params: 'a'", {}, lambda opt, params: params["a"]),
    "parameter averaged": Target("params: 'a'", {"ema_decay": 0.5}, lambda opt, params: params["a"]),
    "copy": Target("copy_to: 'a'", {"copy_to": np.float16}, lambda opt, params: opt.parts.parameters.copies[1]),
    "m": of_state("m"),
    "v": of_state("v", accumulate_steps=2),
    "ema": Target("state['a']['ema']", {"ema_decay": 0.5}, lambda opt, params: opt.ema["a"]),
    "average": of_state("ema", polyak=True),
    "accumulated": of_state("accumulated", accumulate_steps=2),
    "master": of_state("master", dtype=np.dtype(np.float16)),
    "codes": of_state("m", state_dtype="uint8"),
}

#: The backend, and whether NumPy's array objects have the layout that C knows.
WAYS = [("native", True), ("native", False), ("numpy", True), ("numpy", False)]
every_way = pytest.mark.parametrize(("backend", "is_known"), WAYS[0 if native.missing is None else 3 :])


@pytest.fixture(autouse=True)
def layout_known(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.missing is None and not request.getfixturevalue("is_known"):
        from fastopt.backends.native import ndarrays

        monkeypatch.setattr(ndarrays, "has_known_ndarrays", False)


def matrix(dtype: Any = np.float32) -> Any:
    """Return a matrix that owns its memory."""
    values = np.empty((SIDE, SIDE), dtype)
    values[...] = np.random.default_rng(1).normal(size=values.shape)
    return values


def run(target: Target, backend: str) -> tuple[fastopt.Optimizer, Any, Any]:
    """Return an optimizer, its parameters and gradients."""
    params = {"first": np.ones(3, target.dtype), "a": matrix(target.dtype), "b": np.ones((2, 2), target.dtype)}
    options = dict(target.options)
    if "copy_to" in options:
        options["copy_to"] = {name: np.empty(param.shape, options["copy_to"]) for name, param in params.items()}
    opt = fastopt.Adam(params, lr=0.1, backend=backend, **options)
    return opt, params, {name: np.ones(param.shape, np.float32) for name, param in params.items()}


def told(opt: fastopt.Optimizer, params: Any) -> list[bytes]:
    """Return the bytes of all arrays, whatever form they have, and all counts."""
    slots = [array for name in opt.state for _, array in sorted(opt.state[name].items())]
    copies = [copy for copy in opt.parts.parameters.copies if copy is not None]
    return [array.tobytes("A") for array in (*params.values(), *copies, *slots)] + [b"%d" % opt.step_count]


@pytest.mark.by_turns("target", "change", count=2)
@every_way
@pytest.mark.parametrize("steps", [0, 1, 8])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("target", TARGETS)
def test_an_array_of_the_optimizer(target: str, change: str, steps: int, backend: str, is_known: bool) -> None:
    its, (make, undo, says) = TARGETS[target], CHANGES[change]
    if its.name.startswith("state") and steps == 0:
        steps = 2
    opt, params, grads = run(its, backend)
    reference, others, _ = run(its, backend)
    for _ in range(steps):
        opt.step(grads)
        reference.step(grads)
    assert opt.planned_steps > 0 or (backend, is_known, steps) != ("native", True, 8)
    array = its.find(opt, params)
    if undo is None and not array.flags.owndata:
        return  # NumPy refuses
    dtype = array.dtype
    make(array)
    before = told(opt, params)
    for given in (grads, {**grads, "a": None}, {**grads, "a": np.ones(array.shape, np.float32)}):
        with pytest.raises(ValueError, match=rf"^{re.escape(its.name)} .*{says}.* now.*build a new optimizer"):
            opt.step(given)
        assert told(opt, params) == before
    if undo is None:
        return
    undo(array)
    array.dtype = dtype
    for _ in range(4):
        opt.step(grads)
        reference.step(grads)
    assert told(opt, params) == told(reference, others)


@every_way
@pytest.mark.parametrize("steps", [0, 3])
def test_a_changed_array_when_others_are_added(steps: int, backend: str, is_known: bool) -> None:
    """The new table must not take the change for what the user gave."""
    opt, params, grads = run(TARGETS["parameter"], backend)
    for _ in range(steps):
        opt.step(grads)
    params["a"].shape = (SIDE // 2, 2 * SIDE)
    with pytest.raises(ValueError, match="params: 'a' had shape"):
        opt.add_param_group({"params": {"c": np.ones(2)}})
    params["a"].shape = (SIDE, SIDE)
    opt.add_param_group({"params": {"c": np.ones(2)}})
    opt.step({**grads, "c": np.ones(2)})


@every_way
@pytest.mark.parametrize("case", [*CASES, *MATRIX_CASES, *COMBINED_CASES], ids=str)
@pytest.mark.by_turns("case")
def test_every_optimizer(case: Case, backend: str, is_known: bool) -> None:
    """Its parameters, and all slots that it has."""
    params = [matrix(), matrix()]
    opt = case.build(params, backend=backend)
    for _ in range(4):
        opt.step([matrix(), matrix()])
    slots = {f"state['1']['{slot}']": array for slot, array in opt.state["1"].items() if array.ndim == 2}
    for name, array in {"params: '1'": params[1], **slots}.items():
        shape, array.shape = array.shape, (array.size,)
        before = [raw(each) for each in (*params, *opt.state["1"].values())]
        with pytest.raises(ValueError, match=rf"^{re.escape(name)} had shape .*, and has shape \("):
            opt.step([matrix(), matrix()])
        assert [raw(each) for each in (*params, *opt.state["1"].values())] == before
        array.shape = shape
    opt.step([matrix(), matrix()])


@every_way
def test_what_works_between_steps(backend: str, is_known: bool) -> None:
    """Lookahead, and the modes of Schedule-Free: no array has changed when the error comes."""
    params = [matrix(), matrix()]
    ahead = fastopt.SGD([matrix(), matrix()], lr=0.1, momentum=0.9, backend=backend)
    free = fastopt.ScheduleFreeSGD(params, backend=backend)
    for opt, act in ((ahead, lambda: ahead.lookahead().__enter__()), (free, free.eval), (free, free.train)):
        opt.step([matrix(), matrix()])
        changed = opt.params[1]
        changed.shape = (SIDE // 2, 2 * SIDE)
        before = [param.tobytes() for param in opt.params]
        with pytest.raises(ValueError, match=r"^params: '1' had shape"):
            act()
        assert [param.tobytes() for param in opt.params] == before
        changed.shape = (SIDE, SIDE)


@every_way
@pytest.mark.parametrize("steps", [1, 8])
def test_gradients_resized_between_steps(steps: int, backend: str, is_known: bool) -> None:
    """No step keeps a gradient: what counts is its form in the step."""
    param, other = matrix(), matrix()
    opt, reference = (fastopt.SGD(each, lr=0.1, momentum=0.9, backend=backend) for each in (param, other))
    grad = matrix()
    for _ in range(steps):
        opt.step(grad)
        reference.step(matrix())
    grad.resize((50 * SIDE, SIDE), refcheck=False)
    with pytest.raises(ValueError, match="grads: '0' has shape"):
        opt.step(grad)
    grad.resize((SIDE, SIDE), refcheck=False)
    for _ in range(3):
        opt.step(grad)
        reference.step(matrix())
    assert param.tobytes() == other.tobytes()


@every_way
@pytest.mark.parametrize("change", CHANGES)
def test_an_average_handed_out_before_the_first_step(change: str, backend: str, is_known: bool) -> None:
    """The first step takes it over."""
    make, undo, _ = CHANGES[change]
    opt, params, grads = run(TARGETS["ema"], backend)
    average = opt.ema["a"]
    if undo is None and not average.flags.owndata:
        return
    dtype = average.dtype
    make(average)
    before = told(opt, params)
    for act in (lambda: opt.step(grads), lambda: opt.ema, opt.state_dict):
        with pytest.raises(ValueError, match=r"^state\['a'\]\['ema'\] was like its parameter.* now.*build a new"):
            act()
        assert told(opt, params) == before
    if undo is None:
        return
    undo(average)
    average.dtype = dtype
    opt.step(grads)
    assert opt.ema["a"] is average
    reference, others, _ = run(TARGETS["ema"], backend)
    reference.step(grads)
    assert told(opt, params) == told(reference, others)


@every_way
@pytest.mark.parametrize("change", CHANGES)
def test_parameters_that_are_read_or_loaded(change: str, backend: str, is_known: bool, tmp_path: Any) -> None:
    """Masters and averages must not take over a changed form, nor a changed parameter the averages."""
    opt, params, grads = run(TARGETS["master"]._replace(options={"ema_decay": 0.5}), backend)
    opt.step(grads)
    fastopt.save(tmp_path / "run.npz", opt)
    checkpoint, stopping = fastopt.load(tmp_path / "run.npz"), fastopt.EarlyStopping(3)
    stopping.update(1.0, params)
    CHANGES[change].make(params["a"])
    before = told(opt, params)
    for act in (
        opt.reload_params,
        lambda: checkpoint.restore(opt),
        lambda: checkpoint.restore(opt, state=False),
        lambda: stopping.restore(params, opt),
        lambda: opt.averaged().__enter__(),
        lambda: opt.ema,
    ):
        with pytest.raises(ValueError, match=r"^params: 'a' "):
            act()
        assert told(opt, params) == before


@every_way
def test_the_same_dtype_in_another_object_is_no_change(backend: str, is_known: bool) -> None:
    opt, params, grads = run(TARGETS["parameter"], backend)
    opt.step(grads)
    params["a"].dtype = np.dtype(np.float32, metadata={"of": "mine"})
    opt.step(grads)
    params["a"].shape = (SIDE * SIDE,)
    with pytest.raises(ValueError, match="params: 'a' had shape"):
        opt.step(grads)
