"""The sums of gradients: rank after rank in the compute dtype, their mean, and halves on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks

import fastopt
from fastopt.arithmetic.halves import bfloat16
from fastopt.distributed import RankError, Sharded

SHAPES: list[Any] = [(9000,), (3, 5), (0,), (4097,)]


def params(dtype: Any) -> list[Any]:
    return [np.ones(shape, dtype) for shape in SHAPES]


def gradients(rank: int, dtype: Any) -> list[Any]:
    rng = np.random.default_rng(rank)
    return [(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype) for shape in SHAPES]


def stepped(comm: Any, dtype: Any, grad_dtype: Any, options: dict[str, Any]) -> list[Any]:
    """Return the parameters after a step of SGD with lr=1 from ones."""
    arrays = params(dtype)
    Sharded(fastopt.SGD, arrays, comm, lr=1.0, bucket_bytes=2**14, **options).step(gradients(comm.rank, grad_dtype))
    return arrays


def expected(sums: list[Any], dtype: Any, **options: Any) -> list[Any]:
    arrays = params(dtype)
    fastopt.SGD(arrays, lr=1.0, **options).step(sums)
    return arrays


def check(found: list[list[Any]], wanted: list[Any]) -> None:
    for arrays in found:
        assert [array.tobytes() for array in arrays] == [array.tobytes() for array in wanted]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("f2", "f2")])
def test_sum_in_rank_order(size: int, dtypes: tuple[str, str]) -> None:
    dtype, grad_dtype = dtypes
    compute = "f8" if dtype == "f8" else "f4"
    sums = [array.astype(compute) for array in gradients(0, grad_dtype)]
    for rank in range(1, size):
        sums = [total + array.astype(compute) for total, array in zip(sums, gradients(rank, grad_dtype), strict=True)]
    check(on_ranks(size, stepped, dtype, grad_dtype, {}), expected(sums, dtype))


@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_mean_is_the_sum_by_the_number_of_ranks(scale: float) -> None:
    sums = gradients(0, "f4")
    for rank in range(1, 3):
        sums = [total + array for total, array in zip(sums, gradients(rank, "f4"), strict=True)]
    options = {"reduction": "mean", "grad_scale": scale}
    check(on_ranks(3, stepped, "f4", "f4", options), expected(sums, "f4", grad_scale=3 * scale))


@pytest.mark.parametrize("grad_dtype", ["f4", "f8"])
@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_halves_on_the_wire_are_rounded_once_and_added_in_float32(wire: str, grad_dtype: str) -> None:
    if wire == "bfloat16":
        pytest.importorskip("ml_dtypes")
    half = bfloat16() if wire == "bfloat16" else np.dtype(wire)
    sums = [np.float32(0)] * len(SHAPES)
    for rank in range(3):
        rounded = [array.astype("f4").astype(half).astype("f4") for array in gradients(rank, grad_dtype)]
        sums = [total + array for total, array in zip(sums, rounded, strict=True)]
    check(on_ranks(3, stepped, "f4", grad_dtype, {"wire_dtype": wire}), expected(sums, "f4"))


def text_of_wide(comm: Any) -> str:
    with pytest.raises(ValueError, match="wire_dtype=float16: '1' is float64") as caught:
        Sharded(fastopt.SGD, [np.ones(2, "f4"), np.ones(2)], comm, wire_dtype="float16")
    opt = Sharded(fastopt.SGD, [np.ones(2, "f4")], comm, wire_dtype="float16")
    with pytest.raises(ValueError, match="wire_dtype=float16: '1' is float64"):
        opt.add_param_group({"params": [np.ones(2)]})
    return str(caught.value) + str(opt.step([np.ones(2, "f4")]).step)


def test_float64_is_not_sent_in_halves() -> None:
    assert on_ranks(2, text_of_wide)[0].endswith("make the parameters float321")


def refusals(comm: Any) -> list[str]:
    """Return the errors of wrong gradients on the last rank; a step in between is made by all."""
    opt = Sharded(fastopt.SGD, params("f4"), comm, lr=1.0)
    wrong = [
        [np.ones(9001, "f4"), None, None, None],
        [np.ones(9000, int), None, None, None],
        [fastopt.RowSparse(np.zeros(1, int), np.zeros(1, "f4")), None, None, None],
        {"0": None},
    ]
    found = []
    for grads in wrong:
        before = [array.copy() for array in opt.whole.arrays]
        try:
            opt.step(grads if comm.rank == comm.size - 1 else gradients(0, "f4"))
        except (TypeError, ValueError, RankError) as error:
            found.append(f"{type(error).__name__}: {error}")
        assert all(map(np.array_equal, before, opt.whole.arrays))
        assert opt.step(gradients(comm.rank, "f4")).applied
    return found


def test_a_wrong_gradient_is_told_on_all_ranks() -> None:
    others, own = on_ranks(2, refusals)
    starts = [
        "ValueError: grads: '0' has shape (9001,)",
        "TypeError: grads: '0' has dtype int64",
        "TypeError: grads: '0'",
    ]
    assert len(own) == len(others) == 4
    for text, told, start in zip(own, others, [*starts, "TypeError"], strict=True):
        assert text.startswith(start)
        assert told == f"RankError: rank 1 raised {text}"


def cleared(comm: Any) -> list[bool]:
    """Return whether gradients are cleared that are strided, of another dtype, packed and alone in a bucket."""
    opt = Sharded(fastopt.SGD, params("f4"), comm, zero_grads=True, bucket_bytes=2**14)
    grads: list[Any] = [np.ones(18000, "f4")[::2], np.ones((3, 5), "f8"), None, np.ones(4097, "f4")]
    opt.step(grads)
    return [not grad.any() for grad in grads if grad is not None]


def test_zero_grads_clears_the_callers_arrays() -> None:
    assert on_ranks(2, cleared) == [[True] * 3] * 2


def memory(comm: Any) -> tuple[int, int]:
    """Return the bytes of the wire for one array of many pieces, and of its sums."""
    param = np.zeros(2**20, "f4")
    opt = Sharded(fastopt.SGD, [param], comm, bucket_bytes=2**16)
    opt.step([np.ones_like(param)])
    assert (param != 0).all()
    return opt.gradients.exchange.nbytes, opt.gradients.nbytes


def test_a_large_array_needs_memory_of_a_few_pieces() -> None:
    for of_exchange, in_all in on_ranks(4, memory):
        assert of_exchange <= 3 * 2**16
        assert in_all == of_exchange + 2**22 // 4


def alone(comm: Any, options: dict[str, Any]) -> list[str]:
    """Return what differs between steps of the only rank and those of one process, over gradients of many forms."""
    shapes = [(9000,), (3, 5), (1,), (0,), (40, 60)]
    models = []
    for _ in range(2):
        params = {str(k): np.ones(shape, "f4", order="F" if k == 4 else "C") for k, shape in enumerate(shapes)}
        models.append(params)
    opts = [
        Sharded(fastopt.Adam, models[0], comm, **options),
        fastopt.Adam(models[1], **{k: v for k, v in options.items() if k != "reduction"}),
    ]
    forms = ["f4", "f4", "f4", "f8", "f2", "strided", "f4", "gap", "f4", "f4"]
    found = []
    for number, form in enumerate(forms):
        given = []
        for _ in range(2):
            rng = np.random.default_rng(number)
            grads = {name: rng.normal(size=(2, *np.shape(array))) for name, array in models[0].items()}
            grads = {name: np.asarray(each, form if form in ("f8", "f2") else "f4") for name, each in grads.items()}
            grads = {
                name: each[0] if form != "strided" else np.moveaxis(each, 0, -1)[..., 0] for name, each in grads.items()
            }
            grads["0"][:3] = -0.0, 0.0, 1e-40
            if form == "gap":
                grads["1"] = None
            given.append(grads)
        infos = [opt.step(grads) for opt, grads in zip(opts, given, strict=True)]
        found += [f"{number}: {infos}"] * (infos[0] != infos[1])
        for what, (one, other) in {"params": models, "grads": given}.items():
            found += [
                f"{number}: {what} {name}"
                for name in one
                if one[name] is not None and one[name].tobytes() != other[name].tobytes()
            ]
    found += ["there are sums"] * any(bucket.sums.any() for bucket in opts[0].gradients.buckets)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zero_grads": True},
        {"accumulate_steps": 2, "zero_grads": True},
        {"clip_global_norm": 1.0, "reduction": "mean"},
    ],
    ids=repr,
)
def test_the_only_rank_reads_the_gradients_where_they_are(options: dict[str, Any]) -> None:
    assert on_ranks(1, alone, options) == [[]]
