"""Several optimizers in one step: each does what it would do alone, and what belongs to the whole is there once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from cases import BFLOAT16, CASES, COMBINED_CASES, ISAS, MATRIX_CASES, OPTIONS, STORAGE, Case, needs_native
from option_runs import LENGTHS, run, taken
from planned_runs import needs_plans
from structures import same

import fastopt
from fastopt import lr_scheduler, schedules
from fastopt.backends.native import library as native
from fastopt.core.step import Step

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]

#: Of each optimizer the last row, whose options differ most from the defaults; without the norm of all gradients.
ONE_OF_EACH = list(
    {case.optimizer: case for case in (*CASES, *MATRIX_CASES) if "clip_global_norm" not in case.options}.values()
)
#: Each optimizer with the next one.
NEIGHBOURS = list(zip(ONE_OF_EACH, [*ONE_OF_EACH[1:], ONE_OF_EACH[0]], strict=True))

SHAPES: dict[str, tuple[int, ...]] = {"wide": (7, 9), "row": (1, 4), "tall": (40, 130), "square": (5, 5)}

MUON_ADAMW = {"*.W": (fastopt.Muon, {"lr": 0.02}), "*": (fastopt.AdamW, {"lr": 0.01})}
SGD_ADAMW = {"*.W": (fastopt.SGD, {"lr": 0.1, "momentum": 0.9}), "*": (fastopt.AdamW, {"lr": 0.01})}


def new_params(dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def new_grads(rng: np.random.Generator, params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rng.normal(size=param.shape).astype(param.dtype) for name, param in params.items()}


def model(dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        layer: {"W": rng.normal(size=(4, 3)).astype(dtype), "b": rng.normal(size=3).astype(dtype)}
        for layer in ("in", "out")
    }


def grads_of(rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Any]:
    return {
        layer: {"W": rng.normal(size=(4, 3)).astype(dtype), "b": rng.normal(size=3).astype(dtype)}
        for layer in ("in", "out")
    }


def check_like_alone(one: Case, other: Case, backend: str, dtype: Any = np.float32, **common: Any) -> fastopt.Combined:
    """Compare a Combined with two optimizers, each with its own arrays, after some steps."""
    params, alone = new_params(dtype), new_params(dtype)
    names = (("wide", "tall"), ("row", "square"))
    chosen = {"[wt]*": (one.optimizer, one.options), "*": (other.optimizer, other.options)}
    opt = fastopt.Combined(params, chosen, backend=backend, **common)
    parts = [
        case.build({name: alone[name] for name in its}, backend=backend, **common)
        for case, its in zip((one, other), names, strict=True)
    ]
    rng = np.random.default_rng(1)
    for step in range(7):
        grads = new_grads(rng, params)
        if step in (2, 5):
            grads["tall" if step == 2 else "square"] = None
        copies = {name: None if grad is None else grad.copy() for name, grad in grads.items()}
        opt.step(grads)
        for part, its in zip(parts, names, strict=True):
            part.step({name: copies[name] for name in its})
        assert same(grads, copies)
    assert same(params, alone)
    for part, its in zip(parts, names, strict=True):
        for name in its:
            assert same(dict(opt.state[name]), dict(part.state[name]))
    return opt


# --- The parts, as alone ----------------------------------------------------------------------------------------------


@pytest.mark.by_turns("one")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("one", "other"), NEIGHBOURS, ids=str)
def test_parts_do_what_each_would_alone(one: Case, other: Case, backend: str) -> None:
    check_like_alone(one, other, backend)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("one", ONE_OF_EACH, ids=str)
def test_every_pair_does_what_each_would_alone(one: Case, backend: str, restored: None) -> None:
    for other, dtype, count in itertools.product(ONE_OF_EACH, (np.float32, np.float64), (1, 2, 3)):
        fastopt.set_num_threads(count)
        check_like_alone(one, other, backend, dtype)


COMMON: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.9, "ema_bias_correction": True},
    "polyak": {"polyak": True, "polyak_start": 2},
    "zero_grads": {"zero_grads": True},
    "accumulate": {"accumulate_steps": 2, "grad_scale": 3.0},
    "skip": {"nonfinite": "skip", "zero_grads": True},
    "half": {"ema_decay": 0.5},
}
SOME_PAIRS = {
    "elementwise": (Case(fastopt.SGD, {"momentum": 0.9}), Case(fastopt.Adam, {})),
    "one of whole arrays": (Case(fastopt.Muon, {}), Case(fastopt.AdamW, {"clip_norm": 0.7})),
    "both of whole arrays": (Case(fastopt.LAMB, {"max_weight_norm": 1.0}), Case(fastopt.Adafactor, {"clip_norm": 0.7})),
    "with numbers": (Case(fastopt.SWATS, {"eps": 0.1}), Case(fastopt.LARS, {"max_weight_norm": 0.9, "prox_l1": 0.1})),
}


@pytest.mark.by_turns("pair")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pair", SOME_PAIRS)
@pytest.mark.parametrize("options", COMMON)
def test_options_of_the_whole_step(options: str, pair: str, backend: str) -> None:
    """Where none joins the arrays, they too are as they would be with each optimizer alone."""
    check_like_alone(*SOME_PAIRS[pair], backend, np.float16 if options == "half" else np.float32, **COMMON[options])


@pytest.mark.by_turns("case", count=2)
@needs_native
@taken({**OPTIONS, **STORAGE}, COMBINED_CASES)
def test_every_backend_has_the_same_bits(case: Case, options: dict[str, Any], restored: None) -> None:
    """For every instruction set and number of threads, with every option and storage."""
    lengths = [*LENGTHS, 70_001]
    results = [run(case, np.float32, options, "numpy", lengths=lengths)]
    for isa, count in itertools.product(ISAS, (1, 3)):
        native.use_isa(isa)
        fastopt.set_num_threads(count)
        results.append(run(case, np.float32, options, "native", lengths=lengths))
    assert all(result == results[0] for result in results)


class Prodigious(fastopt.Prodigy):
    pass


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_of_prodigy_has_an_estimate_of_its_own(backend: str) -> None:
    check_like_alone(Case(fastopt.Prodigy, {"d0": 1e-3}), Case(Prodigious, {"d0": 1e-2}), backend)


class Asking(fastopt.SGD):
    """One that asks the step."""

    asked: ClassVar[list[Any]] = []

    def update(self, step: Step) -> None:
        self.asked.append((step.is_last, step.flushed_calls))
        super().update(step)


def test_a_part_knows_that_a_step_is_a_flush() -> None:
    opt = fastopt.Combined(model(), {"*.W": Asking, "*": fastopt.SGD}, accumulate_steps=3)
    opt.step(grads_of(np.random.default_rng(0)))
    opt.flush()
    assert Asking.asked == [(True, 1)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_array_and_predicates(backend: str) -> None:
    theta, params = np.ones((2, 3)), [np.ones((2, 3)), np.ones(3)]
    fastopt.Combined(theta, {"*": fastopt.Muon}, backend=backend).step(np.ones((2, 3)))
    is_matrix = lambda name, p: p.ndim == 2  # noqa: E731
    opt = fastopt.Combined(params, [(is_matrix, fastopt.Muon), ("*", (fastopt.SGD, {"lr": 0.5}))], backend=backend)
    opt.step([np.ones((2, 3)), np.ones(3)])
    assert same(params[0], theta)
    assert params[1].tolist() == [0.5] * 3
    assert [group["optimizer"] for group in opt.param_groups] == ["Muon", "SGD"]


# --- What is there once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_norm_of_all_gradients(backend: str) -> None:
    """Two parts of one class, and one optimizer with two groups, have the same bits."""
    params, other = model(), model()
    parts = {"*.W": (fastopt.AdamW, {"lr": 0.1}), "*": (fastopt.AdamW, {"lr": 0.01, "weight_decay": 0.0})}
    opt = fastopt.Combined(params, parts, clip_global_norm=0.5, backend=backend)
    groups = fastopt.group_by(other, {"*.W": {"lr": 0.1}, "*": {"lr": 0.01, "weight_decay": 0.0}})
    whole = fastopt.AdamW(groups, clip_global_norm=0.5, backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = grads_of(rng)
        info = opt.step(grads)
        assert info == whole.step(grads)
        every = np.concatenate([grad.ravel() for layer in grads.values() for grad in layer.values()])
        assert info.grad_norm == pytest.approx(np.linalg.norm(every), rel=1e-14)
    assert same(params, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_norm_clips_parts_of_whole_arrays_too(backend: str) -> None:
    """As if each had been given the gradients that one norm had clipped."""
    params, other = model(), model()
    parts: dict[str, Any] = {"*.W": (fastopt.LARS, {"lr": 0.1, "eps": 0.1}), "*": (fastopt.SGD, {"lr": 0.5})}
    opt = fastopt.Combined(params, parts, clip_global_norm=0.25, backend=backend)
    alone = [
        fastopt.LARS([other["in"]["W"], other["out"]["W"]], lr=0.1, eps=0.1, backend=backend),
        fastopt.SGD([other["in"]["b"], other["out"]["b"]], lr=0.5, backend=backend),
    ]
    grads = grads_of(np.random.default_rng(0))
    norm = opt.step(grads).grad_norm
    assert norm is not None
    for part, name in zip(alone, ("W", "b"), strict=True):
        part.step([grads[layer][name] * (0.25 / (norm + 1e-6)) for layer in ("in", "out")])
    for layer, name in itertools.product(params, "Wb"):
        assert params[layer][name] == pytest.approx(other[layer][name], rel=1e-12)


@pytest.mark.parametrize("parts", [MUON_ADAMW, SGD_ADAMW], ids=["Muon", "SGD"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_decision_about_gradients_that_are_not_finite(parts: Any, backend: str) -> None:
    params, before = model(), model()
    scale = fastopt.DynamicLossScale(1024.0)
    opt = fastopt.Combined(params, parts, nonfinite="skip", grad_scale=scale, backend=backend)
    grads = grads_of(np.random.default_rng(0))
    grads["out"]["b"][0] = np.nan
    assert not opt.step(grads).applied
    assert same(params, before)
    assert (opt.step_count, scale.scale) == (0, 512.0)
    opt = fastopt.Combined(params, parts, nonfinite="raise", backend=backend)
    with pytest.raises(ValueError, match=r"'out\.b' has 1 elements that are infinite or NaN"):
        opt.step(grads)
    assert same(params, before)
    grads["out"]["b"] = np.ones(4)
    with pytest.raises(ValueError, match=r"'out\.b' has shape \(4,\)"):
        opt.step(grads)
    assert same(params, before)


def test_one_average() -> None:
    params = model()
    opt = fastopt.Combined(params, MUON_ADAMW, ema_decay=0.5)
    start = model()
    opt.step(grads_of(np.random.default_rng(0)))
    for layer, name in itertools.product(params, "Wb"):
        assert opt.ema[layer][name] == pytest.approx((start[layer][name] + params[layer][name]) / 2)
    with opt.averaged():
        assert same(params, opt.ema)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds(backend: str) -> None:
    """Numbers are options of a group, and structures of the whole."""
    params = model()
    parts: dict[str, Any] = {"*.W": (fastopt.Muon, {"bounds": (-0.1, 0.2)}), "*": fastopt.AdamW}
    limits = {"in": {"b": np.array([0.0, 1.0, 2.0])}}
    opt = fastopt.Combined(params, parts, bounds=(limits, None), backend=backend)
    for _ in range(3):
        opt.step(grads_of(np.random.default_rng(0)))
    for layer in params.values():
        assert layer["W"].min() == -0.1
        assert layer["W"].max() == 0.2
    assert (params["in"]["b"] >= limits["in"]["b"]).all()
    assert params["out"]["b"].min() < -0.2
    with pytest.raises(ValueError, match=r"bounds=\(0, 1\) is an option of a group"):
        fastopt.Combined(model(), parts, bounds=(0, 1))
    with pytest.raises(ValueError, match=r"bounds=\(None, 1\) is an option of a group"):
        fastopt.Combined(model(), parts, bounds=(limits, 1))
    with pytest.raises(ValueError, match=r"the part '\*' \(AdamW\): bounds=.*give it to Combined, once"):
        fastopt.Combined(model(), {"*": (fastopt.AdamW, {"bounds": (limits, None)})})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parts", [MUON_ADAMW, SGD_ADAMW], ids=["Muon", "SGD"])
def test_flush_and_facts_of_a_step(parts: Any, backend: str) -> None:
    params, other = model(), model()
    opt = fastopt.Combined(params, parts, accumulate_steps=4, clip_global_norm=np.inf, backend=backend)
    whole = fastopt.Combined(other, parts, accumulate_steps=2, clip_global_norm=np.inf, backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(2):
        grads = grads_of(rng)
        opt.step(grads)
        whole.step(grads)
    info = opt.flush()
    assert info.applied
    assert same(params, other)
    assert info.lrs == tuple(group["lr"] for group in opt.param_groups)
    assert info.norms is not None
    assert list(info.norms) == ["in.W", "in.b", "out.W", "out.b"]
    assert info.grad_norm == pytest.approx(np.linalg.norm([*info.norms.values()]))


def test_one_clock_of_schedules() -> None:
    lr = schedules.linear(1.0, 0.0, total=4)
    opt = fastopt.Combined(model(), {"*.W": (fastopt.Muon, {"lr": lr}), "*": (fastopt.SGD, {"lr": lr})})
    rng = np.random.default_rng(0)
    assert [opt.step(grads_of(rng)).lr for _ in range(3)] == [1.0, 0.75, 0.5]
    opt.step_count = 0
    assert opt.step(grads_of(rng)).lr == 1.0


@needs_plans
def test_elementwise_parts_are_planned() -> None:
    lr = schedules.linear(0.1, 0.0, total=40)
    parts: dict[str, Any] = {
        "*.W": (fastopt.SGD, {"lr": lr, "momentum": 0.9}),
        "in.b": (fastopt.AdamW, {"clip_norm": 0.5}),
        "*": (fastopt.Lion, {"lr": 0.01}),
    }
    params, other = model(), model()
    opt = fastopt.Combined(params, parts, clip_global_norm=1.0, ema_decay=0.9, backend="native")
    whole = fastopt.Combined(other, parts, clip_global_norm=1.0, ema_decay=0.9, backend="native")
    rng = np.random.default_rng(0)
    for step in range(20):
        grads = grads_of(rng)
        if step in (8, 12):
            for each in (opt, whole):
                each.param_groups[1]["lr"] = 0.1 / step
        assert opt.step(grads) == whole.step(grads, grad_scale=1.0)  # with an argument no step is planned
    assert opt.planned_steps >= 16
    assert whole.planned_steps == 0
    assert same(params, other)
    assert same(opt.state_dict(), whole.state_dict())


@pytest.mark.parametrize("backend", BACKENDS)
def test_elementwise_parts_step_in_one_call(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = fastopt.Combined(model(), SGD_ADAMW, backend=backend)
    opt.step(grads_of(np.random.default_rng(0)))
    workspace = opt.ready()
    assert workspace.is_one_call
    assert workspace.own == {}
    table, calls = type(workspace.table), []
    step = table.step
    monkeypatch.setattr(table, "step", lambda *given, **named: (calls.append(given), step(*given, **named))[1])
    opt.step(grads_of(np.random.default_rng(0)), grad_scale=1.0)
    assert len(calls) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_sparse_gradients(backend: str) -> None:
    """They go to the parts that take them, beside one that needs whole arrays."""
    params = {"table": np.ones((50, 2)), "W": np.ones((3, 2))}
    alone = {"table": np.ones((50, 2)), "W": np.ones((3, 2))}
    opt = fastopt.Combined(params, {"table": fastopt.SparseAdam, "*": fastopt.Muon}, backend=backend)
    parts = fastopt.SparseAdam([alone["table"]], backend=backend), fastopt.Muon([alone["W"]], backend=backend)
    rng = np.random.default_rng(0)
    for _ in range(3):
        rows = fastopt.RowSparse(np.array([7, 3, 7]), rng.normal(size=(3, 2)))
        grad = rng.normal(size=(3, 2))
        opt.step({"table": rows, "W": grad})
        for part, its in zip(parts, (rows, grad), strict=True):
            part.step([its])
    assert same(params, alone)
    with pytest.raises(TypeError, match="'W' is row-sparse, which Muon does not take"):
        opt.step({"W": fastopt.RowSparse(np.array([0]), np.ones((1, 2)))})


# --- Groups, freezing, drivers ----------------------------------------------------------------------------------------


def test_groups_have_the_options_of_their_class() -> None:
    opt = fastopt.Combined(model(), MUON_ADAMW)
    muon, adamw = opt.param_groups
    assert (muon["optimizer"], adamw["optimizer"]) == ("Muon", "AdamW")
    assert "ns_steps" in muon
    assert "ns_steps" not in adamw
    assert opt.lr == [0.02, 0.01]
    opt.lr = 0.5
    assert (muon["lr"], adamw["lr"]) == (0.5, 0.5)
    grads = grads_of(np.random.default_rng(0))
    for group, option, value, message in (
        (muon, "ns_steps", 100.0, "ns_steps=100.0: expected a number from 0 to below 100"),
        (adamw, "betas", (0.9, 1.0), r"betas\[1\]=1.0: expected a number from 0 to below 1"),
        (adamw, "optimizer", "Muon", "optimizer='Muon': expected one of 'AdamW'"),
        (adamw, "ns_steps", 3, "expected the options"),
    ):
        before = dict(group)
        group[option] = value
        with pytest.raises(ValueError, match=message):
            opt.step(grads)
        group.clear()
        group.update(before)
    opt.step(grads)
    opt.add_param_group({"params": {"more": np.ones(2)}, "optimizer": "AdamW", "weight_decay": 0.5})
    assert [opt.param_groups[2][name] for name in ("lr", "weight_decay", "eps")] == [0.01, 0.5, 1e-8]
    opt.step({**grads, "more": np.ones(2)})
    assert list(opt.state["more"]) == ["step", "m", "v"]
    with pytest.raises(ValueError, match=r"optimizer=None: expected the name of the class .* \['Muon', 'AdamW'\]"):
        opt.add_param_group({"params": {"again": np.ones(2)}})
    with pytest.raises(ValueError, match=r"no option is called \['ns_steps'\]"):
        opt.add_param_group({"params": {"again": np.ones(2)}, "optimizer": "AdamW", "ns_steps": 1})
    with pytest.raises(ValueError, match=r"'again' has shape \(2,\); Muon is for matrices"):
        opt.add_param_group({"params": {"again": np.ones(2)}, "optimizer": "Muon"})
    opt.step({**grads, "more": np.ones(2)})


def test_attributes_say_where_options_are() -> None:
    opt = fastopt.Combined(model(), MUON_ADAMW)
    with pytest.raises(AttributeError, match=r'write opt.param_groups\[k\]\["ns_steps"\] = 3'):
        opt.ns_steps = 3
    with pytest.raises(AttributeError, match=r'read opt.param_groups\[k\]\["weight_decay"\]|no attribute'):
        _ = opt.weight_decay
    assert opt.defaults["lr"] == 0.02


def test_freezing() -> None:
    params, before = model(), model()
    opt = fastopt.Combined(params, MUON_ADAMW)
    assert opt.freeze("in.*") == ["in.W", "in.b"]
    opt.step(grads_of(np.random.default_rng(0)))
    assert same(params["in"], before["in"])
    assert not same(params["out"]["W"], before["out"]["W"])
    assert [int(entries["step"]) for entries in opt.state.values()] == [0, 0, 1, 1]


def test_drivers_write_each_group() -> None:
    opt = fastopt.Combined(model(), MUON_ADAMW)
    driver = lr_scheduler.StepLR(opt, 1, gamma=0.5)
    opt.step(grads_of(np.random.default_rng(0)))
    driver.step()
    assert opt.lr == [0.01, 0.005]
    assert [group["initial_lr"] for group in opt.param_groups] == [0.02, 0.01]
    cycle = lr_scheduler.OneCycleLR(fastopt.Combined(model(), {"in.b": fastopt.FTRL} | MUON_ADAMW), 0.1, total_steps=10)
    ftrl, muon, adamw = cycle.optimizer.param_groups
    assert (muon["momentum"], adamw["betas"]) == (0.95, (0.95, 0.999))
    cycle.step()
    assert muon["momentum"] == adamw["betas"][0] < 0.95
    assert not {"momentum", "betas"}.intersection(ftrl)


# --- Two modes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_schedule_free_parts_have_two_modes(backend: str) -> None:
    params, alone = model(), model()
    parts: dict[str, Any] = {"in.*": fastopt.ScheduleFreeAdamW, "out.W": fastopt.ScheduleFreeSGD, "*": fastopt.SGD}
    opt = fastopt.Combined(params, parts, backend=backend)
    each = [
        fastopt.ScheduleFreeAdamW(alone["in"], backend=backend),
        fastopt.ScheduleFreeSGD([alone["out"]["W"]], backend=backend),
        fastopt.SGD([alone["out"]["b"]], backend=backend),
    ]
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = grads_of(rng)
        opt.step(grads)
        for part, its in zip(each, (grads["in"], [grads["out"]["W"]], [grads["out"]["b"]]), strict=True):
            part.step(its)
    training = model()
    for layer, name in itertools.product(params, "Wb"):
        training[layer][name][...] = params[layer][name]
    opt.eval()
    for part in each[:2]:
        part.eval()
    assert not opt.is_training
    assert same(params, alone)
    with pytest.raises(RuntimeError, match=r"the parameters are in eval mode; call train\(\)"):
        opt.step(grads)
    opt.train()
    for part in each[:2]:
        part.train()
    assert opt.is_training
    assert same(params, alone)
    assert not same(params["out"]["W"], np.zeros((4, 3)))
    opt.step(grads)


def test_modes_need_a_part_with_modes() -> None:
    opt = fastopt.Combined(model(), MUON_ADAMW)
    assert opt.is_training
    with pytest.raises(ValueError, match=r"eval: expected a Schedule-Free optimizer among \['Muon', 'AdamW'\]"):
        opt.eval()


# --- Saving -----------------------------------------------------------------------------------------------------------

SAVED_PARTS: dict[str, dict[Any, Any]] = {
    "elementwise": SGD_ADAMW,
    "whole arrays": MUON_ADAMW,
    "numbers": {"in.*": (fastopt.SWATS, {"eps": 0.1}), "out.W": fastopt.ScheduleFreeSGD, "*": fastopt.LARS},
}


@pytest.mark.parametrize("way", ["state_dict", "file"])
@pytest.mark.parametrize("parts", SAVED_PARTS)
def test_a_run_goes_on_from_the_middle(parts: str, way: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    params, more = model(), {"clip_global_norm": 1.0, "accumulate_steps": 2}
    opt = fastopt.Combined(params, SAVED_PARTS[parts], **more)
    for _ in range(5):
        opt.step(grads_of(rng))
    resumed = model()
    other = fastopt.Combined(resumed, SAVED_PARTS[parts], **more)
    if way == "file":
        fastopt.save(tmp_path / "run.npz", opt, params=params)
        fastopt.load(tmp_path / "run.npz").restore(other, resumed)
    else:
        for layer, name in itertools.product(params, "Wb"):
            resumed[layer][name][...] = params[layer][name]
        other.load_state_dict(opt.state_dict())
    assert same(opt.state_dict(), other.state_dict())
    for _ in range(5):
        grads = grads_of(rng)
        assert opt.step(grads) == other.step(grads)
    assert same(params, resumed)
    assert same(opt.state_dict(), other.state_dict())


class Counting(fastopt.SGD):
    """One with state besides its arrays'."""

    more = 1

    def extra_state(self) -> dict[str, Any]:
        return {"more": self.more}

    def load_extra_state(self, extra: Mapping[str, Any]) -> None:
        self.more = extra["more"]


