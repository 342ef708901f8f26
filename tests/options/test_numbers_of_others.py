"""Numbers of other libraries: each place that takes a number takes them by value, and holds Python's own."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import f32
from cases import CASES, Case, everything, needs_native

import fastopt
from fastopt import init, lr_scheduler, schedules
from fastopt.backends import threads
from fastopt.options.ranges import COUNT, NON_NEGATIVE, as_number, as_option, check

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


class Scalar:
    """A number as JAX and torch have it: an array without axes that NumPy does not know."""

    shape = ()

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value

    def __float__(self) -> float:
        return float(self.value)


class Several(Scalar):
    """A tensor of one element that has an axis: float() takes it."""

    shape = (1,)


class Traced(Scalar):
    """A number that is not known yet, as inside jax.jit."""

    def item(self) -> Any:
        raise TypeError("Abstract tracer value encountered")


class Product(Scalar):
    """The product of a number with one of Python is a number of the same library."""

    def __init__(self, value: Any) -> None:
        super().__init__(float(value))

    def __rmul__(self, other: float) -> Product:
        return Product(self.value * other)


class Exact:
    """A number without shape or item."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __float__(self) -> float:
        return float(self.value)


def long_array(value: Any) -> Any:
    return np.array(value, np.longdouble)


Kind = Callable[[Any], Any]

KINDS: list[Kind] = [np.longdouble, np.array, long_array, Scalar, Exact, Fraction, Decimal]


def is_own(value: Any) -> bool:
    """Return whether a value can be saved and can't change in place."""
    if isinstance(value, tuple):
        return all(map(is_own, value))
    return type(value) in (int, float, bool, str, type(None)) or callable(value)


def wrapped(kind: Kind, value: Any) -> Any:
    """Return an option with its floats as another kind of number."""
    if isinstance(value, tuple):
        return tuple(wrapped(kind, item) for item in value)
    return kind(value) if type(value) is float else value


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_becomes_pythons(kind: Kind) -> None:
    for take in (as_number, check):
        number = take("x", kind(0.1), NON_NEGATIVE)
        assert (number, type(number)) == (0.1, float)
    pair = as_option((kind(0.1), 0.2))
    assert (pair, is_own(pair)) == ((0.1, 0.2), True)
    with pytest.raises(ValueError, match=r"^x=.*: expected a finite number of at least 0$"):
        check("x", kind(-0.1), NON_NEGATIVE)


@pytest.mark.parametrize("value", [np.array(3), np.array(3, np.int8), Scalar(3), np.int64(3)])
def test_whole_numbers(value: Any) -> None:
    number = as_number("n", value, COUNT)
    assert (number, type(number)) == (3, int)
    assert check("n", value, COUNT) == 3


