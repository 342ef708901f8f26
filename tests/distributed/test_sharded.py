"""Sharded: its face, its errors, and what may change between steps."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from sharded_runs import differences, summed

import fastopt
from fastopt import lr_scheduler
from fastopt.core.step import Step
from fastopt.core.whole_arrays import ArrayOptimizer
from fastopt.distributed import RankError, Sharded
from fastopt.training import EarlyStopping

SIZES = pytest.mark.parametrize("size", [2, 4])


def nested(dtype: Any = np.float32) -> dict[str, Any]:
    """Return parameters of about five chunks: the same on every rank."""
    rng = np.random.default_rng(1)
    shapes = {"W": (150, 70), "b": (70,)}
    layers = [
        {name: np.array(rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()} for _ in range(2)
    ]
    return {"layers": layers, "scale": np.ones((), dtype)}


def like(params: Any, rank: int, step: int) -> Any:
    """Return a rank's gradients in a step: a structure like the parameters."""
    rng = np.random.default_rng((rank, step))
    return over(lambda array: np.array(rng.normal(size=array.shape)).astype(array.dtype), params)


def over(function: Callable[[Any], Any], structure: Any) -> Any:
    if isinstance(structure, dict):
        return {name: over(function, each) for name, each in structure.items()}
    if isinstance(structure, list):
        return [over(function, each) for each in structure]
    return None if structure is None else function(structure)


def sum_of(plain: fastopt.Optimizer, of_ranks: list[Any]) -> Any:
    """Return the sum of structures of gradients."""
    parameters = plain.parts.parameters
    return parameters.structure(summed([parameters.leaves(grads, "grads") for grads in of_ranks]))


def steps(comm: Any, opt: Any, plain: Any, numbers: range, grads_of: Callable[..., Any] = like) -> list[str]:
    """Make these steps with both, and return what differs."""
    found = []
    for number in numbers:
        of_ranks = [grads_of(plain.params, rank, number) for rank in range(comm.size)]
        expected, info = plain.step(sum_of(plain, of_ranks)), opt.step(of_ranks[comm.rank])
        found += [f"step {number}: {info}, not {expected}"] * (info != expected)
        found += [f"step {number}: {each}" for each in differences(opt, plain)]
    return found


def error_of(call: Callable[[], Any]) -> str:
    """Return the type and text of what a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# --- the face ---------------------------------------------------------------------------------------------------------


def face(comm: Any) -> None:
    params = nested()
    opt = Sharded(fastopt.AdamW, params, comm, lr=0.1)
    plain = fastopt.AdamW(nested(), lr=0.1)
    assert isinstance(opt, fastopt.AdamW)
    assert isinstance(opt, Sharded)
    assert type(opt).__name__ == "AdamW"
    assert opt.params["layers"][0]["W"] is params["layers"][0]["W"]
    assert [id(array) for array in opt.param_groups[0]["params"]] == [
        id(array)
        for array in [
            params["layers"][0]["W"],
            params["layers"][0]["b"],
            *params["layers"][1].values(),
            params["scale"],
        ]
    ]
    assert repr(opt) == f"Sharded({plain!r}, rank {comm.rank} of {comm.size})"
    assert [*opt.slices] == plain.parts.parameters.names
    assert opt.step(like(params, 0, 0)).applied
    begin, end = opt.slices["layers.0.W"]
    assert opt.state["layers.0.W"]["m"].shape == (end - begin,)
    assert "slices" in dir(opt)
    assert [*inspect.signature(type(opt)).parameters][:4] == ["optimizer", "params", "comm", "exact"]
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        assert (
            "the ranks hold its state together" in error_of(lambda refused=refused: refused(opt))
            or refused is copy.copy
        )
        assert error_of(lambda refused=refused: refused(opt)).startswith("TypeError")


def test_face() -> None:
    on_ranks(2, face)


class Centered(ArrayOptimizer):
    """SGD along the gradient less its mean: its update needs whole arrays, which it does not say."""

    def __init__(self, params: Any, lr: float = 0.1, **common: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0}, **common)

    def rule(self, group: Any) -> Any:
        return fastopt.rules.sgd

    def hyper(self, group: Any, step: int) -> Any:
        return fastopt.rules.SGDScalars(group["lr"])

    def update(self, step: Step) -> None:
        for grad in step.workspace.gradients.given:
            if grad is not None and grad.size:
                grad -= grad.mean()
        super().update(step)


@fastopt.optimizer(lr=0.1)
def Plain(h: Any, p: Any, g: Any) -> Any:
    """A rule of one's own."""
    return (p - h.lr * g * abs(g),)


