"""Parameters that others write: ``reload_params``, ``restore`` and EarlyStopping, and what is refused meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, Case, built, raw, taken_by
from option_runs import ALL, all_bytes, every_backend
from structures import same

import fastopt

#: One of each optimizer.
EACH = list({case.optimizer: case for case in ALL}.values())

SHAPE = (4, 3)

ROWS: dict[str, dict[str, Any]] = {
    "float16": {"params": np.dtype(np.float16), "ema_decay": 0.9},
    "bfloat16": {"params": BFLOAT16, "polyak": True},
    "bfloat16 without master": {"params": BFLOAT16, "stochastic_rounding": True},
    "float32": {"copy_to": np.dtype(np.float16), "ema_decay": 0.9},
}


def stepped(case: Case, options: dict[str, Any], backend: str, steps: int = 5) -> fastopt.Optimizer:
    """Return an optimizer of two arrays after some steps, the last of them planned if steps are planned."""
    rng = np.random.default_rng(12)
    start = [rng.normal(size=SHAPE).astype(np.float32) for _ in range(2)]
    opt = built(case, start, taken_by(case, options), backend=backend)
    assert opt.state, "the step after the first look at the state is a whole one"
    for _ in range(steps):
        opt.step([rng.normal(size=SHAPE) for _ in range(2)])
    return opt


@every_backend
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("case", EACH, ids=str)
@pytest.mark.by_turns("case")
def test_the_run_goes_on_from_what_was_written(case: Case, row: str, backend: str) -> None:
    """As one that loads the same state with these masters; copied slots are among them, averages are not."""
    rng = np.random.default_rng(13)
    opt = stepped(case, ROWS[row], backend)
    values = rng.normal(size=SHAPE).astype(np.float32)
    opt.params[1][...] = values
    values = opt.params[1].astype(np.float32)
    saved, planned = opt.state_dict(), opt.planned_steps
    for entry in {"master", *case.optimizer.copied} & {*saved["state"]["1"]}:
        saved["state"]["1"][entry][...] = values
    others = built(case, [param.astype(np.float32) for param in opt.params], taken_by(case, ROWS[row]), backend=backend)
    others.load_state_dict(saved)
    assert opt.reload_params("1") == ["1"]
    assert same(opt.state_dict(), saved)
    for _ in range(3):
        grads = [rng.normal(size=SHAPE) for _ in range(2)]
        opt.step(grads)
        others.step(grads)
        assert all_bytes(opt) == all_bytes(others)
    assert planned == 0 or opt.planned_steps == planned + 3


@every_backend
@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("trains", [True, False])
def test_schedule_free_is_what_was_written_in_both_modes(
    optimizer: Any, dtype: Any, trains: bool, backend: str
) -> None:
    opt = optimizer([np.full(3, 8, dtype)], lr=0.1, backend=backend)
    for _ in range(4):
        opt.step([np.ones(3)])
    if not trains:
        opt.eval()
    opt.params[0][...] = 2
    opt.reload_params()
    for mode in (opt.eval, opt.train, opt.eval, opt.train):
        mode()
        assert opt.params[0].tolist() == [2] * 3
    opt.step([np.ones(3)])
    assert (np.abs(opt.params[0].astype(float) - 2) < 0.5).all()


def opt_of(dtype: Any = np.float16, **options: Any) -> tuple[dict[str, Any], fastopt.Optimizer]:
    """Return parameters after a step of 1, and their optimizer."""
    params = {"body": {"W": np.full(3, 4, dtype), "b": np.full(2, 4, dtype)}, "head": np.full(1, 4, dtype)}
    opt = fastopt.SGD(params, lr=1.0, **options)
    opt.step(ones(params))
    return params, opt


def ones(params: Any) -> Any:
    return {"body": {name: np.ones(array.shape) for name, array in params["body"].items()}, "head": np.ones(1)}


def test_a_pattern_selects_arrays() -> None:
    params, opt = opt_of()
    for array in (*params["body"].values(), params["head"]):
        array[...] = 10
    assert opt.reload_params("body.*") == ["body.W", "body.b"]
    opt.step(ones(params))
    assert [array.tolist() for array in (*params["body"].values(), params["head"])] == [[9] * 3, [9] * 2, [2]]
    with pytest.raises(ValueError, match=r"no array's name matches 'tail'"):
        opt.reload_params("tail")


def test_copies_follow() -> None:
    params = [np.ones(2, np.float32), np.ones(2, np.float32)]
    copies = [np.zeros(2, np.float16), None]
    opt = fastopt.SGD(params, copy_to=copies)
    params[0][...] = 7
    opt.reload_params()
    assert copies[0] is not None
    assert copies[0].tolist() == [7, 7]


def test_the_error_for_replaced_arrays_names_it() -> None:
    params, opt = opt_of()
    params["head"] = np.ones(1, np.float16)
    with pytest.raises(ValueError, match=r"'head' is no longer the object .* \(array.*= value; then opt.reload_params"):
        opt.step(ones(params))


def test_parameters_of_a_file_without_a_state() -> None:
    """Those that it lacks keep their masters, which are more precise than they are."""
    params, opt = opt_of()
    opt.step({"body": None, "head": np.full(1, 1e-4)})
    master = opt.state["head"]["master"].copy()
    fastopt.Checkpoint({"body": {"W": np.full(3, 20, np.float16)}}, None, {}).restore(opt, strict=False)
    assert opt.state["head"]["master"] == master != params["head"]
    opt.step(ones(params))
    assert [array.tolist() for array in params["body"].values()] == [[19] * 3, [2] * 2]


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_early_stopping_and_schedule_free(dtype: Any) -> None:
    """The best parameters are those that go on, and not drawn back by z."""
    params = [np.full(3, 1, dtype)]
    opt, stopping = fastopt.ScheduleFreeSGD(params, lr=0.5), fastopt.EarlyStopping(1)
    opt.eval()
    stopping.update(1.0, params)
    opt.train()
    for _ in range(5):
        opt.step([np.ones(3)])
    opt.eval()
    stopping.restore(params, opt)
    opt.train()
    assert params[0].tolist() == [1, 1, 1]
    assert opt.state["0"]["z"].tolist() == [1, 1, 1]


# --- While other values stand in for those of the parameters ----------------------------------------------------------


def in_averaged() -> tuple[Any, fastopt.Optimizer, Any]:
    params, opt = opt_of(
        np.float32, momentum=0.5, ema_decay=0.5, copy_to={"body": None, "head": np.ones(1, np.float16)}
    )
    return params, opt, opt.averaged()


def in_lookahead() -> tuple[Any, fastopt.Optimizer, Any]:
    params, opt = opt_of(np.float32, momentum=0.5)
    return params, opt, opt.lookahead()  # type: ignore[attr-defined]


def stopping_of(params: Any) -> fastopt.EarlyStopping:
    stopping = fastopt.EarlyStopping(1)
    stopping.update(1.0, params)
    return stopping


REFUSED: dict[str, Callable[[Any, fastopt.Optimizer, Path], object]] = {
    "step": lambda params, opt, path: opt.step(ones(params)),
    "reload_params": lambda params, opt, path: opt.reload_params(),
    "save": lambda params, opt, path: fastopt.save(path, opt),
    "save: with params": lambda params, opt, path: fastopt.save(path, opt, params=params),
    "restore": lambda params, opt, path: fastopt.load(path).restore(opt),
    "restore: EarlyStopping": lambda params, opt, path: stopping_of(params).restore(params, opt),
}


@pytest.mark.parametrize(("enter", "values"), [(in_averaged, "the averaged ones"), (in_lookahead, "those ahead")])
@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_the_parameters_themselves_is_refused(enter: Any, values: str, name: str, tmp_path: Path) -> None:
    params, opt, context = enter()
    fastopt.save(tmp_path / "run.npz", opt)
    file, before = (tmp_path / "run.npz").read_bytes(), all_bytes(opt)
    with context:
        inside = all_bytes(opt)
        assert inside != before
        with pytest.raises(ValueError, match=rf"^{name.split(':')[0]}: the parameters are {values}; leave "):
            REFUSED[name](params, opt, tmp_path / "run.npz")
        assert all_bytes(opt) == inside
    assert all_bytes(opt) == before
    assert (tmp_path / "run.npz").read_bytes() == file
    if "restore" not in name:
        REFUSED[name](params, opt, tmp_path / "run.npz")


def test_what_reads_the_state_alone_or_the_arrays_works_there(tmp_path: Path) -> None:
    """EarlyStopping and SnapshotEnsemble keep the values that the metric belongs to."""
    params, opt, context = in_averaged()
    state, ema = opt.state_dict(), opt.ema
    before = raw(params["head"])
    with context:
        assert same(opt.state_dict(), state)
        assert same(opt.ema, ema)
        stopping, ensemble = stopping_of(opt.params), fastopt.SnapshotEnsemble(1)
        ensemble.update(params, 1.0)
        fastopt.save(tmp_path / "run.npz", params=opt.params)
    assert same([stopping.best_params, ensemble.snapshots[0], fastopt.load(tmp_path / "run.npz").params], [ema] * 3)
    assert raw(params["head"]) == before != raw(ema["head"])
