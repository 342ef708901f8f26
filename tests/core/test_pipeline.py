"""Everything around the rule that is done in the same pass: the bits of every backend, and of the separate calls."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CASES,
    ISAS,
    MATRIX_CASES,
    OPTIONS,
    STORAGE,
    Case,
    built,
    every_dtype,
    needs_native,
    raw,
    taken_by,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.backends import threads
from fastopt.backends.choosing import host_backend
from fastopt.backends.native import library as native
from fastopt.backends.numpy.axis_sums import sum_squares
from fastopt.core import max_norm
from fastopt.core.row_sparse import NOT_BY_ROWS
from fastopt.core.whole_arrays import ArrayOptimizer

ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")

#: Lengths around the blocks, and above the least of 8-bit slots.
LENGTHS: list[Any] = [0, 1, 127, 1025, 4095, 4096, 5000, 16385, (67, 15)]

ALL = [*CASES, *MATRIX_CASES]
every_case = pytest.mark.parametrize("case", ALL, ids=str)

#: Enough of the rows for what does not depend on the rule, and one of each optimizer whose step is not one pass.
SOME = [case for case in CASES if case.optimizer in (fastopt.Adam, fastopt.AdamW)][-4:]
EACH = [
    SOME[0],
    *{case.optimizer: case for case in ALL if issubclass(case.optimizer, ArrayOptimizer)}.values(),
]


def taken(options: dict[str, dict[str, Any]], cases: list[Case] = ALL) -> Any:
    """Return the cases with what they take of each row of options."""
    return pytest.mark.parametrize(
        ("case", "options"),
        [
            pytest.param(case, taken_by(case, row), id=f"{case}-{name}")
            for case in cases
            for name, row in options.items()
            if taken_by(case, row)
        ],
    )


def shape_of(case: Case, length: Any) -> tuple[int, ...]:
    """Return a shape of about so many elements that an optimizer takes, or the shape itself."""
    if isinstance(length, tuple):
        return length
    return (-(-length // 4), 4) if case in MATRIX_CASES else (length,)


every_storage = pytest.mark.parametrize("options", STORAGE.values(), ids=STORAGE)
every_backend = pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = threads.asked_for
    yield
    threads.asked_for = before
    if native.missing is None:
        native.use_isa(os.environ.get("FASTOPT_ISA"))


def all_bytes(opt: fastopt.Optimizer, *more: Any) -> list[bytes]:
    slots = [array for slots in opt.state.values() for array in slots.values()]
    copies = [array for array in opt.parts.parameters.copies if array is not None]
    counters = repr((opt.step_count, opt.accumulated_calls)).encode()
    return [*(raw(array) for array in (*opt.parts.parameters.arrays, *slots, *copies, *more)), counters]


def run(
    case: Case, dtype: Any, options: dict[str, Any], backend: str, special: bool = False, lengths: Any = LENGTHS
) -> list[bytes]:
    """Return the bytes of everything after a few steps, some of them with an array skipped or something infinite."""
    rng = np.random.default_rng(11)
    shapes = [shape_of(case, length) for length in lengths]
    opt = built(case, [rng.normal(size=shape).astype(dtype) for shape in shapes], options, backend=backend)
    told = []
    for step in range(5):
        grads: list[Any] = [rng.normal(size=shape).astype(dtype) for shape in shapes]
        if special or (step == 3 and options.get("nonfinite") == "skip"):
            for grad in grads[1:]:
                grad.reshape(-1)[rng.integers(grad.size, size=3)] = [np.inf, np.nan, -np.inf]
        given = [None if step in (1, 2) and i == len(grads) // 2 else grad for i, grad in enumerate(grads)]
        told.append(tuple(opt.step(given)))
        told.append(b"".join(raw(grad) for grad in grads))
    return [*all_bytes(opt), repr(told).encode()]


# ---- the same bits


@pytest.mark.by_turns("case", count=2)
@needs_native
@every_dtype
@taken(OPTIONS)
def test_native_is_numpy(case: Case, dtype: Any, options: dict[str, Any]) -> None:
    expected = run(case, dtype, options, "numpy")
    for isa in ISAS:
        native.use_isa(isa)
        assert run(case, dtype, options, "native") == expected


@pytest.mark.by_turns("case")
@needs_native
@taken(STORAGE)
def test_native_is_numpy_in_every_storage(case: Case, options: dict[str, Any]) -> None:
    expected = run(case, np.float32, options, "numpy")
    for isa in ISAS:
        native.use_isa(isa)
        assert run(case, np.float32, options, "native") == expected


@pytest.mark.by_turns("options")
@needs_native
@taken({**OPTIONS, **STORAGE}, SOME + EACH[1:])
def test_every_isa_and_number_of_threads(case: Case, options: dict[str, Any]) -> None:
    lengths = [*LENGTHS, 70_001]
    results = []
    for isa in ISAS:
        native.use_isa(isa)
        for count in (1, 3):
            fastopt.set_num_threads(count)
            results.append(run(case, np.float32, options, "native", lengths=lengths))
    assert all(result == results[0] for result in results)


@pytest.mark.by_turns("options")
@needs_native
@taken({**OPTIONS, **STORAGE}, SOME[:2] + EACH[1:])
def test_special_values(case: Case, options: dict[str, Any]) -> None:
    options = {**options, "nonfinite": "propagate"}
    expected = run(case, np.float32, options, "numpy", special=True)
    for isa in ISAS:
        native.use_isa(isa)
        assert run(case, np.float32, options, "native", special=True) == expected


@needs_native
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_combinations(data: st.DataObject) -> None:
    """Any options together, of any optimizer, over any shapes and dtypes: native bits are NumPy's."""
    case = data.draw(st.sampled_from(ALL))
    dtype = data.draw(st.sampled_from([np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]))
    maybe = data.draw
    options: dict[str, Any] = {
        "l1": maybe(st.sampled_from([0.0, 0.1])),
        "prox_l1": maybe(st.sampled_from([0.0, 0.1])),
        "max_norm": maybe(st.sampled_from([None, 2.0])) if dtype != BFLOAT16 else None,
        "nonfinite": maybe(st.sampled_from(["propagate", "skip"])),
        "grad_scale": maybe(st.sampled_from([1.0, 3.0])),
        "zero_grads": maybe(st.booleans()),
        "accumulate_steps": maybe(st.integers(1, 3)),
        "stochastic_rounding": maybe(st.booleans()),
        "state_dtype": maybe(st.sampled_from([None, "bfloat16", "uint8"])) if dtype != np.float64 else None,
        "seed": maybe(st.integers(0, 2**70)),
        "clip_global_norm": maybe(st.sampled_from([None, 1.0])),
        **maybe(st.sampled_from([{}, {"ema_decay": 0.5}, {"polyak": True}])),
    }
    options = taken_by(case, options)
    kinds = [(0, 2), (5, 7), (130, 33)] + ([] if case in MATRIX_CASES else [(), (3,), (4097,)])
    shapes = maybe(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    grad_dtypes = maybe(
        st.lists(
            st.sampled_from(["same", np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]), min_size=1, max_size=3
        )
    )
    with_copy = dtype == np.float32 and maybe(st.booleans())
    order = maybe(st.sampled_from("CF"))
    results = []
    for backend in ("native", "numpy"):
        rng = np.random.default_rng(1)
        params = [np.asarray(rng.normal(size=shape), order=order).astype(dtype) for shape in shapes]
        more = {"copy_to": [np.empty_like(param, BFLOAT16) for param in params]} if with_copy else {}
        opt = case.build(params, **{**options, **more}, backend=backend)
        told = []
        for step in range(4):
            grads: list[Any] = []
            for i, shape in enumerate(shapes):
                kind = grad_dtypes[i % len(grad_dtypes)]
                grad = np.asarray(rng.normal(size=shape)).astype(dtype if isinstance(kind, str) else kind)
                if step == 2 and grad.size:
                    grad.flat[0] = np.nan
                grads.append(None if rng.random() < 0.2 else grad)
            told.append(tuple(opt.step(grads)))
            told.append([None if grad is None else raw(grad) for grad in grads])
        results.append([*all_bytes(opt), repr(told)])
    assert results[0] == results[1]


# ---- the fused step is the sequence of separate calls


@pytest.mark.by_turns("case")
@every_backend
@every_dtype
@every_case
def test_fused_is_the_separate_calls(case: Case, dtype: Any, backend: str) -> None:
    """Unscale, clip, step, shrink, average, clear: as separate calls around the plain optimizer, bit for bit."""
    clips = ("clip_value", "clip_norm", "clip_global_norm")
    plain = Case(case.optimizer, {name: value for name, value in case.options.items() if name not in clips})
    rng = np.random.default_rng(2)
    start = [rng.normal(size=shape_of(case, length)).astype(dtype) for length in (7, 1025, 5000)]
    options: dict[str, Any] = {
        "grad_scale": 4.0,
        "clip_value": 1.5,
        "clip_global_norm": 2.0,
        "l1": 0.01,
        "ema_decay": 0.9,
        "zero_grads": True,
        "prox_l1": 0.5,
    }
    options = taken_by(case, options)
    fused = built(plain, start, options, backend=backend)
    separate = built(plain, start, {}, backend=backend)
    sign = -1 if separate.param_groups[0]["maximize"] else 1
    average = [param.copy() for param in separate.parts.parameters.arrays]
    decay = separate.param_groups[0]["weight_decay"] if not separate.param_groups[0]["decoupled"] else 0
    separate.param_groups[0]["weight_decay"] = 0 if decay else separate.param_groups[0]["weight_decay"]
    for step in range(4):
        grads = [rng.normal(size=param.shape).astype(dtype) for param in start]
        theirs = [grad.copy() for grad in grads]
        info = fused.step(grads)
        for grad in theirs:
            grad /= dtype(4)
        fastopt.clip_grad_value_(theirs, 1.5)
        norm = fastopt.clip_grad_norm_(theirs, 2.0)
        for grad, param in zip(theirs, separate.parts.parameters.arrays, strict=True):
            if decay:
                grad[...] = grad * sign + dtype(decay) * param
                grad += dtype(0.01) * np.sign(param)
                grad *= sign
            else:
                grad += dtype(0.01 * sign) * np.sign(param)
        # SWATS may have changed over to a rate of its own for an array.
        rates = [float(state.get("sgd_lr", 0)) for state in separate.state.values()]
        lr = separate.step(theirs).lr
        for param, mean, rate in zip(separate.parts.parameters.arrays, average, rates, strict=True):
            limit = dtype(max((rate or lr) * options.get("prox_l1", 0), 0.0))
            param[...] = np.where(np.abs(param) > limit, param - np.copysign(limit, param), 0)
            mean += dtype(1 - 0.9) * (param - mean)
        assert info == (True, norm, lr, step + 1)
        assert not any(grad.any() for grad in grads)
        assert all(
            (mine == other).all()
            for mine, other in zip(fused.parts.parameters.arrays, separate.parts.parameters.arrays, strict=True)
        )
        if "ema_decay" in options:
            assert all((mine == other).all() for mine, other in zip(fused.ema, average, strict=True))


@pytest.mark.by_turns("case")
@every_backend
@every_dtype
@every_case
def test_accumulating_is_one_step_with_the_mean(case: Case, dtype: Any, backend: str) -> None:
    rng = np.random.default_rng(3)
    start = [rng.normal(size=shape).astype(dtype) for shape in (shape_of(case, 5), (3, 4), shape_of(case, 2))]
    opt = built(case, start, {"accumulate_steps": 4, "maximize": True}, backend=backend)
    reference = built(case, start, {"maximize": True}, backend=backend)
    for step in range(3):
        grads = [[rng.normal(size=param.shape).astype(dtype) for param in start] for _ in range(4)]
        for call, each in enumerate(grads):
            # The second has no gradient in half the calls, the last in none.
            info = opt.step([each[0], each[1] if call < 2 else None, None])
            assert info.applied == (call == 3)
            assert (info.step, opt.step_count) == ((step + 1,) * 2 if call == 3 else (step,) * 2)
        means = [
            (((grads[0][i] + grads[1][i]) + grads[2][i] * (i == 0)) + grads[3][i] * (i == 0)) * dtype(0.25)
            for i in (0, 1)
        ]
        assert reference.step([*means, None])[1:] == info[1:]
        for mine, other in zip(opt.parts.parameters.arrays, reference.parts.parameters.arrays, strict=True):
            np.testing.assert_array_equal(mine, other)
    assert int(opt.state["2"]["step"]) == 0
    assert not opt.state["0"]["accumulated"].any()


# ---- averages


def test_polyak_is_the_mean_from_its_start() -> None:
    rng = np.random.default_rng(4)
    theta = rng.normal(size=9)
    opt = fastopt.SGD({"a": {"W": theta}}, lr=0.1, polyak=True, polyak_start=3)
    seen = []
    for _ in range(6):
        opt.step({"a": {"W": rng.normal(size=9)}})
        seen.append(theta.copy())
        np.testing.assert_allclose(opt.ema["a"]["W"], np.mean(seen[2:], axis=0) if len(seen) > 2 else theta, rtol=1e-14)


def test_ema_bias_correction_is_the_weighted_mean() -> None:
    rng = np.random.default_rng(5)
    theta = rng.normal(size=9)
    opt = fastopt.SGD(theta, lr=0.1, ema_decay=0.8, ema_bias_correction=True)
    weighted, weights = 0.0, 0.0
    for _ in range(6):
        opt.step(rng.normal(size=9))
        weighted, weights = 0.8 * weighted + 0.2 * theta, 0.8 * weights + 0.2
        np.testing.assert_allclose(opt.ema, weighted / weights, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"copy_to": BFLOAT16}, {"params": BFLOAT16}, {"params": np.dtype(np.float16)}])
