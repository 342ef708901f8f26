"""``fastopt.functional``: pure, with the bits of the optimizer's own step, and in structures of all kinds."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import weakref
from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, Case, raw
from checkpoints import ENVIRONMENT
from pure_runs import bits, flat, grads_of, params_of

import fastopt
from fastopt import schedules

EVERY = [*CASES, *MATRIX_CASES]


def added(params: Any, updates: Any) -> Any:
    """Return the parameters plus the updates, as optax.apply_updates does, in NumPy."""
    return {"a": params["a"] + updates["a"], "b": [p + u for p, u in zip(params["b"], updates["b"], strict=True)]}


def assert_sum_is_as_promised(old: Any, update: Any, new: Any) -> None:
    """The same bits where the difference is exact; else within the resolution of the larger one."""
    total = old + update
    is_exact = (old == 0) | ((old * new > 0) & (abs(new) <= 2 * abs(old)) & (abs(old) <= 2 * abs(new)))
    assert raw(total[is_exact]) == raw(new[is_exact])
    larger = np.maximum(abs(old.astype("f8")), abs(new.astype("f8")))
    assert (abs(total.astype("f8") - new.astype("f8")) <= np.finfo(old.dtype).eps * larger).all()


# --- The numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_the_bits_of_the_optimizer(case: Case) -> None:
    """Every optimizer is pure: nothing that is given changes."""
    own = params_of(are_matrices=case in MATRIX_CASES)
    opt = case.build(own)
    tx = fastopt.functional(case.build)
    params: Any = params_of(are_matrices=case in MATRIX_CASES)
    state = tx.init(params)
    for step in range(4):
        grads = grads_of(params, step)
        opt.step(grads)
        given = copy.deepcopy((grads, state, params))
        updates, after_update = tx.update(grads, state, params)
        new, after = tx.apply(grads, state, params)
        assert bits((grads, state, params)) == bits(given)
        assert bits(new) == bits(own)
        assert bits(after) == bits(after_update)
        assert {name: bits(entries) for name, entries in after["arrays"].items()} == {
            name: bits(dict(opt.state[name])) for name in opt.state
        }
        for old, update, its in zip(flat(params), flat(updates), flat(new), strict=True):
            assert_sum_is_as_promised(old, update, its)
        params, state = new, after


@pytest.mark.parametrize(
    "options",
    [
        {"clip_global_norm": 0.5, "weight_decay": 0.1},
        {"lr": schedules.cosine(0.1, total=7)},
        {"ema_decay": 0.9},
        {"polyak": True, "polyak_start": 3},
        {"accumulate_steps": 3},
        {"amsgrad": True, "state_dtype": "bfloat16"},
        {"state_dtype": "uint8", "seed": 3},
        {"bounds": (-0.5, 0.5), "prox_l1": 0.01},
        {"backend": "numpy"},
    ],
    ids=str,
)
def test_a_run_goes_on_from_any_state(options: dict[str, Any]) -> None:
    """Each step again from its own state, in another order, and as an optimizer that changes arrays in place."""
    pytest.importorskip("ml_dtypes")
    tx = fastopt.functional(fastopt.Adam, **{"lr": 0.1, **options})
    params: Any = params_of()
    run = [(params, tx.init(params))]
    for step in range(7):
        run.append(tx.apply(grads_of(params, step), *reversed(run[-1])))
    own = params_of()
    opt = fastopt.Adam(own, **{"lr": 0.1, **options})
    for step in range(7):
        opt.step(grads_of(params, step))
    assert bits(run[-1][0]) == bits(own)
    for step in (5, 0, 3, 3, 1, 6):
        old, state = run[step]
        assert bits(tx.apply(grads_of(params, step), pickle.loads(pickle.dumps(state)), old)) == bits(run[step + 1])
    going_on = tx.optimizer(*run[3])
    for step in range(3, 7):
        going_on.step(grads_of(params, step))
    assert bits(going_on.params) == bits(own)
    assert bits(run[3][0]) != bits(own)
    assert going_on.step_count == opt.step_count


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    """The master is in the state, so that rounding of updates does not add up."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    own, params = params_of(dtype=kind), params_of(dtype=kind)
    opt, tx = fastopt.Adam(own, lr=0.1), fastopt.functional(fastopt.Adam, lr=0.1)
    state = tx.init(params)
    for step in range(8):
        grads = grads_of(own, step)
        opt.step(grads)
        updates, state = tx.update(grads, state, params)
        params = added(params, updates)
        for its, mine in zip(flat(params), flat(own), strict=True):
            assert its.dtype == kind
            np.testing.assert_allclose(its.astype("f4"), mine.astype("f4"), rtol=2**-7, atol=2**-8)
    assert raw(state["arrays"]["a"]["master"]) == raw(opt.state["a"]["master"])


