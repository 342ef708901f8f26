"""The option bounds: what it promises for numbers, arrays, groups, few bits, and what it refuses."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, Case, every_dtype, needs_native
from option_runs import EACH, every_backend, shape_of

import fastopt
from fastopt.arithmetic.inwards import rounded_down, rounded_up

pytestmark = pytest.mark.usefixtures("restored")

BOUNDED = [case for case in EACH if "bounds" not in case.optimizer.refused]

NAMES = ["float16", "bfloat16", "float32", "float64"]


def dtype_of(name: str) -> Any:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


@every_backend
@every_dtype
@pytest.mark.parametrize("case", BOUNDED, ids=str)
def test_every_optimizer_stays_within(case: Case, dtype: Any, backend: str) -> None:
    """From the first step on, and so do averages that begin after it. An array without a gradient stays as it is."""
    rng = np.random.default_rng(1)
    params = [rng.normal(size=shape_of(case, length)).astype(dtype) for length in (40, 1025, 40)]
    last = params[2].tobytes()
    opt = case.build(params, bounds=(-0.125, 0.25), ema_decay=0.0, ema_bias_correction=True, backend=backend)
    for _ in range(3):
        opt.step([*(rng.normal(size=param.shape).astype(dtype) for param in params[:2]), None])
        for array in [*params[:2], *opt.ema[:2]]:
            assert array.min() >= -0.125
            assert array.max() <= 0.25
    assert params[2].tobytes() == last


@every_backend
def test_nan_and_the_sign_of_zero_stay(backend: str) -> None:
    theta = np.tile([np.nan, -0.0, 0.0, -np.inf, np.inf, -2.0, 2.0], 40)
    opt = fastopt.SGD(theta, lr=0.0, bounds=(0, 1), backend=backend)
    opt.step(np.zeros(theta.size))
    np.testing.assert_array_equal(theta, np.tile([np.nan, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0], 40))
    assert np.signbit(theta[1::7]).all()
    assert not np.signbit(theta[2::7]).any()


@every_backend
def test_a_bound_of_negative_zero_is_zero(backend: str) -> None:
    """The two are equal, and so the same wherever bounds are compared: the bits are those of 0."""
    for bounds in ((-0.0, None), (0.0, None), ([-0.0, 0.0], None)):
        params = [np.array([-1.0]), np.array([-1.0])]
        fastopt.SGD(params, bounds=bounds, backend=backend).step([np.zeros(1), np.zeros(1)])
        assert not np.signbit(params).any()


@every_backend
def test_the_order_of_all(backend: str) -> None:
    """After the rule, prox_l1 and the norm of units, before the average and the copy."""
    W = np.float32([[3.0, -3.0], [4.0, 0.25]])
    copy = np.empty_like(W, np.float16)
    options: dict[str, Any] = {"prox_l1": 0.5, "max_weight_norm": 2.5, "ema_decay": 0.5, "copy_to": copy}
    opt = fastopt.SGD(W, lr=1.0, bounds=(-2.0, 1.75), backend=backend, **options)
    opt.step(np.float32([[-0.5, -0.5], [-0.5, -0.25]]))
    # By the rule (3.5, -2.5), (4.5, 0.5); shrunk (3, -2), (4, 0); the first unit's norm is 5, the second's 2.
    np.testing.assert_array_equal(W, np.float32([[1.5, -2.0], [1.75, 0.0]]))
    np.testing.assert_array_equal(copy, W)
    np.testing.assert_array_equal(opt.ema, np.float32([[2.25, -2.5], [2.875, 0.125]]))


@every_backend
def test_a_written_pair_takes_effect_in_the_next_step(backend: str) -> None:
    params = [np.full(3, 5.0), np.full(2, 5.0)]
    opt = fastopt.SGD([{"params": params[0], "bounds": (None, 4)}, {"params": params[1]}], lr=1.0, backend=backend)
    grads = [{"params": np.zeros(3)}, {"params": np.zeros(2)}]
    opt.step(grads)
    assert (params[0].max(), params[1].max()) == (4, 5)
    for _ in range(4):
        opt.step(grads)
    opt.param_groups[0]["bounds"], opt.param_groups[1]["bounds"] = [1, 2.5], (None, math.inf)
    opt.step(grads)
    assert (params[0].max(), params[1].max()) == (2.5, 5)
    assert [group["bounds"] for group in opt.param_groups] == [(1, 2.5), None]
    with pytest.raises(
        ValueError, match=r"param_groups\[2\]: bounds=\(3, 2\): expected a lower bound that is not above"
    ):
        opt.add_param_group({"params": np.ones(2), "bounds": (3, 2)})
    more = np.full(2, 5.0)
    opt.add_param_group({"params": more, "bounds": (0.0, 3.0)})
    opt.step([*grads, {"params": np.zeros(2)}])
    assert (more.max(), len(opt.param_groups)) == (3, 3)
    saved = opt.state_dict()
    opt.param_groups[2]["bounds"] = None
    opt.load_state_dict(saved)
    assert opt.param_groups[2]["bounds"] == (0.0, 3.0)


@every_backend
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", NAMES)
def test_bounds_of_elements(name: str, order: Any, backend: str) -> None:
    """Arrays in any order of memory and dtype, numbers and None beside them, together with those of a group."""
    rng = np.random.default_rng(2)
    params = {"W": rng.normal(size=(9, 5)), "b": rng.normal(size=2000), "c": rng.normal(size=3)}
    params = {key: np.asarray(param.astype(dtype_of(name)), order=order) for key, param in params.items()}
    lower = {"W": np.linspace(-1, -0.1, 45).reshape(9, 5), "b": -0.3}
    upper = {"W": np.asfortranarray(np.linspace(0.2, 2, 45, dtype=np.float32).reshape(9, 5)), "b": None, "c": [0, 1, 2]}
    upper["c"] = np.array(upper["c"])
    opt = fastopt.SGD(params, lr=0.5, bounds=(lower, upper), backend=backend)
    opt.param_groups[0]["bounds"] = (None, 1.5)
    lower["W"][...] = 7  # they were copied
    for _ in range(3):
        opt.step({key: rng.normal(size=param.shape) for key, param in params.items()})
        W, b, c = (param.astype(np.float64) for param in params.values())
        assert (np.linspace(-1, -0.1, 45).reshape(9, 5) <= W).all()
        assert (np.minimum(upper["W"], 1.5) >= W).all()
        assert (b >= -0.3).all()
        assert b.max() <= 1.5
        assert (c <= [0, 1, 1.5]).all()


@pytest.mark.parametrize("name", NAMES)
def test_rounding_inwards(name: str) -> None:
    """To the next number of the dtype, found by trying all of its numbers near."""
    dtype = dtype_of(name)
    given = np.array([0.1, 1e-3, 1.0, 3.0, 1e-9, 65504.5, 1e39, 5e-324, 0.0, -0.0, math.pi, 2.0**-149, 1 + 2.0**-40])
    given = np.concatenate([given, -given, [math.inf, -math.inf]])
    up, down = rounded_up(given, name), rounded_down(given, name)
    for values in (up, down):
        assert (values.astype(dtype).astype(np.float64) == values.astype(np.float64)).all(), "they are of the dtype"
    assert (up.astype(np.float64) >= given).all()
    assert (down.astype(np.float64) <= given).all()
    with np.errstate(over="ignore", under="ignore"):
        below, above = (
            np.nextafter(values.astype(dtype), dtype.type(end)).astype(np.float64)
            for values, end in ((up, -math.inf), (down, math.inf))
        )
    assert ((below < given) | (up == -math.inf) | (given == 0)).all()
    assert ((above > given) | (down == math.inf) | (given == 0)).all()


@every_backend
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(product(["float16", "bfloat16"], [{}, {"state_dtype": "uint8"}])),
        ("bfloat16", {"stochastic_rounding": True}),
    ],
    ids=str,
)
def test_few_bits_stay_within(name: str, options: dict[str, Any], backend: str) -> None:
    """0.1 is no number of these dtypes; neither rounding to the nearest nor at random leaves the bounds."""
    theta = np.full(5000, 0.09, dtype_of(name))
    opt = fastopt.Adam(theta, lr=0.03, bounds=(-0.1, 0.1), backend=backend, **options)
    rng = np.random.default_rng(3)
    for _ in range(10):
        opt.step(rng.normal(size=5000).astype(np.float32))
        assert np.abs(theta.astype(np.float64)).max() <= 0.1
        for slot in opt.state["0"]:
            if slot == "master":
                assert np.abs(opt.state["0"][slot]).max() == np.abs(theta.astype(np.float64)).max()


def test_a_group_of_several_dtypes_is_planned() -> None:
    """Each array has the bounds of its own dtype."""
    params = [np.ones(3, dtype) for dtype in (np.float16, np.float32, np.float64)]
    opt = fastopt.SGD(params, lr=0.1, bounds=(-0.1, 0.1))
    for _ in range(6):
        opt.step([np.ones(3, np.float32), np.ones(3, np.float32), np.ones(3)])
    opt.step([-np.ones(3, np.float32) * 9, -np.ones(3, np.float32) * 9, -np.ones(3) * 9])
    expected = [np.nextafter(np.float16(0.1), np.float16(1)), np.nextafter(np.float32(0.1), np.float32(0)), 0.1]
    expected[0] = np.float16(0.1)  # the nearest one is below 0.1
    assert [param[0] for param in params] == expected
    assert opt.backend != "native" or opt.planned_steps >= 4


BAD: list[tuple[Any, type[Exception], str]] = [
    (([np.array([0.0, np.nan]), None], None), ValueError, r"bounds\[0\]: '0' has NaN at \(1,\)"),
    (([np.zeros(2), 0.0], [np.array([1.0, -1.0]), 1.0]), ValueError, r"bounds: '0' has 0\.0 and -1\.0 at \(1,\)"),
    (([0.5, 1], [0.25, 2]), ValueError, r"bounds: '0' has 0\.5 and 0\.25; expected a lower and an upper bound"),
    (([np.full(2, np.inf), None], None), ValueError, r"bounds: '0' has inf and inf at \(0,\)"),
    (([np.full(2, 0.1), None], [np.full(2, 0.1), None]), ValueError, "a number of float32 between"),
    (([np.zeros(3), None], None), ValueError, r"bounds\[0\]: '0' has an array of shape \(3,\); .* shape \(2,\)"),
    ((None, [np.zeros(2), None, None]), ValueError, r"bounds\[1\]: expected 2 entries, as in the parameters, got 3"),
    ((None, {"W": np.zeros(2)}), TypeError, r"bounds\[1\]: expected a list or tuple of 2 entries"),
    ((np.zeros(2), None), TypeError, r"bounds\[0\]: expected a list or tuple of 2 entries"),
    ((["a", None], None), TypeError, r"bounds\[0\]: '0'='a': expected a finite number"),
    (([np.zeros(2, complex), None], None), TypeError, r"bounds\[0\]: '0' has an array of complex128"),
    (([np.zeros(2, bool), None], None), TypeError, r"bounds\[0\]: '0' has an array of bool"),
    ((0.1, 0.1), ValueError, r"bounds=\(0\.1, 0\.1\): '0' is of float32; expected a number of float32 between"),
    ((None, -1e39), ValueError, r"bounds=\(None, -1e\+39\): '0' is of float32"),
    ((0.5, [np.zeros(2), None]), ValueError, "'0' was given bounds of its own .* leave room for both"),
]


@pytest.mark.parametrize(("bounds", "error", "told"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_bounds(bounds: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        fastopt.SGD([np.zeros(2, np.float32), np.zeros(2)], bounds=bounds)


def test_a_group_is_refused_what_its_arrays_can_not_have() -> None:
    """Before anything changes: when it is written, in a state, and for an added group."""
    params = [np.zeros(2, np.float32)]
    opt = fastopt.SGD(params, lr=0.5, bounds=([np.array([0.0, 1.0])], None))
    for wrong in ((0.1, 0.1), (None, 0.5), ([np.zeros(2)], None)):
        opt.param_groups[0]["bounds"] = wrong
        with pytest.raises((TypeError, ValueError), match=r"^bounds.*: .*expected"):
            opt.step([np.ones(2)])
        assert (params[0].tolist(), opt.step_count) == ([0, 0], 0)
    opt.param_groups[0]["bounds"] = None
    with pytest.raises(ValueError, match=r"bounds=\(0\.1, 0\.1\): '1' is of float32"):
        opt.add_param_group({"params": np.zeros(2, np.float32), "bounds": (0.1, 0.1)})
    for bounds in ((0.1, 0.1), (None, 0.5)):
        saved = opt.state_dict()
        saved["param_groups"][0]["bounds"] = bounds
        for strict in (True, False):
            with pytest.raises(ValueError, match=r"\n  param_groups: bounds=.*: .*expected"):
                opt.load_state_dict(saved, strict=strict)
    assert opt.param_groups[0]["bounds"] is None
    opt.step([np.ones(2)])
    assert params[0].tolist() == [0, 1]


@needs_native
def test_row_sparse_gradients_move_the_rows_that_they_touch() -> None:
    table = np.full((5, 2), 3.0)
    opt = fastopt.SGD(table, lr=1.0, bounds=(None, np.arange(10.0).reshape(5, 2) / 4))
    opt.step(fastopt.RowSparse(np.array([3, 1]), np.zeros((2, 2))))
    assert table.tolist() == [[3, 3], [0.5, 0.75], [3, 3], [1.5, 1.75], [3, 3]]


def test_cautious_decay_needs_decoupled_decay() -> None:
    with pytest.raises(ValueError, match="cautious_decay=True, decoupled=False: expected decoupled=True"):
        fastopt.SGD(np.ones(2), cautious_decay=True, weight_decay=0.1)
    opt = fastopt.AdamW(np.ones(2), cautious_decay=True)
    opt.param_groups[0]["decoupled"] = False
    with pytest.raises(ValueError, match="cautious_decay=True, decoupled=False: expected decoupled=True"):
        opt.step(np.ones(2))


@every_backend
def test_cautious_decay_by_hand(backend: str) -> None:
    """Decay where the step goes towards 0 or nowhere; infinity stays, and a weight that rounds to 0 keeps -0."""
    theta = np.tile(np.float32([2.0, 2.0, -2.0, 0.0, np.inf, 2.0]), 30)
    grad = np.tile(np.float32([1.0, -1.0, -1.0, 1.0, 1.0, 0.0]), 30)
    fastopt.SGD(theta, lr=0.5, weight_decay=0.5, decoupled=True, cautious_decay=True, backend=backend).step(grad)
    np.testing.assert_array_equal(theta, np.tile(np.float32([1.0, 2.5, -1.0, -0.5, np.inf, 1.5]), 30))
    theta = np.full(150, -0.0, np.float32)
    options: dict[str, Any] = {"weight_decay": 1e-30, "decoupled": True, "cautious_decay": True}
    fastopt.SGD(theta, lr=1e-30, backend=backend, **options).step(np.zeros(150, np.float32))
    assert np.signbit(theta).all()