def whole_arrays(comm: Any) -> list[list[str]]:
    """Return for each optimizer what differs, where one rank owns each array."""
    found = []
    matrices = {
        "a": np.ones((90, 60), np.float32),
        "b": np.ones((30, 50), np.float32),
        "c": np.ones((9, 9), np.float32),
    }
    for kind, options in [
        (fastopt.Muon, {}),
        (fastopt.Adafactor, {"clip_global_norm": 1.0}),
        (fastopt.SGD, {"max_weight_norm": 1.0, "momentum": 0.9}),
        (Centered, {"clip_norm": 3.0}),
    ]:
        opt = Sharded(kind, over(np.copy, matrices), comm, bucket_bytes=2**12, **options)
        plain = kind(over(np.copy, matrices), **options)
        found.append(steps(comm, opt, plain, range(3)))
        assert all(end - begin in (0, matrices[name].size) for name, (begin, end) in opt.slices.items())
        slots = [slot for slots in opt.state.values() for name, slot in slots.items() if name != "step"]
        assert sum(slot.size for slot in slots) < plain.state_bytes / 4
    for kind in (fastopt.AdamW, Plain):
        opt = Sharded(kind, [np.ones((90, 60), order="F"), np.ones(5000)], comm)
        plain = kind([np.ones((90, 60), order="F"), np.ones(5000)])
        found.append(steps(comm, opt, plain, range(3)))
        assert opt.slices["0"][1] - opt.slices["0"][0] in (0, 5400)
    return found


@SIZES
def test_arrays_that_cant_be_cut_have_one_owner(size: int) -> None:
    assert on_ranks(size, whole_arrays) == [[[]] * 6] * size


def uncompiled(comm: Any) -> list[str]:
    opt = Sharded(Plain, nested(), comm, backend="numpy", clip_global_norm=1.0)
    return steps(comm, opt, Plain(nested(), backend="numpy", clip_global_norm=1.0), range(3))


def test_rules_of_ones_own_without_the_compiled_part() -> None:
    assert on_ranks(2, uncompiled) == [[]] * 2


# --- structures and dtypes --------------------------------------------------------------------------------------------


def structures(comm: Any) -> list[list[str]]:
    warm = fastopt.schedules.warmup_cosine(0.1, warmup=2, total=9)

    def groups() -> Any:
        layers = nested()["layers"]
        return [{"params": layers[0], "lr": 0.2, "weight_decay": 0.1}, {"params": [layers[1]["W"]], "lr": warm}]

    grouped = {"*.b": {"weight_decay": 0, "betas": (0.8, 0.9)}, "*": {"lr": warm}}
    makers: list[Callable[[], Any]] = [
        nested,
        lambda: np.linspace(0, 1, 9000).reshape(90, 100),
        lambda: [np.ones(5000, np.float32), None, np.ones((2, 3))],
        lambda: fastopt.group_by(nested(), grouped),
    ]
    found = []
    for make in makers:
        opt = Sharded(fastopt.AdamW, make(), comm, lr=0.01)
        found.append(steps(comm, opt, fastopt.AdamW(make(), lr=0.01), range(3)))
    opt, plain = Sharded(fastopt.AdamW, groups(), comm), fastopt.AdamW(groups())
    found.append(
        steps(
            comm, opt, plain, range(3), lambda _, rank, step: like([group["params"] for group in groups()], rank, step)
        )
    )
    assert repr(opt).startswith("Sharded(AdamW(3 arrays")
    return found


@SIZES
def test_structures_and_groups(size: int) -> None:
    assert on_ranks(size, structures) == [[[]] * 5] * size