def test_averaged_swaps_in_place_and_back(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    opt = built(CASES[0], [rng.normal(size=(4, 3)).astype(np.float32)], {**options, "ema_decay": 0.5})
    opt.step([rng.normal(size=(4, 3))])
    arrays = [array for array in (*opt.parts.parameters.arrays, *opt.parts.parameters.copies) if array is not None]
    before, expected = all_bytes(opt), [opt.ema[0].astype(array.dtype) for array in arrays]
    with pytest.raises(RuntimeError, match="the body"), opt.averaged():  # noqa: PT012
        for array, average in zip(arrays, expected, strict=True):
            assert raw(array) == raw(average)
        with pytest.raises(ValueError, match="leave averaged"):
            opt.step([None])
        with pytest.raises(ValueError, match="already"), opt.averaged():
            pass
        raise RuntimeError("the body")
    assert all_bytes(opt) == before


def test_ema_has_the_parameters_structure() -> None:
    params = {"a": [np.ones(2), np.ones(3, np.float32)], "b": np.asfortranarray(np.ones((2, 3)))}
    opt = fastopt.Adam(params, ema_decay=0.9)
    assert {name: kind for name, kind in (("a", list), ("b", np.ndarray)) if type(opt.ema[name]) is kind}.keys() == {
        "a",
        "b",
    }
    assert opt.ema["b"].shape == (2, 3)
    assert opt.ema["a"][1].dtype == np.float32
    with pytest.raises(ValueError, match="keeps no average"):
        _ = fastopt.Adam(params).ema


def test_mean_of_snapshots() -> None:
    snapshots = [{"W": np.float32([1, 5]), "b": [np.float64(k) * np.ones(1)]} for k in range(3)]
    mean = fastopt.averaging.mean(snapshots)
    np.testing.assert_array_equal(mean["W"], np.float32([1, 5]))
    np.testing.assert_array_equal(mean["b"][0], [1.0])
    with pytest.raises(ValueError, match="empty"):
        fastopt.averaging.mean([])
    with pytest.raises(ValueError, match="has shape"):
        fastopt.averaging.mean([np.ones(2), np.ones(3)])


@needs_native
@every_storage
def test_kernels_leave_long_doubles_alone(options: dict[str, Any]) -> None:
    """An MMX instruction in a kernel would make every later long double NaN: they share registers."""
    for isa in ISAS:
        native.use_isa(isa)
        run(SOME[0], np.float32, options, "native")
        assert (np.ones(3, np.longdouble) * 2 == 2).all()


# ---- what the steps refuse, skip and clear


@pytest.mark.by_turns("value", "clip")
@every_backend
@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clip", [{}, {"clip_value": 1.0}, {"clip_norm": 1.0}, {"clip_global_norm": 1.0}])
@pytest.mark.parametrize("more", [{}, {"accumulate_steps": 2}, {"ema_decay": 0.9, "weight_decay": 0.1}])
def test_nonfinite(backend: str, dtype: Any, value: float, clip: dict[str, Any], more: dict[str, Any]) -> None:
    """One bad value anywhere: nothing changes, whether it is skipped or raised."""
    rng = np.random.default_rng(7)
    start = {"a": rng.normal(size=5).astype(dtype), "b": rng.normal(size=4100).astype(dtype)}
    lr = fastopt.schedules.linear(1.0, 0.1, 10)
    for nonfinite in ("skip", "raise"):
        params = copy.deepcopy(start)
        opt = fastopt.Adam(params, lr=lr, nonfinite=nonfinite, backend=backend, **clip, **more)
        good = {name: rng.normal(size=param.size).astype(dtype) for name, param in params.items()}
        # A sum of squares that overflows is not a gradient that is infinite.
        good["a"][0] = np.finfo(dtype).max / 4
        first = opt.step(good)
        before = all_bytes(opt)
        bad = copy.deepcopy(good)
        bad["b"][4097] = value
        if nonfinite == "skip":
            info = opt.step(bad)
            assert (info.applied, info.step, info.lr) == (False, opt.step_count, float(lr(opt.step_count)))
        else:
            with pytest.raises(ValueError, match="'b' has 1 elements"):
                opt.step(bad)
        assert all_bytes(opt) == before
        assert opt.step(good).applied != (first.applied and opt.pass_options.accumulate_steps > 1)


def test_largest_finite_values_are_no_overflow() -> None:
    for dtype in (np.float32, np.float64):
        theta = np.zeros(1000, dtype)
        opt = fastopt.SGD(theta, nonfinite="skip", clip_value=1.0)
        assert opt.step(np.full(1000, np.finfo(dtype).max)).applied


def test_accumulated_sums_are_checked() -> None:
    theta = np.zeros(1, np.float32)
    opt = fastopt.SGD(theta, lr=1.0, accumulate_steps=2, nonfinite="skip")
    assert not opt.step(np.float32([3e38])).applied
    assert not opt.step(np.float32([3e38])).applied  # their sum is infinite
    assert opt.accumulated_calls == 1
    assert opt.step(np.float32([2e37])).applied
    np.testing.assert_allclose(theta, -1.6e38, rtol=1e-6)


@every_backend
def test_zero_grads_clears_the_callers_arrays(backend: str) -> None:
    room = np.ones((6, 2))
    grads = {
        "plain": np.ones(5, np.float32),
        "strided": room[:, 0],
        "between": room[:, 1],
        "half": np.ones(5, np.float16),
        "brain": np.ones(5, BFLOAT16),
        "swapped": np.ones(5, ">f4"),
        "long": np.ones(5, np.longdouble),
        "fortran": np.asfortranarray(np.ones((3, 4))),
    }
    params = {name: np.zeros(grad.shape, np.float32) for name, grad in grads.items()}
    opt = fastopt.SGD(params, lr=1.0, zero_grads=True, backend=backend)
    for _ in range(2):
        opt.step(grads)
    assert all((param == -1).all() for param in params.values())
    assert {name: grad for name, grad in grads.items() if not (grad == 0).all()} == {}
    skipping = fastopt.SGD(np.zeros(2), zero_grads=True, nonfinite="skip", backend=backend)
    grad = np.array([1, np.nan])
    assert not skipping.step(grad).applied
    assert not grad.any()


@pytest.mark.parametrize("make", ["read-only", "twice", "overlap", "scalar", "strided over a parameter"])
def test_zero_grads_refuses(make: str) -> None:
    room = np.ones(40)
    params = {"a": room[:8], "b": np.zeros(8)}
    grads: dict[str, Any] = {"a": np.ones(8), "b": np.ones(8)}
    message = "share memory"
    if make == "read-only":
        grads["b"].flags.writeable = False
        message = "'b' is read-only"
    elif make == "twice":
        grads["b"] = grads["a"]
    elif make == "overlap":
        grads["a"], grads["b"] = room[20:28], room[24:32]
    elif make == "scalar":
        params, grads, message = {"a": np.zeros(())}, {"a": np.float64(1)}, "can't clear"
    else:
        grads["b"], message = room[:32:4], "overlaps the memory"
    opt = fastopt.SGD(params, zero_grads=True)
    before = [param.tobytes() for param in params.values()] + [np.asarray(grad).tobytes() for grad in grads.values()]
    with pytest.raises((ValueError, TypeError), match=message):
        opt.step(grads)
    after = [param.tobytes() for param in params.values()] + [np.asarray(grad).tobytes() for grad in grads.values()]
    assert after == before


def test_prox_l1_makes_exact_zeros_and_l1_does_not() -> None:
    theta = np.linspace(-1, 1, 41)
    fastopt.SGD(theta, lr=0.1, prox_l1=1.0).step(np.zeros(41))
    np.testing.assert_allclose(
        theta, np.sign(np.linspace(-1, 1, 41)) * np.maximum(np.abs(np.linspace(-1, 1, 41)) - 0.1, 0)
    )
    assert (theta == 0).sum() >= 3


@needs_native
@pytest.mark.parametrize("backend", ["numpy", *(["native"] if ISAS else [])])
def test_nothing_shrinks_by_a_negative_rate(backend: str) -> None:
    """SWATS may find one."""
    theta = np.float32([1.0, -1.0, 0.01])
    opt = fastopt.SWATS(theta, prox_l1=0.5, backend=backend)
    opt.state["0"]["switch_step"][...], opt.state["0"]["sgd_lr"][...] = 1, -0.1
    opt.step(np.zeros(3, np.float32))
    assert theta.tolist() == np.float32([1.0, -1.0, 0.01]).tolist()


def test_prox_l1_that_rounds_to_0() -> None:
    """The sign of a zero is the same on both backends."""
    results = []
    for backend in ("native", "numpy"):
        theta = np.tile(np.float32([-0.0, 0.0, 1.0]), 50)
        fastopt.SGD(theta, lr=0.1, momentum=0.9, prox_l1=1e-60, backend=backend).step(np.zeros(150, np.float32))
        results.append(theta.tobytes())
    assert results[0] == results[1]


def slow_sum_squares(array: Any, axes: tuple[int, ...]) -> Any:
    """One element after the other, in the order that csrc/axis_sums_template.h has."""
    others = [axis for axis in range(array.ndim) if axis not in axes]
    sums = np.zeros([array.shape[axis] for axis in others])
    units = array.transpose(*others, *axes).reshape(*sums.shape, math.prod(array.shape[axis] for axis in axes))
    for place in np.ndindex(sums.shape):
        squares = (units[place].astype(np.float64) ** 2).tolist()
        for begin in range(0, len(squares), 4096):
            lanes = [0.0] * 16
            for i, square in enumerate(squares[begin : begin + 4096]):
                lanes[i % 16] += square
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
            sums[place] += lanes[0]
    return np.expand_dims(sums, axes)


AXES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5, 7), (0,)),
    ((5, 7), (1,)),
    ((5, 7), (0, 1)),
    ((5, 7), ()),
    ((8195, 3), (0,)),
    ((3, 8195), (1,)),
    ((17, 260), (0,)),
    ((260, 17), (1,)),
    ((2, 4097, 3), (1,)),
    ((3, 4, 5, 6), (1, 2, 3)),
    ((3, 4, 5, 6), (0, 2)),
    ((3, 4, 5, 6), (1, 3)),
    ((3, 0), (0,)),
    ((3, 0), (1,)),
    ((3300, 40), (1,)),
    ((1100, 300), (0,)),
]


