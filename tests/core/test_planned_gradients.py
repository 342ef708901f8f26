"""Every bad or odd gradient in a run that is planned: what is seen is what a run without plans shows."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from bad_input import Tensor, misaligned, read_only
from cases import BFLOAT16
from planned_runs import OPTION_SETS, OptionSet, Run, check_like_unplanned, check_same, needs_plans, without_plans

import fastopt

pytestmark = [needs_plans, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

#: What becomes of one gradient.
GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "None": lambda grad: None,
    "list": lambda grad: grad.tolist(),
    "float": lambda grad: 0.5,
    "int": lambda grad: 1,
    "numpy_float": lambda grad: np.float64(0.5),
    "numpy_float32": lambda grad: np.float32(0.5),
    "text": lambda grad: "gradient",
    "tensor": lambda grad: Tensor(),
    "type": lambda grad: np.ndarray,
    "longer": lambda grad: np.ones((*grad.shape, 2)),
    "shorter": lambda grad: grad[..., :-1] if grad.ndim else np.ones(2),
    "one_axis_more": lambda grad: grad[None],
    "flat": lambda grad: grad.reshape(-1),
    "transposed_shape": lambda grad: grad.T.copy(),
    "int_array": lambda grad: np.ones(grad.shape, int),
    "bool_array": lambda grad: np.ones(grad.shape, bool),
    "complex": lambda grad: grad.astype(complex),
    "object": lambda grad: grad.astype(object),
    "text_array": lambda grad: np.full(grad.shape, "0.1"),
    "dates": lambda grad: np.zeros(grad.shape, "M8[s]"),
    "float16": lambda grad: grad.astype(np.float16),
    "float32": lambda grad: grad.astype(np.float32),
    "float64": lambda grad: grad.astype(np.float64),
    "bfloat16": lambda grad: grad.astype(BFLOAT16 or np.float16),
    "longdouble": lambda grad: grad.astype(np.longdouble),
    "swapped": lambda grad: grad.astype(np.dtype(np.float32).newbyteorder()),
    "swapped_float64": lambda grad: grad.astype(">f8"),
    "metadata": lambda grad: grad.astype(np.dtype(grad.dtype, metadata={"of": "mine"})),
    "fortran": lambda grad: np.asfortranarray(grad) if grad.ndim else grad,
    "c_order": lambda grad: np.ascontiguousarray(grad) if grad.ndim else grad,
    "transposed": lambda grad: grad.T.copy().T,
    "strided": lambda grad: np.repeat(grad, 2, -1)[..., ::2] if grad.ndim else grad,
    "strided_float64": lambda grad: np.repeat(grad.astype(float), 2, -1)[..., ::2] if grad.ndim else grad.astype(float),
    "backwards": lambda grad: grad[..., ::-1] if grad.ndim else grad,
    "upside_down": lambda grad: grad[::-1] if grad.ndim else grad,
    "broadcast": lambda grad: np.broadcast_to(np.array(0.5, grad.dtype), grad.shape),
    "broadcast_rows": lambda grad: np.broadcast_to(grad[:1], grad.shape) if grad.ndim else grad,
    "unaligned": lambda grad: filled(misaligned(grad.shape, grad.dtype), grad),
    "unaligned_float64": lambda grad: filled(misaligned(grad.shape, np.float64), grad),
    "read_only": lambda grad: read_only(grad),
    "read_only_strided": lambda grad: read_only(np.repeat(grad, 2, -1)[..., ::2]) if grad.ndim else read_only(grad),
    "masked": lambda grad: np.ma.masked_less(grad, 0),
    "subclass": lambda grad: grad.view(OwnArray),
    "recarray": lambda grad: grad.view(np.recarray),
    "memmap": lambda grad: grad.view(np.memmap),
    "nan": lambda grad: np.full_like(grad, np.nan),
    "inf": lambda grad: np.full_like(grad, -np.inf),
    "one_nan": lambda grad: with_one(grad, np.nan),
    "huge": lambda grad: np.full(grad.shape, 1e300),
    "tiny": lambda grad: np.full(grad.shape, 1e-310),
    "zeros": np.zeros_like,
    "minus_zeros": lambda grad: -np.zeros_like(grad),
    "row_sparse": lambda grad: fastopt.RowSparse(np.array([0]), grad[:1] if grad.ndim else grad),
    "row_sparse_twice": lambda grad: (
        fastopt.RowSparse(np.array([0, 0]), np.repeat(grad[:1], 2, 0)) if grad.ndim else None
    ),
}


class OwnArray(np.ndarray):
    """An array that may do anything."""


def filled(array: Any, values: Any) -> Any:
    array[...] = values
    return array


def with_one(grad: Any, value: float) -> Any:
    if grad.size:
        grad[(0,) * grad.ndim] = value
    return grad


Trouble = Callable[[Run], Any]

#: What is done to all gradients, or to their structure.
TROUBLES: dict[str, Trouble] = {}


def trouble(do: Trouble) -> Trouble:
    TROUBLES[do.__name__] = do
    return do


def of_first(change: Callable[[Any], Any]) -> Trouble:
    return lambda run: run.grads.__setitem__(0, change(run.grads[0]))


def of_last(change: Callable[[Any], Any]) -> Trouble:
    return lambda run: run.grads.__setitem__(-1, change(run.grads[-1]))


def of_all(change: Callable[[Any], Any]) -> Trouble:
    return lambda run: run.grads.__setitem__(slice(None), list(map(change, run.grads)))


def from_now_on(do: Trouble) -> Trouble:
    return lambda run: setattr(run, "each_step", do)


for text, change in GRADIENTS.items():
    TROUBLES[text] = of_first(change)
    TROUBLES[f"all:{text}"] = of_all(change)
for text in ("shorter", "nan", "one_nan", "int_array", "read_only", "float64", "None"):
    TROUBLES[f"last:{text}"] = of_last(GRADIENTS[text])
for text in ("None", "float16", "float32", "float64", "bfloat16", "transposed", "strided", "unaligned", "swapped"):
    TROUBLES[f"from_now_on:{text}"] = from_now_on(of_first(GRADIENTS[text]))
    TROUBLES[f"all_from_now_on:{text}"] = from_now_on(of_all(GRADIENTS[text]))
TROUBLES["from_now_on:nan"] = from_now_on(of_first(GRADIENTS["nan"]))


# --- None -------------------------------------------------------------------------------------------------------------


@trouble
def none_in_changing_places(run: Run) -> None:
    def some(run: Run) -> None:
        for i in range(len(run.grads)):
            if (run.opt.step_count + i) % 3 == 0:
                run.grads[i] = None

    run.each_step = some


@trouble
def none_in_random_places(run: Run) -> None:
    def some(run: Run) -> None:
        run.grads[:] = [grad if run.rng.random() < 0.6 else None for grad in run.grads]

    run.each_step = some


@trouble
def none_for_everything(run: Run) -> None:
    run.given = [None] * len(run.structure()) if isinstance(run.structure(), list) else {}


@trouble
def none_for_a_branch(run: Run) -> None:
    grads = run.structure()
    if isinstance(grads, dict):
        run.given = {**grads, "hidden": None, "out": None}
    elif isinstance(grads, list):
        run.given = [None, *grads[1:]]


@trouble
def none_for_all(run: Run) -> None:
    run.grads[:] = [None] * len(run.grads)


@trouble
def none_and_a_frozen_array(run: Run) -> Any:
    run.opt.freeze(list(run.opt.state)[-1])
    run.grads[0] = None
    return run.opt.unfreeze


# --- the structure ----------------------------------------------------------------------------------------------------


def of_dict(change: Callable[[Any], Any]) -> Trouble:
    """Change the structure where it is a dict, else its last part where that is one."""

    def do(run: Run) -> None:
        grads = run.structure()
        if isinstance(grads, list) and isinstance(grads[-1], dict):
            run.given = [*grads[:-1], change(grads[-1])]
        else:
            run.given = change(grads) if isinstance(grads, dict) else change({"one": grads})

    return do


def without(grads: dict[Any, Any], k: int) -> dict[Any, Any]:
    return {key: grad for i, (key, grad) in enumerate(grads.items()) if i != k % len(grads)}


def nested(grads: dict[Any, Any]) -> dict[Any, Any]:
    """Return the dict with a branch for the first array."""
    key = next(iter(grads))
    return {**grads, key: {"deeper": grads[key]}}


class OwnKey(str):
    """A key that may run Python when it is compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)

    __hash__ = str.__hash__


