"""The same bits: for every backend, instruction set, number of threads, length, alignment and memory order."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, ISAS, Case, every_case, every_dtype, every_rule, everything, needs_native
from places import ROOT

import fastopt
from fastopt.arithmetic import rules
from fastopt.backends.native import library as native
from fastopt.backends.numpy import passes

pytestmark = pytest.mark.usefixtures("restored", "small_numpy_blocks")

BLOCK, CHUNK, NUMPY_BLOCK_BYTES = 1024, 4096, 1 << 18
LENGTHS = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 1000]
LENGTHS += [size + by for size in (BLOCK, CHUNK, NUMPY_BLOCK_BYTES // 8) for by in (-1, 0, 1)]
LENGTHS += [NUMPY_BLOCK_BYTES // 4 + 1]
THREADS = (1, 2, 3, 7)
GUARD = 64


@pytest.fixture
def small_numpy_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fallback cut arrays of these lengths into several blocks."""
    monkeypatch.setattr(passes, "BLOCK_BYTES", NUMPY_BLOCK_BYTES)


def special_values(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    """Return gradients with NaN, infinities, zeros of both signs and denormals among them."""
    values = rng.normal(size=size).astype(dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -3 * tiny, np.finfo(dtype).max], dtype)
    places = rng.random(size) < 0.1
    values[places] = rng.choice(specials, places.sum())
    return values


