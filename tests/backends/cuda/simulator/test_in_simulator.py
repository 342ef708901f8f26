"""The CUDA backend in Numba's simulator; test_simulator.py runs this folder in a process of its own."""

from __future__ import annotations

import time
import weakref
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CASES,
    MATRIX_CASES,
    TINY_CASES,
    Case,
    built,
    bytes_of_run,
    covering_gpu_options,
    every_dtype,
    every_gpu_case,
)
from cuda_arrays import SimulatedArray, shifted, simulated, simulated_apart
from tiny_numbers import with_tiny_numbers

import fastopt
from fastopt.arithmetic import quantize
from fastopt.backends import norms
from fastopt.backends.choosing import host_backend
from fastopt.backends.cuda import arrays as device_arrays
from fastopt.backends.cuda import compiling, launches, memory, streams
from fastopt.backends.cuda import found as cuda_found
from fastopt.backends.cuda.adafactor import Means
from fastopt.backends.numpy.axis_sums import sum_squares
from fastopt.backends.numpy.host import limit_norms
from fastopt.backends.table import AdafactorScalars, HyperRow, LimitedUnits
from fastopt.core.step import Step

SIZES: Any = (5, 0, 37, 1, 41, (5, 3))


def alike(array: Any) -> bytes:
    return np.where(np.isnan(array), np.nan, array).tobytes()


def on_host(opt: fastopt.Optimizer) -> list[bytes]:
    """Return the bytes of all state, wherever it is."""
    return [
        alike(array if isinstance(array, np.ndarray) else memory.to_host(array))
        for slots in opt.state.values()
        for array in slots.values()
    ]


def sizes_of(case: Case) -> Any:
    """Return fewer elements for Adafactor, to each of which the simulator starts 16 threads."""
    return (5, 0, 9, 1, (5, 3)) if case.optimizer is fastopt.Adafactor else SIZES


@pytest.mark.by_turns("case")
@every_dtype
@every_gpu_case
def test_every_gpu_case_has_the_bits_of_the_numpy_rule(case: Case, dtype: Any) -> None:
    """Any alignment, with gradients that come and go, with NaN, infinities, zeros and denormals among them."""
    sizes = sizes_of(case)
    rng = np.random.default_rng(1)
    tiny = np.finfo(dtype).smallest_subnormal
    specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, np.finfo(dtype).max], dtype)
    plain = [rng.normal(size=size).astype(dtype) for size in sizes]
    params = [shifted(param, i) for i, param in enumerate(plain)]
    opt, reference = case.build(simulated(params)), case.build(plain, backend="numpy")
    assert opt.backend == "cuda"
    for step in range(3):
        grads = [rng.normal(size=size).astype(dtype) for size in sizes]
        if step == 2 and opt.clip_global_norm is None:
            grads[2][:8] = specials
        given: list[Any] = [shifted(grad, i % 2) for i, grad in enumerate(grads)]
        if step == 1:
            given[0] = grads[0] = None  # type: ignore[call-overload]
        info, expected = opt.step(simulated(given)), reference.step(grads)
        assert info == expected
    assert list(map(alike, params)) == list(map(alike, plain))
    assert on_host(opt) == on_host(reference)


@every_dtype
@pytest.mark.parametrize("case", TINY_CASES, ids=str)
def test_tiny_numbers_are_flushed_in_the_same_steps(case: Case, dtype: Any) -> None:
    def state_after(to: Any, **more: Any) -> list[bytes]:
        rng = np.random.default_rng(2)
        start = [rng.normal(size=size).astype(dtype) for size in (9, (2, 3))]
        opt = built(case, start, {}, to, **more)
        opt.step(to([rng.normal(size=each.shape).astype(dtype) for each in start]))
        opt.load_state_dict(with_tiny_numbers(opt.state_dict(), rng))
        for _ in range(3):
            opt.step(to([np.zeros(each.shape, dtype) for each in start]))
        return on_host(opt)

    assert state_after(simulated_apart) == state_after(list, backend="numpy")