class BrokenKey:
    """A key that can't be compared with the one that it is taken for."""

    def __hash__(self) -> int:
        return hash("hidden")

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("broken")


DICTS: dict[str, Callable[[Any], Any]] = {
    "first_missing": lambda grads: without(grads, 0),
    "last_missing": lambda grads: without(grads, -1),
    "empty": lambda grads: {},
    "extra": lambda grads: {**grads, "other": np.ones(3)},
    "other_instead": lambda grads: {**without(grads, -1), "other": np.ones(3)},
    "extra_of_another_kind": lambda grads: {**grads, ("a", 1): np.ones(3)},
    "reversed": lambda grads: dict(reversed(grads.items())),
    "reversed_and_missing": lambda grads: dict(reversed(without(grads, 0).items())),
    "ordered": OrderedDict,
    "defaultdict": lambda grads: defaultdict(lambda: np.ones(3), without(grads, 0)),
    "proxy": MappingProxyType,
    "own_dict": lambda grads: type("Own", (dict,), {})(grads),
    "own_keys": lambda grads: {OwnKey(key): grad for key, grad in grads.items()},
    "other_text_of_the_same_keys": lambda grads: {"".join(list(key)): grad for key, grad in grads.items()},
    "broken_key": lambda grads: {BrokenKey(): None, **without(grads, 0)},
    "list_of_values": lambda grads: list(grads.values()),
    "deeper": nested,
    "number": lambda grads: 1.0,
    "None": lambda grads: None,
    "one_array": lambda grads: np.ones(3),
}
for text, change in DICTS.items():
    TROUBLES[f"dict:{text}"] = of_dict(change)


