"""Each option at the edges of its range: it is refused where it is given, or steps work; and counts from a file."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, Case, native, needs_native

import fastopt
from fastopt import schedules
from fastopt.optimizers import nadam
from fastopt.options.ranges import STEPS, Allowed, Choice, Range

ONE_OF_EACH = list({case.optimizer: case for case in reversed([*CASES, *MATRIX_CASES])}.values())
LARGEST = sys.float_info.max

#: Around the limits of ranges, of float32 and of float64, as floats and as ints.
EDGES: tuple[float, ...] = (
    *(0, 0.0, 5e-324, 1e-300, 1 - 2**-53, 1, 1 + 2**-52, 16.0, 100, 2000, 2000.0, 2.0**53, 2**31 - 1, 2**63, 2**64 - 1),
    *(1e39, 1e155, 1e200, 10**308, LARGEST, -5e-324, -1, -2000.0, -LARGEST, -(10**308)),
)
#: Some of them, for what each optimizer computes itself.
FEW_EDGES = (0, 5e-324, 1 - 2**-53, 2000, 1e39, 1e200, 10**308, LARGEST, -LARGEST)

#: The options of a whole optimizer, and what they need.
WHOLE: dict[str, dict[str, Any]] = {
    "clip_global_norm": {},
    "grad_scale": {},
    "seed": {},
    "accumulate_steps": {},
    "ema_decay": {"ema_bias_correction": True},
    "polyak_start": {"polyak": True},
}


def values(allowed: Allowed, default: Any, edges: Sequence[float]) -> Iterator[Any]:
    """Yield values at the edges of what is allowed."""
    if isinstance(allowed, Range):
        yield from (edge for edge in edges if allowed.holds(edge) and (isinstance(edge, int) or not allowed.whole))
    elif isinstance(allowed, tuple):
        for i, its in enumerate(allowed):
            yield from ((*default[:i], edge, *default[i + 1 :]) for edge in values(its, None, edges))
    else:
        yield from allowed.values if isinstance(allowed, Choice) else (False, True)


def at_edges(case: Case, names: Collection[str], edges: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield sets of options, in each of which one of these is at an edge."""
    probe = Case(case.optimizer, {}).build(np.ones((2, 2)))
    for name in names:
        allowed, more = probe.option_set.allowed(name), WHOLE.get(name, {})
        if name == "max_weight_norm_axis":
            allowed, more = Range(whole=True), {"max_weight_norm": 1.0}
        elif name == "grad_scale":
            allowed = Range(0.0, excludes_low=True)
        if not {name, *more} & case.optimizer.refused.keys():
            found = values(allowed, probe.defaults.get(name), edges)
            if name == "bounds":
                found = (pair for edge in edges for pair in ((edge, None), (None, edge)))
            for value in found:
                yield {**case.options, **more, name: value}


@contextmanager
def refusing() -> Iterator[None]:
    """Let a ValueError end the block, if it says what was expected."""
    try:
        yield
    except ValueError as error:
        if "expected" not in str(error) and "give its group an axis" not in str(error):
            raise


def check_steps(case: Case, options: dict[str, Any], dtype: Any, backend: str) -> None:
    """Make steps early and late in a run: they work, or a ValueError that says what is wrong comes before a change."""
    params = {"a": np.ones((2, 2), dtype), "b": np.full((2, 2), 2, dtype)}
    grads = {"a": np.full((2, 2), 0.5, dtype), "b": np.full((2, 2), -0.25, dtype)}
    of_group = {name: options[name] for name in options if name not in {*WHOLE, "polyak", "ema_bias_correction"}}
    of_all = {name: options[name] for name in options if name not in of_group}
    opt = None
    with refusing():
        opt = case.optimizer(fastopt.group_by(params, {"*": of_group}), backend=backend, **of_all)
    if opt is None:
        return
    for count in (0, 2**62):
        for name in opt.state:
            opt.state[name]["step"][...] = count
        for _ in range(2):
            before = [param.tobytes() for param in params.values()]
            is_done = False
            with refusing():
                opt.step(grads)
                is_done = True
            if not is_done:
                assert [param.tobytes() for param in params.values()] == before
                return


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_own_options_at_their_edges(case: Case) -> None:
    defaults = case.build(np.ones((2, 2))).defaults
    names = [name for name in defaults if name not in fastopt.SGD(np.ones(1)).defaults or name in ("lr", "momentum")]
    backend = "native" if native.missing is None else "numpy"
    for options in at_edges(case, names, FEW_EDGES):
        check_steps(case, options, np.float64, backend)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("lr", [0.1, 1e200])
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_all_options_at_their_edges(case: Case, lr: float, backend: str) -> None:
    """Without a warning too."""
    dtype = np.float64 if backend == "numpy" else np.float32
    names = [*case.build(np.ones((2, 2))).defaults, *WHOLE]
    case = case._replace(options={**case.options, "lr": lr})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in at_edges(case, names, EDGES):
            check_steps(case, options, dtype, backend)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize("rate", [10**400, None, "x", 1j, np.ones(3), -1.0, math.nan, True], ids=repr)