def test_further_state_of_parts_is_saved() -> None:
    opt, other = (fastopt.Combined(model(), {"*.W": Counting, "*": fastopt.SGD}) for _ in range(2))
    opt.of_group(opt.param_groups[0]).load_extra_state({"more": 7})
    saved = opt.state_dict()
    assert saved["extra"] == {"Counting": {"more": 7}}
    other.load_state_dict(saved)
    assert other.state_dict()["extra"] == saved["extra"]
    for wrong, message in (
        ({}, r"extra: expected the entries \['Counting'\], got \[\]"),
        ({"Counting": 7}, "extra: 'Counting' is no dict"),
        ({"Counting": {"less": 7}}, r"extra: expected the entries \['more'\], got \['less'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict({**saved, "extra": wrong})


def test_a_state_of_other_classes_is_refused() -> None:
    saved = fastopt.Combined(model(), {"*.W": fastopt.Adam, "*": fastopt.AdamW}).state_dict()
    assert saved["optimizer"] == "Combined"
    assert [group["optimizer"] for group in saved["param_groups"]] == ["Adam", "AdamW"]
    opt = fastopt.Combined(model(), {"*.W": fastopt.AdamW, "*": fastopt.AdamW})
    with pytest.raises(ValueError, match=r"param_groups\[0\] is of the optimizer 'Adam', here it is of 'AdamW'"):
        opt.load_state_dict(saved)
    # Nor is the state of a part taken for that of another one, though its slots have the same names.
    other = fastopt.Combined(model(), {"in.W": fastopt.LAMB, "*": fastopt.AdamW})
    with pytest.raises(ValueError, match=r"state\['in.W'\] is of the optimizer 'Adam', here it is of 'LAMB'"):
        other.load_state_dict(saved, options=False)
    for each, names, k in ((opt, ["in.W", "out.W"], [0]), (other, ["in.W", "out.W"], [0, 1])):
        result = each.load_state_dict(saved, strict=False)
        assert result.missing == [*(f"param_groups[{i}]" for i in k), *names]
    with pytest.raises(ValueError, match="it is that of the optimizer 'Combined', this is 'AdamW'"):
        fastopt.AdamW(model()).load_state_dict(saved)


def test_early_stopping_and_snapshots_work() -> None:
    params = model()
    opt = fastopt.Combined(params, MUON_ADAMW)
    stopping, ensemble = fastopt.EarlyStopping(patience=2), fastopt.SnapshotEnsemble(3)
    rng = np.random.default_rng(0)
    for metric in (2.0, 1.0, 3.0):
        opt.step(grads_of(rng))
        ensemble.update(params, metric)
        stopping.update(metric, params)
        if metric == 1.0:
            best = {layer: {name: array.copy() for name, array in its.items()} for layer, its in params.items()}
    stopping.restore(params, opt)
    assert same(params, best)
    assert len(ensemble.metrics) == 3


# --- Refused ----------------------------------------------------------------------------------------------------------


class Own(fastopt.Optimizer):
    """One that keeps an option outside its groups."""

    def __init__(self, params: Any, lr: float = 0.1, power: float = 1.0, **common: Any) -> None:
        self.power = power
        super().__init__(params, {"lr": lr, "weight_decay": 0.0}, **common)

    def rule(self, group: Any) -> Any:
        return fastopt.rules.sgd

    def hyper(self, group: Any, step: int) -> Any:
        return fastopt.rules.SGDScalars(group["lr"] * self.power)


class Skipping(Own):
    def __init__(self, params: Any, **common: Any) -> None:
        super().__init__(params, nonfinite="skip", **common)


ALL_ADAMW: Any = {"*": fastopt.AdamW}
REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ({}, {}, ValueError, "expected at least one optimizer"),
    ({"*.W": fastopt.Muon}, {}, ValueError, r"no part matches \['in.b', 'out.b'\]"),
    ({"*": fastopt.AdamW, "*.W": fastopt.Muon}, {}, ValueError, r"the part '\*\.W' \(Muon\) gets no array"),
    ({"nope": fastopt.AdamW, "*": fastopt.SGD}, {}, ValueError, "no array's name matches 'nope'"),
    ({(lambda name, p: p.ndim == 3): fastopt.SGD, **ALL_ADAMW}, {}, ValueError, r"<lambda> \(SGD\) matches no array"),
    ({(lambda name, p: 1): fastopt.SGD, **ALL_ADAMW}, {}, TypeError, "expected True or False for 'in.W', got 1"),
    ({3: fastopt.SGD}, {}, TypeError, "expected a pattern of names, or a function"),
    ([("*", fastopt.SGD), ("*", fastopt.SGD)], {}, ValueError, r"'\*' is there more than once"),
    ([fastopt.SGD], {}, TypeError, "expected pairs of a match and an optimizer"),
    (fastopt.SGD, {}, TypeError, "expected a dict of matches and optimizers, or pairs of these, got <class"),
    ({"*": dict}, {}, TypeError, "expected an optimizer's class, or a pair"),
    ({"*": (fastopt.SGD, 0.1)}, {}, TypeError, "expected an optimizer's class, or a pair"),
    ({"*": fastopt.Combined}, {}, ValueError, "a Combined can't be a part of another one"),
    ({"*": (fastopt.SGD, {"lr": -1.0})}, {}, ValueError, r"the part '\*' \(SGD\): lr=-1.0: expected a finite number"),
    ({"*": (fastopt.SGD, {"lrr": 1.0})}, {}, TypeError, r"the part '\*' \(SGD\): .*unexpected keyword argument 'lrr'"),
    ({"*": fastopt.Muon}, {}, ValueError, r"'in\.b' has shape \(3,\); Muon is for matrices"),
    (ALL_ADAMW, {"lr": 0.1}, ValueError, "lr=0.1 is an option of a group; give it to the parts that need it"),
    (ALL_ADAMW, {"clip_norm": 0.1}, ValueError, "clip_norm=0.1 is an option of a group"),
    (ALL_ADAMW, {"lrr": 0.1}, TypeError, "unexpected keyword argument 'lrr'"),
    ({"*": fastopt.ScheduleFreeSGD}, {"ema_decay": 0.9}, ValueError, "ScheduleFreeSGD does not take it: it averages"),
    ({"*": fastopt.ASGD}, {"state_dtype": "uint8"}, ValueError, "ASGD does not take it: its one slot, ax"),
    ({"*.W": (Own, {"power": 2.0}), "*": Own}, {}, ValueError, r"differs from an earlier part .* in \['power'\]"),
    ({"*.W": (Own, {"power": np.ones(3)}), "*": Own}, {}, ValueError, r"\(Own\) differs .* in \['power'\]"),
    ({"*": Skipping}, {}, ValueError, "nonfinite='skip': Skipping shares its step"),
]


@pytest.mark.parametrize(("parts", "common", "error", "message"), REFUSED, ids=[row[-1] for row in REFUSED])
def test_refused(parts: Any, common: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.Combined(model(), parts, **common)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_global_norm", 1.0),
        ("clip_global_norm", None),
        ("skip_above", 9.0),
        ("nonfinite_limit", 3),
        ("nonfinite", "skip"),
        ("nonfinite", "propagate"),
        ("grad_scale", 2.0),
        ("grad_scale", fastopt.DynamicLossScale()),
        ("accumulate_steps", 2),
        ("ema_decay", 0.9),
        ("polyak", True),
        ("copy_to", [np.ones(2, np.float16)]),
        ("backend", "numpy"),
        ("zero_grads", True),
        ("state_dtype", "uint8"),
        ("stochastic_rounding", True),
        ("seed", 1),
    ],
)
def test_options_of_the_whole_step_are_refused_in_a_part(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"the part '\*' \(SGD\): {option}=.*give it to Combined, once"):
        fastopt.Combined(model(), {"*": (fastopt.SGD, {option: value})})