def dtypes(comm: Any) -> list[str]:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kinds = [np.float16, np.float32, np.dtype(ml_dtypes.bfloat16), np.float64, np.float32]
    given = [np.float64, np.float16, np.float32, np.float32, np.dtype(ml_dtypes.bfloat16)]

    def params() -> list[Any]:
        return [np.linspace(-1, 1, 5000 + k).astype(kind) for k, kind in enumerate(kinds)]

    def grads(_: Any, rank: int, step: int) -> list[Any]:
        arrays = like(params(), rank, step)
        return [array.astype(kind) for array, kind in zip(arrays, given, strict=True)]

    opt, plain = Sharded(fastopt.AdamW, params(), comm), fastopt.AdamW(params())
    found = []
    for number in range(3):
        of_ranks = [grads(None, rank, number) for rank in range(comm.size)]
        # They are added in the compute dtype of their parameter.
        computed = [
            [g.astype(np.float64 if p.dtype == np.float64 else np.float32) for g, p in zip(gs, params(), strict=True)]
            for gs in of_ranks
        ]
        plain.step(summed(computed))
        opt.step(of_ranks[comm.rank])
        found += differences(opt, plain)
    strided = [np.repeat(grad, 2)[::2] for grad in of_ranks[comm.rank]]
    opt.step(strided)
    plain.step(summed(computed))
    return found + differences(opt, plain)


@SIZES
def test_dtypes_of_parameters_and_gradients(size: int) -> None:
    assert on_ranks(size, dtypes) == [[]] * size


# --- changes between steps --------------------------------------------------------------------------------------------


def changes(comm: Any) -> list[str]:
    opt, plain = Sharded(fastopt.AdamW, nested(), comm, lr=0.1), fastopt.AdamW(nested(), lr=0.1)
    found = steps(comm, opt, plain, range(2))
    for each in (opt, plain):
        each.freeze("layers.0.*")
    found += steps(comm, opt, plain, range(2, 4))
    for each in (opt, plain):
        each.unfreeze()
        each.set("*.b", lr=0.2, weight_decay=0.3)
        each.param_groups[0]["betas"] = (0.8, 0.9)
        each.clip_global_norm = 1.0
    found += steps(comm, opt, plain, range(4, 6))
    for each in (opt, plain):
        each.lr = 0.05
        each.step_count = 17
        each.add_param_group({"params": {"more": np.ones((50, 100), np.float32), "last": np.ones(3)}, "lr": 0.3})
    found += steps(comm, opt, plain, range(6, 9))
    assert [array.shape for array in opt.param_groups[2]["params"]] == [(50, 100), (3,)]
    assert repr(opt).count("group ") == 3
    taken = error_of(lambda: opt.add_param_group({"params": {"more": np.ones(3)}}))
    assert taken.startswith("ValueError: param group: the names ['more'] are there already")
    wrong = error_of(lambda: opt.add_param_group({"params": {"x": np.ones(3)}, "lr": -1.0}))
    assert wrong.startswith("ValueError: param_groups[3]: lr=-1.0")
    return found + steps(comm, opt, plain, range(9, 11))


@SIZES
def test_changes_between_steps(size: int) -> None:
    assert on_ranks(size, changes) == [[]] * size


def accumulation(comm: Any) -> list[str]:
    options: dict[str, Any] = {"accumulate_steps": 3, "clip_global_norm": 1.0, "zero_grads": True, "momentum": 0.9}
    opt, plain = Sharded(fastopt.SGD, nested(), comm, **options), fastopt.SGD(nested(), **options)
    found = steps(comm, opt, plain, range(5))
    assert opt.flush() == plain.flush()
    assert not opt.flush().applied
    return found + differences(opt, plain) + steps(comm, opt, plain, range(5, 9))


@SIZES
def test_accumulation_and_flush(size: int) -> None:
    assert on_ranks(size, accumulation) == [[]] * size


def loss_scale(comm: Any) -> list[str]:
    def options() -> dict[str, Any]:
        return {"grad_scale": fastopt.DynamicLossScale(init_scale=1024.0, growth_interval=3), "nonfinite": "skip"}

    def grads(params: Any, rank: int, step: int) -> Any:
        found = like(params, rank, step)
        if rank == comm.size - 1 and step in (1, 4):
            found["layers"][1]["b"][3] = np.inf
        return found

    opt, plain = Sharded(fastopt.AdamW, nested(), comm, **options()), fastopt.AdamW(nested(), **options())
    found = steps(comm, opt, plain, range(8), grads)
    assert opt.grad_scale.scale == plain.grad_scale.scale != 1024.0
    assert opt.skipped_steps == plain.skipped_steps == 2
    return found


@SIZES
def test_all_ranks_decide_about_a_step(size: int) -> None:
    assert on_ranks(size, loss_scale) == [[]] * size