#: Several blocks of 256 elements, whole ones and others; those that are below 30 keep their slots.
SIZES_IN_BLOCKS = (300, 0, 37, 5, 512)


@pytest.mark.by_turns("case")
@covering_gpu_options
def test_options_have_the_bits_of_the_numpy_backend(
    case: Case, dtype: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "SMALLEST", 30)
    sizes = SIZES_IN_BLOCKS if options.get("state_dtype") == "uint8" else sizes_of(case)
    expected = bytes_of_run(case, dtype, options, sizes)
    assert bytes_of_run(case, dtype, options, sizes, simulated_apart) == expected


@every_dtype
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 7), 0), ((5, 7), -1), ((3, 2, 2, 3), (1, 2, 3)), ((3, 2, 2, 3), (0, 2)), ((2, 3, 2), 1)]
)
def test_held_norms_in_any_order_of_memory(shape: Any, axes: Any, order: Any, dtype: Any) -> None:
    """Some units are above the limit, one has a NaN, one something infinite; a step that is skipped holds none."""
    rng = np.random.default_rng(9)
    plain = np.array(rng.normal(size=shape).astype(dtype), order=order)
    plain.flat[:2] = np.nan, np.inf
    on_gpu = plain.copy(order="K")
    options: dict[str, Any] = {
        "max_weight_norm": 1.5,
        "max_weight_norm_axis": axes,
        "bounds": (-0.9, np.full(shape, 0.7)),
        "nonfinite": "skip",
        "ema_decay": 0.5,
    }
    opt, reference = fastopt.SGD(SimulatedArray(on_gpu), **options), fastopt.SGD(plain, backend="numpy", **options)
    for step in range(3):
        grad = np.array(rng.normal(size=shape).astype(dtype), order=order)
        if step == 1:
            grad.flat[0] = np.nan
            opt.param_groups[0]["max_weight_norm"] = reference.param_groups[0]["max_weight_norm"] = 0.5
        assert opt.step(SimulatedArray(grad)) == reference.step(grad)
        assert alike(on_gpu) == alike(plain)
    assert on_host(opt) == on_host(reference)


@pytest.mark.parametrize(
    ("shape", "order", "dtype", "options"),
    [
        ((3, 5), "F", np.float32, {"max_weight_norm": 0.5, "ema_decay": 0.5, "zero_grads": True, "clip_norm": 1.0}),
        ((2, 3, 2, 2), "F", np.float64, {"l1": 0.1, "decoupled": False, "weight_decay": 0.1}),
        ((3, 2, 2, 2), "C", np.float32, {"accumulate_steps": 2, "eps": (0.0, 1e-3)}),
        ((4, 3), "C", np.float64, {"eps": (0.0, 0.0), "nonfinite": "propagate"}),
        ((), "C", np.float32, {}),
    ],
)
def test_adafactor_in_any_shape_and_order_of_memory(shape: Any, order: Any, dtype: Any, options: Any) -> None:
    """Some means are 0, a step is skipped, the state goes from the GPU to NumPy and into a new optimizer."""
    rng = np.random.default_rng(10)
    plain = np.array(rng.normal(size=shape).astype(dtype), order=order)
    on_gpu = plain.copy(order="K")
    device = SimulatedArray(on_gpu)
    options = {"nonfinite": "skip", **options}
    opt, reference = fastopt.Adafactor(device, **options), fastopt.Adafactor(plain, backend="numpy", **options)
    for step in range(4):
        grad = np.array(rng.normal(size=shape).astype(dtype), order=order)
        if step == 0 and shape:
            grad[..., :1] = 0
        if step == 1:
            grad.reshape(-1, order="A")[0] = np.nan
        given = grad.copy(order="K")
        assert opt.step(SimulatedArray(given)) == reference.step(grad)
        assert alike(given) == alike(grad)
        assert alike(on_gpu) == alike(plain)
        assert on_host(opt) == on_host(reference)
        if step == 2:
            saved = opt.state_dict()
            opt = fastopt.Adafactor(device, **options)
            opt.load_state_dict(saved)
            reference.load_state_dict(saved)


