"""Sparse coding: codes of many rows on one dictionary, as dictionary learning needs them."""

import math
from dataclasses import dataclass

import numpy as np

from bench.case import Case, Stepper, Work
from bench.contenders import Contender
from bench.full_batch import limit_blas
from bench.shapes import ArraySet

ATOMS, FEATURES, IN_USE, NOISE = 256, 64, 8, 0.4
ROWS = {f"{rows:,} rows": ArraySet([(rows, FEATURES)]) for rows in (2_000,)}


@dataclass(frozen=True)
class CodesWork(Work):
    """The codes that minimize |X - C D|^2 / 2 + l1 |C|, to a duality gap of 1e-8 of |X|^2."""

    written: int = 0
    l1: float = 0.1
    dtype: str = "float64"


CODES_WORKS: dict[str, Work] = {
    f"l1 = {l1}, {dtype}": CodesWork(l1=l1, dtype=dtype) for l1 in (0.1, 0.5) for dtype in ("float64", "float32")
}


def problem(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a few atoms each and noise; atoms of length 1. The codes use about 20 and 5 atoms."""
    random = np.random.default_rng(0)
    dictionary = random.standard_normal((ATOMS, FEATURES))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    ((rows, _),) = case.set.shapes
    codes = random.standard_normal((rows, ATOMS)) * (random.random((rows, ATOMS)) < IN_USE / ATOMS)
    data = codes @ dictionary + NOISE * random.standard_normal((rows, FEATURES)) / math.sqrt(FEATURES)
    return data.astype(case.work.dtype), dictionary.astype(case.work.dtype)


def fastopt_codes(case: Case) -> Stepper:
    """fastopt.sparse_code."""
    import fastopt

    fastopt.set_num_threads(case.threads)
    limit_blas(case.threads)
    data, dictionary = problem(case)
    return Stepper(lambda _: fastopt.sparse_code(data, dictionary, case.work.l1), [None])


def sklearn_codes(case: Case) -> Stepper:
    """scikit-learn's sparse_encode by coordinate descent, a job for each thread.

    Its tolerance is 1e-8, which float32 never reaches: it computes in float64 in each row.
    """
    from sklearn.decomposition import sparse_encode

    data, dictionary = (array.astype(np.float64) for array in problem(case))
    limit_blas(case.threads)
    options = {"algorithm": "lasso_cd", "alpha": case.work.l1, "n_jobs": case.threads, "max_iter": 10_000}
    return Stepper(lambda _: sparse_encode(data, dictionary, check_input=False, **options), [None])


CODES: dict[str, Contender] = {"fastopt": fastopt_codes, "scikit-learn": sklearn_codes}
