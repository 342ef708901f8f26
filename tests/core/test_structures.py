"""Structures, names, groups and state; and that it makes no difference in which arrays gradients come."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict, UserDict, namedtuple
from itertools import cycle
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from cases import everything
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


Layer = namedtuple("Layer", "W b")

NAMES = [
    pytest.param(ones(2), ["0"], id="one array"),
    pytest.param([ones(2), ones(3)], ["0", "1"], id="list"),
    pytest.param((ones(2),), ["0"], id="tuple"),
    pytest.param({"W": ones(2), "b": ones(1)}, ["W", "b"], id="dict"),
    pytest.param({2: ones(2), 1: ones(1)}, ["2", "1"], id="int keys"),
    pytest.param(
        {"h": {"W": ones(2), "b": ones(1)}, "o": [ones(1), (ones(1),)]}, ["h.W", "h.b", "o.0", "o.1.0"], id="nested"
    ),
    pytest.param(OrderedDict(b=ones(1), W=ones(2)), ["b", "W"], id="OrderedDict"),
    pytest.param(MappingProxyType({"W": ones(2), "b": ones(1)}), ["W", "b"], id="MappingProxyType"),
    pytest.param(UserDict(W=ones(2), b={"x": ones(1)}), ["W", "b.x"], id="UserDict"),
    pytest.param([Layer(ones(2), ones(1)), Layer(ones(2), ones(1))], ["0.W", "0.b", "1.W", "1.b"], id="namedtuple"),
    pytest.param({"a": {}, "b": [ones(1)], "c": []}, ["b.0"], id="empty branches"),
    pytest.param({"params": ones(1)}, ["params"], id="a dict is no group"),
    pytest.param(
        [{"params": ones(1)}, {"params": {"W": ones(1)}}, {"params": [ones(1)]}], ["0", "1.W", "2.0"], id="groups"
    ),
]


def like(structure: Any, leaf: Any) -> Any:
    """Return plain dicts and lists of this form, with ``leaf(array)`` for each array."""
    if isinstance(structure, np.ndarray):
        return leaf(structure)
    if hasattr(structure, "items"):
        return {key: like(child, leaf) for key, child in structure.items()}
    return [like(child, leaf) for child in structure]


def leaves(structure: Any) -> list[Any]:
    found: list[Any] = []
    like(structure, found.append)
    return found


@pytest.mark.parametrize(("structure", "names"), NAMES)
def test_names_and_a_step(structure: Any, names: list[str]) -> None:
    opt = fastopt.SGD(structure, lr=0.5)
    assert list(opt.state) == names
    for param in leaves(structure):
        param[...] = 1
    info = opt.step(like(structure, np.copy))
    assert info == fastopt.StepInfo(applied=True, grad_norm=None, lr=0.5, step=1)
    assert all((param == 0.5).all() for param in leaves(structure))
    opt.step(structure_of_none := like(structure, lambda array: None))
    assert structure_of_none == like(structure, lambda array: None)
    assert [int(slots["step"]) for slots in opt.state.values()] == [1] * len(names)
    assert opt.step_count == 2


arrays = st.integers(0, 5).map(lambda size: np.arange(size, dtype=np.float64))
structures = st.recursive(
    arrays,
    lambda children: (
        st.lists(children, max_size=4)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abcde"), children, max_size=4)
    ),
    max_leaves=12,
)


def paths(structure: Any, path: tuple[str, ...] = ()) -> list[str]:
    """The names by their definition."""
    if isinstance(structure, np.ndarray):
        return [".".join(path) or "0"]
    items = structure.items() if isinstance(structure, dict) else enumerate(structure)
    return [name for key, child in items for name in paths(child, (*path, str(key)))]


@given(structures, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_structure_is_its_flat_list(structure: Any, random: Any, gaps: bool) -> None:
    structure = like(structure, np.copy)
    params = leaves(structure)
    if not params:
        with pytest.raises(ValueError, match="no array"):
            fastopt.Adam(structure)
        return
    flat = [param.copy() for param in params]
    opt, reference = fastopt.Adam(structure, lr=0.1), fastopt.Adam(flat, lr=0.1)
    assert list(opt.state) == paths(structure)
    for _ in range(2):
        skipped = [gaps and random.random() < 0.3 for _ in flat]
        flat_grads = [
            None if skip else np.full(param.size, random.uniform(-1, 1))
            for skip, param in zip(skipped, flat, strict=True)
        ]
        in_order = iter(flat_grads)
        grads = like(structure, lambda array, in_order=in_order: next(in_order))
        opt.step(shuffled(grads, random))
        reference.step(flat_grads)
    assert everything(params, opt) == everything(flat, reference)


def shuffled(structure: Any, random: Any) -> Any:
    """Return the structure with the keys of its dicts in another order, and those of None left out now and then."""
    if isinstance(structure, dict):
        items = [(key, shuffled(child, random)) for key, child in structure.items()]
        random.shuffle(items)
        return {key: child for key, child in items if child is not None or random.random() < 0.5}
    return [shuffled(child, random) for child in structure] if isinstance(structure, list) else structure


def test_skipped_arrays_count_their_own_steps() -> None:
    """A subtree of None and a missing key skip all below; Adam's correction goes by the steps of each array."""
    params = {"a": {"W": ones(2), "b": ones(2)}, "c": ones(2)}
    alone = ones(2)
    opt, reference = fastopt.Adam(params, lr=0.1), fastopt.Adam(alone, lr=0.1)
    opt.step({"a": None, "c": ones(2)})
    opt.step({"c": ones(2)})
    assert "m" in opt.state["a.W"]
    assert [int(slots["step"]) for slots in opt.state.values()] == [0, 0, 2]
    opt.step({"a": {"b": ones(2)}})
    reference.step(ones(2))
    assert [int(slots["step"]) for slots in opt.state.values()] == [0, 1, 2]
    assert params["a"]["W"].tolist() == [1, 1]
    assert params["a"]["b"].tobytes() == alone.tobytes()
    assert opt.step_count == 3