def begun(opt: fastopt.Optimizer, grads: Any) -> Step:
    """Return a step that has its gradients and rows, and has changed nothing."""
    step = Step(opt, opt.parts, opt.ready(), 1.0)
    step.take_gradients(grads)
    step.groups = opt.parts.groups.values(opt.step_count)
    step.hyper_rows = step.rows_of_step()
    return step


def test_adafactors_means_over_several_chunks() -> None:
    grad = np.random.default_rng(10).normal(size=(2, 4097)).astype(np.float32)
    opt = fastopt.Adafactor(SimulatedArray(np.ones_like(grad)))
    step = begun(opt, SimulatedArray(grad))
    opt.parts.slots.commit()
    table: Any = step.table
    stream = streams.stream_of(0)
    table.plan.update(table.row_numbers, table.grads, stream)
    # The rows only: with the columns the simulator would start 65 thousand threads.
    means = Means(table, step.workspace.own.slots, -1, stream)
    means.update(table, step.hyper_rows, [AdafactorScalars(1.0, None, 1e-3, 1.0, 1.0)], stream)
    expected = sum_squares(grad, (1,), host_backend("numpy").add_runs) / 4097
    assert np.array_equal(memory.to_host(opt.state["0"]["row_var"]), expected.astype(np.float32))


def test_held_norms_over_many_chunks_have_the_bits_of_every_backend() -> None:
    rng = np.random.default_rng(9)
    plain = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 4097), (4097, 2), (4097,))]
    on_gpu = [param.copy() for param in plain]
    opt = fastopt.SGD(simulated(on_gpu))
    step = begun(opt, simulated([np.zeros_like(param) for param in plain]))
    units = [LimitedUnits(i, None, limit, (axis,)) for i, axis, limit in ((0, 1, 64.0), (1, 0, 1.0))]
    opt.parts.backend.limit_norms(step.table, step.hyper_rows, units)
    for i, _, limit, axes in units:
        limit_norms(plain[i], limit, axes, host_backend("numpy").add_runs)
    assert [param.tobytes() for param in on_gpu] == [param.tobytes() for param in plain]


def test_dithered_vectors_lie_across_blocks_of_random_bits() -> None:
    rng = np.random.default_rng(7)
    plain, grad = rng.normal(size=(2, 600)).astype(BFLOAT16)
    param, far = shifted(plain, 1), shifted(grad, 1)
    options: dict[str, Any] = {"lr": 0.1, "stochastic_rounding": True, "seed": 3}
    fastopt.SGD(SimulatedArray(param), **options).step(SimulatedArray(far))
    fastopt.SGD(plain, backend="numpy", **options).step(grad)
    assert param.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "optimizer",
    sorted({case.optimizer.__name__ for case in [*CASES, *MATRIX_CASES] if not case.optimizer.runs_on_gpu}),
)
def test_optimizers_that_are_cpu_only_say_so(optimizer: str) -> None:
    with pytest.raises(ValueError, match=f"{optimizer}: expected NumPy arrays, got arrays on a GPU"):
        getattr(fastopt, optimizer)(SimulatedArray(np.zeros((2, 2), np.float32)))


