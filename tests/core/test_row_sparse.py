"""Row-sparse gradients: torch's numbers, the rows named and no other, the same bits, errors that touch nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import ISAS, everything, needs_native
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.arrays.row_sparse import each_once
from fastopt.backends import threads
from fastopt.backends.choosing import host_backend
from fastopt.backends.native import library as native

ROWS, COLUMNS = 40, 6

CASES = [
    (fastopt.SGD, {"lr": 0.1}),
    (fastopt.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (fastopt.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "clip_norm": 0.5}),
    (fastopt.Adagrad, {"lr": 0.1, "weight_decay": 0.1, "decoupled": True}),
    (fastopt.Adam, {"lr": 0.01, "eps_hat": True, "amsgrad": True, "clip_value": 0.5, "maximize": True}),
    (fastopt.Adam, {"lr": 0.01, "eps_hat": True, "amsgrad": "corrected"}),
    (fastopt.SparseAdam, {"lr": 0.01, "clip_global_norm": 1.0}),
    (fastopt.FTRL, {"lr": 0.1, "initial_accumulator_value": 0.0, "l1_regularization_strength": 0.3}),
]
every_case = pytest.mark.parametrize(("optimizer", "options"), CASES)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = threads.setting
    yield
    threads.setting = before
    if native.missing is None:
        native.use_isa(os.environ.get("FASTOPT_ISA"))


def random_rows(rng: np.random.Generator, count: int = 15, dtype: Any = np.float64) -> fastopt.RowSparse:
    """Return a gradient with rows in any order, some of them more than once."""
    return fastopt.RowSparse(rng.integers(0, ROWS, count), rng.normal(size=(count, COLUMNS)).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("optimizer", "options", "torch_name"),
    [
        (fastopt.SGD, {"lr": 0.1}, "SGD"),
        (fastopt.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-3}, "Adagrad"),
        (fastopt.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3}, "SparseAdam"),
        (fastopt.SparseAdam, {"lr": 0.01, "maximize": True}, "SparseAdam"),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-8])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_numbers_of_torch(optimizer: Any, options: Any, torch_name: str, dtype: Any, scale: float) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    rng = np.random.default_rng(1)
    table = rng.normal(size=(ROWS, COLUMNS)).astype(dtype)
    tensor = torch.tensor(table, requires_grad=True)
    opt, reference = optimizer(table, **options), getattr(torch.optim, torch_name)([tensor], **options)
    for step in range(50):
        grad = random_rows(rng, 15 if step else 0, dtype)
        grad.values[...] *= scale
        tensor.grad = None
        if step % 7 != 3:
            places, values = torch.tensor(grad.indices)[None], torch.tensor(grad.values)
            tensor.grad = torch.sparse_coo_tensor(places, values, tensor.shape, check_invariants=True)
        opt.step(None if step % 7 == 3 else grad)
        reference.step()
        wanted = tensor.detach().numpy()
        close = 1e-12 if dtype == np.float64 else 16 * 2.0**-23
        np.testing.assert_allclose(table, wanted, rtol=close, atol=close * options["lr"])
        if dtype == np.float32:
            table[...] = wanted


@every_case
def test_rows_named_and_no_other(optimizer: Any, options: Any) -> None:
    """The rows are updated with the bits that a dense step of an array of these rows alone gives; the rest stays."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(ROWS, COLUMNS))
    before, indices = table.copy(), np.array([7, 3, 30])
    small = table[indices]
    opt, dense = optimizer(table, **options), optimizer(small, **options)
    for _ in range(3):
        values = rng.normal(size=(3, COLUMNS))
        assert opt.step(fastopt.RowSparse(indices, values)) == dense.step(values)
    np.testing.assert_array_equal(table[indices], small)
    for slot, array in dense.state["0"].items():
        kept = opt.state["0"][slot]
        np.testing.assert_array_equal(kept if slot == "step" else kept[indices], array)
    others = np.setdiff1d(np.arange(ROWS), indices)
    np.testing.assert_array_equal(table[others], before[others])
    for slot, array in opt.state["0"].items():
        assert slot == "step" or (array[others] == 0).all()


