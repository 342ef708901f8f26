"""The options around the rule: the same bits of every backend, instruction set and number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, ISAS, MATRIX_CASES, OPTIONS, STORAGE, Case, every_dtype, needs_native, raw, taken_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from option_runs import ALL, EACH, LENGTHS, SOME, all_bytes, every_storage, run, taken

import fastopt
from fastopt.backends.native import library as native

pytestmark = pytest.mark.usefixtures("restored")


@pytest.mark.by_turns("case")
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
        "max_weight_norm": maybe(st.sampled_from([None, 2.0])) if dtype != BFLOAT16 else None,
        "bounds": maybe(st.sampled_from([None, (-0.3, 0.9), (None, 0.1)])),
        **maybe(st.sampled_from([{}, {"cautious_decay": True, "decoupled": True, "weight_decay": 0.3}])),
        "nonfinite": maybe(st.sampled_from(["propagate", "skip"])),
        "grad_scale": maybe(st.sampled_from([1.0, 3.0])),
        "zero_grads": maybe(st.booleans()),
        "accumulate_steps": maybe(st.integers(1, 3)),
        "stochastic_rounding": dtype == BFLOAT16 and maybe(st.booleans()),
        "state_dtype": maybe(st.sampled_from([None, "bfloat16", "uint8"])) if dtype != np.float64 else None,
        "seed": maybe(st.integers(0, 2**70)),
        "clip_global_norm": maybe(st.sampled_from([None, 1.0, np.inf])),
        "skip_above": maybe(st.sampled_from([None, 9.0])),
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


@needs_native
@every_storage
def test_kernels_leave_long_doubles_alone(options: dict[str, Any]) -> None:
    """An MMX instruction in a kernel would make every later long double NaN: they share registers."""
    for isa in ISAS:
        native.use_isa(isa)
        run(SOME[0], np.float32, options, "native")
        assert (np.ones(3, np.longdouble) * 2 == 2).all()


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
