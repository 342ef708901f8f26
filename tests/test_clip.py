"""Clipping: torch's numbers, true norms, and the fused options with the bits of the separate calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import ISAS, every_dtype, everything, needs_native

import fastopt
from fastopt import clip
from fastopt.backends import threads
from fastopt.backends.native import library as native
from fastopt.backends.norms import PLAIN
from fastopt.backends.numpy import table as fallback

NORM_TYPES = (0.5, 1, 2, 3, math.inf)


def half_dtypes() -> list[Any]:
    try:
        import ml_dtypes
    except ImportError:
        return [np.float16]
    return [np.float16, ml_dtypes.bfloat16]


FLOATS = [*half_dtypes(), np.float32, np.float64, np.longdouble, np.dtype(np.float32).newbyteorder()]
every_float = pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).str + np.dtype(dtype).name)


def test_norms_by_hand() -> None:
    grads = {"W": np.array([[3.0, -4.0]]), "b": [None, np.array(12.0), np.zeros(0)], "rest": None}
    assert fastopt.clip.global_norm(grads) == 13
    assert fastopt.clip.global_norm(grads, 1) == 19
    assert fastopt.clip.global_norm(grads, math.inf) == 12
    assert fastopt.clip.global_norm(grads, 0.5) == pytest.approx((3**0.5 + 2 + 12**0.5) ** 2)
    assert fastopt.clip.global_norm(np.array(-2.0)) == 2


@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_norm_of_nothing(norm_type: float) -> None:
    for nothing in ([], {}, None, [None], np.zeros(0), {"a": np.zeros((0, 3)), "b": []}):
        assert clip.global_norm(nothing, norm_type) == 0
        assert fastopt.clip_grad_norm_(nothing, 1.0, norm_type) == 0


@every_float
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_dtypes_and_strides(dtype: Any, norm_type: float) -> None:
    """Eighths and sixteenths, exact in every dtype: only the clipped values are rounded, once each."""
    rng = np.random.default_rng(0)
    exact = [rng.integers(-8, 9, (6, 8)) / 8.0, rng.integers(-8, 9, 33) / 16.0]
    buffers = [np.full((6, 16), 7, dtype), np.full(66, 7, dtype)]
    grads = [buffers[0][::-1, ::2], buffers[1][1::2]]
    for grad, values in zip(grads, exact, strict=True):
        grad[...] = values.astype(dtype)
    flat = np.concatenate([values.ravel() for values in exact])
    expected = np.linalg.norm(flat, norm_type)
    norm = fastopt.clip_grad_norm_(grads, 2.5, norm_type)
    assert norm == pytest.approx(expected, rel=1e-14)
    assert isinstance(norm, float)
    wide = np.float32 if np.dtype(dtype).itemsize == 2 else dtype
    factor = np.minimum(1, 2.5 / (norm + 1e-6)).astype(wide)
    for grad, values in zip(grads, exact, strict=True):
        np.testing.assert_array_equal(grad.astype(float), (values.astype(wide) * factor).astype(dtype).astype(float))
    for buffer, untouched in zip(buffers, (np.s_[:, 1::2], np.s_[::2]), strict=True):
        assert (buffer[untouched] == 7).all()


@pytest.mark.parametrize("dtype", half_dtypes(), ids=lambda dtype: np.dtype(dtype).name)
def test_half_precision_is_scaled_as_in_the_fused_pass(dtype: Any) -> None:
    """The factor, 1.7e-8, is 0 in float16."""
    grad, param = np.full(10**6, 60_000, dtype), np.zeros(10**6, np.float32)
    grad[: 10**5] = np.random.default_rng(0).normal(size=10**5) * 1e4
    fastopt.SGD(param, lr=1.0, clip_global_norm=1.0).step(grad)
    fastopt.clip_grad_norm_(grad, 1.0)
    assert float(grad[-1]) == pytest.approx(1.05e-3, rel=1e-2)
    assert grad.tobytes() == (-param).astype(dtype).tobytes()


def test_a_norm_below_the_limit_changes_nothing() -> None:
    grads = [np.array([3.0, 4.0]), np.array([-0.0, 5e-324])]
    before = [grad.tobytes() for grad in grads]
    assert fastopt.clip_grad_norm_(grads, 5.1) == 5
    assert fastopt.clip_grad_norm_(grads, math.inf) == 5
    assert [grad.tobytes() for grad in grads] == before


def test_true_norm_where_float32_overflows() -> None:
    grads = {"W": np.float32([3e19]), "b": np.float32([4e19])}
    assert clip.global_norm(grads) == pytest.approx(5e19, rel=1e-7)
    assert fastopt.clip_grad_norm_(grads, 1.0) == pytest.approx(5e19, rel=1e-7)
    np.testing.assert_allclose([grads["W"][0], grads["b"][0]], [0.6, 0.8], rtol=1e-6)
    param = np.zeros(2, np.float32)
    info = fastopt.SGD(param, lr=1.0, clip_global_norm=1.0).step(np.float32([3e19, 4e19]))
    assert info.grad_norm == pytest.approx(5e19, rel=1e-7)
    np.testing.assert_allclose(param, [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_error_if_nonfinite(bad: float, norm_type: float) -> None:
    grads = [np.array([1.0, bad]), np.array([3.0])]
    before = [grad.tobytes() for grad in grads]
    with pytest.raises(ValueError, match=rf"norm is {bad}.*error_if_nonfinite=True.*nothing was scaled"):
        fastopt.clip_grad_norm_(grads, 1.0, norm_type, error_if_nonfinite=True)
    assert [grad.tobytes() for grad in grads] == before
    fastopt.clip_grad_norm_(grads, 1.0, norm_type)
    if math.isnan(bad):
        assert np.isnan(np.concatenate(grads)).all()
    else:
        assert grads[0][0] == 0
        assert np.isnan(grads[0][1])
        assert grads[1] == 0


def test_values() -> None:
    values = np.array([-3.0, 0.25, math.nan, math.inf, -math.inf, -0.0])
    for dtype in FLOATS:
        grads = {"a": [values.astype(dtype), None], "b": np.repeat(values.astype(dtype), 2)[::2]}
        assert fastopt.clip_grad_value_(grads, 0.5) is None
        for grad in (grads["a"][0], grads["b"]):
            np.testing.assert_array_equal(grad.astype(float), [-0.5, 0.25, math.nan, 0.5, -0.5, 0])
    grad = np.array([-3.0, 3.0])
    fastopt.clip_grad_value_(grad, math.inf)
    assert grad.tolist() == [-3, 3]
    fastopt.clip_grad_value_(grad, 0)
    assert grad.tolist() == [0, 0]


def test_a_limit_too_large_for_the_dtype_clips_nothing() -> None:
    grads = [np.array([3.0]), np.array([3.0], np.float16)]
    fastopt.clip_grad_value_(grads, 1e30)
    assert [grad[0] for grad in grads] == [3, 3]


@pytest.mark.parametrize(
    "call", [lambda g: fastopt.clip_grad_norm_(g, 1.0), lambda g: fastopt.clip_grad_value_(g, 1.0)]
)
def test_bad_arrays(call: Any) -> None:
    frozen = np.ones(2)
    frozen.flags.writeable = False
    rows: list[Any] = [
        ({"W": frozen}, ValueError, "'W' is read-only.*give a copy"),
        ({"a": {"W": np.ones(2, int)}}, TypeError, "'a.W' is an array of int64; expected .* float dtype"),
        ([np.ones(2, complex)], TypeError, "'0' is an array of complex128"),
        ([np.ones(2, object)], TypeError, "'0' is an array of object"),
        ([np.ma.ones(2)], TypeError, "'0' is a masked array"),
        ([[1.0]], TypeError, r"'0\.0' is of type float"),
        (3.0, TypeError, "of type float"),
        ("grads", TypeError, "of type str"),
    ]
    for bad, error, message in rows:
        good = np.full(2, 9.0)
        with pytest.raises(error, match=message.replace("'0", "'1" if isinstance(bad, list) else "'0")):
            call([good, *bad] if isinstance(bad, list) else {"good": good, **bad} if isinstance(bad, dict) else bad)
        assert good.tolist() == [9, 9]
    if call([np.zeros(2)]) is not None:
        assert clip.global_norm([frozen]) == math.sqrt(2)


@pytest.mark.parametrize("bad", [-1, math.nan, -math.inf, "1", None, True, 1j, [1.0], np.array([1.0, 2.0])])
def test_bad_limits(bad: Any) -> None:
    grad = np.full(2, 9.0)
    error = ValueError if isinstance(bad, (int, float)) and bad is not True else TypeError
    for name, call in {
        "max_norm": lambda: fastopt.clip_grad_norm_(grad, bad),
        "clip_value": lambda: fastopt.clip_grad_value_(grad, bad),
        "norm_type": lambda: fastopt.clip_grad_norm_(grad, 1.0, bad),
    }.items():
        with pytest.raises(error, match=f"^{name}=.*: expected a number"):
            call()
    with pytest.raises(error, match=r"^norm_type=.*: expected a number"):
        clip.global_norm(grad, bad)
    assert grad.tolist() == [9, 9]


def test_norm_type_0() -> None:
    with pytest.raises(ValueError, match="norm_type=0: expected a number above 0"):
        clip.global_norm(np.ones(2), 0)


# The fused options.


def separate(grads: list[Any], clip_value: Any, clip_norm: Any, clip_global_norm: Any) -> float | None:
    """Clip as the fused options do, by the functions: by value, then each array's norm, then the norm of all."""
    if clip_value is not None:
        fastopt.clip_grad_value_(grads, clip_value)
    if clip_norm is not None:
        for grad in grads:
            fastopt.clip_grad_norm_(grad, clip_norm)
    return None if clip_global_norm is None else fastopt.clip_grad_norm_(grads, clip_global_norm)