def run(case: Case, dtype: Any, lengths: list[int], backend: str, steps: int = 3, special: bool = False) -> list[bytes]:
    """Return the bytes of everything after a few steps from the same start, a skipped gradient among them."""
    rng = np.random.default_rng(7)
    params = [rng.normal(size=length).astype(dtype) for length in lengths]
    opt = case.build(params, backend=backend)
    infos = []
    for step in range(steps):
        grads: list[Any] = [(special_values if special else plain_values)(rng, length, dtype) for length in lengths]
        if step == 1:
            grads[len(grads) // 2] = None
        infos.append(opt.step(grads))
    told = repr([tuple(info) for info in infos]).encode()
    return [*everything(params, opt), told]


def plain_values(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    return rng.normal(size=size).astype(dtype)


@pytest.mark.by_turns("case")
@needs_native
@every_dtype
@every_case
@pytest.mark.parametrize("isa", ISAS)
def test_native_is_numpy_for_every_isa(case: Case, dtype: Any, isa: str) -> None:
    native.use_isa(isa)
    assert native.isa() == isa
    assert run(case, dtype, LENGTHS, "native") == run(case, dtype, LENGTHS, "numpy")


@pytest.mark.by_turns("case")
@needs_native
@every_dtype
@every_rule
def test_threads_change_no_bit(case: Case, dtype: Any) -> None:
    lengths = [*LENGTHS, 70_001]  # enough elements that they are spread over threads
    results = []
    for count in THREADS:
        fastopt.set_num_threads(count)
        results.append(run(case, dtype, lengths, "native"))
    assert all(result == results[0] for result in results)


@pytest.mark.by_turns("case")
@every_dtype
@every_rule
def test_threads_change_no_bit_in_numpy(monkeypatch: pytest.MonkeyPatch, case: Case, dtype: Any) -> None:
    monkeypatch.setattr(passes, "WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(passes, "LEAST_BLOCK_BYTES", 1 << 14)
    results = []
    for count in THREADS:
        fastopt.set_num_threads(count)
        results.append(run(case, dtype, LENGTHS, "numpy"))
    assert all(result == results[0] for result in results)


@pytest.mark.by_turns("case")
@needs_native
@every_dtype
@every_case
def test_special_values(case: Case, dtype: Any) -> None:
    assert run(case, dtype, LENGTHS, "native", special=True) == run(case, dtype, LENGTHS, "numpy", special=True)


def guarded(values: Any, shift: int, buffers: list[Any]) -> Any:
    """Return a copy of an array that begins at any element of a larger buffer, full of sevens around it."""
    buffer = np.full(values.size + 2 * GUARD, 7.0, values.dtype)
    begin = GUARD + shift
    buffers.append((buffer, slice(begin, begin + values.size)))
    buffer[begin : begin + values.size] = values
    return buffer[begin : begin + values.size]


@pytest.mark.by_turns("case")
@every_dtype
@every_case
def test_guard_bytes_and_unaligned_views(case: Case, dtype: Any) -> None:
    """Parameters, slots and gradients that begin at any element: same bits, and all around them stays as it was."""
    rng = np.random.default_rng(3)
    plain = [rng.normal(size=length).astype(dtype) for length in LENGTHS if length < 5000]
    buffers: list[Any] = []
    params = [guarded(param, i % 5, buffers) for i, param in enumerate(plain)]
    opt, reference = case.build(params), case.build(plain, backend="numpy")
    group = opt.param_groups[0]
    for i, (param, slots) in enumerate(zip(params, opt.state.values(), strict=True)):
        for slot in rules.slots(opt.rule(group)):
            slots[slot] = guarded(opt.new_slot(group, slot, param), (i + 3) % 7, buffers)
    grads = [guarded(np.zeros_like(param), (i + 1) % 3, buffers) for i, param in enumerate(params)]
    for _ in range(3):
        for grad in grads:
            grad[...] = rng.normal(size=grad.size)
        opt.step(grads)
        reference.step([grad.copy() for grad in grads])
    assert everything(params, opt) == everything(plain, reference)
    for buffer, inside in buffers:
        buffer[inside] = 7
        assert (buffer == 7).all()


@pytest.mark.by_turns("case", count=3)
@every_dtype
@every_case
@pytest.mark.parametrize("grad_dtype", ["float16", "bfloat16", "float32", "float64", "longdouble", ">f4"])
def test_gradients_of_any_float_dtype(case: Case, dtype: Any, grad_dtype: str) -> None:
    """A gradient of another dtype is as if it had been converted before."""
    if grad_dtype == "bfloat16":
        kind = np.dtype(pytest.importorskip("ml_dtypes", reason="needs ml_dtypes").bfloat16)
    else:
        kind = np.dtype(grad_dtype)
    rng = np.random.default_rng(5)
    params = [rng.normal(size=(37, 29)).astype(dtype), rng.normal(size=5).astype(dtype)]
    others = [param.copy() for param in params]
    opt, reference = case.build(params), case.build(others)
    for _ in range(3):
        grads = [rng.normal(size=param.shape).astype(kind) for param in params]
        opt.step(grads)
        reference.step([grad.astype(dtype) for grad in grads])
    assert everything(params, opt) == everything(others, reference)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_every_float16_and_bfloat16_value(backend: str) -> None:
    """All 65,536 values of a half-precision gradient reach the parameter exactly."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    bits = np.arange(65536, dtype=np.uint16)
    for isa in ISAS if backend == "native" else [None]:
        if isa is not None:
            native.use_isa(isa)
        for kind in (np.float16, ml_dtypes.bfloat16):
            param = np.zeros(65536, np.float32)
            fastopt.SGD(param, lr=1.0, backend=backend).step(bits.view(kind))
            with np.errstate(invalid="ignore"):
                np.testing.assert_array_equal(param, -bits.view(kind).astype(np.float32))


@pytest.mark.by_turns("case")
@every_dtype
@every_case
def test_orders_and_strides(case: Case, dtype: Any) -> None:
    """Parameters of C and of Fortran order, with gradients of any order or stride, match plain ones elementwise."""
    rng = np.random.default_rng(6)
    start = rng.normal(size=(5, 7, 3)).astype(dtype)
    plain = start.copy()
    fortran = np.asfortranarray(start)
    opt, reference = case.build([fortran, start.copy()]), case.build([plain, start.copy()])
    for _ in range(3):
        grad = rng.normal(size=start.shape).astype(dtype)
        strided = np.repeat(grad, 2, axis=1)[:, ::2]
        reversed_ = grad[:, ::-1].copy()[:, ::-1]
        for given in (grad, np.asfortranarray(grad), strided, reversed_):
            opt.step([given, given])
            reference.step([grad, grad.copy()])
    # Norms add in the order of memory, which differs here in the last bits.
    has_norms = reference.clip_global_norm is not None or "clip_norm" in case.options
    adds = fastopt.LARS, fastopt.LAMB, fastopt.Adafactor, fastopt.SWATS, fastopt.Prodigy
    tolerance = 1e-5 if has_norms or issubclass(case.optimizer, adds) else 0
    np.testing.assert_allclose(fortran, plain, rtol=tolerance)
    for slot in opt.state["0"]:
        np.testing.assert_allclose(opt.state["0"][slot], reference.state["0"][slot], rtol=tolerance, atol=tolerance)


@pytest.mark.by_turns("case")
@every_dtype
@every_case
def test_resuming_from_copied_state(case: Case, dtype: Any) -> None:
    rng = np.random.default_rng(8)
    params = [rng.normal(size=length).astype(dtype) for length in (3, 1025)]
    opt = case.build(params)
    grads = [[rng.normal(size=param.size).astype(dtype) for param in params] for _ in range(6)]
    for k in range(3):
        opt.step([grads[k][0], grads[k][1] if k else None])
    resumed_params = [param.copy() for param in params]
    resumed = case.build(resumed_params)
    resumed.step([None, None])  # slots are made by the first step
    resumed.step_count = opt.step_count
    for name, slots in opt.state.items():
        for slot, values in slots.items():
            resumed.state[name][slot][...] = values
    for k in range(3, 6):
        assert opt.step(grads[k]) == resumed.step([grad.copy() for grad in grads[k]])
    assert everything(params, opt) == everything(resumed_params, resumed)


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # once another test has started JAX
def test_forked_child_after_the_parent_stepped() -> None:
    """The pool of threads stays in the parent: the child must go on, on threads of its own, with the same bits."""
    fastopt.set_num_threads(2)
    rng = np.random.default_rng(9)
    params, grad = rng.normal(size=100_000), rng.normal(size=100_000)
    opt = fastopt.Adam(params)
    opt.step(grad)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            opt.step(grad)
            os.write(writer, params[::1000].tobytes())
        finally:
            os._exit(0)
    os.close(writer)
    opt.step(grad)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told == params[::1000].tobytes()


@needs_native
@pytest.mark.huge
@pytest.mark.long
@pytest.mark.skipif(sys.maxsize < 2**32, reason="needs a 64-bit machine")
def test_more_than_2_to_the_31_elements() -> None:
    meminfo = Path("/proc/meminfo")
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines()) if meminfo.exists() else {}
    if int(lines.get("MemAvailable", "0 kB").split()[0]) < 18_000_000:
        pytest.skip("needs 18 GB of free memory")
    size = 2**31 + 5
    param, grad = np.zeros(size, np.float32), np.zeros(size, np.float32)
    grad[[0, 2**31 - 1, 2**31, size - 1]] = 1
    info = fastopt.SGD(param, lr=1.0, clip_global_norm=100.0).step(grad)
    assert info.grad_norm == 2
    assert (param[[0, 2**31 - 1, 2**31, size - 1]] == -1).all()
    assert param[[1, 2**31 - 2, 2**31 + 1]].tolist() == [0, 0, 0]


def test_python_and_c_agree_on_names_and_order_of_scalars() -> None:
    """The struct of a rule in csrc/rules.h has the fields and slots of the rule in fastopt/arithmetic/rules.py."""
    import inspect
    import re
    from typing import get_type_hints

    source = ROOT / "csrc" / "rules.h"
    if not source.exists():
        pytest.skip("the C sources are not here")
    text = source.read_text()
    names = re.findall(r"RULE\((\w+)\)\s", text.split("#ifdef REAL")[0])
    structs = {
        name: re.split(r",\s*", fields) for fields, name in re.findall(r"REAL ([\w, \n]+);\n\} SCALARS\((\w+)\)", text)
    }
    functions = dict(re.findall(r"void NAME\((\w+)\)\(REAL \*p, REAL g,(.*?)SCALARS", text, re.S))
    assert set(names) == set(structs) == set(functions)
    for name in names:
        rule = getattr(rules, name)
        scalars = get_type_hints(rule)["h"]._fields
        assert tuple(structs[name]) == scalars
        assert tuple(re.findall(r"REAL \*(\w+),", functions[name])) == rules.slots(rule)
    ours = [case for case in CASES if case.optimizer.__module__.startswith("fastopt.")]
    built = [case.build(np.zeros((1, 1))) for case in ours]
    used = {opt.rule(opt.param_groups[0]).__name__ for opt in built}
    used |= {rule.__name__ for opt in built for rule in opt.further_rules}
    assert used == set(names), "every rule has a row in cases.py"
    public = {name for name, rule in inspect.getmembers(rules, inspect.isfunction) if rule.__module__ == rules.__name__}
    assert public == set(names)