@pytest.mark.parametrize("value", [np.float32(0.1), np.float16(0.1), np.float64(0.1), np.int8(1), [0.1, 0.2], (1, 0.1)])
def test_values_that_stay_as_they_were_given(value: Any) -> None:
    assert as_option(value) is value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.ones(1), r"give one number \(a 0-d array too\), not an array of shape \(1,\)"),
        (Several(0.1), r"not an array of shape \(1,\)"),
        (Traced(0.1), r"float\(\) of this raises TypeError"),
        (Scalar(True), "expected a finite number"),
        (np.array(True), "expected a finite number"),
        (np.array("0.1"), "expected a finite number"),
        (np.array(1j), "expected a finite number"),
        (np.datetime64(1, "ns"), "expected a finite number"),
        (np.array(1, "m8[ns]"), "expected a finite number"),
    ],
)
def test_what_is_no_number(value: Any, says: str) -> None:
    params = [np.ones(2)]
    opt = fastopt.SGD(params, lr=0.5)
    for do in (
        lambda: fastopt.SGD(np.ones(2), lr=value),
        lambda: fastopt.SGD([{"params": np.ones(2), "lr": value}]),
        lambda: opt.add_param_group({"params": np.ones(2), "lr": value}),
        lambda: opt.step([np.ones(2)], grad_scale=value),
        lambda: (opt.param_groups[0].update(lr=value), opt.step([np.ones(2)])),
        lambda: as_number("lr", value, NON_NEGATIVE),
    ):
        with pytest.raises(TypeError, match=rf"(lr|grad_scale)=.*{says}"):
            do()
    assert (params[0].tolist(), opt.step_count, len(opt.param_groups)) == ([1, 1], 0, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.by_turns("case")
def test_options_of_every_optimizer(case: Case, kind: Kind, backend: str) -> None:
    """Given to the constructor and written into a group: the same bits, and the same state to save."""
    results = []
    for convert in (lambda value: value, lambda value: wrapped(kind, value)):
        params = [np.linspace(-1, 1, 12).reshape(3, 4)]
        opt = case.optimizer(params, **{name: convert(value) for name, value in case.options.items()}, backend=backend)
        assert is_own(tuple(opt.defaults.values()))
        for scale in (1.0, 1.0, 0.5, 0.5):
            group = opt.param_groups[0]
            group.update({name: convert(value) for name, value in group.items() if name != "params"})
            if type(case.options.get("lr")) is float:
                group["lr"] = convert(case.options["lr"] * scale)
            opt.step([np.cos(params[0])])
            assert is_own(tuple(value for name, value in group.items() if name != "params"))
        results.append((everything(params, opt), opt.state_dict()["param_groups"]))
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", KINDS)
def test_options_that_every_optimizer_takes(kind: Kind, tmp_path: Path) -> None:
    options = {"clip_value": 0.5, "clip_norm": 0.4, "clip_global_norm": 0.3, "ema_decay": 0.25, "grad_scale": 2.0}
    more: dict[str, Any] = {"l1": 0.125, "prox_l1": 0.25, "max_weight_norm": 0.75}
    if kind in (np.array, Scalar):
        more |= {"max_weight_norm_axis": 1, "seed": 3, "accumulate_steps": 2, "maximize": True}
    opt = fastopt.Adam(np.ones((2, 2)), **{name: kind(value) for name, value in (options | more).items()})
    opt.step(np.ones((2, 2)))
    assert is_own((*opt.defaults.values(), *opt.pass_options, opt.clip_global_norm, opt.seed, opt.grad_scale))
    opt.clip_global_norm, opt.grad_scale, opt.seed = kind(0.2), kind(4.0), np.array(5)
    opt.step(np.ones((2, 2)))
    assert (opt.clip_global_norm, opt.grad_scale, opt.seed) == (0.2, 4.0, 5)
    assert is_own((opt.clip_global_norm, opt.grad_scale, opt.seed))
    fastopt.save(tmp_path / "run.npz", opt)
    fastopt.load(tmp_path / "run.npz").restore(opt)


@pytest.mark.parametrize("kind", KINDS)
def test_groups(kind: Kind) -> None:
    opt = fastopt.Adam([{"params": f32(2), "lr": kind(0.5), "betas": (kind(0.5), 0.75)}])
    opt.add_param_group({"params": f32(2), "weight_decay": kind(0.25)})
    named = fastopt.Adam(fastopt.group_by({"W": f32(2)}, {"*": {"lr": kind(0.5)}}))
    groups = [*opt.param_groups, *named.param_groups]
    assert [group["lr"] for group in groups] == [0.5, 0.001, 0.5]
    assert (groups[0]["betas"], groups[1]["weight_decay"]) == ((0.5, 0.75), 0.25)
    assert is_own(tuple(value for group in groups for name, value in group.items() if name != "params"))
    saved = opt.state_dict()
    saved["param_groups"][0] |= {"lr": kind(0.125), "betas": [kind(0.5), 0.5]}
    opt.load_state_dict(saved)
    assert opt.param_groups[0]["lr"] == 0.125
    assert is_own((opt.param_groups[0]["lr"], *opt.param_groups[0]["betas"]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_array_that_changes_later_changes_nothing(backend: str) -> None:
    rate, param = np.array(0.5), np.zeros(1)
    opt = fastopt.SGD(param, lr=rate, backend=backend)
    for _ in range(6):
        opt.step(np.ones(1))
    rate[...] = 100
    opt.step(np.ones(1))
    opt.param_groups[0]["lr"] = rate = np.array(0.25)
    opt.step(np.ones(1))
    rate[...] = 100
    opt.step(np.ones(1))
    assert (param[0], opt.param_groups[0]["lr"]) == (-4.0, 0.25)


@needs_native
def test_planned_steps_go_on_after_an_array_was_written() -> None:
    opt = fastopt.SGD(np.zeros(1), lr=0.5, backend="native")
    for _ in range(8):
        opt.step(np.ones(1))
    opt.param_groups[0]["lr"] = np.array(0.25)
    for _ in range(8):
        opt.step(np.ones(1))
    before = opt.planned_steps
    opt.param_groups[0]["lr"] = np.float32(0.125)
    assert opt.step(np.ones(1)).lr == 0.125
    assert type(opt.param_groups[0]["lr"]) is np.float32
    assert opt.planned_steps == before + 1 > 4


@pytest.mark.parametrize("kind", KINDS)
def test_scales_and_schedules(kind: Kind) -> None:
    assert fastopt.SGD(np.ones(1)).step(np.ones(1), grad_scale=kind(2.0)).applied
    scale = fastopt.DynamicLossScale(kind(2.0), kind(2.0), kind(0.5))
    assert is_own(tuple(scale.state_dict().values()))
    scale.load_state_dict(scale.state_dict() | {"scale": kind(4.0)})
    assert is_own(scale.scale)
    scale.scale = scale.growth_factor = kind(2.0)
    scale.growth_interval = 1
    assert is_own(tuple(scale.state_dict().values()))
    assert fastopt.SGD(np.ones(1), grad_scale=scale, nonfinite="skip").step(np.ones(1)).applied
    assert (scale.scale, type(scale.scale)) == (4.0, float)
    assert is_own(schedules.constant(kind(0.5)).value)
    for schedule in (lambda step: kind(0.5), schedules.lambda_(lambda step: kind(0.5))):
        info = fastopt.SGD(np.ones(1), lr=schedule).step(np.ones(1))
        assert (info.lr, type(info.lr)) == (0.5, float)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_around_the_optimizers(kind: Kind) -> None:
    grads, expected = [np.full(3, 2.0), np.full(3, 2.0)]
    assert fastopt.clip.global_norm(grads, kind(2.0)) == fastopt.clip.global_norm(expected)
    for array, number in ((grads, kind(0.5)), (expected, 0.5)):
        fastopt.clip_grad_norm_(array, number)
        fastopt.clip_grad_value_(array, number / 2 if array is expected else kind(0.25))
    assert grads.tobytes() == expected.tobytes()
    weights = [init.xavier_normal(np.random.default_rng(0), (3, 2), gain) for gain in (kind(0.1), 0.1)]
    weights += [init.variance_scaling(np.random.default_rng(0), (3, 2), scale) for scale in (kind(0.5), 0.5)]
    assert weights[0].tobytes() == weights[1].tobytes()
    assert weights[2].tobytes() == weights[3].tobytes()
    assert is_own(fastopt.EarlyStopping(np.array(2), kind(0.5)).min_delta)


def test_number_of_threads(restored: None) -> None:
    fastopt.set_num_threads(np.array(2))
    assert (threads.setting, type(threads.setting)) == (2, int)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_live_scalars_of_torch_and_jax(library: str) -> None:
    module = pytest.importorskip(library, reason="takes the scalars of the live library")
    make = module.tensor if library == "torch" else module.numpy.asarray
    rate = float(np.float32(0.1))
    opt = fastopt.Adam(np.ones(2), lr=make(0.1), betas=(make(0.5), 0.5), accumulate_steps=make(1))
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]) == (rate, (0.5, 0.5))
    opt.param_groups[0]["lr"] = make(0.5)
    assert opt.step(np.ones(2)).lr == 0.5
    with pytest.raises(TypeError, match=r"not an array of shape \(1,\)"):
        fastopt.Adam(np.ones(2), lr=make([0.1]))
    with pytest.raises(TypeError, match="expected a finite number"):
        fastopt.Adam(np.ones(2), lr=make(True))
    if library == "jax":
        with pytest.raises(TypeError, match=r"lr=.*expected a finite number.*ConcretizationTypeError"):
            module.jit(lambda lr: fastopt.Adam(np.ones(2), lr=lr))(0.1)


DRIVERS: list[tuple[str, dict[str, Any]]] = [
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.5**epoch}),
    ("MultiplicativeLR", {"lr_lambda": lambda epoch: 0.5}),
    ("StepLR", {"step_size": 2, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": (2, 3), "gamma": 0.5}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 2}),
    ("LinearLR", {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 3}),
    ("ExponentialLR", {"gamma": 0.5}),
    ("PolynomialLR", {"total_iters": 4, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.25}),
    ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 1, "eta_min": 0.25}),
    ("CyclicLR", {"base_lr": 0.25, "max_lr": 1.0, "step_size_up": 2, "mode": "exp_range", "gamma": 0.5}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 8, "pct_start": 0.5, "div_factor": 4.0, "final_div_factor": 8.0}),
    ("SWALR", {"swa_lr": 0.25, "anneal_epochs": 3}),
    ("ReduceLROnPlateau", {"factor": 0.5, "patience": 1, "threshold": 0.25, "min_lr": 0.25, "eps": 0.125}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "arguments"), DRIVERS, ids=[name for name, _ in DRIVERS])