@pytest.mark.by_turns("shape", "axes")
@every_backend
@every_dtype
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("shape", "axes"), AXES)
def test_sums_over_axes(shape: tuple[int, ...], axes: tuple[int, ...], order: Any, dtype: Any, backend: str) -> None:
    """In the same order whatever the layout, on every backend and instruction set."""
    array = np.array(np.random.default_rng(3).normal(size=shape).astype(dtype), order=order)
    expected = slow_sum_squares(array, axes)
    for isa in ISAS if backend == "native" else [None]:
        if isa is not None:
            native.use_isa(isa)
        found = sum_squares(array, axes, host_backend(backend).add_runs)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)


@pytest.mark.by_turns("case")
@every_backend
@every_dtype
@pytest.mark.parametrize("case", [case for case in EACH if "max_norm" not in case.optimizer.refused], ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1)])
def test_max_norm(backend: str, case: Case, dtype: Any, axis: Any) -> None:
    """Units above the limit come down to it, others stay; averages and copies see what came of it."""
    rng = np.random.default_rng(8)
    start = {"W": rng.normal(size=(6, 4)).astype(dtype)}
    if case not in MATRIX_CASES:
        start["b"] = np.full(4, 9, dtype)
    params, plain = copy.deepcopy(start), copy.deepcopy(start)
    opt = case.build(params, max_norm=2.2, max_norm_axis=axis, ema_decay=0.0, backend=backend)
    reference = case.build(plain, backend=backend)
    for _ in range(3):
        grads = {name: rng.normal(size=param.shape).astype(dtype) for name, param in params.items()}
        opt.step(grads)
        reference.step(grads)
        norms = np.sqrt(slow_sum_squares(plain["W"], max_norm.axes_of("W", 2, axis)))
        plain["W"] *= np.where(norms > 2.2, 2.2 / norms, 1).astype(dtype)
        for name in params:
            np.testing.assert_array_equal(params[name], plain[name])
            np.testing.assert_array_equal(opt.ema[name], plain[name])
    with pytest.raises(ValueError, match="max_norm_axis"):
        case.build(params, max_norm=1.0, max_norm_axis=2).step(grads)


