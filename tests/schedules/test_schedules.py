"""Every schedule by one table: hand-computed values, and the laws that hold for all of them."""

import copy
import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from operator import sub, truediv
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastopt import schedules
from fastopt.commands import plot_schedules
from fastopt.schedules import (
    Schedule,
    chain,
    constant,
    cosine,
    cosine_restarts,
    difference,
    exp_range,
    exponential,
    inverse_sqrt,
    inverse_time,
    join,
    lambda_,
    linear,
    multistep,
    natural_exponential,
    one_cycle,
    per_epoch,
    piecewise_constant,
    polynomial,
    quotient,
    step_decay,
    sum_of,
    triangular,
    triangular2,
    warmup_constant,
    warmup_cosine,
    warmup_stable_decay,
)


def reciprocal(step):
    return 1 / (step + 1)


class Case(NamedTuple):
    schedule: Schedule
    values: dict[int, float]  # computed by hand
    end: int | None = None  # the first step from which the value stays


CASES = [
    Case(constant(0.1), {0: 0.1, 9: 0.1}, end=0),
    Case(linear(1, 0.5, total=10), {0: 1, 5: 0.75, 10: 0.5}, end=10),
    Case(polynomial(1, total=10, power=2, floor=0.2), {0: 1, 5: 0.4, 10: 0.2}, end=10),
    Case(piecewise_constant([1, 0.5, 0.25], [3, 5]), {0: 1, 2: 1, 3: 0.5, 4: 0.5, 5: 0.25}, end=5),
    Case(step_decay(1, step_size=3), {2: 1, 3: 0.5, 5: 0.5, 6: 0.25}),
    Case(multistep(1, [3, 5], gamma=0.5), {2: 1, 3: 0.5, 4: 0.5, 5: 0.25}, end=5),
    Case(exponential(1, gamma=0.5), {0: 1, 3: 0.125}),
    Case(natural_exponential(2, k=0.5), {0: 2, 2: 0.7357588823428847}),
    Case(inverse_time(1, k=0.5), {0: 1, 2: 0.5, 6: 0.25}),
    Case(inverse_sqrt(1, warmup=4), {0: 0.25, 1: 0.5, 3: 1, 15: 0.5}),
    Case(cosine(1, total=4, floor=0.5), {0: 1, 1: 0.9267766952966369, 2: 0.75, 4: 0.5}, end=4),
    Case(cosine(0.5, total=4, floor=1), {0: 0.5, 2: 0.75, 4: 1}, end=4),
    Case(cosine_restarts(1, T_0=4, floor=0.5), {0: 1, 2: 0.75, 4: 1, 10: 0.75}),
    Case(cosine_restarts(1, T_0=2, T_mult=2), {1: 0.5, 2: 1, 4: 0.5, 5: 0.14644660940672627, 6: 1, 10: 0.5, 14: 1}),
    Case(one_cycle(1, total=10), {0: 0.04, 1: 0.52, 2: 1, 9: 4e-6}, end=9),
    Case(
        one_cycle(
            1, total=20, pct_start=0.25, div_factor=4, final_div_factor=10, anneal_strategy="linear", three_phase=True
        ),
        {0: 0.25, 2: 0.625, 4: 1, 6: 0.625, 8: 0.25, 19: 0.025},
        end=19,
    ),
    Case(one_cycle(1, total=10).momentum(), {0: 0.95, 1: 0.9, 2: 0.85, 9: 0.95}, end=9),
    Case(triangular(0.25, 1.25, 4, 2), {0: 0.25, 2: 0.75, 4: 1.25, 5: 0.75, 6: 0.25, 10: 1.25}),
    Case(triangular(0.25, 1.25, 4).momentum(), {0: 0.9, 2: 0.85, 4: 0.8, 8: 0.9}),
    Case(triangular2(0.25, 1.25, 4), {4: 1.25, 8: 0.25, 12: 0.75, 14: 0.5, 20: 0.5}),
    Case(exp_range(0, 1, 2, gamma=0.5), {1: 0.25, 2: 0.25, 6: 0.015625}),
    Case(warmup_constant(1, warmup=4, start=0.2), {0: 0.2, 2: 0.6, 4: 1}, end=4),
    Case(warmup_cosine(1e-3, warmup=100, total=5000), {0: 0, 50: 5e-4, 100: 1e-3, 2550: 5e-4, 5000: 0}, end=5000),
    Case(warmup_stable_decay(1, warmup=2, total=10, decay=4, floor=0.2), {1: 0.5, 2: 1, 6: 1, 8: 0.6, 10: 0.2}, end=10),
    Case(lambda_(reciprocal), {0: 1, 3: 0.25}),
    Case(join([linear(0, 1, total=4), cosine(1, total=4)], [4]), {2: 0.5, 4: 1, 6: 0.5, 8: 0}, end=8),
    Case(chain([linear(1, 0.5, total=4), step_decay(1, step_size=2)]), {0: 1, 2: 0.375, 4: 0.125}),
    Case(sum_of([linear(1, 0.5, total=4), step_decay(1, step_size=2)]), {0: 2.0, 2: 1.25, 4: 0.75}),
    Case(difference(linear(1, 0.5, total=4), step_decay(0.5, step_size=2)), {0: 0.5, 2: 0.5, 4: 0.375}),
    Case(quotient(linear(1, 0.5, total=4), step_decay(2, step_size=2)), {0: 0.5, 2: 0.75, 4: 1.0}),
    Case(per_epoch(step_decay(1, step_size=1), steps_per_epoch=3), {2: 1, 3: 0.5, 8: 0.25}),
]