def bounds(comm: Any) -> list[str]:
    def options() -> dict[str, Any]:
        start = nested()
        lower, upper = over(lambda array: array - 0.5, start), over(lambda array: array + np.float32(0.25), start)
        return {"lr": 1.0, "bounds": (lower, {**upper, "scale": 2.0})}

    opt, plain = Sharded(fastopt.SGD, nested(), comm, **options()), fastopt.SGD(nested(), **options())
    found = steps(comm, opt, plain, range(2))
    for each in (opt, plain):
        each.param_groups[0]["bounds"] = (-3.6, 3.5)
    return found + steps(comm, opt, plain, range(2, 4))


def test_bounds_of_elements_are_cut_as_their_arrays() -> None:
    assert on_ranks(4, bounds) == [[]] * 4


def as_torch(comm: Any) -> bool:
    torch = pytest.importorskip("torch")
    opt, plain = Sharded(fastopt.AdamW, nested(), comm), fastopt.AdamW(nested())
    assert steps(comm, opt, plain, range(2)) == []
    ours, its = (fastopt.convert.to_torch(each) for each in (opt, plain))
    same = [
        torch.equal(ours["state"][i][slot], its["state"][i][slot]) for i in range(5) for slot in ("step", "exp_avg")
    ]
    return all(same) and ours["param_groups"] == its["param_groups"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_convert_to_torch() -> None:
    assert on_ranks(2, as_torch) == [True, True]


def drivers(comm: Any) -> list[str]:
    opt, plain = Sharded(fastopt.SGD, nested(), comm, lr=0.1), fastopt.SGD(nested(), lr=0.1)
    both = [lr_scheduler.ExponentialLR(opt, 0.5), lr_scheduler.ExponentialLR(plain, 0.5)]
    stopping = [EarlyStopping(patience=1) for _ in both]
    found = []
    for number in range(4):
        found += steps(comm, opt, plain, range(number, number + 1))
        for driver, each, its in zip(both, (opt, plain), stopping, strict=True):
            driver.step()
            its.update(float(number), each.params)
    assert opt.lr == plain.lr == 0.1 * 0.5**4
    for each, its in zip((opt, plain), stopping, strict=True):
        its.restore(each.params, each)
    return found + differences(opt, plain)


def test_drivers_of_rates_and_early_stopping() -> None:
    assert on_ranks(2, drivers) == [[]] * 2


def planned(comm: Any) -> int:
    opt = Sharded(fastopt.AdamW, nested(), comm)
    for number in range(9):
        opt.step(like(opt.params, comm.rank, number))
    return opt.planned_steps


def test_steps_stay_planned() -> None:
    assert min(on_ranks(4, planned)) >= 6


def planned_alone(comm: Any) -> list[str]:
    """Return how steps of a single rank differ from those of one process, which plans steps that read gradients too."""
    options: dict[str, Any] = {"clip_global_norm": 1.0, "clip_norm": 0.5, "nonfinite": "skip", "zero_grads": True}
    opt, plain = Sharded(fastopt.AdamW, nested(), comm, **options), fastopt.AdamW(nested(), **options)
    found = []
    for number in range(9):
        grads, copied = like(opt.params, 0, number), like(plain.params, 0, number)
        if number == 7:
            grads["layers"][0]["b"] = copied["layers"][0]["b"] = None
        infos = opt.step(grads), plain.step(copied)
        found += differences(opt, plain) + ["info"] * (infos[0] != infos[1])
    row_sparse = fastopt.RowSparse(np.array([1]), np.ones((1, 70), np.float32))
    wrong = {**grads, "layers": [{"W": row_sparse, "b": None}, None]}
    found += [] if "which a sharded optimizer does not take" in error_of(lambda: opt.step(wrong)) else ["row-sparse"]
    return found + ["planned"] * (opt.planned_steps != plain.planned_steps or opt.planned_steps < 6)


def test_a_single_rank_makes_the_steps_of_one_process() -> None:
    assert on_ranks(1, planned_alone) == [[]]


# --- errors -----------------------------------------------------------------------------------------------------------


def errors_at_construction(comm: Any) -> list[str]:
    """Return the error of each mistake of the last rank."""
    is_last = comm.rank == comm.size - 1
    found = []
    for optimizer, params, options in [
        (fastopt.AdamW, {"W": np.ones(5 if is_last else 4)}, {}),
        (fastopt.AdamW, {"V" if is_last else "W": np.ones(4)}, {}),
        (fastopt.AdamW, {"W": np.ones(4, np.float32 if is_last else np.float64)}, {}),
        (fastopt.AdamW, {"W": np.full(4, float(is_last))}, {}),
        (fastopt.Adam if is_last else fastopt.AdamW, {"W": np.ones(4)}, {}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"lr": fastopt.schedules.cosine(0.1, total=5 + is_last)}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"reduction": "mean" if is_last else "sum"}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"lr": -1.0} if is_last else {}),
        (fastopt.AdamW, {"W": [1.0] if is_last else np.ones(4)}, {}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"learning_rate": 1.0} if is_last else {}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"bounds": ({"W": np.full(4, -1.0 - is_last)}, None)}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"bucket_bytes": 0}),
        (fastopt.AdamW, {"W": np.ones(4)}, {"reduction": "max"}),
    ]:
        found.append(error_of(lambda o=optimizer, p=params, k=options: Sharded(o, p, comm, **k)))
    combined = {"*": (fastopt.SGD, {})}
    found.append(error_of(lambda: Sharded(fastopt.Combined, {"W": np.ones(3)}, comm, combined)))
    no_optimizers: list[Any] = [fastopt.SGD({"W": np.ones(3)}), fastopt.LBFGS]
    found += [error_of(lambda o=o: Sharded(o, {"W": np.ones(3)}, comm)) for o in no_optimizers]
    Sharded(fastopt.AdamW, {"W": np.ones(4)}, comm).step({"W": np.ones(4)})
    return found


