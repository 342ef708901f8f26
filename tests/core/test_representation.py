"""The ``repr`` of what a notebook shows: the options that differ from the defaults, and no array."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from cases import CASES, Case

import fastopt
from fastopt import lr_scheduler
from fastopt.arrays.texts import brief

BIG = 12_345


def params() -> dict[str, Any]:
    return {"W": np.zeros((BIG, 2), np.float32), "b": np.zeros(3, np.float32)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_optimizer_shows_the_options_that_were_given(case: Case) -> None:
    opt = case.build({"W": np.ones((4, 3)), "b": np.ones(3)})
    shown, fresh = repr(opt), repr(case.optimizer({"W": np.ones((4, 3)), "b": np.ones(3)}))
    assert shown.startswith(f"{case.optimizer.__name__}(2 arrays, 15 elements, lr=")
    assert "\n" not in shown
    assert shown.endswith(f"step=0, backend={opt.backend!r})")
    # Of a new one with no options only the learning rate is there.
    assert fresh.count("=") == 3
    defaults = case.optimizer(np.ones((2, 2))).param_groups[0]
    for name, value in case.options.items():
        is_shown = name in ("lr", "clip_global_norm") or repr(defaults[name]) != repr(value)
        assert (f", {name}={value!r}" in shown) == is_shown, name


def test_the_numbers_are_those_of_now() -> None:
    opt = fastopt.AdamW(params(), lr=0.5, weight_decay=0.01, clip_global_norm=1, seed=7, ema_decay=0.9)
    expected = "lr=0.5, ema_decay=0.9, clip_global_norm=1, seed=7"
    assert repr(opt) == f"AdamW(2 arrays, 24,693 elements, {expected}, step=0, backend={opt.backend!r})"
    opt.step({"b": np.ones(3)})
    opt.lr, opt.clip_global_norm, opt.param_groups[0]["weight_decay"] = np.float32(0.25), None, 0.5
    opt.freeze("b")
    expected = "1 frozen, lr=0.25, weight_decay=0.5, ema_decay=0.9, seed=7"
    assert repr(opt) == f"AdamW(2 arrays, 24,693 elements, {expected}, step=1, backend={opt.backend!r})"


def test_groups_have_a_line_each() -> None:
    rates = fastopt.schedules.cosine(0.1, total=10)
    grouped = fastopt.group_by(params(), {"b": {"weight_decay": 0.0}, "*": {"lr": rates}})
    opt = fastopt.AdamW(grouped, nonfinite="skip")
    assert repr(opt).splitlines() == [
        f"AdamW(2 arrays, 24,693 elements, nonfinite='skip', step=0, backend={opt.backend!r}",
        "  group 0: 1 array, 3 elements, lr=0.001, weight_decay=0.0",
        "  group 1: 1 array, 24,690 elements, lr=cosine(lr0=0.1, total=10, floor=0.0)",
        ")",
    ]
    assert str(opt) == repr(opt)


def test_many_groups_are_counted() -> None:
    arrays = {f"layer{k}": np.zeros(k + 1) for k in range(40)}
    opt = fastopt.SGD(fastopt.group_by(arrays, {name: {"lr": 0.1} for name in arrays}))
    assert repr(opt).splitlines()[-2:] == ["  ... and 28 more groups", ")"]


def test_combined_names_the_class_of_each_group() -> None:
    opt = fastopt.Combined(params(), {"W": (fastopt.Muon, {"lr": 0.02}), "*": fastopt.AdamW}, clip_global_norm=1.0)
    assert repr(opt).splitlines() == [
        f"Combined(2 arrays, 24,693 elements, clip_global_norm=1.0, step=0, backend={opt.backend!r}",
        "  group 0: Muon, 1 array, 24,690 elements, lr=0.02",
        "  group 1: AdamW, 1 array, 3 elements, lr=0.001",
        ")",
    ]
    one = fastopt.Combined(np.ones(2), {"*": fastopt.SGD})
    assert "  group 0: SGD, 1 array, 2 elements, lr=0.001" in repr(one).splitlines()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"decoupled": False}, "decoupled=False"),
        ({"bounds": (0.0, None)}, "bounds=(0.0, None)"),
        ({"bounds": (np.zeros(3), 1.0)}, "bounds=<of 1 array>"),
        ({"copy_to": np.zeros(3, np.float16)}, "copy_to=<1 array>"),
        ({"ema_decay": lambda t: 0.9}, "<lambda>"),
        (
            {"betas": (fastopt.schedules.linear(0.9, 0.8, total=5), 0.9)},
            "betas=(linear(start=0.9, end=0.8, total=5), 0.9)",
        ),
        ({"grad_scale": fastopt.DynamicLossScale(8.0), "nonfinite": "skip"}, "grad_scale=DynamicLossScale(scale=8"),
        ({"accumulate_steps": 4}, "accumulate_steps=4"),
        ({"state_dtype": "bfloat16"}, "state_dtype='bfloat16'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_options_of_every_kind(options: dict[str, Any], shown: str) -> None:
    text = repr(fastopt.AdamW(np.zeros(3, np.float32), **options))
    assert shown in text
    assert "array(" not in text


def test_a_class_of_ones_own() -> None:
    class Plain(fastopt.Optimizer):
        ranges: ClassVar[Any] = {"slope": fastopt.options.ranges.POSITIVE}

        def __init__(self, params: Any, lr: float, slope: float = 2.0, **common: Any) -> None:
            super().__init__(params, {"lr": lr, "slope": slope, "weight_decay": 0.0}, **common)

        def rule(self, group: Any) -> Any:
            return fastopt.rules.sgd

        def hyper(self, group: Any, step: int) -> Any:
            return fastopt.rules.SGDScalars(group["lr"])

    opt = Plain(np.zeros(3), 0.5)  # no default of lr: it can't be built to look at its defaults
    expected = f"lr=0.5, weight_decay=0.0, step=0, backend={opt.backend!r}"
    assert repr(opt) == f"Plain(1 array, 3 elements, {expected})"
    opt.param_groups[0]["slope"] = 3.0
    assert "slope=3.0" in repr(opt)


def test_dir_has_no_options_and_no_methods_of_others() -> None:
    opt = fastopt.AdamW(np.zeros(3))
    names = dir(opt)
    assert {"step", "lr", "param_groups", "parts", "defaults", "__class__"} <= {*names}
    assert not {"betas", "weight_decay", "nonfinite", "zero_grad", "parameters"} & {*names}
    assert all(hasattr(opt, name) for name in names if name not in ("ema", "__abstractmethods__"))


def test_before_it_is_built() -> None:
    """A debugger asks at any moment."""
    opt = fastopt.SGD.__new__(fastopt.SGD)
    assert repr(opt).startswith("<fastopt.optimizers.sgd.SGD object")


DRIVERS = {
    "StepLR": (lambda opt: lr_scheduler.StepLR(opt, 30), "step_size=30"),
    "StepLR-gamma": (lambda opt: lr_scheduler.StepLR(opt, 30, 0.5), "step_size=30, gamma=0.5"),
    "LambdaLR": (lambda opt: lr_scheduler.LambdaLR(opt, float), "lr_lambdas=[float]"),
    "MultiStepLR": (lambda opt: lr_scheduler.MultiStepLR(opt, [3, 5]), "milestones=[3, 5]"),
    "CosineAnnealingLR": (lambda opt: lr_scheduler.CosineAnnealingLR(opt, 7), "T_max=7"),
    "ExponentialLR": (lambda opt: lr_scheduler.ExponentialLR(opt, 0.5), "gamma=0.5"),
    "LinearLR": (lambda opt: lr_scheduler.LinearLR(opt, 0.5), "start_factor=0.5"),
    "CyclicLR": (lambda opt: lr_scheduler.CyclicLR(opt, 0.1, 1, 5), "min_lrs=[0.1], max_lrs=[1], step_size_up=5"),
    "OneCycleLR": (lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, total_steps=9), "total_steps=9, max_lrs=[1.0]"),
    "ReduceLROnPlateau": (lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=3), "patience=3"),
    "SWALR": (lambda opt: lr_scheduler.SWALR(opt, 0.5), "swa_lrs=[0.5]"),
    "SequentialLR": (
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.StepLR(opt, 2), lr_scheduler.ExponentialLR(opt, 0.5)], [4]
        ),
        "schedulers=[StepLR(step_size=2, last_epoch=0, lr=[1.0]), ExponentialLR(gamma=0.5, last_epoch=0, lr=[1.0])], "
        "milestones=[4]",
    ),
    "ChainedScheduler": (
        lambda opt: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(opt, 2)]),
        "schedulers=[StepLR(step_size=2, last_epoch=0, lr=[1.0])]",
    ),
}


@pytest.mark.parametrize("name", DRIVERS)
def test_drivers(name: str) -> None:
    build, shown = DRIVERS[name]
    driver = build(fastopt.SGD(np.zeros(BIG), lr=1.0, momentum=0.9))
    text = repr(driver)
    assert text.startswith(f"{name.split('-')[0]}({shown}")
    assert text.endswith(f", last_epoch=0, lr={driver.get_last_lr()})")


def test_helpers_of_a_training_loop() -> None:
    stopping = fastopt.EarlyStopping(2)
    assert (
        repr(stopping) == "EarlyStopping(patience=2, best=None, best_update=None, updates=0, waited=0, stopped=False)"
    )
    for metric in (1.0, 3.0, 2.0):
        stopping.update(metric, params())
    assert repr(stopping) == "EarlyStopping(patience=2, best=1.0, best_update=0, updates=3, waited=2, stopped=True)"
    assert "min_delta=0.5, mode='max'" in repr(fastopt.EarlyStopping(2, 0.5, "max"))
    ensemble = fastopt.SnapshotEnsemble(3, "max")
    ensemble.update(params(), 0.5)
    assert repr(ensemble) == "SnapshotEnsemble(size=3, mode='max', snapshots=1, metrics=[0.5])"
    rates = fastopt.schedules.cosine_restarts(0.1, T_0=3)
    assert f"schedule={rates!r}" in repr(fastopt.SnapshotEnsemble(3, schedule=rates))


def test_other_values_with_arrays(tmp_path: Any) -> None:
    fastopt.save(tmp_path / "run.npz", fastopt.Adam(params()), extra={"epoch": 3})
    shown = "Checkpoint(params=<2 arrays, 24,693 elements>, optimizer=<Adam after 0 steps>, extra=<epoch>)"
    assert repr(fastopt.load(tmp_path / "run.npz")) == shown
    fastopt.save(tmp_path / "run.npz", extra={})
    assert repr(fastopt.load(tmp_path / "run.npz")) == "Checkpoint(params=None, optimizer=None, extra=<>)"
    grouped = fastopt.group_by(params(), {"*": {"lr": 0.1}})
    assert repr(grouped) == "Grouped(params=<2 arrays, 24,693 elements>, options=[{'lr': 0.1}])"
    sparse = fastopt.RowSparse(np.zeros(3, int), np.zeros((3, 2)))
    assert repr(sparse) == "RowSparse(indices=<array of shape (3,)>, values=<array of shape (3, 2)>)"


def test_states_of_full_batch_methods() -> None:
    x = {"x": np.ones(BIG)}
    state = fastopt.LBFGS(x).step(lambda: (float(x["x"] @ x["x"]), {"x": 2 * x["x"]}))
    assert f", iterations=1, evaluations={state.evaluations}, params=<1 array, 12,345 elements>, status=" in repr(state)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(0.5), "0.5"),
        (np.array(2.0), "2.0"),
        (np.zeros((2, 3)), "<array of shape (2, 3)>"),
        ([1, 2], "[1, 2]"),
        ((1,), "(1,)"),
        (list(range(50)), "[0, 1, 2, 3, 4, 5, ... (50 in all)]"),
        ({"a": np.zeros(2)}, "<dict of 1>"),
        (max, "max"),
        ("a\nb", r"'a\nb'"),
        ("x" * 500, "'" + "x" * 116 + "..."),
        (None, "None"),
    ],
    ids=["scalar", "0-d", "array", "list", "tuple", "long", "dict", "function", "lines", "text", "none"],
)
def test_brief(value: Any, text: str) -> None:
    assert brief(value) == text


def test_brief_of_what_has_no_repr() -> None:
    assert brief(Unshowable()).startswith("<a value of type ")
