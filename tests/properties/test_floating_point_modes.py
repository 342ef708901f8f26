"""A step has the same bits in every floating-point mode that a program may set, and leaves the mode as it was."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import history_runs
import numpy as np
import pytest
from cases import ISAS, Case, every_case, every_dtype, everything, needs_native, taken_by

import fastopt
from fastopt.backends.native import library as native
from fastopt.backends.packing import FROM_SUMS, Rows

MACHINE = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
#: C's FE_UPWARD and FE_TOWARDZERO.
ROUNDINGS = {"x86_64": (0x800, 0xC00), "aarch64": (0x400000, 0xC00000)}

pytestmark = [
    needs_native,
    pytest.mark.usefixtures("restored"),
    pytest.mark.skipif(os.name != "posix" or MACHINE not in ROUNDINGS, reason="needs to know C's fenv_t"),
]

#: The functions of the native part that compute.
OF_HISTORY = tuple(f"fo_history_{name}" for name in ("begin", "direct", "try_step", "read", "accept"))
OF_BFGS = ("fo_dot", "fo_bfgs_pass")
OF_CODES = ("fo_multiply_rows", "fo_code_rows")
OF_STEPS = ("fo_step", "fo_accumulate", "fo_sum_products", "fo_sum_squares", "fo_add_rows")
OF_PACKING = ("fo_pack", "fo_accumulate_rows")
COMPUTING = (*OF_STEPS, *OF_HISTORY, *OF_BFGS, *OF_CODES, *OF_PACKING)

Mode = Callable[[Any], None]


def environment(libm: Any) -> Any:
    """Return C's floating-point environment: the mode, and the exceptions that occurred."""
    found = ctypes.create_string_buffer(64)
    libm.fegetenv(found)
    return found


def round_up(libm: Any) -> None:
    assert libm.fesetround(ROUNDINGS[MACHINE][0]) == 0


def round_towards_zero(libm: Any) -> None:
    assert libm.fesetround(ROUNDINGS[MACHINE][1]) == 0


def with_mxcsr(bits: int) -> Mode:
    """Return a mode that sets these bits of MXCSR alone, as programs with intrinsics do."""

    def use(libm: Any) -> None:
        if sys.platform != "linux" or MACHINE != "x86_64":
            pytest.skip("needs MXCSR, and to know where fenv_t has it")
        env = environment(libm)
        env[28:32] = (int.from_bytes(env[28:32], "little") | bits).to_bytes(4, "little")
        libm.fesetenv(env)

    return use


MODES = {
    "fesetround up": round_up,
    "fesetround towards zero": round_towards_zero,
    "MXCSR up": with_mxcsr(0x4000),
    "MXCSR flushes results": with_mxcsr(0x8000),
    "MXCSR flushes operands": with_mxcsr(0x0040),
}


