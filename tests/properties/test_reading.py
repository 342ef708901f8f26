"""Reading changes nothing: a run in which everything is read is the run in which nothing is, to the last bit.

Before its first step an array has no history. Its master, its average and Schedule-Free's z begin as its values then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import STORAGE, Case, built, raw, taken_by
from checkpoints import KINDS
from option_runs import ALL, every_backend
from structures import same

import fastopt
from fastopt.core.attributes import Absent
from fastopt.core.hooks import Hooks

#: The public methods that change an optimizer or its parameters.
WRITERS = {
    "add_param_group",
    "eval",
    "freeze",
    "flush",
    "load_extra_state",
    "load_state_dict",
    "make_parts",
    "reload_params",
    "set",
    "set_pickled",
    "step",
    "train",
    "unfreeze",
}

#: The arguments of the other methods that need some.
ARGUMENTS: dict[str, tuple[Any, ...]] = {"slot": ("late", "m")}

#: The errors of those that some optimizers lack.
MISSING = {"averaged": [ValueError], "ema": [ValueError], "lookahead": [ValueError], "slot": [KeyError]}

ROWS: dict[str, dict[str, Any]] = {
    "ema": {"ema_decay": 0.5},
    "ema corrected": {"ema_decay": 0.5, "ema_bias_correction": True, "accumulate_steps": 2},
    "polyak": {"polyak": True, "polyak_start": 2},
    **STORAGE,
}

#: One of each optimizer.
EACH = list({case.optimizer: case for case in ALL}.values())


def is_hook(opt: fastopt.Optimizer, name: str) -> bool:
    """Return whether a method computes something of its arguments for the step."""
    return hasattr(Hooks, name) or not hasattr(fastopt.Optimizer, name)


def readers_of(opt: fastopt.Optimizer) -> dict[str, Callable[[], Any]]:
    """Return a function for each public attribute, and for each public method that is not there to change something."""
    readers: dict[str, Callable[[], Any]] = {}
    for name in sorted({*dir(opt)} - WRITERS):
        method = getattr(type(opt), name, None)
        if name.startswith("_") or isinstance(inspect.getattr_static(opt, name), Absent):
            continue
        if not inspect.isfunction(method):
            readers[name] = lambda name=name: getattr(opt, name)
        elif len(inspect.signature(method).parameters) == 1:
            readers[name] = getattr(opt, name)
        elif not is_hook(opt, name):
            readers[name] = lambda name=name: getattr(opt, name)(*ARGUMENTS[name])
    return readers


def read_all(opt: fastopt.Optimizer, path: Path) -> None:
    for name, reader in readers_of(opt).items():
        with suppress(*MISSING.get(name, [])):
            value = reader()
            if name in ("averaged", "lookahead"):
                with value:
                    opt.state_dict()
    repr(opt.state)
    with suppress(TypeError):  # an .npz file can't hold bfloat16
        fastopt.save(path, opt)
    fastopt.EarlyStopping(1).update(1.0, opt.params)
    fastopt.SnapshotEnsemble(1).update(opt.params, 1.0)
    with suppress(ImportError, ValueError):
        fastopt.convert.to_torch(opt)


def write_unstepped(opt: fastopt.Optimizer) -> None:
    """Write into the arrays without a step, and into the options that decide what the first slots are."""
    for name, array in opt.params.items():
        if opt.state[name]["step"] == 0:
            array[...] = array / 4 + np.asarray(0.5, array.dtype)
            for group in opt.param_groups if name == "first" else []:
                group["lr"] = 0.03
                if "initial_accumulator_value" in group:
                    group["initial_accumulator_value"] = 0.7


def run(case: Case, options: dict[str, Any], backend: str, read: Callable[[fastopt.Optimizer], None]) -> list[Any]:
    """Return all of a run in which arrays make their first step later than others; ``read`` is called before each."""
    rng = np.random.default_rng(8)
    shapes = {"first": (64, 65), "late": (4, 3), "statistics": (3, 2), "new": (2, 3)}
    start = [rng.normal(size=shape).astype(np.float32) for shape in list(shapes.values())[:3]]
    opt = built(case, start, options, lambda arrays: dict(zip(shapes, arrays, strict=False)), backend=backend)
    seen: list[Any] = []

    def step(times: int, *names: str) -> None:
        for _ in range(times):
            seen.append(opt.step({name: rng.normal(size=shapes[name]) for name in names}))

    read(opt)
    write_unstepped(opt)
    read(opt)
    step(6, "first")
    read(opt)
    write_unstepped(opt)
    step(2, "first", "late")
    opt.add_param_group({"params": {"new": rng.normal(size=shapes["new"]).astype(opt.params["late"].dtype)}})
    read(opt)
    write_unstepped(opt)
    step(2, "first", "late", "new")
    return [*map(tuple, seen), opt.state_dict(), opt.params, opt.state_bytes, opt.planned_steps]


def test_all_public_methods_are_readers_or_writers() -> None:
    """One that is neither has no arguments here."""
    for case in EACH:
        opt = case.build([np.ones((2, 2), np.float32)])
        methods = {name for name in dir(opt) if inspect.isfunction(getattr(type(opt), name, None)) and name[0] != "_"}
        assert {name for name in methods - {*readers_of(opt)} if not is_hook(opt, name)} <= WRITERS
        assert ARGUMENTS.keys() | {"averaged", "ema", "ready", "state", "state_bytes", "state_dict"} <= {
            *readers_of(opt)
        }


@every_backend
@pytest.mark.parametrize(
    ("case", "row"),
    [(case, row) for i, case in enumerate(EACH) for j, row in enumerate(ROWS) if (i + j) % 8 == 0],
    ids=lambda value: str(value),
)
@pytest.mark.by_turns("case")
def test_a_run_that_reads_is_one_that_does_not(case: Case, row: str, backend: str, tmp_path: Path) -> None:
    options = taken_by(case, ROWS[row])
    alone = run(case, options, backend, lambda opt: None)
    assert same(run(case, options, backend, lambda opt: read_all(opt, tmp_path / KINDS[0])), alone)


#: One of each optimizer whose arrays do not depend on each other.
FIRST_OF_EACH = [
    case for case in {case.optimizer: case for case in reversed(ALL)}.values() if case.optimizer is not fastopt.Prodigy
]


@every_backend
@pytest.mark.parametrize(
    ("case", "row"),
    [(case, row) for case in FIRST_OF_EACH for row in ("ema", "float16", "bfloat16", "bfloat16 without master")],
    ids=lambda value: str(value),
)
@pytest.mark.by_turns("case")
def test_an_array_begins_with_its_values_at_its_first_step(case: Case, row: str, backend: str) -> None:
    """As in an optimizer that is built then. The steps before are planned, where steps are."""
    rng = np.random.default_rng(9)
    options, shape = taken_by(case, ROWS[row]), (4, 3)
    start = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    opt = built(case, start, options, backend=backend)
    for _ in range(6):
        opt.step([rng.normal(size=shape), None])
    late = opt.params[1]
    late[...] = rng.normal(size=shape)
    opt.state_dict()
    other = built(case, [start[0], late.astype(np.float32)], options, backend=backend)
    for _ in range(3):
        grad = rng.normal(size=shape)
        opt.step([rng.normal(size=shape), grad.copy()])
        other.step([None, grad])
        assert raw(late) == raw(other.params[1])
    assert same(opt.state_dict()["state"]["1"], other.state_dict()["state"]["1"])


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_array_may_be_written_while_its_first_gradients_are_accumulated(dtype: str, backend: str) -> None:
    """The first call is planned, where steps are."""
    params = [np.zeros(2, dtype), np.zeros(1, dtype)]
    opt = fastopt.SGD(params, lr=1.0, ema_decay=0.5, accumulate_steps=2, backend=backend)
    for _ in range(8):
        opt.step([np.ones(2), None])
    planned = opt.planned_steps
    opt.step([np.ones(2), np.ones(1)])
    assert opt.planned_steps == planned + (planned > 0)
    opt.state_dict()
    params[1][...] = 4
    opt.step([np.ones(2), np.ones(1)])
    assert (params[1], opt.ema[1]) == (3, 3.5)


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_average_that_was_read_before_the_first_step_is_the_one_that_steps_change(dtype: str, backend: str) -> None:
    opt = fastopt.SGD([np.zeros(2, dtype), np.zeros(1, dtype)], lr=0.0, ema_decay=0.5, backend=backend)
    average, later = opt.ema
    opt.params[0][...] = 10
    opt.state_dict()
    opt.step([np.ones(2), None])
    opt.params[1][...] = 4
    assert average.tolist() == [10, 10]
    opt.step([np.ones(2), np.ones(1)])
    assert opt.ema[0] is average
    assert opt.ema[1] is later
    assert later.tolist() == [4]


@every_backend
@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=str)
@pytest.mark.parametrize("row", [pytest.param("ema", marks=pytest.mark.exhaustive), "bfloat16"])
def test_a_state_without_a_step_is_loaded_and_written_over(case: Case, row: str, backend: str) -> None:
    """An array that made no step goes on from its own values, also where a state was loaded for it."""
    rng = np.random.default_rng(10)
    options, shape = taken_by(case, ROWS[row]), (4, 3)
    start, grads = rng.normal(size=(2, *shape)).astype(np.float32), rng.normal(size=(3, *shape))
    opt = built(case, [start[0]], options, backend=backend)
    opt.load_state_dict(built(case, [start[0]], options, backend=backend).state_dict())
    opt.params[0][...] = start[1]
    other = built(case, [start[1]], options, backend=backend)
    for grad in grads:
        opt.step([grad.copy()])
        other.step([grad])
    assert same([opt.params, opt.state_dict()], [other.params, other.state_dict()])


@every_backend
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
def test_modes_before_the_first_step_keep_no_values(optimizer: Any, dtype: Any, backend: str) -> None:
    opts = [optimizer([np.full(3, start, dtype), np.full(2, np.inf, dtype)], backend=backend) for start in (1, 5)]
    opts[0].eval()
    opts[0].params[0][...] = 5
    with pytest.raises(RuntimeError, match="eval mode"):
        opts[0].step([np.ones(3), None])
    opts[0].train()
    for opt in opts:
        opt.step([np.ones(3), None])
        opt.eval()
    assert same([opts[0].params, opts[0].state_dict()], [opts[1].params, opts[1].state_dict()])
    assert np.isinf(opts[0].params[1]).all()