@every_dtype
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("clip_value", [None, 0.5, 0.0])
@pytest.mark.parametrize("clip_norm", [None, 1.5, 0.0])
@pytest.mark.parametrize("clip_global_norm", [None, 2.0])
def test_fused_is_separate(dtype: Any, backend: str, clip_value: Any, clip_norm: Any, clip_global_norm: Any) -> None:
    limits = {"clip_value": clip_value, "clip_norm": clip_norm, "clip_global_norm": clip_global_norm}
    rng = np.random.default_rng(1)
    params = [rng.normal(size=size).astype(dtype) for size in (3, 0, 1000, 9000, 1)]
    others = [param.copy() for param in params]
    opt = fastopt.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, backend=backend, **limits)
    reference = fastopt.SGD(others, lr=0.1, momentum=0.9, weight_decay=0.1, backend=backend)
    for scale in (1.0, 1e-4, 30.0):
        grads = [(scale * rng.normal(size=param.size)).astype(dtype) for param in params]
        given = [grad.copy() for grad in grads]
        norm = opt.step(given).grad_norm
        assert [grad.tobytes() for grad in given] == [grad.tobytes() for grad in grads]
        assert norm == separate(grads, **limits)
        reference.step(grads)
    assert everything(params, opt) == everything(others, reference)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("option", ["clip_value", "clip_norm", "clip_global_norm"])