def test_counts_of_skipped_steps() -> None:
    tx = fastopt.functional(fastopt.SGD, lr=1.0, nonfinite="skip", nonfinite_limit=2)
    params = np.ones(2)
    state = tx.init(params)
    for skipped in (1, 2):
        updates, state = tx.update(np.array([1.0, np.nan]), state, params)
        assert updates.tolist() == [0.0, 0.0]
        assert {name: int(count) for name, count in state["counts"].items()} == {
            "step_count": 0,
            "accumulated_calls": 0,
            "skipped_in_a_row": skipped,
            "skipped_steps": skipped,
        }
    with pytest.raises(ValueError, match="2 steps in a row"):
        tx.update(np.array([1.0, np.nan]), state, params)
    updates, state = tx.update(np.array([1.0, 2.0]), state, params)
    assert updates.tolist() == [-1.0, -2.0]
    assert (int(state["counts"]["skipped_in_a_row"]), int(state["counts"]["skipped_steps"])) == (0, 2)


# --- Structures -------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    W: Any
    b: Any


STRUCTURES = [
    np.ones(2),
    [np.ones(2), np.ones(3)],
    (np.ones(2), (np.ones(3),)),
    Layer(np.ones(2), None),
    {"a": Layer(np.ones(2), np.ones(1)), "b": {}},
    OrderedDict(b=np.ones(2), a=np.ones(3)),
    defaultdict(list, a=np.ones(2)),
    MappingProxyType({"a": np.ones(2)}),
    {"a": 1.0, "b": np.float32(2.0), "c": np.ones(())},
]


@pytest.mark.parametrize("params", STRUCTURES, ids=lambda params: type(params).__name__)
def test_results_have_the_structure_of_the_parameters(params: Any) -> None:
    tx = fastopt.functional(fastopt.SGD, lr=1.0, momentum=0.5)
    state = tx.init(params)

    def assert_alike(found: Any, expected: Any, value: float) -> None:
        if isinstance(expected, (dict, list, tuple, MappingProxyType)):
            assert type(found) is type(expected)
            assert len(found) == len(expected)
            is_dict = isinstance(expected, (dict, MappingProxyType))
            keys: Any = list(expected) if is_dict else range(len(expected))
            assert not is_dict or list(found) == keys
            for key in keys:
                assert_alike(found[key], expected[key], value)
        elif expected is None:
            assert found is None
        else:
            assert type(found) is np.ndarray
            assert (found.shape, found.dtype) == (np.shape(expected), np.asarray(expected).dtype)
            assert (found == value * np.asarray(expected)).all()

    updates, state = tx.update(params, state, params)
    assert_alike(updates, params, -1.0)
    new, state = tx.apply(params, state, params)
    assert_alike(new, params, -0.5)


def test_other_parameters_come_and_go() -> None:
    """Parameters of another shape, dtype or structure get new arrays: those made before are not used."""
    tx = fastopt.functional(fastopt.SGD, lr=1.0, momentum=0.5)
    for params in (*STRUCTURES, np.ones(3), np.ones(2, np.float32), [np.ones(2)], [np.ones(2), np.ones(3)]):
        state = tx.init(params)
        assert bits(tx.update(params, state, params)[1]["arrays"]) != bits(state["arrays"])