def test_errors_at_construction() -> None:
    first, last = on_ranks(2, errors_at_construction)
    expected = [
        "ValueError: the ranks differ: params: 'W' is",
        "ValueError: the ranks differ: the names of the arrays is",
        "ValueError: the ranks differ: params: 'W' is",
        "ValueError: the ranks differ: the checksum of params: 'W' is",
        "ValueError: the ranks differ: optimizer is",
        "ValueError: the ranks differ: param_groups[0]['lr'] is",
        "ValueError: the ranks differ: reduction is",
    ]
    assert [error[: len(text)] for error, text in zip(first, expected, strict=False)] == expected
    assert first[:7] == last[:7]
    assert "on rank 0" in first[0]
    assert "on rank 1" in first[0]
    assert "broadcast them from rank 0" in first[3]
    assert [error.startswith("RankError: rank 1 raised ") for error in first[7:10]] == [True] * 3
    assert [error.partition(":")[0] for error in last[7:10]] == ["ValueError", "TypeError", "TypeError"]
    assert first[7] == f"RankError: rank 1 raised {last[7]}"
    assert first[10].startswith("ValueError: the ranks differ: bounds: 'W' is")
    assert (
        first[11:13]
        == last[11:13]
        == [
            "ValueError: bucket_bytes=0: expected at least 1",
            "ValueError: reduction='max': expected 'sum' or 'mean'",
        ]
    )
    assert first[13].startswith("TypeError: Combined: ")
    assert all(e.startswith("TypeError: optimizer: expected a subclass of fastopt.Optimizer") for e in first[14:])


def error_without_ml_dtypes(comm: Any) -> str:
    with pytest.MonkeyPatch.context() as patched:
        if comm.rank == comm.size - 1:
            patched.setitem(sys.modules, "ml_dtypes", None)
        return error_of(lambda: Sharded(fastopt.AdamW, {"W": np.ones(4, np.float32)}, comm, wire_dtype="bfloat16"))


def test_all_ranks_learn_that_one_has_no_ml_dtypes() -> None:
    pytest.importorskip("ml_dtypes")
    first, last = on_ranks(2, error_without_ml_dtypes)
    assert last == "ModuleNotFoundError: bfloat16 arrays need the package ml_dtypes; pip install ml-dtypes"
    assert first == f"RankError: rank 1 raised {last}"