def case_name(case):
    return type(case.schedule).__name__


every_case = pytest.mark.parametrize("case", CASES, ids=case_name)
rates = st.floats(0, 1e3)
steps = st.integers(0, 10**6)


def test_table_and_examples_have_every_schedule():
    names = set(schedules.__all__) - {"Schedule", "examples", "plot"}
    assert {type(case.schedule).__name__ for case in CASES} == names
    assert [type(schedule).__name__ for schedule in schedules.examples()] == list(
        dict.fromkeys(type(case.schedule).__name__ for case in CASES)
    )


@every_case
def test_values(case):
    got = {step: case.schedule(step) for step in case.values}
    assert got == pytest.approx(case.values, rel=1e-13, abs=1e-18)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("case", [case for case in CASES if case.end is not None], ids=case_name)
def test_stays_at_its_last_value(case):
    assert {case.schedule(case.end + more) for more in (0, 1, 2, 10**4, 10**9)} == {case.schedule(case.end)}
    assert case.end == 0 or case.schedule(case.end - 1) != case.schedule(case.end)


@every_case
def test_is_a_value(case):
    schedule = case.schedule
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), replace(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert repr(twin) == repr(schedule)
        assert twin(3) == schedule(3)
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, fields(schedule)[0].name, 1)


@every_case
def test_repr_can_be_evaluated(case):
    names = {**vars(schedules), "reciprocal": reciprocal}
    text = repr(case.schedule).replace(repr(reciprocal), "reciprocal")
    assert eval(text, names) == case.schedule


def test_a_pickle_names_the_package_and_loads_later():
    assert {getattr(schedules, name).__module__ for name in schedules.__all__} == {"fastopt.schedules"}
    pickle_of_0_1 = (
        b"ccopy_reg\n_reconstructor\np0\n(cfastopt.schedules\ncosine\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
        b"(dp5\nVlr0\np6\nF1.0\nsVtotal\np7\nI4\nsVfloor\np8\nF0.5\nsb."
    )
    assert pickle.loads(pickle_of_0_1) == cosine(1, 4, 0.5)


def test_different_schedules_differ():
    assert len({case.schedule for case in CASES}) == len(CASES)
    assert triangular(0.1, 1.0) != triangular2(0.1, 1.0)
    assert cosine(0.1, 100) != cosine(0.1, 101)


def test_numpy_arguments_and_sequences_become_plain():
    schedule = multistep(np.float32(0.5), np.array([3, 5]), gamma=np.float64(0.25))
    assert repr(schedule) == "multistep(lr0=0.5, milestones=(3, 5), gamma=0.25)"
    assert cosine(1, np.int64(4)) == cosine(1.0, 4)
    assert chain([reciprocal]) == chain((lambda_(reciprocal),))