def test_parameters_with_groups_are_refused() -> None:
    params = [np.ones(2)]
    for given in ([{"params": params}], fastopt.group_by(params, {"*": {}})):
        with pytest.raises(TypeError, match="the parameters have groups already"):
            fastopt.Combined(given, ALL_ADAMW)


def test_a_rule_of_ones_own_is_a_part() -> None:
    params = model()
    opt = fastopt.Combined(params, {"*.W": (Own, {"power": 2.0}), "*": (fastopt.SGD, {"lr": 0.1})})
    opt.step({layer: {"W": np.ones((4, 3)), "b": np.ones(3)} for layer in params})
    before = model()
    assert params["in"]["W"] == pytest.approx(before["in"]["W"] - 0.2)
    assert params["in"]["b"] == pytest.approx(before["in"]["b"] - 0.1)


@pytest.mark.skipif(BFLOAT16 is None, reason="needs ml_dtypes")
def test_precisions() -> None:
    """8-bit slots, copies and rounding with random bits are those of the whole; slots that must be exact stay so."""
    params = {"a": np.ones((64, 128), np.float32), "b": np.ones((64, 128), np.float32)}
    copies = {name: np.empty((64, 128), BFLOAT16) for name in params}
    opt = fastopt.Combined(params, {"a": fastopt.LAMB, "b": fastopt.Adam}, state_dtype="uint8", copy_to=copies)
    opt.step({name: np.full((64, 128), 0.5, np.float32) for name in params})
    assert {slot: str(array.dtype) for slot, array in opt.state["a"].items() if "_" not in slot} == {
        "step": "int64",
        "u": "float32",
        "m": "uint8",
        "v": "uint8",
    }
    assert opt.slot("b", "m")[0, :2] == pytest.approx([0.05, 0.05], rel=0.01)
    assert all(same(copies[name], params[name].astype(BFLOAT16)) for name in params)