def test_step_counts_can_be_written() -> None:
    params, alone = [ones(2), ones(2)], ones(2)
    opt, reference = fastopt.Adam(params, lr=0.1), fastopt.Adam(alone, lr=0.1)
    grads = [ones(2), ones(2)]
    opt.step(grads)
    opt.state["1"]["step"][...] = 0
    for slot in ("m", "v"):
        opt.state["1"][slot][...] = 0
    params[1][...] = 1
    opt.step(grads)
    reference.step(ones(2))
    assert params[1].tobytes() == alone.tobytes()
    assert [int(slots["step"]) for slots in opt.state.values()] == [2, 1]


def test_state_is_what_the_step_uses() -> None:
    param = np.ones(2)
    opt = fastopt.SGD({"W": param}, lr=1.0, momentum=0.5)
    assert list(opt.state["W"]) == ["step"]
    opt.step({"W": np.ones(2)})
    assert opt.state["W"]["b"].tolist() == [1, 1]
    opt.state["W"]["b"][0] = 4
    opt.step({"W": np.zeros(2)})
    assert opt.state["W"]["b"].tolist() == [2, 0.5]
    assert param.tolist() == [-2, -0.5]


# Groups.


def test_groups_have_options_of_their_own() -> None:
    groups = [{"params": [ones(2)], "lr": 0.5}, {"params": {"W": ones(2)}, "weight_decay": 1.0}, {"params": ones(2)}]
    opt = fastopt.SGD(groups, lr=fastopt.schedules.exponential(1.0, 0.5))
    assert list(opt.state) == ["0.0", "1.W", "2"]
    assert [group["weight_decay"] for group in opt.param_groups] == [0, 1, 0]
    assert opt.step([[ones(2)], {"W": ones(2)}, ones(2)]).lr == 0.5
    # As torch has them, too.
    opt.step([{"params": [ones(2)]}, {"params": {"W": ones(2)}}, {"params": ones(2)}])
    assert groups[0]["params"][0].tolist() == [0, 0]
    assert groups[1]["params"]["W"].tolist() == [-1, -1]  # 1 - 2 = -1; then - 0.5 * (1 - 1)
    assert groups[2]["params"].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_writing_a_group_takes_effect(backend: Any) -> None:
    param = np.array([1.0])
    opt = fastopt.SGD(param, lr=1.0, backend=backend)
    group, grad = opt.param_groups[0], np.array([0.5])
    assert opt.step(grad).lr == 1
    assert param == 0.5
    group["lr"] = 0.5
    assert opt.step(grad).lr == 0.5
    assert param == 0.25
    group["weight_decay"] = 2.0
    opt.step(grad)
    assert param == 0.25 - 0.5 * (0.5 + 0.5)
    group["decoupled"] = True
    opt.step(grad)
    assert param == -0.25 * (1 - 0.5 * 2) - 0.25
    group.update(weight_decay=0.0, clip_value=0.25, maximize=True)
    opt.step(grad)
    assert param == -0.125
    group.update(clip_value=None, clip_norm=0.25, maximize=False, lr=1.0)
    opt.step(grad)
    np.testing.assert_allclose(param, -0.125 - 0.5 * (0.25 / (0.5 + 1e-6)), rtol=1e-15)
    group["clip_norm"] = None
    param[...] = 0
    assert "b" not in opt.state["0"]
    group["momentum"] = 0.5
    opt.step(grad)
    opt.step(grad)
    assert param == -0.5 - 0.75
    assert opt.state["0"]["b"] == 0.75
    group["nesterov"] = True
    opt.step(grad)
    assert param == -1.25 - (0.5 + 0.5 * 0.875)
    group.update(momentum=0.0, nesterov=False, lr=fastopt.schedules.step_decay(8.0, 2, 0.5))
    assert opt.step(grad).lr == 8 * 0.5**4  # step number 10: the schedule is asked for 9
    opt.clip_global_norm = 0.25
    assert opt.step(grad).grad_norm == 0.5
    assert int(opt.state["0"]["step"]) == opt.step_count == 11