@every_backend
def test_average_of_a_bfloat16_bias_beside_held_norms(backend: str) -> None:
    """What has no units is averaged after them all the same, from memory of another dtype."""
    params = [np.full((3, 2), 5, np.float32), np.ones(300, BFLOAT16)]
    opt = fastopt.SGD(params, lr=0.5, max_norm=1.0, ema_decay=0.0, stochastic_rounding=True, backend=backend)
    opt.step([np.ones((3, 2)), np.ones(300)])
    np.testing.assert_array_equal(opt.ema[1], np.full(300, 0.5, np.float32))
    np.testing.assert_array_equal(opt.ema[0], params[0])


# ---- loss scale


def test_dynamic_loss_scale_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    rng = np.random.default_rng(9)
    scale = fastopt.DynamicLossScale(2.0**120, growth_interval=3)
    theirs, tracker = torch.tensor([2.0**120]), torch.tensor([0], dtype=torch.int32)
    for _ in range(300):
        applied = bool(rng.random() < 0.9)
        scale.update(applied)
        torch._amp_update_scale_(theirs, tracker, torch.tensor([float(not applied)]), 2.0, 0.5, 3)
        assert (scale.scale, scale.growth_tracker) == (float(theirs), int(tracker))


def test_dynamic_loss_scale_in_steps() -> None:
    scale = fastopt.DynamicLossScale(growth_interval=2)
    theta = np.ones(3, np.float32)
    opt = fastopt.SGD(theta, lr=1.0, grad_scale=scale, nonfinite="skip", accumulate_steps=2)
    scales = []
    for value in (1.0, 1.0, np.inf, 1.0, 1.0):
        opt.step(np.full(3, value * scale.scale))
        scales.append(scale.scale)
    assert scales == [2.0**16, 2.0**16, 2.0**15, 2.0**15, 2.0**15]
    assert theta[0] == -1
    resumed = fastopt.DynamicLossScale()
    resumed.load_state_dict(scale.state_dict())
    assert vars(resumed) == vars(scale)
    with pytest.raises(ValueError, match="expected the keys"):
        resumed.load_state_dict({"scale": 1.0})
    with pytest.raises(ValueError, match="growth_factor"):
        resumed.load_state_dict({**scale.state_dict(), "growth_factor": 1.0})
    assert vars(resumed) == vars(scale)
    with pytest.raises(ValueError, match="nonfinite"):
        fastopt.SGD(theta, grad_scale=scale)
    with pytest.raises(ValueError, match="one of the two"):
        opt.step(np.ones(3), grad_scale=2.0)