def test_row_sparse_gradients_and_lookahead_are_cpu_only() -> None:
    opt = fastopt.SGD(SimulatedArray(np.zeros((2, 2), np.float32)), momentum=0.5)
    with pytest.raises(TypeError, match="row-sparse, which is not done on a GPU yet"):
        opt.step(fastopt.RowSparse(np.array([0]), np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match="lookahead: it is not done on a GPU yet"), opt.lookahead():
        pass


@pytest.mark.parametrize("grad_dtype", ["float16", "bfloat16", "float32", "float64"])
@every_dtype
def test_gradients_of_any_float_dtype(dtype: Any, grad_dtype: str) -> None:
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if grad_dtype == "bfloat16" else grad_dtype)
    rng = np.random.default_rng(2)
    plain = rng.normal(size=(3, 7)).astype(dtype)
    param = plain.copy()
    opt = fastopt.Adam(SimulatedArray(param), clip_norm=1.0)
    reference = fastopt.Adam(plain, clip_norm=1.0, backend="numpy")
    for _ in range(2):
        grad = rng.normal(size=(3, 7)).astype(kind)
        opt.step(SimulatedArray(grad))
        reference.step(grad)
    assert param.tobytes() == plain.tobytes()


@pytest.mark.parametrize("length", [4095, 4096, 4097, 3 * 4096 + 5])
def test_norms_over_many_chunks_have_the_bits_of_every_backend(length: int) -> None:
    grads = [np.random.default_rng(3).normal(size=n).astype(np.float32) for n in (7, length)]
    opt = fastopt.SGD(simulated([np.zeros_like(grad) for grad in grads]), clip_global_norm=1.0)
    # The tables only: stepping through thousands of elements takes the simulator long.
    step = begun(opt, simulated(grads))
    sums = step.table.sum_products(step.hyper_rows, "clipped_grad", "clipped_grad")
    assert np.array_equal(sums, norms.sum_squares(grads))


def test_a_step_over_several_chunks() -> None:
    """The last chunk is short, and the arrays begin at different places of 16 bytes."""
    size = 2 * 4096 + 3
    rng = np.random.default_rng(4)
    plain, grad = rng.normal(size=size).astype(np.float32), rng.normal(size=size).astype(np.float32)
    param, far = shifted(plain, 1), shifted(grad, 1)
    fastopt.SGD(SimulatedArray(param), lr=0.5).step(SimulatedArray(far))
    fastopt.SGD(plain, lr=0.5, backend="numpy").step(grad)
    assert param.tobytes() == plain.tobytes()


def test_one_launch_for_all_arrays_and_uploads_only_when_pointers_change(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads, real_upload = [], launches.upload
    monkeypatch.setattr(launches, "upload", lambda *args: uploads.append(args) or real_upload(*args))
    arrays = [np.ones(3, np.float32) for _ in range(50)]
    grads = simulated([np.ones(3, np.float32) for _ in arrays])
    opt = fastopt.Adam(simulated(arrays))
    opt.step(grads)
    table: Any = opt.ready().table
    assert len(table.plan.launches) == 1
    before = len(uploads)
    opt.step(grads)
    opt.step([SimulatedArray(grad.array) for grad in grads])  # other objects, same memory
    assert len(uploads) == before
    opt.step(simulated([np.ones(3, np.float32) for _ in arrays]))
    assert len(uploads) == before + 1


class Tensor(SimulatedArray):
    """What is asked of a tensor of torch."""

    device, requires_grad = "cuda:0", False

    dtype = property(lambda self: self.array.dtype)
    shape = property(lambda self: self.array.shape)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def stride(self) -> tuple[int, ...]:
        return tuple(self.array.strides)


def test_new_tensors_are_read_where_they_are_without_being_checked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    checked, real_check = [], device_arrays.grad_in_memory_order
    monkeypatch.setattr(
        device_arrays, "grad_in_memory_order", lambda *args: checked.append(args[0]) or real_check(*args)
    )
    plain = [np.ones((3, 4), np.float32), np.ones(5, np.float32)]
    values = [array.copy() for array in plain]
    opt, reference = fastopt.Adam([Tensor(array) for array in values]), fastopt.Adam(plain, backend="numpy")
    earlier = []
    for k in range(6):
        grads = [np.full(array.shape, k - 1.5, np.float16 if k == 4 else np.float32) for array in plain]
        tensors = [Tensor(shifted(grad, k % 2)) for grad in grads]
        earlier.append([weakref.ref(tensor) for tensor in tensors])
        opt.step(tensors)
        reference.step(grads)
        assert list(map(alike, values)) == list(map(alike, plain))
    del tensors
    assert [each() is None for pair in earlier[:-1] for each in pair] == [True] * 10
    assert len(checked) == 2 * 3  # the first, those of another dtype, those behind them
    with pytest.raises(ValueError, match=r"'0' has shape \(4, 3\)"):
        opt.step([Tensor(np.ones((4, 3), np.float32)), Tensor(np.ones(5, np.float32))])
    with pytest.raises(ValueError, match="'0' overlaps the memory of the parameter '0'"):
        opt.step([Tensor(values[0]), Tensor(np.ones(5, np.float32))])
    far = np.frombuffer(np.zeros(50, np.uint8).data, np.float32, 12, offset=1).reshape(3, 4)
    with pytest.raises(ValueError, match="'0' is not one contiguous, aligned run"):
        opt.step([Tensor(far), Tensor(np.ones(5, np.float32))])


def test_groups_and_counts_are_launches_of_their_own() -> None:
    values = [np.ones(3, np.float32) for _ in range(4)]
    first, second = simulated(values[:2]), simulated(values[2:])
    opt = fastopt.Adam([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.2}])
    ones = [np.ones(3, np.float32) for _ in range(2)]
    opt.step([simulated(ones), [None, SimulatedArray(ones[0])]])
    opt.step([simulated(ones), simulated(ones)])
    table: Any = opt.ready().table
    assert [launch.indices.tolist() for launch in table.plan.launches] == [[0, 1], [2], [3]]
    np.testing.assert_allclose([v[0] for v in values], [0.8, 0.8, 0.8, 0.6], rtol=1e-6)