def test_amsgrad_written_later() -> None:
    opt = fastopt.Adam(np.ones(2))
    opt.step(np.ones(2))
    opt.param_groups[0]["amsgrad"] = True
    opt.step(np.ones(2))
    assert opt.state["0"]["v_max"].tolist() == opt.state["0"]["v"].tolist()


ROOTS = [
    pytest.param(lambda: ones(2), ones(2), lambda a, b: [a, b], ["0", "1"], id="one array"),
    pytest.param(lambda: [ones(2)], ones(2), lambda a, b: [a, b], ["0", "1"], id="list, array"),
    pytest.param(lambda: (ones(2),), [ones(2)], lambda a, b: (a, b), ["0", "1"], id="tuple, list"),
    pytest.param(lambda: [ones(2)], [{"W": ones(2)}], lambda a, b: [a, {"W": b}], ["0", "1.W"], id="list, nested"),
    pytest.param(lambda: [ones(2)], {"W": ones(2)}, lambda a, b: [a, {"W": b}], ["0", "1.W"], id="list, dict"),
    pytest.param(lambda: {"a": ones(2)}, {"b": ones(2)}, lambda a, b: {"b": b, "a": a}, ["a", "b"], id="dict"),
    pytest.param(
        lambda: {"a": {"x": ones(2)}},
        {"b": [ones(2)]},
        lambda a, b: {"a": {"x": a}, "b": [b]},
        ["a.x", "b.0"],
        id="nested dict",
    ),
    pytest.param(lambda: [{"params": ones(2)}], ones(2), lambda a, b: [a, {"params": b}], ["0", "1"], id="groups"),
    pytest.param(
        lambda: [{"params": [ones(2)]}],
        [ones(2)],
        lambda a, b: [[a], {"params": [b]}],
        ["0.0", "1.0"],
        id="groups of lists",
    ),
]