def test_grad_scale_of_one_step() -> None:
    theta = np.zeros(2)
    opt = fastopt.SGD(theta, lr=1.0, grad_scale=2.0)
    opt.step(np.ones(2))
    opt.step(np.ones(2), grad_scale=4.0)
    assert theta.tolist() == [-0.75, -0.75]
    for wrong in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="grad_scale"):
            opt.step(np.ones(2), grad_scale=wrong)


# ---- precisions


@pytest.mark.by_turns("case")
@every_backend
@every_case
@pytest.mark.parametrize("kind", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_masters_are_a_float32_run(backend: str, case: Case, kind: Any) -> None:
    """Half-precision parameters with masters: the masters are float32 parameters, what is shown is them rounded."""
    rng = np.random.default_rng(10)
    start = [rng.normal(size=shape_of(case, size)).astype(kind) for size in (5, 1500)]
    params = [param.copy() for param in start]
    wide = [param.astype(np.float32) for param in start]
    copies = [param.copy() for param in start]
    opt = case.build(params, backend=backend)
    reference = case.build(wide, backend=backend, copy_to=copies)
    for _ in range(4):
        grads = [rng.normal(size=param.shape).astype(kind) for param in params]
        opt.step(grads)
        reference.step(grads)
        for i, param in enumerate(params):
            assert raw(opt.state[str(i)]["master"]) == raw(wide[i])
            assert raw(param) == raw(copies[i]) == raw(wide[i].astype(kind))


def stochastic_run(backend: str, seed: int) -> Any:
    theta = np.zeros(40_000, BFLOAT16)
    theta[...] = 1
    opt = fastopt.SGD(theta, lr=2.0**-12, stochastic_rounding=True, seed=seed, backend=backend)
    for _ in range(64):
        opt.step(np.full(40_000, -1.0, np.float32))
    return theta.astype(np.float32)


def test_stochastic_rounding_keeps_the_mean() -> None:
    """Steps of a 32nd of what bfloat16 tells apart: to the nearest nothing would ever move."""
    theta = stochastic_run("numpy", 0)
    exact = 1 + 64 * 2.0**-12
    # 64 Bernoulli steps of 2**-7 with probability 1/32, over 40,000 elements: five standard deviations.
    bound = 5 * 2.0**-7 * np.sqrt(64 / 32 * 31 / 32 / 40_000)
    assert abs(theta.mean() - exact) < bound
    assert 0.5 < theta.std() / (2.0**-7 * np.sqrt(64 / 32 * 31 / 32)) < 1.5
    assert (stochastic_run("numpy", 1) != theta).any()


@every_backend
def test_bfloat16_second_moments_do_not_stand_still(backend: str) -> None:
    rng = np.random.default_rng(11)
    theta = np.zeros(5000, np.float32)
    opt = fastopt.Adam(theta, lr=0.0, state_dtype="bfloat16", backend=backend)
    exact = fastopt.Adam(theta.copy(), lr=0.0, backend=backend)
    for _ in range(300):
        grad = rng.normal(size=5000).astype(np.float32)
        opt.step(grad)
        exact.step(grad)
    assert opt.state["0"]["v"].dtype == BFLOAT16
    np.testing.assert_allclose(opt.slot("0", "v").mean(), exact.slot("0", "v").mean(), rtol=0.01)


def test_what_can_not_be_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="'0' is float64"):
        fastopt.Adam(np.ones(3), state_dtype="uint8").step(np.ones(3))
    with pytest.raises(TypeError, match="copy of a parameter of float64"):
        fastopt.Adam(np.ones(3), copy_to=np.ones(3, np.float16))
    with pytest.raises(ValueError, match="has shape"):
        fastopt.Adam(np.ones(3, np.float32), copy_to=np.ones(2, np.float16))
    with pytest.raises(ValueError, match="memory order"):
        fastopt.Adam(np.ones((3, 2), np.float32), copy_to=np.ones((2, 3), np.float16).T)
    both = np.ones(3, np.float16)
    with pytest.raises(ValueError, match="share memory"):
        fastopt.Adam([np.ones(3, np.float32), np.ones(3, np.float32)], copy_to=[both, both])
    theta = np.ones((2, 2), BFLOAT16)
    with pytest.raises(ValueError, match="without a master"):
        fastopt.Adam(theta, stochastic_rounding=True, max_norm=1.0).step(theta.copy())
    for wrong in ({"state_dtype": "int4"}, {"nonfinite": "ignore"}, {"polyak_start": 3}, {"ema_bias_correction": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fastopt.Adam(np.ones(3), **wrong)
    for number in ({"accumulate_steps": 1.5}, {"seed": 0.5}):
        with pytest.raises(TypeError, match="whole number"):
            fastopt.Adam(np.ones(3), **number)


# ---- memory, failures, resuming


GUARD = 64


@pytest.mark.by_turns("options")
@needs_native
@taken({**OPTIONS, **STORAGE}, EACH)
def test_guard_bytes(case: Case, options: dict[str, Any]) -> None:
    """All arrays in larger buffers, at any element: same bits, and all around them stays as it was."""
    rng = np.random.default_rng(12)
    start = [rng.normal(size=shape_of(case, length)).astype(np.float32) for length in (1, 127, 1025, 5001)]
    opt, reference = built(case, start, options), built(case, start, options, backend="numpy")
    opt.step([None] * 4)
    reference.step([None] * 4)
    buffers = []
    for i, slots in enumerate(opt.state.values()):
        for name, array in slots.items():
            if array.ndim > 0:
                buffer = np.full((array.size + 2 * GUARD) * array.itemsize, 7, np.uint8)
                begin = (GUARD + i) * array.itemsize
                moved = buffer[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
                moved[...] = array
                slots.keep(name, moved)
                buffers.append((buffer, slice(begin, begin + array.nbytes)))
    opt.parts.workspace = None  # its pointers are to the arrays before
    for _ in range(4):
        grads = [rng.normal(size=param.shape).astype(np.float32) for param in start]
        copies = [grad.copy() for grad in grads]
        opt.step(grads)
        reference.step(copies)
    assert all_bytes(opt) == all_bytes(reference)
    for buffer, inside in buffers:
        buffer[inside] = 7
        assert (buffer == 7).all()


@pytest.mark.by_turns("options")
@every_backend
@taken({**OPTIONS, **STORAGE}, EACH)
def test_failed_step_changes_nothing(case: Case, options: dict[str, Any], backend: str) -> None:
    rng = np.random.default_rng(13)
    shapes = [shape_of(case, 4100), shape_of(case, 3)]
    opt = built(case, [np.ones(shape, np.float32) for shape in shapes], options, backend=backend)
    grads = [rng.normal(size=shape) for shape in shapes]
    opt.step([grad.copy() for grad in grads])
    before = all_bytes(opt, *grads)
    for wrong in (np.ones(2), np.ones(shapes[1], int), "text", opt.parts.parameters.arrays[1]):
        with pytest.raises((TypeError, ValueError)):
            opt.step([grads[0], wrong])
        assert all_bytes(opt, *grads) == before


@pytest.mark.by_turns("options")
@every_backend
@taken({**OPTIONS, **STORAGE}, EACH)
def test_resuming(case: Case, options: dict[str, Any], backend: str) -> None:
    """Parameters, state, two counters and the seed are all there is: a copy of them goes on with the same bits."""
    rng = np.random.default_rng(14)
    start = [rng.normal(size=shape_of(case, size)).astype(np.float32) for size in (4100, 3)]
    grads = [[rng.normal(size=param.shape).astype(np.float32) for param in start] for _ in range(7)]
    opt, resumed, loaded = (built(case, start, options, backend=backend) for _ in range(3))
    for k in range(4):
        opt.step([grad.copy() for grad in grads[k]])
    resumed.step([None, None])
    for params in (resumed.parts.parameters.arrays, loaded.parts.parameters.arrays):
        for param, other in zip(params, opt.parts.parameters.arrays, strict=True):
            param[...] = other
    loaded.load_state_dict(opt.state_dict())
    for name, slots in opt.state.items():
        for slot, values in slots.items():
            resumed.state[name][slot][...] = values
    resumed.step_count, resumed.accumulated_calls = opt.step_count, opt.accumulated_calls
    for k in range(4, 7):
        infos = [each.step([grad.copy() for grad in grads[k]]) for each in (opt, resumed, loaded)]
        assert infos[0] == infos[1] == infos[2]
    assert all_bytes(opt) == all_bytes(resumed)
    assert sorted(all_bytes(opt)) == sorted(all_bytes(loaded)), "the state's entries may be in another order"


# ---- what is refused


@pytest.mark.parametrize("optimizer", sorted({case.optimizer for case in CASES} | {fastopt.Muon}, key=str), ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"l1": 0.1},
        {"prox_l1": 0.1},
        {"max_norm": 1.0},
        {"ema_decay": 0.9},
        {"polyak": True},
        {"zero_grads": True},
        {"accumulate_steps": 2},
        {"state_dtype": "bfloat16"},
        {"stochastic_rounding": True},
        {"copy_to": [np.zeros((2, 2), np.float16)]},
    ],
    ids=str,
)
def test_an_option_is_taken_or_refused_when_built(optimizer: type[fastopt.Optimizer], options: dict[str, Any]) -> None:
    params = [np.ones((2, 2), np.float32)]
    name = next(iter(options))
    if name not in optimizer.refused:
        assert optimizer(params, **options).step([np.ones((2, 2))]).step in (0, 1)
        return
    with pytest.raises(ValueError, match=f"(?s){name}=.*: {optimizer.__name__} does not take it: .*; leave it out"):
        optimizer(params, **options)
    for words in (name, "error"):
        assert words in (optimizer.__doc__ or ""), "what is refused is documented"


def test_a_group_can_not_ask_later_for_what_is_refused() -> None:
    opt = fastopt.ScheduleFreeSGD([np.ones(2)])
    opt.param_groups[0]["prox_l1"] = 0.1
    with pytest.raises(ValueError, match=r"prox_l1=0\.1: ScheduleFreeSGD does not take it: the parameters are y"):
        opt.step([np.ones(2)])


#: Those of the options that are done by rows.
BY_ROWS = {
    name: {key: value for key, value in row.items() if key not in NOT_BY_ROWS or value == "bfloat16"}
    for name, row in {**OPTIONS, **STORAGE}.items()
    if not row.keys() & {"ema_bias_correction", "polyak_start"}
}
BY_ROWS["max_norm"] = {"max_norm": 0.9, "max_norm_axis": 1}
BY_ROWS["max_norm, copy"] = {"max_norm": 0.9, "max_norm_axis": -1, "copy_to": BFLOAT16, "zero_grads": True}
SPARSE = [
    Case(fastopt.SGD, {"lr": 0.1}),
    Case(fastopt.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    Case(fastopt.Adagrad, {"lr": 0.1, "weight_decay": 0.1, "decoupled": True}),
    Case(fastopt.Adam, {"lr": 0.01, "eps_hat": True, "amsgrad": True}),
    Case(fastopt.SparseAdam, {"lr": 0.01}),
]


@pytest.mark.by_turns("options")
@every_backend
@pytest.mark.parametrize("case", SPARSE, ids=str)
@pytest.mark.parametrize(
    "options", [row for row in BY_ROWS.values() if row], ids=[key for key in BY_ROWS if BY_ROWS[key]]
)
def test_row_sparse_gradients_are_dense_ones_of_their_rows(case: Case, options: dict[str, Any], backend: str) -> None:
    """ArrayExtras a dense gradient: the bits of the rows, and of all that belongs to them; no other row is touched."""
    rng = np.random.default_rng(15)
    indices = rng.permutation(900)[:300]
    start = [rng.normal(size=(900, 6)).astype(np.float32), rng.normal(size=1025).astype(np.float32)]
    sparse = built(case, start, options, backend=backend)
    dense = built(case, [start[0][indices], start[1]], options, backend=backend)
    others = np.setdiff1d(np.arange(900), indices)
    before = sparse.parts.parameters.arrays[0][others].copy()
    for step in range(4):
        values, beside = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=1025).astype(np.float32)
        if step == 2 and "nonfinite" in options:
            values[5, 5] = np.nan
        grads = [[values, beside], [values.copy(), beside.copy()]]
        try:
            infos = [sparse.step([fastopt.RowSparse(indices, values), beside]), dense.step(grads[1])]
        except ValueError:
            assert (step, options["nonfinite"]) == (2, "raise")
            continue
        assert repr(infos[0]) == repr(infos[1])  # a norm may be NaN
        assert [raw(grad) for grad in grads[0]] == [raw(grad) for grad in grads[1]]
    arrays = [
        [opt.parts.parameters.arrays[0], *opt.state["0"].values(), opt.parts.parameters.copies[0]]
        for opt in (sparse, dense)
    ]
    for mine, other in zip(*arrays, strict=True):
        if mine is not None and mine.ndim > 0:
            assert raw(mine[indices]) == raw(other)
    assert raw(sparse.parts.parameters.arrays[0][others]) == raw(before)
    assert [raw(array) for array in sparse.state["1"].values()] == [raw(array) for array in dense.state["1"].values()]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ema_decay": 0.9}, "ema_decay: every row's average"),
        ({"polyak": True}, "polyak: every row's average"),
        ({"accumulate_steps": 2}, "accumulate_steps: .* concatenated"),
        ({"state_dtype": "uint8"}, "state_dtype: in 8 bits several rows share a scale"),
        ({"max_norm": 1.0}, "max_norm: each unit has weights in every row"),
        ({"max_norm": 1.0, "max_norm_axis": (1, -2)}, "max_norm: each unit has weights in every row"),
    ],
)
def test_row_sparse_gradients_refuse_what_is_not_done_by_rows(options: dict[str, Any], told: str) -> None:
    table = np.ones((4096, 2), np.float32)
    opt = fastopt.Adam(table, **options)
    with pytest.raises(ValueError, match=f"'0' is row-sparse, which is not done with {told}.*; or give a dense"):
        opt.step(fastopt.RowSparse(np.array([1]), np.ones((1, 2))))
    assert (table == 1).all()


