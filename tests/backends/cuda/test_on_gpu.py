"""The CUDA backend on a GPU: ``pytest -m gpu``. Skipped, with the reason, where there is none.

Most of it also runs without one, on the stand-in for a GPU (folder gpu_stand_in).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from cases import TINY_CASES, Case, built, bytes_of_run, covering_gpu_options, every_dtype, every_gpu_rule
from pages import names_of, page_of
from tiny_numbers import with_tiny_numbers

import fastopt
from fastopt.backends.cuda import found as cuda_found


def reason() -> str | None:
    """Return why there is no GPU to test on."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "Numba's simulator is on"
    if cuda_found.missing() is not None:
        return cuda_found.missing()
    from numba import cuda

    return None if cuda.is_available() else "the driver shows no GPU"


WHY_NOT = reason()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"needs a GPU: {WHY_NOT}"),
    # Kernels of the tests' own have one block.
    pytest.mark.filterwarnings("ignore:Grid size 1 will likely result:Warning"),
]

needs_other_software = pytest.mark.skipif(
    "GPU_STAND_IN" in os.environ, reason="needs a real GPU: others than Numba use it"
)
needs_time = pytest.mark.skipif(
    "GPU_STAND_IN" in os.environ, reason="needs a real GPU: a stand-in has done its work when it is asked for more"
)

if WHY_NOT is None:
    from numba import cuda as numba_target

    from fastopt.backends.cuda import compiling, layout, memory, streams

SIZES: Any = (0, 1, 5, 1000, 4095, 4096, 4097, 70_001, (300, 70))


def alike(array: Any) -> bytes:
    return np.where(np.isnan(array), np.nan, array).tobytes()


def shifted(values: Any, by: int) -> Any:
    """Return a copy on the device that begins ``by`` elements behind where memory was allocated."""
    buffer = numba_target.device_array(values.size + by, values.dtype)
    buffer[by:].copy_to_device(values.reshape(-1))
    return buffer[by:].reshape(values.shape)


@pytest.mark.by_turns("case")
@every_dtype
@every_gpu_rule
def test_every_gpu_case_has_the_bits_of_the_numpy_rule(case: Case, dtype: Any) -> None:
    """No multiplication is fused with an addition, which costs no memory traffic; roots and quotients are rounded."""
    rng = np.random.default_rng(1)
    plain = [rng.normal(size=size).astype(dtype) for size in SIZES]
    params = [shifted(param, i % 4) for i, param in enumerate(plain)]
    opt, reference = case.build(params), case.build(plain, backend="numpy")
    assert opt.backend == "cuda"
    for step in range(4):
        grads: list[Any] = [rng.normal(size=size).astype(dtype) for size in SIZES]
        given = [shifted(grad, i % 3) for i, grad in enumerate(grads)]
        if step == 1:
            given[3] = grads[3] = None
        assert opt.step(given) == reference.step(grads)
    assert [alike(memory.to_host(param)) for param in params] == list(map(alike, plain))
    for name, slots in reference.state.items():
        for slot, expected in slots.items():
            assert alike(opt.parts.backend.ops.on_host(opt.state[name][slot])) == alike(expected)


def on_device(arrays: Any) -> Any:
    """Return copies on the device, some of which no vector fits."""
    pads = [i % 2 if array.size else 0 for i, array in enumerate(arrays)]
    padded = [memory.from_host(np.concatenate([array[:pad], array])) for array, pad in zip(arrays, pads, strict=True)]
    return [array[pad:] for array, pad in zip(padded, pads, strict=True)]


@pytest.mark.by_turns("case")
@covering_gpu_options
def test_options_have_the_bits_of_the_numpy_backend(case: Case, dtype: Any, options: dict[str, Any]) -> None:
    assert bytes_of_run(case, dtype, options, SIZES, on_device) == bytes_of_run(case, dtype, options, SIZES)


@every_dtype
@pytest.mark.parametrize("case", TINY_CASES, ids=str)
def test_tiny_numbers_are_flushed_in_the_same_steps(case: Case, dtype: Any) -> None:
    def state_after(to: Any, **more: Any) -> list[bytes]:
        rng = np.random.default_rng(2)
        start = [rng.normal(size=size).astype(dtype) for size in (4099, (2, 3))]
        opt = built(case, start, {}, to, **more)
        opt.step(to([rng.normal(size=each.shape).astype(dtype) for each in start]))
        opt.load_state_dict(with_tiny_numbers(opt.state_dict(), rng))
        for _ in range(3):
            opt.step(to([np.zeros(each.shape, dtype) for each in start]))
        return [alike(opt.parts.backend.ops.on_host(array)) for slots in opt.state.values() for array in slots.values()]

    assert state_after(on_device) == state_after(list, backend="numpy")