@pytest.mark.parametrize(("root", "more", "grads", "names"), ROOTS)
def test_add_param_group(root: Any, more: Any, grads: Any, names: list[str]) -> None:
    """Before the first step, or after some: the first array goes on as if it were alone."""
    for steps_before in (0, 2):
        first, added = root(), like(more, np.copy)
        alone = ones(2)
        opt, reference = fastopt.Adam(first, lr=0.5), fastopt.Adam(alone, lr=0.5)
        for _ in range(steps_before):
            opt.step(like(first, np.ones_like))
            reference.step(ones(2))
        opt.add_param_group({"params": added, "lr": 0.25})
        assert list(opt.state) == names
        assert [group["lr"] for group in opt.param_groups] == [0.5, 0.25]
        later = ones(2)
        later_reference = fastopt.Adam(later, lr=0.25)
        for _ in range(2):
            opt.step(grads(ones(2), ones(2)))
            reference.step(ones(2))
            later_reference.step(ones(2))
        assert [int(slots["step"]) for slots in opt.state.values()] == [steps_before + 2, 2]
        assert leaves(first)[0].tobytes() == alone.tobytes()
        assert leaves(added)[0].tobytes() == later.tobytes()
        for slot in ("m", "v"):
            assert opt.state[names[0]][slot].tobytes() == reference.state["0"][slot].tobytes()


# Which arrays the gradients are.


def stepped(case: str, grads_of: Any) -> list[bytes]:
    """Return everything after five steps with gradients that are handed over in some way."""
    options: dict[str, Any] = {"plain": {}, "clipped": {"clip_norm": 1.0, "clip_global_norm": 1.2}}[case]
    params = [np.linspace(-1, 1, 24).astype(np.float32).reshape(4, 6), np.ones(5), np.ones((3, 2), order="F")]
    opt = fastopt.Adam(params, lr=0.1, **options)
    for step in range(5):
        rng = np.random.default_rng(step)
        # Halves: exact in every float dtype.
        values = [rng.integers(-9, 9, param.shape) / 2 for param in params]
        opt.step(grads_of([value.astype(param.dtype) for value, param in zip(values, params, strict=True)]))
    return everything(params, opt)


def reused(make: Any) -> Any:
    """Return a way to hand gradients over in the same arrays each step, made from the first ones by ``make``."""
    kept: list[Any] = []

    def grads_of(values: list[Any]) -> list[Any]:
        if not kept:
            kept.extend(make(value) for value in values)
        for array, value in zip(kept, values, strict=True):
            array[...] = value
        return kept

    return grads_of


def alternating() -> Any:
    dtypes = cycle([np.float64, np.float16, np.float32])
    return lambda values: [value.astype(next(dtypes)) for value in values]


def in_tuples(way: Any) -> Any:
    return lambda values: tuple(way(values))


WAYS = {
    "fresh arrays": lambda values: values,
    "fresh copies in a tuple": lambda values: tuple(value.copy() for value in values),
    "same arrays": reused(np.copy),
    "same arrays in a fresh tuple": in_tuples(reused(np.copy)),
    "same strided arrays": reused(lambda value: np.repeat(value, 2, axis=-1)[..., ::2]),
    "same reversed arrays": reused(lambda value: value.copy()[::-1]),
    "same arrays, other order": reused(lambda value: np.array(value, order="F" if value.flags.c_contiguous else "C")),
    "same float16 arrays": reused(lambda value: value.astype(np.float16)),
    "same float64 arrays": reused(lambda value: value.astype(np.float64)),
    "same longdouble arrays": reused(lambda value: value.astype(np.longdouble)),
    "same swapped arrays": reused(lambda value: value.astype(value.dtype.newbyteorder())),
    "strided float16 arrays": reused(lambda value: np.repeat(value.astype(np.float16), 2, axis=0)[::2]),
    "dtypes change": alternating(),
    "fresh Fortran copies": lambda values: [np.asfortranarray(value) for value in values],
    "arrays of a subclass": lambda values: [value.view(Sub) for value in values],
}