def test_zero_grads_clears_values_that_were_converted_and_refuses_what_it_can_not_clear() -> None:
    opt = fastopt.SGD([np.ones((4, 2)), np.ones(3)], zero_grads=True)
    values, beside = np.ones((3, 2), np.float16), np.ones(3)
    opt.step([fastopt.RowSparse(np.array([1, 2, 1]), values), beside])
    assert not values.any()
    assert not beside.any()
    values[...] = 1
    values.flags.writeable = False
    with pytest.raises(ValueError, match="'0' is read-only"):
        opt.step([fastopt.RowSparse(np.array([1, 2, 1]), values), beside])
    both = np.ones(6)
    with pytest.raises(ValueError, match="share memory"):
        opt.step([fastopt.RowSparse(np.array([1, 2]), both[:4].reshape(2, 2)), both[3:]])


@needs_native
def test_rows_of_hyperparameters_come_and_go() -> None:
    """A step of one row after one of two: the row is that of another group, with other options around the rule."""
    grads = [np.ones(3), np.ones(3)]
    results = []
    for backend in ("native", "numpy"):
        params = [np.ones(3), np.ones(3)]
        groups = [{"params": params[:1], "l1": 0.1}, {"params": params[1:], "l1": 0.2}]
        opt = fastopt.SGD(groups, lr=0.1, backend=backend)
        for some in (grads, [grads[0], None], [None, grads[1]], grads, [None, grads[1]], [grads[0], None]):
            opt.step([{"params": [grad]} for grad in some])
        results.append(b"".join(param.tobytes() for param in params))
    assert results[0] == results[1]
