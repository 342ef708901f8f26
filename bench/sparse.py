"""The gradient of an embedding table, of which a batch used few rows: given as these rows, or as large as the table."""

from functools import partial

import numpy as np

from bench.case import Case, Stepper
from bench.contenders import Contender, fastopt_step, torch_step
from bench.limit import limit
from bench.rules import LR
from bench.shapes import ArraySet

ROWS, WIDTH, TOUCHED = 1_000_000, 64, 1_000
TABLE = {f"{TOUCHED:,} of {ROWS:,} rows of {WIDTH}": ArraySet([(ROWS, WIDTH)])}


def touched() -> tuple[np.ndarray, np.ndarray]:
    """Rows, some more than once, and their gradients."""
    random = np.random.default_rng(0)
    return random.integers(0, ROWS, TOUCHED), random.standard_normal((TOUCHED, WIDTH), np.float32)


def fastopt_rows(case: Case) -> Stepper:
    """fastopt.SparseAdam."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    opt = fastopt.SparseAdam(case.arrays(), lr=LR)
    return Stepper(opt.step, [[fastopt.RowSparse(*touched())]])


def torch_rows(case: Case) -> Stepper:
    """torch.optim.SparseAdam."""
    import torch

    torch.set_num_threads(case.threads)
    (p,) = (torch.from_numpy(array).requires_grad_() for array in case.arrays())
    opt = torch.optim.SparseAdam([p], lr=LR)
    indices, values = (torch.from_numpy(array) for array in touched())
    p.grad = torch.sparse_coo_tensor(indices[None], values, p.shape)
    return Stepper(lambda _: opt.step(), [None])


SPARSE: dict[str, Contender] = {
    "limit": limit,
    "fastopt": fastopt_rows,
    "fastopt, dense": partial(fastopt_step, backend="native"),
    "torch SparseAdam": torch_rows,
    "torch fused, dense": partial(torch_step, kind="fused"),
}