def test_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"a": np.float32([4, 2]), "b": np.asfortranarray(np.ones((2, 3), np.float32))}
    copies = {name: np.zeros_like(param, BFLOAT16) for name, param in params.items()}
    on_gpu, copies_on_gpu = ({name: SimulatedArray(a) for name, a in each.items()} for each in (params, copies))
    opt = fastopt.SGD(on_gpu, lr=1.0, polyak=True, copy_to=copies_on_gpu)
    for _ in range(2):
        opt.step({name: SimulatedArray(np.ones_like(param)) for name, param in params.items()})
    assert {name: memory.to_host(average).tolist() for name, average in opt.ema.items()} == {
        "a": [2.5, 0.5],
        "b": [[-0.5] * 3] * 2,
    }
    with opt.averaged():
        assert params["a"].tolist() == copies["a"].tolist() == [2.5, 0.5]
        assert (params["b"] == -0.5).all()
    assert params["a"].tolist() == copies["a"].tolist() == [2, 0]


@pytest.mark.parametrize("kind", [np.dtype(np.float32), BFLOAT16], ids=str)
def test_the_two_modes_of_schedule_free(kind: Any) -> None:
    plain, there = np.float32([4, 2]).astype(kind), np.float32([4, 2]).astype(kind)
    opt, reference = fastopt.ScheduleFreeSGD(SimulatedArray(there)), fastopt.ScheduleFreeSGD(plain, backend="numpy")
    for _ in range(3):
        opt.step(SimulatedArray(np.ones(2, np.float32)))
        reference.step(np.ones(2, np.float32))
        for change in ("eval", "train"):
            getattr(opt, change)()
            getattr(reference, change)()
            assert there.tobytes() == plain.tobytes()
    assert on_host(opt) == on_host(reference)


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "SWATS"])
def test_numbers_are_as_before_when_a_step_is_skipped(name: str) -> None:
    """Of SWATS both phases: it settles in its second step here."""
    options: dict[str, Any] = {"lr": 0.01, "eps": 0.1, "nonfinite": "skip"}
    plain, there = [np.float32([4, 2]), np.float32([1])], [np.float32([4, 2]), np.float32([1])]
    opt, reference = getattr(fastopt, name)(simulated(there), **options), getattr(fastopt, name)(plain, **options)
    for k, bad in enumerate([1, np.nan, 1, np.inf, 1]):
        grads = [np.float32([1, k]), np.float32([bad])]
        assert opt.step(simulated(grads)) == reference.step(grads)
        assert list(map(alike, there)) == list(map(alike, plain))
        assert on_host(opt) == on_host(reference)
    assert name != "SWATS" or int(opt.state["0"]["switch_step"]) == 2


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "nonfinite": "skip", "zero_grads": True}], ids=str)
def test_an_incomplete_accumulation_is_flushed(options: dict[str, Any]) -> None:
    plain, there = [np.ones(3, np.float32), np.ones(2, np.float32)], [np.ones(3, np.float32), np.ones(2, np.float32)]
    options = {"lr": 0.5, "accumulate_steps": 4, "ema_decay": 0.5, "ema_start": "zero", **options}
    opt, reference = fastopt.Adam(simulated(there), **options), fastopt.Adam(plain, **options)
    assert opt.flush() == reference.flush() == (False, None, 0.5, 0)
    for _ in range(2):
        for k in range(3):
            grads = [np.full(3, k - 0.5, np.float32), None if k else np.ones(2, np.float32)]
            given = [None if grad is None else SimulatedArray(grad.copy()) for grad in grads]
            assert opt.step(given) == reference.step(grads)
        info, expected = opt.flush(), reference.flush()
        assert (info, info.norms, info.skipped) == (expected, expected.norms, None)
        assert list(map(alike, there)) == list(map(alike, plain))
        assert on_host(opt) == on_host(reference)
    assert (opt.step_count, opt.accumulated_calls) == (2, 0)