class Sub(np.ndarray):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("case", ["plain", "clipped"])
@pytest.mark.parametrize("way", WAYS)
def test_how_gradients_come_changes_no_bit(case: str, way: str) -> None:
    assert stepped(case, WAYS[way]) == stepped(case, lambda values: [value.copy() for value in values])


def test_same_arrays_and_some_fresh_ones_and_none() -> None:
    params, others = [np.ones(3), np.ones(4)], [np.ones(3), np.ones(4)]
    opt, reference = fastopt.Adam(params), fastopt.Adam(others)
    kept = [np.zeros(3), np.zeros(4)]
    for step in range(8):
        for grad in kept:
            grad[...] = step + 1
        grads: list[Any] = [kept, [kept[0], None], [None, kept[1].copy()], [kept[0].copy(), kept[1]]][step % 4]
        opt.step(grads)
        reference.step([None if grad is None else grad.astype(np.longdouble) for grad in grads])
    assert everything(params, opt) == everything(others, reference)
    assert [int(slots["step"]) for slots in opt.state.values()] == [6, 6]


def test_a_gradient_shared_by_two_parameters() -> None:
    params = [np.ones(3), np.ones(3)]
    grad = np.ones(3)
    fastopt.SGD(params, lr=0.5).step([grad, grad])
    assert [param.tolist() for param in params] == [[0.5] * 3] * 2


def test_memory_of_gradients_is_kept_until_the_next_step_and_no_longer() -> None:
    """Fresh large gradients get the addresses of freed ones: what is read must be what was given."""
    param = np.zeros(200_000)
    opt = fastopt.SGD(param, lr=1.0)
    for step in range(6):
        grad = np.full(param.size, 2.0**step)
        opt.step(grad)
        del grad
        gc.collect()
        np.full(param.size, np.nan)  # what is freed is overwritten
    assert (param == 1 - 2.0**6).all()


def test_params_may_be_changed_in_place_between_steps() -> None:
    params = {"W": np.ones((2, 2))}
    opt = fastopt.SGD(params, lr=1.0)
    opt.step({"W": np.ones((2, 2))})
    params["W"] += 5
    params["W"][0] = 7
    opt.step({"W": np.ones((2, 2))})
    assert params["W"].tolist() == [[6, 6], [4, 4]]


def test_many_arrays_with_steps_and_groups_of_their_own() -> None:
    rng = np.random.default_rng(4)
    params = [rng.normal(size=size) for size in rng.integers(0, 40, 60)]
    flat = [param.copy() for param in params]
    opt = fastopt.AdamW([{"params": params[k::3], "lr": 0.1 * (k + 1)} for k in range(3)])
    alone = [fastopt.AdamW(param, lr=0.1 * (i % 3 + 1)) for i, param in enumerate(flat)]
    for _ in range(4):
        grads = [rng.normal(size=param.size) if rng.random() < 0.7 else None for param in params]
        opt.step([grads[k::3] for k in range(3)])
        for optimizer, grad in zip(alone, grads, strict=True):
            if grad is not None:
                optimizer.step(grad)
    assert [param.tobytes() for param in params] == [param.tobytes() for param in flat]


class Subclass(np.ndarray):
    pass


def unaligned(grad: Any) -> Any:
    shifted = np.zeros(grad.nbytes + 1, np.uint8)[1:].view(grad.dtype).reshape(grad.shape)
    shifted[...] = grad
    return shifted