def test_fused_is_separate_for_what_is_not_finite(backend: str, bad: float, option: str) -> None:
    limits = {"clip_value": None, "clip_norm": None, "clip_global_norm": None, option: 1.0}
    params, others = [np.ones(3), np.ones(2)], [np.ones(3), np.ones(2)]
    grads = [np.array([1.0, bad, -3.0]), np.array([2.0, -2.0])]
    info = fastopt.SGD(params, lr=0.5, backend=backend, **limits).step([grad.copy() for grad in grads])
    norm = separate(grads, **limits)
    assert repr(info.grad_norm) == repr(norm)
    reference = fastopt.SGD(others, lr=0.5, backend=backend)
    reference.step(grads)
    assert everything(params, reference) == everything(others, reference)


def test_order_is_value_then_array_norm_then_global_norm() -> None:
    params = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD(params, lr=1.0, clip_value=4.0, clip_norm=2.5, clip_global_norm=1.0)
    # By value: (3, 4) and (0, 2). Each norm, 5 and 2: halves the first. Then the norm of all: sqrt(2.5**2 + 2**2).
    info = opt.step([np.array([3.0, 40.0]), np.array([0.0, 2.0])])
    norm = math.hypot(2.5, 2.0)
    assert info.grad_norm == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(params, [[-1.5 / norm, -2.0 / norm], [0, -2.0 / norm]], rtol=1e-6)