def errors_of_steps(comm: Any) -> list[str]:
    """Return the error of each mistake of the last rank, after which nothing has changed and the next step is made."""
    is_last = comm.rank == comm.size - 1
    opt, plain = (
        make(fastopt.AdamW, nested(), *comms, nonfinite="raise", clip_global_norm=1.0)
        for make, comms in ((Sharded, (comm,)), (lambda kind, params, **options: kind(params, **options), ()))
    )
    assert steps(comm, opt, plain, range(2)) == []
    good = like(opt.params, comm.rank, 2)
    found = []

    def fails(call: Callable[[], Any]) -> None:
        found.append(error_of(call))
        assert differences(opt, plain) == []
        assert opt.step_count == plain.step_count

    def with_W(array: Any) -> Any:
        return {**good, "layers": [{**good["layers"][0], "W": array}, good["layers"][1]]}

    W = good["layers"][0]["W"]
    fails(lambda: opt.step(with_W(W[:3] if is_last else W)))
    fails(lambda: opt.step({"layers": good["layers"]} if is_last else good, grad_scale=2.0 if is_last else 1.0))
    fails(lambda: opt.step(with_W(np.full_like(W, np.nan) if is_last else W)))
    fails(lambda: opt.step(with_W(fastopt.RowSparse(np.array([1]), W[:1]) if is_last else W)))
    fails(lambda: opt.step(good, stream=1 if is_last else None))
    if is_last:
        opt.freeze("*.b")
    fails(lambda: opt.step(good))
    opt.unfreeze()
    opt.lr = 0.2 if is_last else opt.lr
    fails(lambda: opt.step(good))
    opt.lr = plain.lr
    opt.param_groups[0]["betas"] = (0.9, 2.0) if is_last else (0.9, 0.999)
    fails(lambda: opt.step(good))
    opt.param_groups[0]["betas"] = (0.9, 0.999)
    opt.clip_global_norm = 2.0 if is_last else 1.0
    fails(lambda: opt.step(good))
    opt.clip_global_norm = 1.0
    opt.lr = (lambda step: 1 / 0) if is_last else (lambda step: 0.1)
    fails(lambda: opt.step(good))
    opt.lr = lambda step: 0.1 * (1 + comm.rank)
    fails(lambda: opt.step(good))
    opt.lr = lambda step: opt.step(good).lr
    fails(lambda: opt.step(good))
    opt.lr = plain.lr
    opt.param_groups[0]["max_weight_norm"] = 1.0
    for _ in range(2):
        fails(lambda: opt.step(good))
    assert found.pop() == found[-1]
    opt.param_groups[0]["max_weight_norm"] = None
    W_of_user = opt.params["layers"][0]["W"]
    if is_last:
        W_of_user.flags.writeable = False
    fails(lambda: opt.step(good))
    W_of_user.flags.writeable = True
    assert steps(comm, opt, plain, range(2, 5)) == []
    opt.step_count = 9 if is_last else 5
    found.append(error_of(lambda: opt.step(good)))
    return found


def test_errors_of_steps_change_nothing() -> None:
    first, last = on_ranks(2, errors_of_steps)
    shown = dict(enumerate(zip(first, last, strict=True)))
    for k, text in {
        0: "ValueError: grads: 'layers.0.W' has shape (3, 70)",
        3: "TypeError: grads: 'layers.0.W' is row-sparse, which a sharded optimizer",
        4: "ValueError: stream=1",
        7: "ValueError: betas[1]=2.0",
        9: "ZeroDivisionError",
        13: "ValueError: params: 'layers.0.W' was made read-only",
    }.items():
        assert last[k].startswith(text), shown[k]
        assert first[k] == f"RankError: rank 1 raised {last[k]}", shown[k]
    for k, text in {
        1: "ValueError: the ranks differ: the scale of the loss in this step is 1.0 on rank 0, 2.0 on rank 1",
        2: "ValueError: grads: 'layers.0.W' has ",
        5: "ValueError: the ranks differ: frozen is [] on rank 0, ['layers.0.b', 'layers.1.b'] on rank 1",
        6: "ValueError: the ranks differ: param_groups[0]['lr'] is 0.001 on rank 0, 0.2 on rank 1",
        8: "ValueError: the ranks differ: clip_global_norm is 1.0 on rank 0, 2.0 on rank 1",
        10: "ValueError: the ranks differ: the learning rates of this step is (0.1) on rank 0, (0.2) on rank 1",
        12: "ValueError: max_weight_norm: 'layers.0.W' was cut into slices",
        14: "ValueError: the ranks differ: step_count is 5 on rank 0, 9 on rank 1",
    }.items():
        assert first[k] == last[k], shown[k]
        assert first[k].startswith(text), shown[k]
    assert "RuntimeError: step: another call that the ranks make together" in last[11]
    assert RankError.__name__ in first[0]