class LibraryInMode:
    """The native part, whose computing functions are called in a mode."""

    def __init__(self, lib: Any, use: Mode) -> None:
        self.lib, self.use, self.called = lib, use, set[str]()
        self.libm = ctypes.CDLL(None)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.lib, name)
        return self.in_mode(name, function) if name in COMPUTING else function

    def in_mode(self, name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            before = environment(self.libm)
            self.use(self.libm)
            mode = environment(self.libm)
            try:
                result = function(*arguments)
                after = environment(self.libm)
            finally:
                self.libm.fesetenv(before)
            assert mode.raw == after.raw
            assert mode.raw != before.raw
            self.called.add(name)
            return result

        return call


def tiny_and_large(rng: np.random.Generator, shape: Any, dtype: Any) -> Any:
    """Return numbers of all magnitudes up to 1, denormals among them."""
    least = np.log10(float(np.finfo(dtype).smallest_subnormal))
    return (rng.normal(size=shape) * 10.0 ** rng.uniform(least, 0, shape)).astype(dtype)


def run(case: Case, dtype: Any, options: dict[str, Any]) -> list[bytes]:
    """Return the bytes of everything after a few steps from tiny parameters and gradients."""
    rng = np.random.default_rng(8)
    shapes = [1, 33, (21, 13), 40_001]
    params = [tiny_and_large(rng, shape, dtype) for shape in shapes]
    opt = case.build(params, backend="native", **options)
    for _ in range(3):
        opt.step([tiny_and_large(rng, shape, dtype) for shape in shapes])
    return everything(params, opt)


@pytest.mark.by_turns("case")
@every_case
@every_dtype
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_mode_changes_no_bit(
    case: Case, dtype: Any, isa: str, threads: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.use_isa(isa)
    fastopt.set_num_threads(threads)
    options = taken_by(case, {"accumulate_steps": 2, "clip_global_norm": 1.0, "max_weight_norm": 2.0, "ema_decay": 0.9})
    wanted = run(case, dtype, options)
    from fastopt.backends.native import table

    library = LibraryInMode(native.lib, MODES[mode])
    monkeypatch.setattr(table, "lib", library)
    assert run(case, dtype, options) == wanted
    assert library.called >= {"fo_step", "fo_sum_products"}


@pytest.mark.parametrize("mode", MODES)
def test_mode_changes_no_bit_of_repeated_rows(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import table

    rng = np.random.default_rng(9)
    values, order, firsts = tiny_and_large(rng, (500, 7), np.float32), np.arange(500), np.arange(0, 500, 20)
    values[:, 0] = np.finfo(np.float32).smallest_subnormal
    wanted = table.add_rows(values, order, firsts)
    library = LibraryInMode(native.lib, MODES[mode])
    monkeypatch.setattr(table, "lib", library)
    np.testing.assert_array_equal(table.add_rows(values, order, firsts), wanted)
    assert library.called == {"fo_add_rows"}


@pytest.mark.parametrize("mode", MODES)
def test_mode_changes_no_bit_of_packing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import packing

    values = tiny_and_large(np.random.default_rng(9), 500, np.float32)
    values[:9] = 2.0**-24 * np.arange(1, 10) / 8
    starts = np.array([0, 500], np.int64)

    def computed() -> list[bytes]:
        half, sums = np.empty(500, np.float16), np.zeros(500, np.float32)
        packed = packing.NativePacking(starts).of([values])
        packed.pack(0, half)
        packed.accumulate(0, Rows([half, None], half.dtype, 1 / 3, FROM_SUMS), sums)
        return [half.tobytes(), sums.tobytes()]

    wanted = computed()
    library = LibraryInMode(native.lib, MODES[mode])
    monkeypatch.setattr(packing, "lib", library)
    assert computed() == wanted
    assert library.called == set(OF_PACKING)


@pytest.mark.parametrize("mode", MODES)
def test_mode_changes_no_bit_of_a_history(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import history

    options: dict[str, Any] = {"bounds": history_runs.some_bounds, "specials": (1e-41, 5e-324), "iterations": 4}
    for dtypes in (["float32"], ["float64"]):
        wanted = history_runs.run([1, 33, 4100], dtypes, "native", **options)
        library = LibraryInMode(native.lib, MODES[mode])
        with monkeypatch.context() as patch:
            patch.setattr(history, "lib", library)
            assert history_runs.run([1, 33, 4100], dtypes, "native", **options) == wanted
        assert library.called == set(OF_HISTORY)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_mode_changes_no_bit_of_bfgs(mode: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import bfgs

    fastopt.set_num_threads(threads)
    vectors = tiny_and_large(np.random.default_rng(10), (4, 250), np.float64)

    def computed() -> list[bytes]:
        matrix = bfgs.NativeInverseHessian(250)
        matrix.reset(1e-300)
        products = [matrix.update_and_multiply(*vectors) for _ in range(3)]
        return [np.array(products).tobytes(), matrix.dense().tobytes(), bfgs.dot(*vectors[:2]).hex().encode()]

    wanted = computed()
    library = LibraryInMode(native.lib, MODES[mode])
    monkeypatch.setattr(bfgs, "lib", library)
    assert computed() == wanted
    assert library.called == {"fo_dot", "fo_bfgs_pass"}


@pytest.mark.parametrize("mode", MODES)
@every_dtype
def test_mode_changes_no_bit_of_sparse_codes(dtype: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import coordinates

    rng = np.random.default_rng(12)
    X, dictionary = (rng.normal(size=shape).astype(dtype) for shape in ((40, 12), (20, 12)))
    X[::2] *= np.finfo(dtype).smallest_normal
    X[0, 0] = np.finfo(dtype).smallest_subnormal

    def run() -> bytes:
        small = fastopt.sparse_code(X[::2], dictionary, float(np.finfo(dtype).smallest_normal) / 8)
        return bytes(small.tobytes() + fastopt.sparse_code(X[1::2], dictionary, 0.2).tobytes())

    wanted = run()
    library = LibraryInMode(native.lib, MODES[mode])
    monkeypatch.setattr(coordinates, "lib", library)
    assert run() == wanted
    assert library.called == set(OF_CODES)