def test_schedules_whose_values_are_no_rates(case: Case, rate: Any) -> None:
    param = np.ones((2, 2))
    opt = case._replace(options={**case.options, "lr": lambda step: rate}).build(param)
    with pytest.raises((TypeError, ValueError), match=r"the schedule at step 0: lr=.*: expected a finite number"):
        opt.step(np.ones((2, 2)))
    assert param.tolist() == [[1, 1], [1, 1]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_a_rate_beyond_single_precision(case: Case) -> None:
    """Without a warning."""
    case._replace(options={**case.options, "lr": lambda step: 1e39}).build(np.ones((2, 2), np.float32)).step(
        np.ones((2, 2), np.float32)
    )


@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
@pytest.mark.parametrize("r", [2**53, 2.0**53, 2000.0, 2000, 17])
def test_weights_beyond_double_precision(optimizer: Any, r: float) -> None:
    """Refused by the constructor, when it is written, and from a file; an exact power of ints would take for ever."""
    with pytest.raises(ValueError, match=rf"^r={r}: expected a finite number of at most 16"):
        optimizer([np.ones(2)], r=r)
    params = [np.ones(2)]
    opt = optimizer(params)
    saved = opt.state_dict()
    saved["param_groups"][0]["r"] = r
    with pytest.raises(ValueError, match=r"param_groups\[0\]: r="):
        opt.load_state_dict(saved)
    opt.param_groups[0]["r"] = r
    with pytest.raises(ValueError, match=r"^r="):
        opt.step([np.ones(2)])
    assert params[0].tolist() == [1, 1]


@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
def test_rates_whose_weights_are_beyond_double_precision(optimizer: Any) -> None:
    with pytest.raises(ValueError, match=r"^r=0.0, weight_lr_power=2.0: expected powers that"):
        optimizer([np.ones(2)], lr=1e200)
    params = [np.ones(2)]
    opt = optimizer(params, lr=lambda step: 1e200 if step else 0.1)
    opt.step([np.ones(2)])
    before = params[0].tolist(), opt.state_dict()
    with pytest.raises(ValueError, match=r"expected powers that leave .* got inf in step 2 with the rate 1e\+200"):
        opt.step([np.ones(2)])
    np.testing.assert_equal((params[0].tolist(), opt.state_dict()), before)
    saved = optimizer([np.ones(2)]).state_dict()
    saved["state"]["0"]["weight_sum"] = np.array(np.inf)
    opt.load_state_dict(saved, options=False)
    with pytest.raises(ValueError, match=r"expected powers that leave"):
        opt.step([np.ones(2)])


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_steps_compute_with_floats(case: Case) -> None:
    """Whole numbers are floats in a step, but for options that must be whole; the group keeps what was given."""
    opt = case.build([np.ones((2, 2))])
    group = opt.param_groups[0]
    for name, value in group.items():
        allowed = opt.option_set.allowed(name)
        if isinstance(allowed, Range) and type(value) is float and name not in opt.refused:
            group[name] = next((number for number in (1, 0, -1) if allowed.holds(number)), value)
    given = dict(group)
    assert any(type(value) is int for value in given.values())
    opt.step([np.ones((2, 2))])
    assert [type(value) for value in group.values()] == [type(value) for value in given.values()]
    values = opt.parts.groups.checked[0].values
    assert [name for name, value in values.items() if type(value) is int] == ["max_weight_norm_axis"]


@pytest.mark.parametrize("lr", [schedules.exponential(1.0, gamma=4.0), lambda step: math.exp(step * 9.0)])
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_a_schedule_beyond_the_range_of_float(lr: Any, backend: str) -> None:
    """Also in a planned step."""
    param = np.ones(2)
    opt = fastopt.SGD(param, lr=lr, backend=backend)
    opt.step_count = 70
    for _ in range(5):
        opt.step(np.zeros(2))
    opt.step_count = 600
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: the schedule at step 600: lr=inf: expected a finite"):
        opt.step(np.ones(2))
    assert (param.tolist(), opt.step_count) == ([1, 1], 600)


def test_products_of_momenta_late_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file can bring any count: the product is not made factor by factor for ever."""
    monkeypatch.setattr(nadam, "MOST_PRODUCTS", 1000)
    for beta1 in (1 - 1e-5, 1 - 2**-53):
        product = 1.0
        for step in range(1, 3001):
            product *= nadam.momentum_at(beta1, 1.0, step)
        assert nadam.momentum_product(beta1, 1.0, 3000) == pytest.approx(product, rel=1e-12)
    assert nadam.momentum_product(1 - 1e-5, 1.0, 2**53) == 0
    assert nadam.momentum_product(1 - 2**-53, 1.0, 2**53) == pytest.approx(product / math.e, rel=1e-6)
    nadam.known_products.cache_clear()


# --- counts -----------------------------------------------------------------------------------------------------------

NO_COUNTS: tuple[Any, ...] = (-1, 2**62 + 1, 2**63 - 1, 2**63, 10**30, True, 1.0, math.nan, "1", None)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("count", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["step_count", "accumulated_calls", "step of an array", "calls of an array"])
def test_counts_that_a_file_can_not_have(name: str, count: Any, strict: bool) -> None:
    """A step counts on from them: those near the end of int64 would become negative."""
    opt = fastopt.Adam([np.ones(2)], accumulate_steps=3)
    opt.step([np.ones(2)])
    before, saved = opt.state_dict(), opt.state_dict()
    if name == "step_count":
        saved["step_count"] = count
    elif name == "accumulated_calls":
        saved["options"]["accumulated_calls"] = count
    else:
        saved["state"]["0"]["step" if name == "step of an array" else "accumulated_calls"] = np.array(count)
    if strict or name in ("step_count", "accumulated_calls"):
        with pytest.raises((TypeError, ValueError), match=r"step|accumulated_calls"):
            opt.load_state_dict(saved, strict=strict)
    else:
        result = opt.load_state_dict(saved, strict=False)
        assert result.missing == result.unexpected
        assert len(result.missing) == 1
    np.testing.assert_equal(opt.state_dict(), before)


@pytest.mark.parametrize("count", NO_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["step_count", "accumulated_calls"])
def test_counts_that_can_not_be_set(name: str, count: Any) -> None:
    opt = fastopt.SGD([np.ones(2)], accumulate_steps=3)
    with pytest.raises((TypeError, ValueError), match=rf"^{name}=.*: expected a whole number from 0 to 46116"):
        setattr(opt, name, count)
    assert getattr(opt, name) == 0


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_the_last_counts_that_load(case: Case) -> None:
    opt = case.build([np.ones((2, 2))])
    saved = opt.state_dict()
    saved["step_count"] = STEPS.high
    saved["state"]["0"]["step"][...] = STEPS.high
    opt.load_state_dict(saved)
    for _ in range(3):
        opt.step([np.ones((2, 2))])
    assert opt.step_count == int(opt.state["0"]["step"]) == STEPS.high + 3


@pytest.mark.parametrize("step", [-1.0, 2.5, 2.0**63, math.inf, math.nan])
def test_counts_of_torch(step: float) -> None:
    slots = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2), "step": step}
    group = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "params": [0]}
    saved = {"state": {0: slots}, "param_groups": [{**group, "decoupled_weight_decay": False}]}
    with pytest.raises(ValueError, match=r"^from_torch: the step of parameter 0 is .*expected a whole number from 0"):
        fastopt.convert.from_torch(saved, ["W"])


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, True])
def test_initial_rates_that_a_file_can_not_have(rate: Any) -> None:
    opt = fastopt.SGD([np.ones(2)])
    saved = opt.state_dict()
    saved["param_groups"][0]["initial_lr"] = rate
    with pytest.raises((TypeError, ValueError), match=r"^state_dict: param_groups\[0\]: initial_lr="):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("count", NO_COUNTS[:-1], ids=repr)
@pytest.mark.parametrize("name", ["patience", "best_update", "updates", "waited", "size"])
def test_counts_of_a_training_loop(name: str, count: Any) -> None:
    helper = fastopt.SnapshotEnsemble(3) if name == "size" else fastopt.EarlyStopping(3)
    before = helper.state_dict()
    if name in ("patience", "size") and isinstance(count, int) and count > 1:
        return
    with pytest.raises((TypeError, ValueError), match=f"^state_dict: {name}="):
        helper.load_state_dict({**before, name: count})
    assert helper.state_dict() == before


def test_a_cycle_with_a_whole_gamma() -> None:
    """Late in a run it is no exact power of ints, which would take for ever."""
    opt = fastopt.SGD([np.ones(2)], momentum=0.9)
    driver = fastopt.lr_scheduler.CyclicLR(opt, 0.1, 1.0, mode="exp_range", gamma=1)
    driver.step(epoch=2000)
    assert driver.get_last_lr() == [1.0]
    driver.gamma = 2
    with pytest.raises((OverflowError, ValueError)):
        driver.step(epoch=2**40)