def test_groups_and_several_optimizers() -> None:
    params = params_of()
    decay = {"a": {"weight_decay": 0.5}, "*": {}}
    for make in (
        lambda params: fastopt.SGD(fastopt.group_by(params, decay), lr=0.1),
        lambda params: fastopt.Combined(params, {"a": (fastopt.Muon, {}), "*": (fastopt.AdamW, {"lr": 0.1})}),
    ):
        own = params_of()
        opt, tx = make(own), fastopt.functional(make)
        opt.step(grads_of(own, 0))
        assert bits(tx.apply(grads_of(own, 0), tx.init(params), params)[0]) == bits(own)
    parts = {"a": (fastopt.Muon, {}), "*": (fastopt.AdamW, {"lr": 0.1})}
    tx = fastopt.functional(fastopt.Combined, parts)
    assert bits(tx.apply(grads_of(params, 0), tx.init(params), params)[0]) == bits(own)


def test_a_gradient_that_is_missing_makes_no_update() -> None:
    params = params_of()
    tx = fastopt.functional(fastopt.Adam, lr=0.1)
    updates, state = tx.update({"a": None, "b": [np.ones(5), None]}, tx.init(params), params)
    assert (updates["a"] == 0).all()
    assert (updates["b"][0] != 0).all()
    assert [int(state["arrays"][name]["step"]) for name in ("a", "b.0", "b.1")] == [0, 1, 0]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda tx: pickle.loads(pickle.dumps(tx))])
def test_copies(copied: Any) -> None:
    """As a part of a configuration, or sent to another process; each computes in arrays of its own."""
    params = params_of()
    tx = fastopt.functional(fastopt.Adam, lr=schedules.cosine(0.1, total=7))
    expected = tx.update(grads_of(params, 0), tx.init(params), params)
    other = copied(tx)
    assert bits(other.update(grads_of(params, 0), other.init(params), params)) == bits(expected)


def test_the_pair() -> None:
    init, update = fastopt.functional(fastopt.SGD, lr=0.5)
    assert update(np.ones(1), init(np.ones(1)), np.ones(1), value=3.0)[0].tolist() == [-0.5]


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"learning_rate": 0.1}, TypeError, "for 'learning_rate' write 'lr'"),
        ({"zero_grads": True}, ValueError, "^zero_grads=True: the gradients of a pure function do not change"),
        ({"copy_to": np.ones(2, np.float16)}, ValueError, "^copy_to: a pure function changes no array"),
        (
            {"grad_scale": fastopt.DynamicLossScale(), "nonfinite": "skip"},
            ValueError,
            "^grad_scale: expected a number",
        ),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    tx = fastopt.functional(fastopt.SGD, **options)
    with pytest.raises(error, match=says):
        tx.init(np.ones(2, np.float32))


def test_what_makes_no_optimizer() -> None:
    with pytest.raises(TypeError, match=r"^functional: expected one of fastopt's optimizers, got "):
        fastopt.functional(fastopt.LBFGS).init(np.ones(2))
    made: Any
    for made, name in (("Adam", r"fastopt\.Adam"), (None, r"fastopt\.Adam"), (fastopt.SGD(np.ones(2)), "SGD")):
        with pytest.raises(TypeError, match=rf"^functional: expected a class .* got .*; write functional\({name}, "):
            fastopt.functional(made)