@every_dtype
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "axes"), [((4097, 300), 0), ((300, 4097), 1), ((64, 32, 3, 3), (1, 2, 3)), ((64, 32, 3, 3), (0, 2))]
)
def test_held_norms_in_any_order_of_memory(shape: Any, axes: Any, order: Any, dtype: Any) -> None:
    rng = np.random.default_rng(9)
    plain = np.array(rng.normal(size=shape).astype(dtype), order=order)
    plain.flat[:2] = np.nan, np.inf
    param = memory.from_host(plain)
    options: dict[str, Any] = {"max_weight_norm": 16.0, "max_weight_norm_axis": axes, "ema_decay": 0.5}
    opt, reference = fastopt.SGD(param, **options), fastopt.SGD(plain, backend="numpy", **options)
    for _ in range(2):
        grad = np.array(rng.normal(size=shape).astype(dtype), order=order)
        opt.step(memory.from_host(grad))
        reference.step(grad)
        assert alike(memory.to_host(param)) == alike(plain)


@needs_time
def test_a_skipped_step_is_not_waited_for() -> None:
    kernel = numba_target.jit(slow)
    stream = numba_target.stream()
    grad, param = numba_target.to_device(np.ones(64, np.float32)), numba_target.to_device(np.zeros(64, np.float32))
    opt = fastopt.SGD(param, lr=1.0, nonfinite="skip")
    opt.step(grad, stream=stream)  # compiles
    assert opt.step_count == 1
    kernel[1, 64, stream](grad, 1.0, 0)
    numba_target.synchronize()
    kernel[1, 64, stream](grad, np.inf, 300_000_000)
    start = time.perf_counter()
    info = opt.step(grad, stream=stream)
    assert time.perf_counter() - start < 0.15
    assert (bool(info.applied), info.step, opt.step_count) == (False, 1, 1)  # waits
    assert (memory.to_host(param) == -1).all()


@pytest.mark.parametrize("is_found", [True, False])
def test_a_kernel_that_only_numba_can_start(is_found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    handles, real_handle = [], compiling.driver_handle
    monkeypatch.setattr(compiling, "driver_handle", lambda made: handles.append(real_handle(made)) or handles[-1])
    if not is_found:
        monkeypatch.setattr(compiling, "driver_handle", lambda made: None)
    compiling.compiled.cache_clear()
    plain, grad = np.linspace(-1, 1, 5000, dtype=np.float32), np.ones(5000, np.float32)
    param = numba_target.to_device(plain)
    fastopt.AdamW(param, clip_global_norm=1.0).step(numba_target.to_device(grad))
    fastopt.AdamW(plain, clip_global_norm=1.0, backend="numpy").step(grad)
    compiling.compiled.cache_clear()
    assert alike(memory.to_host(param)) == alike(plain)
    assert bool(handles) == is_found
    assert all(handle is not None for handle in handles)


def test_parameters_that_others_write() -> None:
    """Before an array's first step, which nothing but the step makes, and afterwards with ``reload_params``."""
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    for dtype, more in ((np.float16, {"ema_decay": 0.5}), (np.float32, {"ema_decay": 0.5})):
        plain = [np.ones(70, dtype), np.ones(5, dtype)]
        params = [shifted(param, 0) for param in plain]
        opts = [fastopt.SGD(params, **options, **more), fastopt.SGD(plain, backend="numpy", **options, **more)]
        for opt in opts:
            opt.state_dict()
        for i, names in enumerate(([0], [0], [0, 1], [0, 1])):
            for array, param in zip(params, plain, strict=True):
                param[...] = 3 * i + 2
                array.copy_to_device(param)
            for opt, to in zip(opts, (numba_target.to_device, np.asarray), strict=True):
                opt.reload_params("0")
                averages = [opt.parts.backend.ops.on_host(average) for average in opt.ema]
                assert averages[1][0] == 3 * i + 2 or i == 3
                opt.step([to(np.ones(70)), to(np.ones(5)) if 1 in names else None])
            states = [opt.state_dict()["state"] for opt in opts]
            for name in "01":
                assert {slot: alike(array) for slot, array in states[0][name].items()} == {
                    slot: alike(array) for slot, array in states[1][name].items()
                }


def test_averages() -> None:
    param = numba_target.to_device(np.float32([4, 2]))
    opt = fastopt.SGD(param, lr=1.0, polyak=True)
    for _ in range(2):
        opt.step(numba_target.to_device(np.ones(2, np.float32)))
    assert memory.to_host(opt.ema).tolist() == [2.5, 0.5]
    with opt.averaged():
        assert memory.to_host(param).tolist() == [2.5, 0.5]
    assert memory.to_host(param).tolist() == [2, 0]


@every_dtype
def test_special_values(dtype: Any) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    grad = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -3 * tiny, np.finfo(dtype).max] * 100, dtype)
    plain = np.linspace(-1, 1, grad.size).astype(dtype)
    param = numba_target.to_device(plain)
    opt = fastopt.Adam(param, amsgrad=True, clip_value=1e30, weight_decay=0.1)
    reference = fastopt.Adam(plain, amsgrad=True, clip_value=1e30, weight_decay=0.1, backend="numpy")
    for _ in range(3):
        opt.step(numba_target.to_device(grad))
        reference.step(grad)
    assert alike(memory.to_host(param)) == alike(plain)


