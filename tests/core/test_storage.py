"""Masters, copies, stochastic rounding and slots in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, Case, raw
from option_runs import every_backend, every_case, shape_of

import fastopt

pytestmark = pytest.mark.usefixtures("restored")


@pytest.mark.by_turns("case", count=2)
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


#: Every way to build an optimizer of a list of arrays.
BUILDS: dict[str, Any] = {
    "list": lambda params, **options: fastopt.Adam(params, **options),
    "groups": lambda params, **options: fastopt.Adam([{"params": each} for each in params], **options),
    "group_by": lambda params, **options: fastopt.Adam(fastopt.group_by(params, {"*": {}}), **options),
    "Combined": lambda params, **options: fastopt.Combined(params, {"*": fastopt.SGD}, **options),
}


@pytest.mark.parametrize("state_dtype", ["uint8", "bfloat16"])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_float64_slots_in_fewer_bits_are_refused_when_built(build: Any, state_dtype: str) -> None:
    single, double = np.ones(3, np.float32), np.ones(3)
    with pytest.raises(ValueError, match=f"state_dtype='{state_dtype}': '1' is float64; expected .* float32"):
        build([single, double], state_dtype=state_dtype)


def test_float64_slots_in_fewer_bits_are_refused_when_added() -> None:
    single = np.ones(3, np.float32)
    opt = fastopt.Adam({"a": single}, state_dtype="uint8")
    with pytest.raises(ValueError, match="'b' is float64"):
        opt.add_param_group({"params": {"b": np.ones(3)}})
    assert [group["params"] for group in opt.param_groups] == [(single,)]
    assert opt.step({"a": np.ones(3)}).applied


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_stochastic_rounding_of_nothing_is_refused_when_built(build: Any) -> None:
    single, half, double = np.ones(3, np.float32), np.ones(3, np.float16), np.ones(3)
    message = "stochastic_rounding=True: expected a bfloat16 array among the parameters, got float16, float32, float64"
    with pytest.raises(ValueError, match=message):
        build([single, half, double], stochastic_rounding=True)
    opt = build([single, np.ones(3, BFLOAT16)], stochastic_rounding=True)  # a part of them is enough
    assert opt.step([np.ones(3), np.ones(3)]).applied
    assert "master" not in opt.state["1"]


def test_what_can_not_be_stored_is_refused() -> None:
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
        fastopt.Adam(theta, stochastic_rounding=True, max_weight_norm=1.0).step(theta.copy())
    for wrong in ({"state_dtype": "int4"}, {"nonfinite": "ignore"}, {"polyak_start": 3}, {"ema_bias_correction": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fastopt.Adam(np.ones(3), **wrong)
    for number in ({"accumulate_steps": 1.5}, {"seed": 0.5}):
        with pytest.raises(TypeError, match="whole number"):
            fastopt.Adam(np.ones(3), **number)