def test_drivers(name: str, arguments: dict[str, Any], kind: Kind) -> None:
    """Their arguments, and a rate that another hand wrote before a driver was built and in the middle."""
    rates = []
    for convert in (lambda value: value, lambda value: wrapped(kind, value)):
        opt = fastopt.SGD(np.ones(2), lr=0.5, momentum=0.5)
        opt.param_groups[0]["lr"] = convert(1.0)
        driver = getattr(lr_scheduler, name)(opt, **{key: convert(value) for key, value in arguments.items()})
        for step in range(6):
            if step == 3:
                opt.param_groups[0]["lr"] = convert(0.75)
            driver.step(*([convert(1.0)] if name == "ReduceLROnPlateau" else []))
            rates.append([opt.step(np.ones(2)).lr, *driver.get_last_lr()])
        saved = driver.state_dict()
        assert is_own(tuple(each for value in saved.values() for each in (value if type(value) is list else [value])))
    assert rates[:6] == rates[6:]


class Doubled(lr_scheduler.LRScheduler):
    """A driver of one's own that computes in another library's numbers."""

    kind: Kind

    def get_lr(self) -> list[Any]:
        return [self.kind(2.0**self.last_epoch) for _ in self.base_lrs]


@pytest.mark.parametrize("kind", [np.longdouble, Product])
def test_functions_of_drivers(kind: Kind) -> None:
    """The numbers that functions return become those of the groups."""

    def factor(epoch: float) -> Any:
        return kind(0.5)

    opts = [fastopt.SGD(np.ones(2), lr=0.5, momentum=0.5) for _ in range(4)]
    drivers: list[lr_scheduler.LRScheduler] = [
        lr_scheduler.LambdaLR(opts[0], factor),
        lr_scheduler.MultiplicativeLR(opts[1], factor),
        lr_scheduler.CyclicLR(opts[2], 0.25, 0.75, 2, scale_fn=lambda epoch: np.longdouble(0.5)),
        type("Own", (Doubled,), {"kind": staticmethod(kind)})(opts[3]),
    ]
    for opt, driver, lr in zip(opts, drivers, [0.25, 0.25, 0.375, 2.0], strict=True):
        driver.step()
        assert driver.get_last_lr() == [opt.lr] == [lr]
        assert is_own(tuple(driver.get_last_lr()))
        assert is_own(tuple(value for name, value in opt.param_groups[0].items() if name != "params"))