def of_list(change: Callable[[Any], Any]) -> Trouble:
    """Change the structure where it is a list, else the part that is one."""

    def do(run: Run) -> None:
        grads = run.structure()
        if isinstance(grads, list):
            run.given = change(grads)
        elif isinstance(grads, dict):
            run.given = {**grads, "out": change(grads["out"])}
        else:
            run.given = change([grads])

    return do


LISTS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "own_list": lambda grads: type("Own", (list,), {})(grads),
    "shorter": lambda grads: grads[:-1],
    "longer": lambda grads: [*grads, None],
    "empty": lambda grads: [],
    "reversed": lambda grads: grads[::-1],
    "nested": lambda grads: [grads],
    "iterator": iter,
    "array": lambda grads: np.ones(len(grads)),
    "dict": lambda grads: dict(enumerate(grads)),
    "groups": lambda grads: [{"params": grad} for grad in grads],
    "wrapped_by_another_key": lambda grads: [{"param": grad} for grad in grads],
    "some_groups": lambda grads: [{"params": grads[0]}, *grads[1:]],
    "groups_with_options": lambda grads: [{"params": grad, "lr": 0.1} for grad in grads],
}
for text, change in LISTS.items():
    TROUBLES[f"list:{text}"] = of_list(change)


@trouble
def groups_from_now_on(run: Run) -> None:
    def wrap(run: Run) -> None:
        grads = run.structure()
        if run.form == "groups":
            run.given = tuple({"params": grad} for grad in grads)

    run.each_step = wrap


# --- memory that overlaps ---------------------------------------------------------------------------------------------


@trouble
def one_array_twice(run: Run) -> None:
    for i in range(1, len(run.grads)):
        if run.grads[i].size:
            run.grads[i] = run.grads[0].reshape(-1)[: run.grads[i].size].reshape(run.grads[i].shape)


@trouble
def gradients_that_overlap(run: Run) -> None:
    memory = run.rng.normal(size=sum(grad.size for grad in run.grads) + 1).astype(run.grads[0].dtype)
    begin = 0
    for i, grad in enumerate(run.grads):
        run.grads[i] = memory[begin : begin + grad.size].reshape(grad.shape)
        begin += max(grad.size - 1, 0)