LATER = {
    "new arrays": np.copy,
    "the same memory": lambda grad: grad[...],
    "another dtype": lambda grad: grad.astype(np.float64),
    "another byte order": lambda grad: grad.astype(grad.dtype.newbyteorder()),
    "a dtype of its own": lambda grad: grad.astype(np.dtype(grad.dtype.str, metadata={"unit": "m"})),
    "strided": lambda grad: np.repeat(grad, 2, axis=0)[::2],
    "Fortran order": np.asfortranarray,
    "broadcast": lambda grad: np.broadcast_to(grad[:1], grad.shape),
    "a subclass": lambda grad: grad.copy().view(Subclass),
    "unaligned": unaligned,
}


@pytest.mark.parametrize("is_layout_known", [True, False])
@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("kind", LATER)
def test_gradients_of_a_later_step_are_looked_at_anew(
    kind: str, backend: str, is_layout_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are, a step does what one with plain copies of them does."""
    if backend == "native":
        native = native_module()
        assert native.has_known_ndarrays or sys.implementation.name != "cpython"
        monkeypatch.setattr(native, "has_known_ndarrays", is_layout_known and native.has_known_ndarrays)
    random = np.random.default_rng(0)
    first, later = (random.standard_normal((2, 5, 3)).astype(np.float32) for _ in range(2))
    params, expected = [ones(5, 3), ones(5, 3)], [ones(5, 3), ones(5, 3)]
    opt, reference = fastopt.Adam(params, backend=backend), fastopt.Adam(expected, backend="numpy")
    for grads in (first, later, first, later):
        odd = list(grads) if grads is first else [np.copy(grads[0]), LATER[kind](grads[1])]
        opt.step(odd)
        reference.step([np.array(grad, np.float32, order="C") for grad in odd])
    assert np.array_equal(params, expected)


@pytest.mark.parametrize("is_layout_known", [True, False])
@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (lambda grad: grad.T, ValueError),
        (lambda grad: grad.reshape(15), ValueError),
        (lambda grad: grad[0], ValueError),
        (lambda grad: grad.astype(np.int32), TypeError),
        (np.ma.array, TypeError),
        (list, TypeError),
        (lambda grad: np.broadcast_to(grad, grad.shape), ValueError),
    ],
    ids=["transposed", "flat", "a row", "integers", "masked", "a list", "read-only"],
)
def test_wrong_gradients_of_a_later_step(
    kind: Any, error: type[Exception], backend: str, is_layout_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "native":
        native = native_module()
        monkeypatch.setattr(native, "has_known_ndarrays", is_layout_known and native.has_known_ndarrays)
    params = [ones(5, 3), ones(5, 3)]
    opt = fastopt.SGD(params, lr=1.0, zero_grads=True, backend=backend)
    opt.step([ones(5, 3), ones(5, 3)])
    good, bad = ones(5, 3), ones(5, 3)
    with pytest.raises(error, match="'1'"):
        opt.step([good, kind(bad)])
    assert np.array_equal([*params, good, bad], np.repeat([0, 0, 1, 1], 15).reshape(4, 5, 3))
    opt.step([good, bad])
    assert np.array_equal([*params, good, bad], np.repeat([-1, -1, 0, 0], 15).reshape(4, 5, 3))


def native_module() -> Any:
    from fastopt.backends.native import library

    if library.missing is not None:
        pytest.skip(f"needs the native backend: {library.missing}")
    from fastopt.backends.native import ndarrays

    return ndarrays


def test_params_are_the_very_arrays_in_their_structure() -> None:
    hidden, bias, out = ones(2, 3), ones(3), ones(1)
    params = {"hidden": {"W": hidden, "b": bias}, "out": (out,)}
    found = fastopt.SGD(params).params
    assert list(found) == ["hidden", "out"]
    assert found["hidden"]["W"] is hidden
    assert found["hidden"]["b"] is bias
    assert isinstance(found["out"], list)
    assert found["out"][0] is out
    assert fastopt.SGD(hidden).params is hidden
    opt = fastopt.SGD([{"params": [hidden], "lr": 0.1}])
    opt.add_param_group({"params": [bias]})
    ((first,), (second,)) = opt.params
    assert first is hidden
    assert second is bias