def sums_of_rows(indices: Any, values: Any) -> dict[int, Any]:
    """Return the values of each row, added one after the other."""
    sums: dict[int, Any] = {}
    for index, value in zip(indices.tolist(), values, strict=True):
        sums[index] = sums[index] + value if index in sums else value
    return sums


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@given(
    count=st.integers(1, 3000),
    rows=st.integers(1, 50),
    skew=st.sampled_from([1, 2, 8, 40]),
    shape=st.lists(st.integers(0, 40), max_size=2).map(tuple),
    dtype=st.sampled_from([np.float32, np.float64]),
    index_dtype=st.sampled_from([np.int64, np.int32, np.uint8]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_repeated_rows_are_added_in_the_order_in_which_they_stand(
    backend: str, count: int, rows: int, skew: int, shape: tuple[int, ...], dtype: Any, index_dtype: Any, seed: int
) -> None:
    """The bits are those of adding one after the other: many rows that repeat a little, and few that repeat a lot."""
    rng = np.random.default_rng(seed)
    indices = (rows * rng.random(count) ** skew).astype(index_dtype)
    values = rng.normal(size=(count, *shape)) * 10.0 ** rng.integers(-6, 6, (count, *[1] * len(shape)))
    values[rng.random(count) < 0.1] = -0.0
    values = values.astype(dtype)
    found = each_once(indices, values, host_backend(backend).add_rows)
    wanted = sums_of_rows(indices, values)
    assert sorted(found.indices.tolist()) == sorted(wanted)
    assert found.values.tobytes() == np.array([wanted[i] for i in found.indices.tolist()], dtype).tobytes()


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_step_adds_repeated_rows(backend: str) -> None:
    """Also those of unaligned values, of another byte order, or of another order in memory."""
    rng = np.random.default_rng(3)
    indices = rng.integers(0, 9, 500)
    values = rng.normal(size=(500, 2)).astype(np.float32)
    unaligned = np.empty(values.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(values.shape)
    unaligned[...] = values
    for given_values in (values, unaligned, values.astype(">f4"), np.asfortranarray(values)):
        table = np.zeros((9, 2), np.float32)
        fastopt.SGD(table, lr=1.0, backend=backend).step(fastopt.RowSparse(indices, given_values))
        wanted = sums_of_rows(indices, values)
        np.testing.assert_array_equal(table, [-wanted[i] for i in range(9)])


def run(optimizer: Any, options: Any, dtype: Any, backend: str) -> list[bytes]:
    """Return the bytes after steps of row-sparse, dense and missing gradients together."""
    rng = np.random.default_rng(4)
    params = {
        "table": rng.normal(size=(ROWS, COLUMNS)),
        "W": rng.normal(size=(5, 3)),
        "many": rng.normal(size=(3000, 9)),
    }
    params = {name: param.astype(dtype) for name, param in params.items()}
    opt = optimizer(params, **options, backend=backend)
    norms = []
    for step in range(4):
        many = fastopt.RowSparse(rng.integers(0, 3000, 2500, dtype=np.int32), rng.normal(size=(2500, 9)))
        grads: dict[str, Any] = {"table": random_rows(rng), "W": rng.normal(size=(5, 3)), "many": many}
        if step == 1:
            grads["many"] = rng.normal(size=(3000, 9))
        if step == 2:
            grads |= {"W": None, "table": fastopt.RowSparse(np.zeros(0, np.uint8), np.zeros((0, COLUMNS), np.float16))}
        norms.append(opt.step(grads).grad_norm)
    return [*everything(params.values(), opt), repr(norms).encode()]


@needs_native
@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_everywhere(optimizer: Any, options: Any, dtype: Any) -> None:
    wanted = run(optimizer, options, dtype, "numpy")
    for isa in ISAS:
        native.use_isa(isa)
        for count in (1, 3):
            fastopt.set_num_threads(count)
            assert run(optimizer, options, dtype, "native") == wanted


def test_norms_count_the_rows() -> None:
    """The norm is that of the dense gradient that the rows stand for, and clipping by it has its effect."""
    rng = np.random.default_rng(5)
    grad, bias = random_rows(rng), rng.normal(size=4)
    dense = np.zeros((ROWS, COLUMNS))
    np.add.at(dense, grad.indices, grad.values)
    for options in ({"clip_global_norm": 0.5}, {"clip_norm": 0.5}, {"clip_value": 0.5, "clip_global_norm": 0.5}):
        tables = [np.ones((ROWS, COLUMNS)), np.ones((ROWS, COLUMNS))]
        infos = [
            fastopt.SGD([table, np.ones(4)], lr=1.0, **options).step([given, bias])
            for table, given in zip(tables, (grad, dense), strict=True)
        ]
        if "clip_global_norm" in options:
            assert infos[0].grad_norm == pytest.approx(infos[1].grad_norm, rel=1e-12)
        np.testing.assert_allclose(*tables, rtol=1e-12)


GOOD = np.zeros((2, COLUMNS))


@pytest.mark.parametrize(
    ("grad", "error", "told"),
    [
        (
            fastopt.RowSparse(np.array([0, ROWS]), GOOD),
            ValueError,
            f"index {ROWS}; expected .* to below {ROWS}",
        ),
        (fastopt.RowSparse(np.array([0, -1]), GOOD), ValueError, "index -1; expected .*; leave out what is padding"),
        (fastopt.RowSparse(np.array([0.0, 1.0]), GOOD), TypeError, "expected an array of integers"),
        (fastopt.RowSparse(np.array([True, False]), GOOD), TypeError, r"of a mask, give np\.flatnonzero\(mask\)"),
        (fastopt.RowSparse([0.5, 1.5], GOOD), TypeError, "an array of float64; expected an array of integers"),
        (fastopt.RowSparse("01", GOOD), TypeError, "of type str; expected an array"),
        (fastopt.RowSparse([[0], [1, 2]], GOOD), ValueError, "lists of different lengths"),
        (fastopt.RowSparse([0, 1], None), TypeError, "of type NoneType; expected an array"),
        (fastopt.RowSparse([], GOOD), ValueError, "of the shape of the indices"),
        (fastopt.RowSparse(np.array([0, 1]), GOOD.astype(int)), TypeError, "expected an array of floats"),
        (fastopt.RowSparse(np.array([0, 1, 2]), GOOD), ValueError, r"such as grad\[indices\] of a dense gradient"),
        (fastopt.RowSparse(np.array([[0, 1]]), GOOD), ValueError, "expected values of the shape of the indices"),
        (fastopt.RowSparse(np.array(1), GOOD), ValueError, "the shape of a row"),
        (fastopt.RowSparse(np.array([0, 1]), GOOD[:, 1:]), ValueError, "the shape of a row"),
    ],
)
def test_errors_touch_nothing(grad: Any, error: Any, told: str) -> None:
    params = {"b": np.ones(3), "table": np.ones((ROWS, COLUMNS))}
    opt = fastopt.Adam(params)
    opt.step({"b": np.ones(3), "table": np.ones((ROWS, COLUMNS))})
    before = everything(params.values(), opt)
    with pytest.raises(error, match=told):
        opt.step({"b": np.ones(3), "table": grad})
    assert everything(params.values(), opt) == before
    assert opt.step_count == 1
    opt.step({"b": np.ones(3), "table": np.ones((ROWS, COLUMNS))})
    assert opt.step_count == 2


def test_refused_where_it_can_not_be() -> None:
    grad = fastopt.RowSparse(np.array([0]), np.ones((1, 3)))
    with pytest.raises(TypeError, match="row-sparse, which RMSprop does not take"):
        fastopt.RMSprop(np.ones((2, 3))).step(grad)
    with pytest.raises(ValueError, match="in C order"):
        fastopt.SGD(np.asfortranarray(np.ones((2, 3)))).step(grad)
    with pytest.raises(ValueError, match="at least one axis"):
        fastopt.SGD(np.ones(())).step(fastopt.RowSparse(np.array([0]), np.ones(1)))
    with pytest.raises(TypeError, match="RowSparse; expected a NumPy array"):
        fastopt.clip_grad_norm_([grad], 1.0)
    params = [np.ones((2, 3)), np.ones((4, 3))]
    with pytest.raises(ValueError, match="'1' overlaps the memory of the parameter '0'"):
        fastopt.SGD(params).step([np.ones((2, 3)), fastopt.RowSparse(np.array([0]), params[0][:1])])


@pytest.mark.parametrize("shape", [(9,), (9, 2, 3)])
def test_rows_of_any_shape(shape: tuple[int, ...]) -> None:
    table = np.zeros(shape)
    fastopt.SGD(table, lr=1.0).step(
        fastopt.RowSparse(np.array([4, 4], np.uint16), np.ones((2, *shape[1:]), np.float16))
    )
    assert (table[4] == -2).all()
    assert (np.delete(table, 4, axis=0) == 0).all()