@every_case
def test_numpy_steps(case):
    assert case.schedule(np.int32(3)) == case.schedule(np.uint8(3)) == case.schedule(3)


@every_case
@pytest.mark.parametrize("step", [1.5, 2.0, np.float64(2), "1", None, True, np.array([1, 2])])
def test_step_of_another_type(case, step):
    with pytest.raises(TypeError, match=r"^step=.*: expected a whole number of at least 0"):
        case.schedule(step)


@every_case
def test_negative_step(case):
    with pytest.raises(ValueError, match="step=-1: expected a whole number of at least 0"):
        case.schedule(-1)


@every_case
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1, -0.5, "x", "", b"x", 1j, object(), True, None])
def test_bad_arguments(case, bad):
    for field in fields(case.schedule):
        if (field.name, bad) not in {("three_phase", True), ("step_size_down", None)}:
            with pytest.raises(
                (TypeError, ValueError), match=rf"^{type(case.schedule).__name__}: {field.name}=.*: expected"
            ):
                replace(case.schedule, **{field.name: bad})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cosine(0.1, 0), ValueError, "cosine: total=0: expected a whole number of at least 1"),
        (lambda: cosine(0.1, 1e4), TypeError, "cosine: total=10000.0: expected a whole number of at least 1"),
        (lambda: cosine("0.1", 10), TypeError, "cosine: lr0='0.1': expected a finite number of at least 0"),
        (lambda: cosine(math.nan, 10), ValueError, "cosine: lr0=nan: expected a finite number of at least 0"),
        (lambda: polynomial(0.1, 10, power=0), ValueError, "polynomial: power=0: expected a finite number above 0"),
        (lambda: multistep(0.1, [5, 5]), ValueError, r"milestones=\(5, 5\): expected a strictly increasing sequence"),
        (lambda: multistep(0.1, [0, 5]), ValueError, r"milestones\[0\]=0: expected a whole number of at least 1"),
        (lambda: multistep(0.1, [5.0]), TypeError, r"milestones\[0\]=5.0: expected a whole number"),
        (lambda: piecewise_constant([1, math.nan], [5]), ValueError, r"values\[1\]=nan: expected a finite number"),
        (lambda: piecewise_constant([1, 2], [5, 6]), ValueError, "one more than boundaries, got 2 and 2"),
        (lambda: join([constant(1), constant(2)], []), ValueError, "one more than boundaries, got 2 and 0"),
        (
            lambda: join([constant(1), 0.1], [5]),
            TypeError,
            r"join: schedules\[1\]=0.1: expected a schedule or a function",
        ),
        (lambda: chain([]), ValueError, "non-empty sequence"),
        (lambda: one_cycle(0.1, 10, pct_start=1.1), ValueError, "pct_start=1.1: expected a number from 0 to 1"),
        (
            lambda: one_cycle(0.1, 10, anneal_strategy="exp"),
            ValueError,
            "anneal_strategy='exp': expected one of 'cos', 'linear'",
        ),
        (lambda: one_cycle(0.1, 10, three_phase=1), TypeError, "three_phase=1: expected True or False"),
        (
            lambda: one_cycle(0.1, 10).momentum(max_momentum=0),
            ValueError,
            "max_momentum=0: expected a finite number above 0",
        ),
        (
            lambda: triangular(0.1, 1, 5, 0),
            ValueError,
            "step_size_down=0: expected a whole number of at least 1, or None",
        ),
        (lambda: warmup_cosine(0.1, 10, 10), ValueError, "expected warmup below total, got 10 and 10"),
        (lambda: warmup_stable_decay(0.1, 5, 10, 6), ValueError, r"got 5 \+ 6 and 10"),
    ],
)
def test_messages(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("result", "error"), [("x", TypeError), (None, TypeError), (True, TypeError), (math.nan, ValueError)]
)
def test_lambda_checks_the_result(result, error):
    with pytest.raises(error, match=r"lambda_: fn\(7\)=.*: expected a finite number"):
        lambda_(lambda step: result)(7)