@pytest.mark.parametrize("grad_dtype", ["float16", "float32", "float64"])
@every_dtype
def test_gradients_of_any_float_dtype(dtype: Any, grad_dtype: str) -> None:
    rng = np.random.default_rng(2)
    plain, grad = rng.normal(size=5001).astype(dtype), rng.normal(size=5001).astype(grad_dtype)
    param = numba_target.to_device(plain)
    fastopt.Adam(param, clip_norm=1.0).step(numba_target.to_device(grad))
    fastopt.Adam(plain, clip_norm=1.0, backend="numpy").step(grad)
    assert alike(memory.to_host(param)) == alike(plain)


@needs_other_software
def test_torch_in_place() -> None:
    torch = pytest.importorskip("torch")
    param = torch.nn.Parameter(torch.ones(5, 7, device="cuda"))
    held = param.detach()
    with pytest.raises(TypeError, match=r"give its \.detach\(\)"):
        fastopt.SGD(param)
    opt = fastopt.AdamW(held, lr=0.01)
    other = torch.ones(5, 7, device="cuda", requires_grad=True)
    peer = torch.optim.AdamW([other], lr=0.01)
    for step in range(5):
        grad = torch.randn(5, 7, device="cuda")
        opt.step(grad.bfloat16() if step == 4 else grad)
        other.grad = grad.bfloat16().float() if step == 4 else grad
        peer.step()
    torch.testing.assert_close(param, other)
    assert opt.state["0"]["m"].__cuda_array_interface__["shape"] == (5, 7)
    assert torch.as_tensor(opt.state["0"]["m"], device="cuda").shape == (5, 7)
    with pytest.raises(TypeError, match="not on the GPU"):
        opt.step(torch.ones(5, 7))


@needs_other_software
def test_cupy_in_place() -> None:
    cupy = pytest.importorskip("cupy")
    param, plain = cupy.ones((5, 7), np.float32), np.ones((5, 7), np.float32)
    opt, reference = fastopt.Adam(param), fastopt.Adam(plain, backend="numpy")
    with cupy.cuda.Stream(non_blocking=True):
        for k in range(3):
            opt.step(cupy.full((5, 7), k, np.float32))
            reference.step(np.full((5, 7), k, np.float32))
        assert cupy.asnumpy(param).tobytes() == plain.tobytes()