@trouble
def gradients_side_by_side(run: Run) -> None:
    """In one run of memory, without a gap."""

    def place(run: Run) -> None:
        memory = run.rng.normal(size=sum(grad.size for grad in run.grads)).astype(run.grads[0].dtype)
        begin = 0
        for i, grad in enumerate(run.grads):
            run.grads[i] = memory[begin : begin + grad.size].reshape(grad.shape)
            begin += grad.size

    run.each_step = place


def parts_of(array: Any) -> Any:
    return array.reshape(-1, order="A")


@trouble
def the_parameter_itself(run: Run) -> None:
    run.grads[0] = run.arrays[0]


@trouble
def a_view_of_the_parameter(run: Run) -> None:
    run.grads[0] = run.arrays[0][...]


@trouble
def another_parameter(run: Run) -> None:
    run.grads[-1] = run.arrays[0]
    run.grads[1 % len(run.grads)] = parts_of(run.arrays[0])[:3] if run.arrays[0].ndim else run.arrays[0]


@trouble
def the_parameter_backwards(run: Run) -> None:
    """A copy of it is read: nothing overlaps."""
    run.grads[0] = run.arrays[0][::-1] if run.arrays[0].ndim else run.arrays[0].copy()


@trouble
def the_parameter_transposed_twice(run: Run) -> None:
    run.grads[0] = run.arrays[0].T.T


def overlap_slot(offset: int) -> Trouble:
    def do(run: Run) -> None:
        slots = next(iter(run.opt.state.values()))
        found = [slot for slot in slots.values() if slot.shape == run.grads[0].shape and slot.dtype.kind == "f"]
        if found and found[0].size:
            run.grads[0] = found[0] if not offset else np.roll(found[0], offset).view()

    return do


TROUBLES["a_slot"] = overlap_slot(0)
TROUBLES["a_copy_of_a_slot"] = overlap_slot(1)


def in_memory_from(begin: Callable[[int], int]) -> Trouble:
    """A gradient in the memory around its parameter, which begins after so many elements as it has itself."""

    def do(run: Run) -> None:
        size = run.arrays[0].size
        memory = run.around[begin(size) : begin(size) + size]
        run.grads[0] = memory.reshape(run.arrays[0].shape, order=run.its.order)

    return do


TROUBLES["just_before_the_parameter"] = from_now_on(in_memory_from(lambda size: 0))
TROUBLES["into_the_parameter"] = in_memory_from(lambda size: 1)
TROUBLES["from_inside_the_parameter"] = in_memory_from(lambda size: 2 * size - 1)
TROUBLES["just_behind_the_parameter"] = from_now_on(in_memory_from(lambda size: 2 * size))


@trouble
def steps_that_are_counts(run: Run) -> None:
    counts = next(iter(run.opt.state.values()))["step"].base
    if run.grads[-1].ndim == 0:
        run.grads[-1] = counts.reshape(-1)[:1].view(np.float64).reshape(())


@trouble
def the_same_arrays_in_each_step(run: Run) -> None:
    kept = list(run.grads)

    def give(run: Run) -> None:
        for array, grad in zip(kept, run.grads, strict=True):
            array[...] = grad
        run.grads[:] = kept

    run.each_step = give


@pytest.mark.by_turns("name", count=2)
@pytest.mark.parametrize(
    ("its", "name"), [pytest.param(its, name, id=f"{name}-{its}") for name in TROUBLES for its in OPTION_SETS]
)
def test_gradients(its: OptionSet, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_like_unplanned(its, TROUBLES[name], monkeypatch)


#: Those that tell apart how arrays are read.
WITHOUT_LAYOUT = ["strided", "transposed", "float16", "swapped", "read_only", "shorter", "int_array", "subclass"]
WITHOUT_LAYOUT += ["none_in_changing_places", "the_parameter_itself", "into_the_parameter", "just_behind_the_parameter"]


@pytest.mark.by_turns("name", count=2)
@pytest.mark.parametrize("its", OPTION_SETS, ids=str)
@pytest.mark.parametrize("name", WITHOUT_LAYOUT)
def test_where_the_layout_of_arrays_is_not_known(its: OptionSet, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, whole = Run(its), Run(its)
    planned.go(TROUBLES[name])
    with without_plans(monkeypatch, has_known_layout=False):
        assert whole.go(TROUBLES[name]) == 0
    check_same(planned, whole)