def test_state_moves_to_the_host_and_back() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    back = memory.to_host(memory.from_host(values))
    assert back.flags.f_contiguous
    assert np.array_equal(back, values)
    param = values.copy(order="F")
    opt = fastopt.Adam(SimulatedArray(param))
    opt.step(SimulatedArray(values))
    m = memory.to_host(opt.state["0"]["m"])
    assert m.shape == (2, 3)
    np.testing.assert_allclose(m, 0.1 * values, rtol=1e-6)
    opt.state["0"].set_entry("m", memory.from_host(m))
    assert opt.state["0"]["m"].shape == (2, 3)


MOVED: list[dict[str, Any]] = [
    {},
    {"ema_decay": 0.9, "accumulate_steps": 2, "state_dtype": "bfloat16", "nonfinite": "skip"},
    {"polyak": True, "clip_global_norm": 0.5},
    {"state_dtype": "uint8"},
]


@pytest.mark.parametrize("options", MOVED, ids=str)
@pytest.mark.parametrize("kind", [np.dtype(np.float32), BFLOAT16], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_run_moves_from_the_gpu_to_the_cpu_and_back(
    order: Any, kind: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved states are NumPy's whatever the backend, so that a run goes on elsewhere with the same bits."""
    monkeypatch.setattr(quantize, "SMALLEST", 10)
    rng = np.random.default_rng(4)
    start = np.array(rng.normal(size=(3, 5)).astype(kind), order=order)
    grads = [np.array(rng.normal(size=(3, 5)), dtype=np.float32, order=order) for _ in range(9)]
    there, straight = start.copy(order="K"), start.copy(order="K")
    reference = fastopt.Adam(straight, **options)
    for grad in grads:
        reference.step(grad)
    device: Any = SimulatedArray(there)
    on_gpu = fastopt.Adam(device, **options)
    for grad in grads[:3]:
        on_gpu.step(SimulatedArray(grad))
    here = there.copy(order="K")
    on_cpu = fastopt.Adam(here, **options)
    on_cpu.load_state_dict(on_gpu.state_dict())
    for grad in grads[3:6]:
        on_cpu.step(grad)
    there[...] = here
    back = fastopt.Adam(device, **options)
    back.load_state_dict(on_cpu.state_dict())
    for grad in grads[6:]:
        back.step(SimulatedArray(grad))
    assert there.tobytes() == straight.tobytes()
    saved, wanted = back.state_dict()["state"]["0"], reference.state_dict()["state"]["0"]
    assert all(saved[slot].tobytes() == wanted[slot].tobytes() for slot in wanted)
    read, expected = memory.to_host(back.slot("0", "v")), reference.slot("0", "v")
    assert (read.dtype, read.tobytes(order)) == (np.float32, expected.tobytes(order))


def test_streams() -> None:
    opt = fastopt.SGD(SimulatedArray(np.zeros(1, np.float32)))
    grad = np.ones(1, np.float32)
    table: Any = opt.ready().table
    for stream, asked, ran in [(None, None, 0), (1, None, 0), (7, None, 7), (7, 9, 9), (None, None, 0)]:
        opt.step(SimulatedArray(grad, stream), stream=asked)
        assert table.order.last == ran
    with pytest.raises(TypeError, match="stream='x': expected a CUDA stream of torch"):
        opt.step(SimulatedArray(grad), stream="x")


def test_a_changed_stream_of_the_same_gradients_is_seen() -> None:
    opt = fastopt.SGD(SimulatedArray(np.zeros(1, np.float32)))
    grad = SimulatedArray(np.ones(1, np.float32))
    opt.step(grad)
    grad.stream = 5
    opt.step(grad)
    table: Any = opt.ready().table
    assert table.order.last == 5


def array(*shape: int, dtype: str = "float32") -> SimulatedArray:
    return SimulatedArray(np.ones(shape, dtype))


def read_only() -> SimulatedArray:
    values = np.ones(2, np.float32)
    values.flags.writeable = False
    return SimulatedArray(values)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"a": array(2), "b": np.ones(2)}, TypeError, "'b' is of type numpy.ndarray, not on the GPU"),
        ({"a": np.ones(2), "b": array(2)}, TypeError, "'a' is of type numpy.ndarray, not on the GPU"),
        (SimulatedArray(np.ones((4, 4))[:, ::2]), ValueError, "'0' is not one contiguous, aligned run"),
        (read_only(), ValueError, "'0' is read-only"),
        (array(2, dtype="float128"), TypeError, "'0' has dtype float128; expected one of float32, float64, float16"),
        (array(2, dtype="int32"), TypeError, "'0' has dtype int32"),
    ],
)
def test_what_may_be_no_parameter(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.SGD(params)


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (np.ones((2, 3), np.float32), TypeError, "'0' is of type numpy.ndarray, not on the GPU"),
        (array(3, 2), ValueError, r"'0' has shape \(3, 2\); its parameter has shape \(2, 3\)"),
        (array(2, 3, dtype="int64"), TypeError, "'0' has dtype int64"),
        (SimulatedArray(np.ones((2, 6), np.float32)[:, ::2]), ValueError, "not one contiguous"),
        (SimulatedArray(np.ones((3, 2), np.float32).T), ValueError, "differ in the order of memory"),
    ],
)
def test_what_may_be_no_gradient(grad: Any, error: type[Exception], message: str) -> None:
    values = np.ones((2, 3), np.float32)
    opt = fastopt.SGD(SimulatedArray(values), lr=1.0)
    with pytest.raises(error, match=message):
        opt.step(grad)
    assert opt.step_count == 0
    assert (values == 1).all()
    opt.step(array(2, 3))
    assert (values == 0).all()