def slow(array: Any, value: float, nanoseconds: int) -> None:
    """Wait on the device, then write: work that must come before a step."""
    if numba_target.grid(1) == 0:
        for _ in range(nanoseconds // 1_000_000):
            numba_target.nanosleep(1_000_000)
    numba_target.syncthreads()
    if numba_target.grid(1) < array.size:
        array[numba_target.grid(1)] = value


@needs_time
def test_a_step_runs_behind_the_work_in_its_stream_and_does_not_wait_for_it() -> None:
    kernel = numba_target.jit(slow)
    stream = numba_target.stream()
    grad, param = numba_target.to_device(np.zeros(64, np.float32)), numba_target.to_device(np.zeros(64, np.float32))
    opt = fastopt.SGD(param, lr=1.0, clip_global_norm=100.0)
    opt.step(grad, stream=stream)  # compiles
    kernel[1, 64, stream](grad, 1.0, 0)
    numba_target.synchronize()
    kernel[1, 64, stream](grad, 2.0, 300_000_000)
    start = time.perf_counter()
    info = opt.step(grad, stream=stream)
    assert time.perf_counter() - start < 0.15
    assert info.grad_norm == 16.0  # waits
    assert (memory.to_host(param) == -2).all()


def test_the_stream_of_the_gradients_is_respected() -> None:
    """A Numba array that is bound to a stream says so in its interface."""
    kernel = numba_target.jit(slow)
    stream = numba_target.stream()
    grad = numba_target.to_device(np.zeros(64, np.float32), stream=stream).bind(stream)
    param = numba_target.to_device(np.zeros(64, np.float32))
    opt = fastopt.SGD(param, lr=1.0)
    opt.step(grad)
    kernel[1, 64, stream](grad, 3.0, 100_000_000)
    opt.step(grad)
    assert (memory.to_host(param) == -3).all()


def test_a_thousand_arrays_in_one_launch() -> None:
    plain = [np.full(256, i, np.float32) for i in range(1000)]
    params = [numba_target.to_device(param) for param in plain]
    grads = [numba_target.to_device(np.ones(256, np.float32)) for _ in plain]
    opt = fastopt.Adam(params)
    for _ in range(3):
        opt.step(grads)
        table: Any = opt.ready().table
    assert len(table.plan.launches) == 1
    reference = fastopt.Adam(plain, backend="numpy")
    for _ in range(3):
        reference.step([np.ones(256, np.float32)] * 1000)
    assert all(memory.to_host(p).tobytes() == q.tobytes() for p, q in zip(params, plain, strict=True))


def test_a_norm_of_more_chunks_than_are_added_at_once() -> None:
    size = (layout.SUM_TILE + 3) * layout.CHUNK - 5
    rng = np.random.default_rng(7)
    plain = np.zeros(size, np.float32)
    param = numba_target.to_device(plain)
    opt, reference = (fastopt.SGD(each, lr=1.0, clip_global_norm=1.0) for each in (param, plain))
    for _ in range(2):
        grad = rng.normal(size=size).astype(np.float32)
        assert opt.step(numba_target.to_device(grad)) == reference.step(grad)
    assert memory.to_host(param).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.9, "accumulate_steps": 2, "state_dtype": "bfloat16", "nonfinite": "skip"},
        {"state_dtype": "uint8"},
    ],
    ids=str,
)
def test_state_goes_on_on_the_other_side(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    plain, grads = rng.normal(size=5000).astype(np.float32), rng.normal(size=(6, 5000)).astype(np.float32)
    reference = plain.copy()
    param = numba_target.to_device(plain)
    on_gpu, on_cpu = fastopt.Adam(param, **options), fastopt.Adam(plain, **options)
    straight = fastopt.Adam(reference, backend="numpy", **options)
    for k in range(6):
        straight.step(grads[k])
    for k in range(3):
        on_gpu.step(numba_target.to_device(grads[k]))
    plain[:] = memory.to_host(param)
    on_cpu.load_state_dict(on_gpu.state_dict())
    assert memory.to_host(on_gpu.slot("0", "v")).tobytes() == on_cpu.slot("0", "v").tobytes()
    for k in range(3, 6):
        on_cpu.step(grads[k])
    assert plain.tobytes() == reference.tobytes()


def test_more_than_2_to_the_31_elements() -> None:
    size = 2**31 + 5
    with streams.on_device(0):
        free, _ = numba_target.current_context().get_memory_info()
    if free < 2 * 4 * size + 2**30:
        pytest.skip("needs 18 GB of free memory on the GPU")
    with streams.on_device(0):
        param, grad = (memory.full((size,), "float32", "C", 0) for _ in range(2))
    places = [0, 2**31 - 1, 2**31, size - 1]
    for place in places:
        grad[place : place + 1].copy_to_device(np.ones(1, np.float32))
    info = fastopt.SGD(param, lr=1.0, clip_global_norm=100.0).step(grad)
    assert info.grad_norm == 2
    assert [float(memory.to_host(param[place : place + 1])[0]) for place in places] == [-1] * 4
    assert [float(memory.to_host(param[place : place + 1])[0]) for place in (1, 2**31 - 2, 2**31 + 1)] == [0, 0, 0]


STEPS = """
import sys, numpy as np, fastopt
from numba import cuda
params = [cuda.to_device(np.ones(n, np.float32)) for n in (1, 5, 4097, 10_001)]
grads = [cuda.to_device(np.ones(n, np.float32)) for n in (1, 5, 4097, 10_001)]
opt = fastopt.AdamW(params, clip_norm=1.0, clip_global_norm=1.0, ema_decay=0.9, nonfinite="skip", zero_grads=True)
for _ in range(3):
    info = opt.step(grads)
fastopt.LAMB(params).step(grads)
for state_dtype in ("bfloat16", "uint8"):
    fastopt.SGD(params, momentum=0.9, state_dtype=state_dtype).step(grads)
for optimizer, options in ((fastopt.SGD, {"max_weight_norm": 1.0}), (fastopt.Adafactor, {})):
    optimizer(cuda.to_device(np.ones((9, 5))), **options).step(cuda.to_device(np.ones((9, 5))))
from fastopt.backends.cuda import compiling, sum_kernels
kernel = compiling.compiled(0, sum_kernels.sums)
stats = kernel.dispatcher.stats
print(float(info.grad_norm), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_kernels_are_kept_on_disk(tmp_path: Any) -> None:
    told = []
    for _ in range(2):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split()[1:])
    assert told == [["0", "1"], ["1", "0"]]


@needs_other_software
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("needs compute-sanitizer, of the CUDA toolkit")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", STEPS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not page_of("guide/gpu").exists(), reason="the source tree is not here")
def test_the_examples_of_the_page_run() -> None:
    """Where there is no GPU, tests/docs runs them as far as they go."""
    assert names_of("guide/gpu")["info"].applied
