"""The options around the rule: one fused step has the bits of the separate calls that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, built, every_dtype, taken_by
from option_runs import ALL, every_backend, every_case, shape_of

import fastopt
from fastopt.optimizers.prodigy import rate_of

pytestmark = pytest.mark.usefixtures("restored")


@pytest.mark.by_turns("case", count=2)
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
        "bounds": (-0.8, 1.1),
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
                grad += dtype(options.get("l1", 0)) * np.sign(param)
                grad *= sign
            else:
                grad += dtype(options.get("l1", 0) * sign) * np.sign(param)
        rates = own_rates(separate, step)
        lr = separate.step(theirs).lr
        for param, mean, rate in zip(separate.parts.parameters.arrays, average, rates, strict=True):
            limit = dtype(max((rate or lr) * options.get("prox_l1", 0), 0.0))
            param[...] = np.where(np.abs(param) > limit, param - np.copysign(limit, param), 0)
            if "bounds" in options:
                param[...] = np.minimum(np.maximum(param, inwards(-0.8, dtype)), inwards(1.1, dtype))
            mean += dtype(1 - 0.9) * (param - mean)
        assert info == (True, norm, lr, step + 1)
        assert not any(grad.any() for grad in grads)
        assert all(
            (mine == other).all()
            for mine, other in zip(fused.parts.parameters.arrays, separate.parts.parameters.arrays, strict=True)
        )
        if "ema_decay" in options:
            assert all((mine == other).all() for mine, other in zip(fused.ema, average, strict=True))


def own_rates(opt: fastopt.Optimizer, step: int) -> list[float]:
    """Return the rate that the optimizer itself has found for each array before a step, counted from 0; 0: none."""
    if isinstance(opt, fastopt.Prodigy):
        return [rate_of(opt.d, opt.param_groups[0], step + 1)] * len(opt.state)
    # SWATS may have changed over to a rate of its own for an array.
    return [float(state.get("sgd_lr", 0)) for state in opt.state.values()]


def inwards(bound: float, dtype: Any) -> Any:
    """Return the next number of a dtype towards 0, unless it has this one."""
    rounded = dtype(bound)
    return np.nextafter(rounded, dtype(0)) if abs(float(rounded)) > abs(bound) else rounded


@pytest.mark.by_turns("case")
@every_backend
@every_dtype
@pytest.mark.parametrize("case", [case for case in ALL if "cautious_decay" not in case.optimizer.refused], ids=str)
def test_cautious_decay_comes_after_the_rule(case: Case, dtype: Any, backend: str) -> None:
    """The plain optimizer, then decay where its step and the parameter have one sign."""
    rng = np.random.default_rng(4)
    start = [rng.normal(size=shape_of(case, length)).astype(dtype) for length in (7, 1025)]
    cautious = {"cautious_decay": True, "decoupled": True, "weight_decay": 0.3}
    fused = built(case, start, cautious, backend=backend)
    separate = built(case, start, {"weight_decay": 0.0}, backend=backend)
    for step in range(4):
        grads = [rng.normal(size=param.shape).astype(dtype) for param in start]
        grads[0].flat[0] = 0.0
        before = [param.copy() for param in separate.parts.parameters.arrays]
        rates = own_rates(separate, step)
        lr = separate.step([grad.copy() for grad in grads]).lr
        fused.step(grads)
        params = separate.parts.parameters.arrays
        for param, last, rate, mine in zip(params, before, rates, fused.parts.parameters.arrays, strict=True):
            weight = dtype((rate or lr) * 0.3)
            param[...] = np.where((last - param) * last >= 0, param - weight * last, param)
            assert mine.tobytes() == param.tobytes()


@pytest.mark.by_turns("case", count=2)
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