def test_a_gradient_that_overlaps_a_parameter() -> None:
    values = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="overlaps the memory of the parameter"):
        fastopt.SGD(SimulatedArray(values)).step(SimulatedArray(values))


def test_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.ones(2, np.float32) for _ in range(3)]
    devices = {value.ctypes.data: number for value, number in zip(values, (0, 1, 1), strict=True)}
    monkeypatch.setattr(memory, "device_of", lambda pointer: devices[pointer])
    with pytest.raises(ValueError, match="'1' is on device 1, and other parameters on device 0"):
        fastopt.SGD(simulated(values[:2]))
    with pytest.raises(ValueError, match="'0' is on device 1, and its parameter on device 0"):
        fastopt.SGD(SimulatedArray(values[0])).step(SimulatedArray(values[2]))


def test_a_parameter_that_moved() -> None:
    param = array(2)
    opt = fastopt.SGD(param)
    opt.step(array(2))
    before, param.array = param.array, param.array.copy()
    with pytest.raises(ValueError, match="has moved in memory"):
        opt.step(array(2))
    assert opt.step_count == 1
    assert (before == param.array).all()


def test_a_same_gradient_object_that_moved_is_read_where_it_is() -> None:
    values, grad = np.zeros(2, np.float32), array(2)
    opt = fastopt.SGD(SimulatedArray(values), lr=1.0)
    opt.step(grad)
    grad.array = np.full(2, 5, np.float32)
    opt.step(grad)
    assert (values == -6).all()


