"""fastopt.optimizer: the class that it makes of a rule, and what it refuses, with file and line."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Lamprey, everything, needs_native
from planned_runs import needs_plans

import fastopt
from fastopt.rules import absolute, maximum, minimum, sign, where


@fastopt.optimizer(
    lr=1e-2,
    betas=(0.9, 0.99),
    slots={"v": 1.0, "first": "param"},
    scalars=lambda h, t: {"step_size": h.lr / (1 - h.betas[0] ** t)},
)
def Eel(h: Any, p: Any, g: Any, m: Any, v: Any, first: Any) -> Any:
    fast, slow = h.betas
    m = fast * m + (1 - fast) * g
    v = slow * v + (1 - slow) * g**2
    return p - h.step_size * m / v**0.5 + 0.1 * (first - p), m, v, first


# --- The class --------------------------------------------------------------------------------------------------------


def test_a_step_by_hand() -> None:
    theta = np.array([1.0, -1.0])
    opt = Lamprey(theta, lr=0.1)
    assert tuple(opt.step(np.array([3.0, -4.0]))) == (True, None, 0.1, 1)
    m, v = np.array([0.3, -0.4]), np.array([9.0, 16.0])
    np.testing.assert_allclose(theta, [1 - 0.1 * 0.3 / 3, -1 + 0.1 * 0.4 / 4], rtol=1e-7)
    np.testing.assert_allclose(opt.state["0"]["m"], m, rtol=1e-15)
    np.testing.assert_allclose(opt.state["0"]["v"], v, rtol=1e-15)
    opt.step(np.array([-1.0, 1.0]))  # against the momentum: half a step
    m, v = 0.9 * m + np.array([-0.1, 0.1]), 0.99 * v
    expected = [0.99 - 0.1 * m[0] / 2 / v[0] ** 0.5, -0.99 - 0.1 * m[1] / 2 / v[1] ** 0.5]
    np.testing.assert_allclose(theta, expected, rtol=1e-7)


def test_scalars_slots_and_pairs_by_hand() -> None:
    theta = np.array([2.0])
    opt = Eel(theta, lr=0.5, betas=(0.5, 0.75))
    p, m, v = 2.0, 0.0, 1.0
    for t, g in enumerate([4.0, -2.0, 1.0], start=1):
        opt.step(np.array([g]))
        m, v = 0.5 * m + 0.5 * g, 0.75 * v + 0.25 * g * g
        p += -0.5 / (1 - 0.5**t) * m / v**0.5 + 0.1 * (2.0 - p)
        assert theta[0] == pytest.approx(p, rel=1e-14)
    assert opt.state["0"]["first"].tolist() == [2.0]


def test_the_class_is_that_of_the_function() -> None:
    assert issubclass(Lamprey, fastopt.Optimizer)
    assert (Lamprey.__name__, Lamprey.__qualname__, Lamprey.__module__) == ("Lamprey", "Lamprey", "cases")
    assert Lamprey.__doc__ == "A rule that nobody has."
    own = "(params, lr=0.001, beta=0.9, keep=0.99, eps=1e-08, weight_decay=0.0, "
    assert str(inspect.signature(Lamprey.__init__)) == f"{own.replace('(', '(self, ')}**common)"
    # The class shows the options of a step by name too.
    assert str(inspect.signature(Lamprey)).startswith(f"{own}*, decoupled: 'bool' = False, cautious_decay: ")
    assert Lamprey.non_negative == {"v"}
    assert Eel.non_negative == frozenset()


def test_options_by_position_and_wrong_ones() -> None:
    opt = Lamprey(np.ones(2), 0.5, 0.8)
    assert (opt.lr, opt.param_groups[0]["beta"], opt.param_groups[0]["weight_decay"]) == (0.5, 0.8, 0.0)
    for arguments, options, says in [
        ((0.5,), {"lr": 0.5}, r"^Lamprey\(\) multiple values for argument 'lr'"),
        ((1, 2, 3, 4, 5, 6), {}, r"^Lamprey\(\) too many positional arguments"),
        ((), {"kep": 1}, r"^Lamprey\(\) got an unexpected keyword argument 'kep'"),
        ((), {"clip_nrm": 1}, r"^Lamprey\(\) got an unexpected keyword argument 'clip_nrm'; for 'clip_nrm' write"),
        ((), {"beta": "x"}, r"^beta='x': expected a finite number, a schedule"),
    ]:
        with pytest.raises(TypeError, match=says):
            Lamprey(np.ones(2), *arguments, **options)
    with pytest.raises(TypeError, match=r"^Lamprey\(\) missing a required argument: 'params'"):
        Lamprey()  # type: ignore[call-arg]
    for option in [{"lr": -1.0}, {"eps": -1.0}, {"keep": float("nan")}, {"weight_decay": -0.1}]:
        with pytest.raises(ValueError, match=f"^{next(iter(option))}="):
            Lamprey(np.ones(2), **option)
    with pytest.raises(
        AttributeError, match=r'^Lamprey: \'beta\' is an option, .* read opt.param_groups\[0\]\["beta"\]'
    ):
        _ = opt.beta  # type: ignore[attr-defined]


def test_a_list_of_defaults_belongs_to_no_optimizer() -> None:
    pair = [0.5, 0.25]

    @fastopt.optimizer(lr=0.1, pair=pair)
    def Pair(h: Any, p: Any, g: Any) -> Any:
        return (p - h.lr * h.pair[0] * g,)

    pair[0] = 1.0
    assert Pair(np.ones(1)).param_groups[0]["pair"] == (0.5, 0.25)


def test_schedules_of_own_options() -> None:
    p, q = np.ones(3), np.ones(3)
    opt = Lamprey(p, lr=0.1, beta=lambda step: 0.5 + step / 8)
    by_hand = Lamprey(q, lr=0.1)
    for step in range(4):
        by_hand.param_groups[0]["beta"] = 0.5 + step / 8
        for each in opt, by_hand:
            each.step(np.arange(3.0))
    assert p.tobytes() == q.tobytes()


def test_weight_decay_and_decoupled() -> None:
    @fastopt.optimizer(lr=0.5, weight_decay=0.5, decoupled=True)
    def Decayed(h: Any, p: Any, g: Any) -> Any:
        return (p - h.lr * g,)

    theta = np.array([1.0])
    assert Decayed(theta).step(np.array([0.0])).applied
    assert theta.tolist() == [0.75]
    Decayed(theta, decoupled=False).step(np.array([0.0]))
    assert theta.tolist() == [0.75 - 0.5 * 0.375]


def test_class_and_state_by_name(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(Lamprey)) is Lamprey
    params, other = {"W": np.ones(5, np.float32)}, {"W": np.ones(5, np.float32)}
    opt, resumed = Lamprey(params, lr=0.1), Lamprey(other)
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(6, 5))
    for grad in grads[:3]:
        opt.step({"W": grad})
    fastopt.save(tmp_path / "run.npz", opt, params=params)
    fastopt.load(tmp_path / "run.npz").restore(resumed)
    for grad in grads[3:]:
        opt.step({"W": grad})
        resumed.step({"W": grad})
    assert other["W"].tobytes() == params["W"].tobytes()
    assert repr(resumed.state) == repr(opt.state)
    with pytest.raises(ValueError, match="it is that of the optimizer 'Lamprey', this is 'Eel'"):
        Eel(other).load_state_dict(opt.state_dict())


@needs_plans
def test_a_slot_begins_as_the_parameter_in_planned_runs_too() -> None:
    runs = []
    for backend in ("native", "numpy"):
        params = [np.ones(3), np.ones(2)]
        opt = Eel(params, backend=backend)
        for step in range(12):
            if step == 6:
                params[1][:] = 5.0
            opt.step([np.full(3, step - 5.0), np.ones(2) if step >= 6 else None])
        assert opt.state["1"]["first"].tolist() == [5.0, 5.0]
        assert opt.planned_steps >= 6 or backend == "numpy"
        runs.append(everything(params, opt))
    assert runs[0] == runs[1]


def test_a_rule_is_recorded_once() -> None:
    """A number from outside that changes later changes no rule; each class has its own."""
    factor = 2.0

    def doubled(x: Any) -> Any:
        return factor * x

    def Outside(h: Any, p: Any, g: Any) -> Any:
        return (p - h.lr * doubled(g),)

    first = fastopt.optimizer(lr=1.0)(Outside)
    factor = 4.0
    second = fastopt.optimizer(lr=1.0)(Outside)
    for made, expected in ((first, -2.0), (second, -4.0), (first, -2.0)):
        theta = np.zeros(1)
        made(theta).step(np.ones(1))
        assert theta.tolist() == [expected]


def test_only_what_is_read_is_a_scalar() -> None:
    assert Lamprey.Scalars._fields == ("lr", "beta", "keep", "eps")  # type: ignore[attr-defined]
    assert Eel.Scalars._fields == ("betas_0", "betas_1", "step_size")  # type: ignore[attr-defined]

    @fastopt.optimizer(lr=1e-3, beta=0.9)
    def Unused(h: Any, p: Any, g: Any, m: Any) -> Any:
        dropped = h.beta * g  # noqa: F841
        return p - h.lr * g, m

    assert Unused.Scalars._fields == ("lr",)  # type: ignore[attr-defined]
    assert len(Unused.recorded_rule.operations) == 2


# --- Bits -------------------------------------------------------------------------------------------------------------


def every(h: Any, p: Any, g: Any, m: Any, n: Any) -> Any:
    """Every operation, with literals, and arithmetic of numbers of the step."""
    q, p = p, p * 0.999999
    p -= h.lr * sign(g)
    p /= 1 + h.lr / 3
    both = (g > 0) & (p <= h.high) | ~(q >= h.low) ^ (g != 0.1)
    m = where(both, minimum(m, 0.3) - g**2, maximum(-0.0, m)) * (h.steep - h.low) ** 2
    n = where((g == m) | (abs(n) < 1e-3), 1 / 3, -n) + (absolute(m) ** 0.5 - 7) * (1 - h.high) * 0.1
    return +p - 1e-30 * m, m, n


Every = fastopt.optimizer(lr=0.1, high=0.75, low=-0.25, steep=3)(every)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("made", "rule"),
    [(Every, every), (Every, Every.recorded_rule), (Lamprey, Lamprey.recorded_rule), (Eel, Eel.recorded_rule)],
)
def test_the_function_on_plain_arrays_gives_the_bits(made: Any, rule: Any, dtype: Any) -> None:
    """Numbers of the step are arrays of one element here, which the oldest NumPy needs to keep their dtype."""
    rng = np.random.default_rng(1)
    start = rng.normal(size=5000).astype(dtype)
    theta = start.copy()
    opt = made(theta, backend="numpy")
    names = opt.slot_names(made.recorded_rule, theta)
    values = [start if name in made.copied else made.first_values.get(name, 0.0) for name in names]
    slots = [np.full(5000, value, dtype) for value in values]
    p = start
    for step in range(1, 4):
        grad = rng.normal(size=5000).astype(dtype)
        grad[::7] = 0.0
        opt.step(grad)
        h = opt.hyper(opt.parts.groups.checked[0].values, step)
        h = type(h)(*(np.array([number], dtype) for number in h))
        p, *slots = rule(h, p, grad, *slots)
        for found, expected in zip([theta, *(opt.state["0"][name] for name in names)], [p, *slots], strict=True):
            assert expected.dtype == dtype
            assert found.tobytes() == expected.tobytes()


def test_literals_are_rounded_once() -> None:
    third, big = 1 / 3 + 2**-30, 2**24 + 1

    @fastopt.optimizer(lr=0.0)
    def Rounded(h: Any, p: Any, g: Any, m: Any, n: Any) -> Any:
        return p + h.lr, third * g, big * g

    theta, grad = np.ones(2, np.float32), np.float32([3, 5])
    opt = Rounded(theta, backend="numpy")
    opt.step(grad)
    assert opt.state["0"]["m"].tobytes() == (np.float32(third) * grad).tobytes()
    assert opt.state["0"]["n"].tobytes() == (np.float32(big) * grad).tobytes()


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("made", [Every, Lamprey])
def test_steps_are_planned_and_have_the_bits_of_numpy(made: Any, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    start = rng.normal(size=(5, 777)).astype(dtype)
    runs = []
    for backend in ("native", "numpy"):
        params = [each.copy() for each in start]
        opt = made(params, backend=backend, lr=fastopt.schedules.linear(0.1, 0.0, 8), ema_decay=0.9)
        rng = np.random.default_rng(3)
        for _ in range(8):
            opt.step([rng.normal(size=777).astype(dtype) for _ in params])
        runs.append(
            [each.tobytes() for each in (*params, *(slot for its in opt.state.values() for slot in its.values()))]
        )
        assert opt.planned_steps > 0 or backend == "numpy"
    assert runs[0] == runs[1]
