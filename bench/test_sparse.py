"""A row-sparse step of 1,000 rows of a 1,000,000 x 64 table, against the dense step of the whole table.

Run with ``pytest bench/test_sparse.py``; the table and Adam's slots take 0.8 GB, the dense gradient 0.3 GB.
"""

import numpy as np
import pytest

import fastopt

TABLE = (1_000_000, 64)
TOUCHED = 1_000
OPTIMIZERS = {
    "sgd": (fastopt.SGD, {}),
    "momentum": (fastopt.SGD, {"momentum": 0.9}),
    "adagrad": (fastopt.Adagrad, {}),
    "adam": (fastopt.SparseAdam, {}),
}


@pytest.mark.parametrize("kind", ["row-sparse", "dense"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sparse(benchmark, name: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    table = np.ones(TABLE, np.float32)
    optimizer, options = OPTIMIZERS[name]
    opt = optimizer(table, lr=1e-3, **options)
    indices, values = rng.integers(0, TABLE[0], TOUCHED), rng.standard_normal((TOUCHED, TABLE[1]), np.float32)
    grad = fastopt.RowSparse(indices, values)
    if kind == "dense":
        dense = np.zeros(TABLE, np.float32)
        np.add.at(dense, indices, values)
        grad = dense
    benchmark.group = f"{name}, 1,000 of 1,000,000 rows of 64"
    benchmark.pedantic(opt.step, args=(grad,), rounds=10 if kind == "dense" else 200, warmup_rounds=2)
