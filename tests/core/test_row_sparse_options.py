"""Row-sparse gradients with the options around the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, OPTIONS, STORAGE, Case, built, raw
from option_runs import every_backend

import fastopt
from fastopt.core.row_sparse import NOT_BY_ROWS

pytestmark = pytest.mark.usefixtures("restored")

#: Those of the options that are done by rows.
BY_ROWS = {
    name: {key: value for key, value in row.items() if key not in NOT_BY_ROWS or value == "bfloat16"}
    for name, row in {**OPTIONS, **STORAGE}.items()
    if not row.keys() & {"ema_start", "ema_bias_correction", "polyak_start"}
}

BY_ROWS["max_weight_norm"] = {"max_weight_norm": 0.9, "max_weight_norm_axis": 1}

BY_ROWS["max_weight_norm, copy"] = {
    "max_weight_norm": 0.9,
    "max_weight_norm_axis": -1,
    "copy_to": BFLOAT16,
    "zero_grads": True,
}

SPARSE = [
    Case(fastopt.SGD, {"lr": 0.1}),
    Case(fastopt.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    Case(fastopt.Adagrad, {"lr": 0.1, "weight_decay": 0.1, "decoupled": True}),
    Case(fastopt.Adam, {"lr": 0.01, "eps_hat": True, "amsgrad": True}),
    Case(fastopt.SparseAdam, {"lr": 0.01}),
]


@every_backend
@pytest.mark.parametrize("case", SPARSE, ids=str)
@pytest.mark.parametrize(
    "options", [row for row in BY_ROWS.values() if row], ids=[key for key in BY_ROWS if BY_ROWS[key]]
)
def test_row_sparse_gradients_are_dense_ones_of_their_rows(case: Case, options: dict[str, Any], backend: str) -> None:
    """ArrayExtras a dense gradient: the bits of the rows, and of all that belongs to them; no other row is touched."""
    rng = np.random.default_rng(15)
    indices = rng.permutation(900)[:300]
    start = [rng.normal(size=(900, 6)).astype(np.float32), rng.normal(size=1025).astype(np.float32)]
    sparse = built(case, start, options, backend=backend)
    dense = built(case, [start[0][indices], start[1]], options, backend=backend)
    others = np.setdiff1d(np.arange(900), indices)
    before = sparse.parts.parameters.arrays[0][others].copy()
    for step in range(4):
        values, beside = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=1025).astype(np.float32)
        if step == 2 and "nonfinite" in options:
            values[5, 5] = np.nan
        grads = [[values, beside], [values.copy(), beside.copy()]]
        try:
            infos = [sparse.step([fastopt.RowSparse(indices, values), beside]), dense.step(grads[1])]
        except ValueError:
            assert (step, options["nonfinite"]) == (2, "raise")
            continue
        assert repr(infos[0]) == repr(infos[1])  # a norm may be NaN
        assert [raw(grad) for grad in grads[0]] == [raw(grad) for grad in grads[1]]
    arrays = [
        [opt.parts.parameters.arrays[0], *opt.state["0"].values(), opt.parts.parameters.copies[0]]
        for opt in (sparse, dense)
    ]
    for mine, other in zip(*arrays, strict=True):
        if mine is not None and mine.ndim > 0:
            assert raw(mine[indices]) == raw(other)
    assert raw(sparse.parts.parameters.arrays[0][others]) == raw(before)
    assert [raw(array) for array in sparse.state["1"].values()] == [raw(array) for array in dense.state["1"].values()]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ema_decay": 0.9}, "ema_decay: every row's average"),
        ({"polyak": True}, "polyak: every row's average"),
        ({"accumulate_steps": 2}, "accumulate_steps: .* concatenated"),
        ({"state_dtype": "uint8"}, "state_dtype: in 8 bits several rows share a scale"),
        ({"max_weight_norm": 1.0}, "max_weight_norm: each unit has weights in every row"),
        (
            {"max_weight_norm": 1.0, "max_weight_norm_axis": (1, -2)},
            "max_weight_norm: each unit has weights in every row",
        ),
    ],
)
def test_row_sparse_gradients_refuse_what_is_not_done_by_rows(options: dict[str, Any], told: str) -> None:
    table = np.ones((4096, 2), np.float32)
    opt = fastopt.Adam(table, **options)
    with pytest.raises(ValueError, match=f"'0' is row-sparse, which is not done with {told}.*; or give a dense"):
        opt.step(fastopt.RowSparse(np.array([1]), np.ones((1, 2))))
    assert (table == 1).all()
