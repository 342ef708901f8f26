"""The evaluations that L-BFGS needs are those on record, and never 5 % more than SciPy's on a family of problems."""

from __future__ import annotations

import numpy as np
import pytest
from full_batch import evaluations, problems
from full_batch.evaluations import FAMILIES, geometric_mean, summary
from full_batch.problems import INEXACT

import fastopt

RECORD = evaluations.read()
#: Of scikit-learn's digits.
OF_DIGITS = {"learned", "learned_float32", "networks", "large_boxed"}
#: The gate runs these too: they take seconds.
SLOW = {"large", "large_float32", "learned", "networks", "boxed", "boxed_float32", "tight_boxes", "large_boxed"}


def is_exact(name: str, family: str) -> bool:
    """Return whether a problem has the same bits everywhere: it uses no exponentials of the C library and no BLAS."""
    if family.endswith("float32") and np.__version__.startswith("1."):  # its scalars have other dtypes
        return False
    return family not in OF_DIGITS and name not in INEXACT and name.rsplit("_", 1)[0] not in INEXACT


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if name in SLOW else ()) for name in FAMILIES]
)
def test_evaluations_are_those_on_record(name: str) -> None:
    if name in OF_DIGITS:
        pytest.importorskip("sklearn", reason="takes scikit-learn's digits")
    family, record = FAMILIES[name], RECORD[name]
    found = {problem.name: evaluations.ours(problem, family) for problem in family.problems().values()}
    assert list(found) == list(record)
    changed = {
        problem: (count, record[problem][0])
        for problem, count in found.items()
        if is_exact(problem, name) and count != record[problem][0]
    }
    assert changed == {}
    both = [(count, record[problem][0]) for problem, count in found.items() if count and record[problem][0]]
    now, before = (geometric_mean([pair[k] for pair in both]) for k in range(2))
    assert now == pytest.approx(before, rel=0.05)
    assert sum(count is not None for count in found.values()) >= summary(record).solved - 1


@pytest.mark.parametrize("name", FAMILIES)
def test_never_more_than_scipy_by_5_percent(name: str) -> None:
    its = summary(RECORD[name])
    assert its.solved >= its.solved_by_scipy
    assert its.mean <= 1.05 * its.mean_of_scipy


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_evaluations_of_live_scipy(name: str) -> None:
    pytest.importorskip("scipy", reason="compares with the live scipy.optimize")
    if name in OF_DIGITS:
        pytest.importorskip("sklearn", reason="takes scikit-learn's digits")
    family, record = FAMILIES[name], RECORD[name]
    counts = {p.name: [record[p.name][0], evaluations.scipys(p, family)] for p in family.problems().values()}
    its = summary(counts)
    assert its.solved >= its.solved_by_scipy
    assert its.mean <= 1.07 * its.mean_of_scipy


@pytest.mark.parametrize("l2", [1e-3, 1e-2])
def test_digits_have_the_minimum_of_scikit_learn(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="compares with the live scikit-learn")
    x, target = problems.digits()
    problem = problems.logistic(x, target, l2)
    w = problem.start.copy()
    result = fastopt.minimize(problem.function, w, gtol=1e-7, ftol=0)
    theirs = linear_model.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-7, max_iter=10_000).fit(x, target)
    their_loss, _ = problem.function(np.concatenate([theirs.coef_.T.ravel(), theirs.intercept_]))
    assert result.success
    assert result.loss == pytest.approx(their_loss, rel=1e-9)
    np.testing.assert_allclose(w[:640].reshape(64, 10), theirs.coef_.T, rtol=0, atol=1e-3)