def test_wrong_arguments() -> None:
    """Each is named, and the next call is right again."""
    params = params_of()
    tx = fastopt.functional(fastopt.SGD, lr=0.5, momentum=0.5)
    state, grads = tx.init(params), grads_of(params, 0)
    expected = bits(tx.update(grads, state, params))

    def of_a(**entries: Any) -> Any:
        return {**state, "arrays": {**state["arrays"], "a": entries}}

    own = state["arrays"]["a"]
    short, narrow = of_a(step=np.int64(0)), of_a(**{**own, "b": np.ones(3)})
    complex_, half = of_a(**{**own, "b": own["b"] * 1j}), of_a(**{**own, "step": np.float64(0.5)})
    negative = of_a(**{**own, "step": np.int64(-1)})
    for arguments, error, says in (
        ((grads, state), TypeError, "^params=None: expected the parameters; call update"),
        ((grads, (), params), TypeError, r"^state: expected a dict with the keys \['counts', 'arrays'\], got a? ?"),
        ((grads, short, params), TypeError, r"^state\.arrays\.a: expected a dict with the keys \['step', 'b'\], got "),
        ((grads, complex_, params), TypeError, r"^state\.arrays\.a\.b has dtype complex\d+; expected float32"),
        ((grads, half, params), TypeError, r"^state\.arrays\.a\.step has dtype float64; expected int64"),
        ((grads, negative, params), ValueError, r"^state\.arrays\.a\.step=.*-1.*: expected a count of at least 0"),
        ((grads, narrow, params), ValueError, r"^state\.arrays\.a\.b has shape \(3,\); expected \(4, 3\); give what "),
        (({"a": grads["a"], "c": []}, state, params), ValueError, "no parameter has the names"),
        (({**grads, "a": np.ones(2)}, state, params), ValueError, "'a' has shape"),
        ((grads, state, {**params, "a": np.ones(2, int)}), TypeError, "'a'"),
    ):
        with pytest.raises(error, match=says):
            tx.update(*arguments)
        assert bits(tx.update(grads, state, params)) == expected


# --- Hosts without JAX ------------------------------------------------------------------------------------------------


def test_in_the_driver_of_tidy3d() -> None:
    """Whose protocol is optax's, without JAX; with the numbers of its own Adam."""
    pytest.importorskip("tidy3d", reason="compares with the live tidy3d")
    from autograd import numpy as anp
    from tidy3d.plugins.autograd import adam, optimize

    def objective(params: Any) -> Any:
        return anp.sum((params["a"] - 0.3) ** 2) + anp.sum(anp.sin(params["b"]) ** 2)

    params = {"a": np.linspace(-1, 2, 5), "b": np.ones((2, 2))}
    for bounds in (None, {"a": (0.4, 1.0)}):
        expected, _, of_expected = optimize(objective, params, adam(0.05), 30, bounds=bounds)
        ours = fastopt.functional(fastopt.Adam, lr=0.05)
        found, _, of_found = optimize(objective, params, ours, 30, bounds=bounds)
        for name in params:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
        np.testing.assert_allclose(of_found["objective_fn_val"], of_expected["objective_fn_val"], rtol=1e-12)


def test_jax_is_not_imported() -> None:
    code = (
        "import sys, numpy as np, fastopt; tx = fastopt.functional(fastopt.Adam); p = np.ones(2); "
        "tx.update(p, tx.init(p), p); sys.exit('jax' in sys.modules or 'optax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


class Masked(NamedTuple):
    """optax's form of what a transformation does not see."""


@pytest.mark.parametrize("params", [{}, [], (), Masked(), {"a": None}, {"a": Masked(), "b": [{}]}], ids=str)
def test_a_structure_without_arrays_has_nothing_to_update(params: Any) -> None:
    tx = fastopt.functional(fastopt.Adam)
    state = tx.init(params)
    for call in (tx.update, tx.apply):
        result, new_state = call(params, state, params)
        assert result == params
        assert type(result) is type(params)
        assert new_state == state
    with pytest.raises(ValueError, match="there is no array"):
        tx.optimizer(params, state)


def test_the_parameters_that_were_given_are_not_kept() -> None:
    tx, params = fastopt.functional(fastopt.Adam), {"a": np.ones(3)}
    given = weakref.ref(params["a"])
    state = tx.init(params)
    tx.update({"a": np.ones(3)}, state, params)
    del params
    assert given() is None