@pytest.mark.parametrize("source", ["backend=", "FASTOPT_BACKEND="])
def test_a_backend_that_does_not_fit_the_arrays(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(params: Any, name: str) -> None:
        if source == "backend=":
            fastopt.SGD(params, backend=name)
        else:
            monkeypatch.setenv("FASTOPT_BACKEND", name)
            fastopt.SGD(params)

    with pytest.raises(ValueError, match=f"{source}numpy: params: '0' is on the GPU"):
        built(array(2), "numpy")
    with pytest.raises(ValueError, match=f"{source}cuda: params: '0' is not on a GPU"):
        built(np.ones(2), "cuda")
    built(array(2), "cuda")
    assert fastopt.clip.global_norm([np.array([3.0, 4.0])]) == 5


def test_any_stream_object() -> None:
    class Torch:
        cuda_stream = 3

    class CuPy:
        ptr = 4

    class Numba:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 5

    assert [streams.stream_handle(stream) for stream in (Torch(), CuPy(), Numba(), 6)] == [3, 4, 5, 6]


def test_a_rule_of_the_users_own() -> None:
    """A rule that was typed in: there is no file of it."""
    space: dict[str, Any] = {}
    exec("def half(h, p, g):\n    return (p - h.lr * (g - p),)", space)

    class Half(fastopt.SGD):
        def rule(self, group: Any) -> Any:
            return space["half"]

    values = np.ones(3, np.float32)
    Half(SimulatedArray(values), lr=0.5).step(SimulatedArray(np.full(3, 3, np.float32)))
    assert (values == 0).all()


def test_what_is_not_done_on_a_gpu_is_an_error() -> None:
    """A field of HyperRow that the kernels don't know must not be passed over."""

    values = np.ones(2, np.float32)
    opt = fastopt.SGD(SimulatedArray(values))
    opt.step(array(2))
    table: Any = opt.ready().table
    before = values.copy()
    More = namedtuple("More", [*HyperRow._fields, "brightness"], defaults=[*HyperRow._field_defaults.values(), 0.0])
    fields = begun(opt, array(2)).hyper_rows[0]._asdict()
    with pytest.raises(ValueError, match="brightness: not done on a GPU yet"):
        table.step([More(**fields, brightness=1.0)])
    assert (values == before).all()
    table.step([More(**fields)])
    assert (values != before).all()


def test_compiling_is_told_of_once_it_took_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    compiling.CompileTime.spent = 0.9
    for _ in range(2):
        with compiling.compile_notice():
            time.sleep(0.2)
    assert capfd.readouterr().err.count("fastopt: compiling CUDA kernels") == 1


def test_what_was_found() -> None:
    assert cuda_found.missing() is None
    assert cuda_found.found().driver == "simulator"


def test_a_loss_scale_on_a_gpu() -> None:
    param = np.ones(2)
    fastopt.SGD(SimulatedArray(param), lr=0.5, grad_scale=2.0).step(SimulatedArray(np.ones(2)))
    assert param.tolist() == [0.75, 0.75]