def test_a_warmup_of_zero_is_none():
    assert warmup_constant(0.1, 0)(0) == 0.1
    assert warmup_cosine(0.1, 0, 10)(3) == cosine(0.1, 10)(3)
    assert warmup_stable_decay(0.1, 0, 10, 10)(3) == linear(0.1, 0, 10)(3)


@pytest.mark.parametrize(
    ("schedule", "follow"),
    [
        (linear(1, 0.5, 60), lambda value, step: max(value - 0.5 / 60, 0.5)),
        (step_decay(0.1, 7, gamma=0.8), lambda value, step: value * 0.8 if step % 7 == 0 else value),
        (multistep(0.1, [7, 30]), lambda value, step: value * 0.1 if step in (7, 30) else value),
        (exponential(0.1, 0.97), lambda value, step: value * 0.97),
        (natural_exponential(0.1, 0.03), lambda value, step: value * math.exp(-0.03)),
        (inverse_time(0.1, 0.03), lambda value, step: 1 / (1 / value + 0.03 / 0.1)),
        (triangular(0.1, 1, 10, 20), lambda value, step: value + (0.09 if 0 < (step % 30 or 30) <= 10 else -0.045)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_closed_form_follows_the_recurrence(schedule, follow):
    value = schedule(0)
    for step in range(1, 100):
        value = follow(value, step)
        assert schedule(step) == pytest.approx(value, rel=1e-12)


@settings(deadline=None)
@given(lr0=rates, floor=rates, start=rates, warmup=st.integers(0, 50), more=st.integers(1, 200), step=steps)
def test_warmup_cosine_is_linear_then_cosine_and_keeps_between(lr0, floor, start, warmup, more, step):
    schedule = warmup_cosine(lr0, warmup, warmup + more, floor, start)
    parts = [warmup_constant(lr0, warmup, start), cosine(lr0, more, floor)]
    assert schedule(step) == (join(parts, [warmup])(step) if warmup else parts[1](step))
    assert min(lr0, floor, start) <= schedule(step) <= max(lr0, floor, start)
    assert schedule(warmup) == lr0
    assert schedule(warmup + more) == floor


@settings(deadline=None)
@given(lr0=rates, floor=rates, total=st.integers(1, 200), step=steps)
def test_polynomial_of_power_one_is_linear(lr0, floor, total, step):
    assert polynomial(lr0, total, floor=floor)(step) == pytest.approx(
        linear(lr0, floor, total)(step), rel=1e-12, abs=1e-12
    )


@settings(deadline=None)
@given(
    total=st.integers(1, 60), pct_start=st.floats(0, 1), anneal=st.sampled_from(["cos", "linear"]), three=st.booleans()
)
def test_one_cycle_keeps_between_at_any_split(total, pct_start, anneal, three):
    lr = one_cycle(1, total, pct_start, anneal_strategy=anneal, three_phase=three)
    momentum = lr.momentum()
    for step in range(total + 2):
        assert 1 / 25 / 1e4 <= lr(step) <= 1
        assert 0.85 - 1e-15 <= momentum(step) <= 0.95 + 1e-15


@settings(deadline=None)
@given(T_0=st.integers(1, 9), T_mult=st.integers(1, 3), step=st.integers(0, 3000))
def test_cosine_restarts_counts_as_the_loop_does(T_0, T_mult, step):
    position, period = 0, T_0
    for _ in range(step):
        position += 1
        if position == period:
            position, period = 0, period * T_mult
    assert cosine_restarts(1, T_0, T_mult)(step) == cosine(1, period)(position)


@settings(deadline=None)
@given(boundaries=st.sets(st.integers(1, 40)), step=st.integers(0, 50))
def test_join_counts_from_each_boundary(boundaries, step):
    boundaries = sorted(boundaries)
    schedule = join([lambda_(float)] * (len(boundaries) + 1), boundaries)
    assert schedule(step) == step - max((b for b in boundaries if b <= step), default=0)


# --- torch ------------------------------------------------------------------------------------------------------------

TORCH = [
    (linear(0.025, 0.1, 10), lambda t, opt: t.LinearLR(opt, start_factor=0.25, total_iters=10), 30),
    (polynomial(0.1, 20, power=1.5), lambda t, opt: t.PolynomialLR(opt, total_iters=20, power=1.5), 30),
    (step_decay(0.1, 7, gamma=0.3), lambda t, opt: t.StepLR(opt, 7, gamma=0.3), 30),
    (multistep(0.1, [5, 11]), lambda t, opt: t.MultiStepLR(opt, [5, 11]), 30),
    (exponential(0.1, 0.9), lambda t, opt: t.ExponentialLR(opt, 0.9), 30),
    (cosine(0.1, 30, floor=0.01), lambda t, opt: t.CosineAnnealingLR(opt, 30, eta_min=0.01), 31),
    (cosine_restarts(0.1, 5), lambda t, opt: t.CosineAnnealingWarmRestarts(opt, 5), 30),
    (cosine_restarts(0.1, 5, 2, 0.01), lambda t, opt: t.CosineAnnealingWarmRestarts(opt, 5, 2, 0.01), 80),
    (one_cycle(0.5, 50), lambda t, opt: t.OneCycleLR(opt, 0.5, 50), 50),
    (one_cycle(0.5, 2), lambda t, opt: t.OneCycleLR(opt, 0.5, 2), 2),
    (
        one_cycle(0.5, 50, pct_start=0.37, div_factor=10, final_div_factor=100, anneal_strategy="linear"),
        lambda t, opt: t.OneCycleLR(
            opt, 0.5, 50, pct_start=0.37, div_factor=10, final_div_factor=100, anneal_strategy="linear"
        ),
        50,
    ),
    (one_cycle(0.5, 50, three_phase=True), lambda t, opt: t.OneCycleLR(opt, 0.5, 50, three_phase=True), 50),
    (triangular(0.01, 0.1, 7, 4), lambda t, opt: t.CyclicLR(opt, 0.01, 0.1, 7, 4), 40),
    (triangular2(0.01, 0.1, 6), lambda t, opt: t.CyclicLR(opt, 0.01, 0.1, 6, mode="triangular2"), 40),
    (
        exp_range(0.01, 0.1, 7, 4, gamma=0.98),
        lambda t, opt: t.CyclicLR(opt, 0.01, 0.1, 7, 4, mode="exp_range", gamma=0.98),
        40,
    ),
    (lambda_(lambda step: 0.1 * reciprocal(step)), lambda t, opt: t.LambdaLR(opt, reciprocal), 30),
    (
        join([linear(0.01, 0.1, 5), exponential(0.1, 0.9)], [5]),
        lambda t, opt: t.SequentialLR(
            opt, [t.LinearLR(opt, start_factor=0.1, total_iters=5), t.ExponentialLR(opt, 0.9)], [5]
        ),
        30,
    ),
    (
        chain([linear(0.5, 1, 10), exponential(0.1, 0.9)]),
        lambda t, opt: t.ChainedScheduler(
            [t.LinearLR(opt, start_factor=0.5, total_iters=10), t.ExponentialLR(opt, 0.9)]
        ),
        30,
    ),
]


@pytest.mark.parametrize(("schedule", "make", "count"), TORCH, ids=lambda x: type(x).__name__)
# torch's SequentialLR calls its own deprecated step(epoch)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_same_numbers_as_torch(schedule, make, count):
    torch = pytest.importorskip("torch", reason="compares with the live torch.optim.lr_scheduler")
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1, momentum=0.9)
    scheduler = make(torch.optim.lr_scheduler, opt)
    momentum = schedule.momentum() if hasattr(schedule, "momentum") else constant(0.9)
    for step in range(count):
        group = opt.param_groups[0]
        assert schedule(step) == pytest.approx(group["lr"], rel=1e-12, abs=1e-16)
        assert momentum(step) == pytest.approx(group["momentum"], rel=1e-12)
        opt.step()
        scheduler.step()


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_operators():
    falling, rising = linear(1, 0.5, total=4), linear(0, 1, total=4)
    assert falling * 0.5 == chain([falling, constant(0.5)])
    assert 0.5 * falling == chain([constant(0.5), falling])
    assert falling * rising == chain([falling, rising])
    assert falling + rising == sum_of([falling, rising])
    assert falling + 1 == sum_of([falling, constant(1)])
    assert 1 + falling == sum_of([constant(1), falling])
    assert falling * reciprocal == chain([falling, reciprocal])
    assert reciprocal + falling == sum_of([reciprocal, falling])
    for number in (np.float64(0.5), np.float32(0.5), np.array(0.5)):
        assert number * falling == 0.5 * falling
        assert falling + number == falling + 0.5
        assert type((falling * number).schedules[1].value) is float
    both = falling * 0.5 + rising * 2
    assert [both(step) for step in (0, 2, 4)] == [0.5, 1.375, 2.25]
    assert eval(repr(both), vars(schedules)) == both
    assert pickle.loads(pickle.dumps(both)) == both
    assert sum([falling, rising])(2) == 1.25
    for wrong in ("2", True, None, [1], 1j):
        for operator in (truediv, sub):
            with pytest.raises(TypeError):
                operator(falling, wrong)
            with pytest.raises(TypeError):
                operator(wrong, falling)
        with pytest.raises(TypeError):
            falling * wrong
        with pytest.raises(TypeError):
            falling + wrong
    with pytest.raises(ValueError, match="value=-1: expected a finite number of at least 0"):
        falling * -1


def test_operators_of_two_sides():
    falling, rising = linear(1, 0.5, total=4), linear(0, 1, total=4)
    assert falling / 2 == quotient(falling, constant(2))
    assert 2 / falling == quotient(constant(2), falling)
    assert falling / reciprocal == quotient(falling, reciprocal)
    assert reciprocal / falling == quotient(reciprocal, falling)
    assert falling - 0.25 == difference(falling, constant(0.25))
    assert 1 - falling == difference(constant(1), falling)
    assert falling - reciprocal == difference(falling, reciprocal)
    assert reciprocal - falling == difference(reciprocal, falling)
    for number in (np.float64(0.5), np.float32(0.5), np.array(0.5)):
        assert falling / number == falling / 0.5
        assert number - falling == 0.5 - falling
    both = 1 - (falling - 0.25) / 3
    assert [both(step) for step in (0, 2, 4)] == [1 - 0.75 / 3, 1 - 0.5 / 3, 1 - 0.25 / 3]
    assert eval(repr(both), vars(schedules)) == both
    assert pickle.loads(pickle.dumps(both)) == both
    with pytest.raises(ValueError, match=r"^quotient: second=constant\(value=0\.0\) is 0 at step 0; "):
        falling / 0
    with pytest.raises(ValueError, match=r"^quotient: second=linear\(.*\) is 0 at step 0; expected another number$"):
        (falling / rising)(0)
    assert (falling / rising)(4) == 0.5


def test_plot_has_labels():
    plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is the optional extra plot")
    plt.switch_backend("Agg")
    ax = schedules.plot(linear(0, 1, 10), 20)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_legend()) == ("step", "value", None)
    schedules.plot(reciprocal, 5, ax, label="1 / t")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "linear(start=0.0, end=1.0, total=10)",
        "1 / t",
    ]
    ax = schedules.plot(constant(0.1), 5, label="mine")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mine"]
    plt.close("all")


def test_plot_draws_the_values():
    plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is the optional extra plot")
    plt.switch_backend("Agg")
    schedule = linear(0, 1, 10)
    ax = schedules.plot(schedule, 20)
    (line,) = ax.lines
    assert list(line.get_xdata()) == list(range(20))
    assert list(line.get_ydata()) == [schedule(step) for step in range(20)]
    assert schedules.plot(reciprocal, 5, ax) is ax
    assert len(ax.lines) == 2
    plt.close(ax.figure)


def test_command_draws_a_png(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is the optional extra plot")
    monkeypatch.chdir(tmp_path)
    assert plot_schedules.main([]) == 0
    assert (tmp_path / "schedules.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == "schedules.png\n"
    assert plot_schedules.main([str(tmp_path / "missing" / "a.png")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fastopt\[plot\]'"):
        schedules.plot(constant(0.1), 10)
    assert plot_schedules.main([]) == 1
    assert "pip install 'fastopt[plot]'" in capsys.readouterr().err


def test_importing_leaves_matplotlib_alone():
    code = "import fastopt.schedules, fastopt.commands.plot_schedules, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