def test_the_norm_is_of_the_arrays_that_have_a_gradient() -> None:
    opt = fastopt.SGD([np.zeros(2), np.zeros(2)], clip_norm=1.0, clip_global_norm=1.0)
    first, second = np.array([0.3, 0.4]), np.array([0.0, 0.12])
    assert opt.step([first, second]).grad_norm == pytest.approx(math.hypot(0.5, 0.12))
    assert opt.step([first, None]).grad_norm == pytest.approx(0.5)
    assert opt.step([None, second]).grad_norm == pytest.approx(0.12)
    assert opt.step([None, None]).grad_norm == 0


@needs_native
@every_dtype
def test_norm_bits(dtype: Any) -> None:
    """The sums of squares have the same bits for every instruction set and thread count, and in NumPy."""
    rng = np.random.default_rng(2)
    lengths = (0, 1, 15, 16, 17, 1023, 1024, 1025, 4095, 4096, 4097, 16384, 50_001)
    arrays = [(rng.normal(size=n) * 10.0 ** rng.integers(-10, 10, n)).astype(dtype) for n in lengths]

    def sums(table_class: Any) -> bytes:
        table = table_class(arrays, [()] * len(arrays))
        table.set_grads(arrays)
        return bytes(table.sum_products([PLAIN], "clipped_grad", "clipped_grad").tobytes())

    from fastopt.backends.native.table import NativeTable

    expected = sums(fallback.NumpyTable)
    before, isa = threads.setting, native.isa()
    try:
        for name in ISAS:
            native.use_isa(name)
            for count in (1, 2, 3, 7):
                fastopt.set_num_threads(count)
                assert sums(NativeTable) == expected
    finally:
        native.use_isa(isa)
        threads.setting = before
    exact = [math.fsum(float(x) ** 2 for x in array) for array in arrays]
    np.testing.assert_allclose(np.frombuffer(expected), exact, rtol=1e-13)


# Against torch, where it is installed.


@every_dtype
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("special", [None, math.nan, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e6, math.inf])
def test_torch_norm(dtype: Any, norm_type: float, special: Any, max_norm: float) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    rng = np.random.default_rng(3)
    grads = [rng.normal(size=shape).astype(dtype) for shape in ((3, 5), (7,), ())]
    if special is not None:
        grads[1][2] = special
    tensors = [torch.zeros(grad.shape, dtype=getattr(torch, dtype.__name__), requires_grad=True) for grad in grads]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm, norm_type)
    # torch adds float32 norms in float32.
    tolerance = 1e-5 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(fastopt.clip_grad_norm_(grads, max_norm, norm_type), float(expected), rtol=tolerance)
    for tensor, grad in zip(tensors, grads, strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=tolerance)


@every_dtype
def test_torch_value(dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    grad = np.array([-3.0, -0.5, 0.1, 2.0, math.nan, math.inf, -math.inf], dtype)
    tensor = torch.zeros(grad.shape, dtype=getattr(torch, dtype.__name__), requires_grad=True)
    tensor.grad = torch.from_numpy(grad.copy())
    torch.nn.utils.clip_grad_value_([tensor], 0.5)
    fastopt.clip_grad_value_(grad, 0.5)
    np.testing.assert_array_equal(grad, tensor.grad.numpy())


@needs_native
def test_a_limit_of_zero_keeps_the_sign_of_zero_on_every_backend() -> None:
    results = []
    for backend in ("native", "numpy"):
        param = np.full(4, -0.0)
        fastopt.SGD(param, lr=1.0, clip_value=0.0, backend=backend).step(np.array([1.0, -1.0, 0.0, -0.0]))
        results.append(param.tobytes())
    assert results[0] == results[1]
