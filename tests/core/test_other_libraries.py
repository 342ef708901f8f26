"""Gradients of JAX, torch, autograd and others are read where they are, with the bits of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import needs_native

import fastopt
from fastopt.arrays.others import as_numpy

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


class ByArray:
    def __init__(self, array: Any) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class ByDLPack:
    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def of_torch(array: Any) -> Any:
    return pytest.importorskip("torch").from_numpy(array.copy())


def of_torch_with_grad(array: Any) -> Any:
    return of_torch(array).requires_grad_()


def of_torch_strided(array: Any) -> Any:
    return of_torch(np.repeat(array, 2, 0))[::2]


def of_jax(array: Any) -> Any:
    return pytest.importorskip("jax").numpy.asarray(array)


def of_pandas(array: Any) -> Any:
    pandas = pytest.importorskip("pandas")
    return (pandas.Series if array.ndim == 1 else pandas.DataFrame)(array)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "torch": of_torch,
    "torch_with_grad": of_torch_with_grad,
    "torch_strided": of_torch_strided,
    "jax": of_jax,
    "pandas": of_pandas,
    "array": ByArray,
    "dlpack": ByDLPack,
}


def model() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {"a": {"W": rng.normal(size=(4, 3)).astype("f4"), "b": np.zeros(3, np.float32)}, "c": np.ones(2, np.float32)}


def grads_of(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {
        "a": {"W": rng.normal(size=(4, 3)).astype("f4"), "b": np.ones(3, "f4")},
        "c": rng.normal(size=2).astype("f4"),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    "options", [{}, {"clip_global_norm": 0.5, "weight_decay": 0.1}, {"accumulate_steps": 2}], ids=str
)
def test_the_same_bits_as_numpy_arrays(maker: str, backend: str, options: dict[str, Any]) -> None:
    """Also where only some are of another library, at some steps: the rest is planned."""
    ours, theirs = model(), model()
    opt, other = (fastopt.AdamW(params, lr=0.1, backend=backend, **options) for params in (ours, theirs))
    for step in range(12):
        grads = grads_of(step)
        given: Any = {"a": {name: MAKERS[maker](grad) for name, grad in grads["a"].items()}, "c": grads["c"]}
        if step in (3, 4, 9):
            given = grads_of(step)
        if step == 7:
            given["a"]["b"] = grads["a"]["b"] = None
        assert other.step(given) == opt.step(grads)
        assert all(ours["a"][name].tobytes() == theirs["a"][name].tobytes() for name in ("W", "b")), step
        assert ours["c"].tobytes() == theirs["c"].tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_one_array(maker: str, backend: str) -> None:
    theta = np.zeros(3, np.float32)
    opt = fastopt.SGD(theta, lr=1.0, backend=backend)
    for _ in range(5):
        opt.step(MAKERS[maker](np.array([1.0, -2.0, 0.5], np.float32)))
    assert theta.tolist() == [-5.0, 10.0, -2.5]


def test_nothing_is_copied() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    tensor = torch.ones(1000, requires_grad=True)
    assert as_numpy("", tensor).ctypes.data == tensor.data_ptr()
    assert as_numpy("", tensor.detach()[::2]).ctypes.data == tensor.data_ptr()
    array = jax.numpy.ones(1000)
    assert as_numpy("", array).ctypes.data == array.unsafe_buffer_pointer()
    ours = np.ones(1000)
    for other in (ByArray(ours), ByDLPack(ours)):
        assert np.shares_memory(as_numpy("", other), ours)
    for same in (ours, None, 1.0, np.float32(1.0), [1.0], "text", fastopt.RowSparse([0], np.ones((1, 2)))):
        assert as_numpy("", same) is same


def test_other_values_in_the_same_tensor() -> None:
    """torch may give the same object other memory from step to step."""
    torch = pytest.importorskip("torch")
    theta, tensor = np.zeros(2, np.float32), torch.ones(2)
    opt = fastopt.SGD({"W": theta}, lr=1.0)
    for factor in range(1, 5):
        tensor.data = torch.full((2,), float(factor))
        opt.step({"W": tensor})
    assert theta.tolist() == [-10.0, -10.0]


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_other_dtypes(library: str, dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    if library == "torch":
        torch = pytest.importorskip("torch")
        grad = torch.tensor([1.0, 2.0], dtype=getattr(torch, dtype))
    else:
        jax = pytest.importorskip("jax")
        grad = jax.numpy.asarray([1.0, 2.0], dtype="float32" if dtype == "float64" else dtype)
    theta = np.zeros(2, np.float32)
    fastopt.SGD(theta, lr=1.0).step(grad)
    assert theta.tolist() == [-1.0, -2.0]


def test_zero_grads() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    opt = fastopt.SGD({"W": np.zeros(2, np.float32)}, lr=1.0, zero_grads=True)
    tensor = torch.ones(2)
    opt.step({"W": tensor})
    assert (tensor == 0).all()
    with pytest.raises(ValueError, match="'W' is read-only, which zero_grads=True can't clear"):
        opt.step({"W": jax.numpy.ones(2)})
    assert opt.step_count == 1


def test_autograd() -> None:
    autograd = pytest.importorskip("autograd")
    theta = np.array([1.0, 2.0])
    opt = fastopt.SGD({"W": theta}, lr=0.5)

    def loss(w: Any) -> Any:
        opt.step({"W": w})  # a box, while autograd traces
        return autograd.numpy.sum(w**2)

    grad = autograd.grad(loss)(np.array([2.0, 4.0]))
    assert theta.tolist() == [0.0, 0.0]
    opt.step({"W": grad})
    assert theta.tolist() == [-2.0, -4.0]


def test_what_cannot_be_read() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    theta = np.ones((2, 2), np.float32)
    opt = fastopt.SGD({"W": theta}, lr=0.5)

    def traced(w: Any) -> Any:
        opt.step({"W": w})
        return w.sum()

    sparse = torch.eye(2).to_sparse()
    for do, says in (
        (
            lambda: opt.step({"W": sparse}),
            r"'W' is of type torch\.Tensor, and can't be read .*give tensor\.to_dense\(\)",
        ),
        (lambda: opt.step({"W": torch.ones(2, 2, device="meta")}), "'W' is of type torch"),
        (lambda: jax.jit(traced)(jax.numpy.ones((2, 2))), "outside of the functions that JAX traces"),
        (lambda: opt.step({"W": jax.numpy.ones((2, 2), int)}), "'W' has dtype int32"),
    ):
        with pytest.raises(TypeError, match=says):
            do()
    assert opt.step_count == 0
    opt.step({"W": sparse.to_dense()})
    assert theta.tolist() == [[0.5, 1.0], [1.0, 0.5]]

    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("no\nnever")

    with pytest.raises(TypeError, match=r"Broken, and can't be read as a NumPy array: RuntimeError: no \(give a"):
        opt.step({"W": Broken()})


def test_row_sparse_gradients_and_norms() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x = np.array([[4, 5, 4], [5, 6, 6]])
    values = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    tables = [np.ones((9, 2), np.float32) for _ in range(5)]
    for table, indices, given in zip(
        tables,
        (x.reshape(-1), x, x.tolist(), torch.from_numpy(x), jax.numpy.asarray(x)),
        (values.reshape(-1, 2), values, values.tolist(), torch.from_numpy(values), jax.numpy.asarray(values)),
        strict=True,
    ):
        sparse = fastopt.RowSparse(indices, given)
        info = fastopt.Adam(table, clip_global_norm=0.1).step(sparse)
        assert fastopt.clip.global_norm([sparse, None]) == pytest.approx(info.grad_norm, rel=1e-6)
        dense = np.zeros_like(table)
        np.add.at(dense, x, values)
        assert fastopt.clip.global_norm({"E": sparse, "b": np.ones(1)}) == pytest.approx(
            fastopt.clip.global_norm([dense, np.ones(1)]), rel=1e-6
        )
    assert {table.tobytes() for table in tables} == {tables[0].tobytes()}
    empty = fastopt.RowSparse([], np.zeros((0, 2)))
    assert fastopt.clip.global_norm(empty) == 0.0
    fastopt.Adam(np.ones((9, 2))).step(empty)
    with pytest.raises(TypeError, match="RowSparse; expected a NumPy array"):
        fastopt.clip_grad_value_([fastopt.RowSparse([0], np.ones((1, 2)))], 1.0)


def test_clipping_tensors_in_place() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    tensor = torch.tensor([3.0, 4.0])
    assert fastopt.clip_grad_norm_([tensor, None], 1.0) == 5.0
    assert float(tensor.norm()) == pytest.approx(1.0, rel=1e-5)
    assert fastopt.clip.global_norm({"W": jax.numpy.asarray([3.0, 4.0])}) == 5.0
    with pytest.raises(ValueError, match="is read-only"):
        fastopt.clip_grad_norm_(jax.numpy.ones(2), 1.0)


def test_tensors_with_a_bit_for_what_is_still_to_do() -> None:
    """Neither as gradient nor as parameter, and the advice works."""
    torch = pytest.importorskip("torch")
    numbers = torch.tensor([1 + 2j, 3 - 1j])
    negative = numbers.conj().imag
    theta = np.zeros(2, np.float32)
    opt = fastopt.SGD(theta, lr=1.0)
    with pytest.raises(TypeError, match=r"\(give tensor\.resolve_neg\(\)\)$"):
        opt.step(negative)
    opt.step(negative.resolve_neg())
    assert theta.tolist() == [2.0, -1.0]
    with pytest.raises(
        TypeError, match=r"\(give real numbers, such as torch\.view_as_real\(tensor\.resolve_conj\(\)\)\)$"
    ):
        opt.step(numbers.conj())
    pairs = np.zeros((2, 2), np.float32)
    fastopt.SGD(pairs, lr=1.0).step(torch.view_as_real(numbers.conj().resolve_conj()))
    assert pairs.tolist() == [[-1.0, 2.0], [-3.0, -1.0]]
    with pytest.raises(
        TypeError, match=r"\(make it a tensor of its own first, tensor = tensor\.resolve_neg\(\), and give "
    ):
        fastopt.SGD(negative)
    tensor = negative.resolve_neg()
    fastopt.SGD(tensor.detach().numpy(), lr=1.0).step(np.ones(2, np.float32))
    assert tensor.tolist() == [-3.0, 0.0]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("form", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors(form: str) -> None:
    torch = pytest.importorskip("torch")
    theta = np.zeros((2, 2), np.float32)
    opt = fastopt.SGD(theta, lr=1.0)
    sparse = getattr(torch.eye(2), form)()
    with pytest.raises(TypeError, match=r"\(give tensor\.to_dense\(\)\)$"):
        opt.step(sparse)
    opt.step(sparse.to_dense())
    assert theta.tolist() == [[-1.0, 0.0], [0.0, -1.0]]
