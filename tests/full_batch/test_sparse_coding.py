"""Sparse coding: the optimality conditions, scikit-learn, by hand, the same bits, and errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import ISAS, needs_native
from hypothesis import given, settings
from hypothesis import strategies as st

import fastopt
from fastopt.backends.choosing import host_backend
from fastopt.backends.coordinates import COMPACT, padded_copy
from fastopt.backends.native import library as native
from fastopt.backends.numpy import coordinates as twin
from fastopt.full_batch import sparse_coding

pytestmark = pytest.mark.usefixtures("restored")

every_backend = pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


class Problem(NamedTuple):
    X: Any
    dictionary: Any

    def codes(self, l1: float, **options: Any) -> Any:
        return fastopt.sparse_code(self.X, self.dictionary, l1, **options)

    def gaps(self, codes: Any, l1: float, l2: float = 0.0, positive: bool = False) -> Any:
        """Return the duality gaps divided by ``|x|^2``: those of the lasso with rows ``sqrt(l2) I`` added."""
        X, D, C = (each.astype(np.float64) for each in (*self, codes))
        residual = X - C @ D
        correlation = residual @ D.T - l2 * C
        size = (correlation if positive else abs(correlation)).max(axis=1, initial=0.0)
        scale = np.minimum(1.0, l1 / np.maximum(size, 1e-300))
        squares = (residual**2).sum(axis=1) + l2 * (C**2).sum(axis=1)
        primal = 0.5 * squares + l1 * abs(C).sum(axis=1)
        dual = scale * (X * residual).sum(axis=1) - 0.5 * scale**2 * squares
        return (primal - dual) / (X**2).sum(axis=1)


def planted(
    n: int, atoms: int, features: int, dtype: Any = "float64", seed: int = 0, used: float = 0.04, noise: float = 0.05
) -> Problem:
    """Return rows that are sums of few atoms of length 1, and noise."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(atoms, features))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.where(rng.random((n, atoms)) < used, rng.normal(size=(n, atoms)), 0.0)
    X = codes @ dictionary + noise * rng.normal(size=(n, features))
    return Problem(X.astype(dtype), dictionary.astype(dtype))


def check_conditions(problem: Problem, codes: Any, l1: float, l2: float, positive: bool, atol: float) -> None:
    """Check the conditions of Karush, Kuhn and Tucker."""
    correlation = (problem.X - codes @ problem.dictionary) @ problem.dictionary.T - l2 * codes
    used = codes != 0
    np.testing.assert_allclose(correlation[used], (l1 * np.sign(codes))[used], rtol=0, atol=atol)
    assert (correlation if positive else abs(correlation))[~used].max(initial=0.0) <= l1 + atol
    assert not positive or codes.min(initial=0.0) >= 0


@every_backend
def test_orthonormal_atoms_are_thresholded(backend: str) -> None:
    X = np.array([[3.0, -0.5, 0.25, -2.0]])
    codes = fastopt.sparse_code(X, np.eye(4), 0.5, backend=backend)
    np.testing.assert_array_equal(codes, [[2.5, 0.0, 0.0, -1.5]])
    codes = fastopt.sparse_code(X, np.eye(4), 0.5, l2=1.0, backend=backend)
    np.testing.assert_array_equal(codes, [[1.25, 0.0, 0.0, -0.75]])
    codes = fastopt.sparse_code(X, np.eye(4), 0.5, positive=True, backend=backend)
    np.testing.assert_array_equal(codes, [[2.5, 0.0, 0.0, 0.0]])


@every_backend
@pytest.mark.parametrize(
    ("l1", "l2", "positive"), [(0.1, 0.0, False), (0.5, 0.0, True), (0.05, 0.3, False), (0.2, 1.0, True)]
)
def test_conditions_of_optimality(backend: str, l1: float, l2: float, positive: bool) -> None:
    problem = planted(40, 48, 24)
    codes = problem.codes(l1, l2=l2, positive=positive, tol=1e-13, backend=backend)
    assert np.count_nonzero(codes) > 40
    check_conditions(problem, codes, l1, l2, positive, 1e-5)
    assert problem.gaps(codes, l1, l2, positive).max() <= 2e-13


@every_dtype
@pytest.mark.parametrize(("l2", "positive"), [(0.0, False), (0.4, True)])
def test_gap_is_within_tol(dtype: str, l2: float, positive: bool) -> None:
    problem = planted(200, 64, 32, dtype)
    slack = 1e-6 if dtype == "float32" else 1e-15  # of the rounded Gram matrix
    gaps = {tol: problem.gaps(problem.codes(0.2, l2=l2, positive=positive, tol=tol), 0.2, l2, positive) for tol in
            (1e-2, 1e-4, 1e-6)}  # fmt: skip
    for tol, found in gaps.items():
        assert found.max() <= tol + slack
        assert found.min() >= -slack
    assert gaps[1e-2].max() > 1e-4  # a larger tolerance ends earlier
    default = problem.gaps(problem.codes(0.2, l2=l2, positive=positive), 0.2, l2, positive)
    assert default.max() <= (2e-6 if dtype == "float32" else 1e-8 + slack)


@needs_native
@every_dtype
def test_small_l1_is_solved(dtype: str) -> None:
    problem = planted(60, 128, 32, dtype)
    codes = problem.codes(0.002)
    assert np.count_nonzero(codes, axis=1).mean() > 25
    assert problem.gaps(codes, 0.002).max() <= (2e-6 if dtype == "float32" else 1.001e-8)


@pytest.mark.parametrize("l1", [0.1, 0.5])
def test_codes_of_sklearn(l1: float) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    problem = planted(150, 100, 40)
    theirs = decomposition.sparse_encode(*problem, algorithm="lasso_cd", alpha=l1)
    ours = problem.codes(l1)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert problem.gaps(ours, l1).max() <= 1e-8 + 1e-15
    theirs = decomposition.sparse_encode(*problem, algorithm="lasso_cd", alpha=l1, positive=True)
    np.testing.assert_allclose(problem.codes(l1, positive=True), theirs, atol=1e-4)


def test_lasso_and_elastic_net_of_sklearn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    problem = planted(1, 30, 50, used=0.3)
    y, A = problem.X[0], problem.dictionary.T
    l1, l2, samples = 0.2, 0.6, 50
    lasso = linear_model.Lasso(l1 / samples, fit_intercept=False, tol=1e-12).fit(A, y)
    np.testing.assert_allclose(problem.codes(l1, tol=1e-13)[0], lasso.coef_, atol=1e-6)
    alpha = (l1 + l2) / samples
    net = linear_model.ElasticNet(alpha, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-12).fit(A, y)
    np.testing.assert_allclose(problem.codes(l1, l2=l2, tol=1e-13)[0], net.coef_, atol=1e-6)
    assert np.count_nonzero(lasso.coef_) > 3


#: Problems in which rows use few atoms, none, or more than have a Gram matrix of their own; and limits that end early.
SHAPES: dict[str, tuple[tuple[int, int, int], float, dict[str, Any]]] = {
    "few": ((50, 40, 24), 0.2, {}),
    "tiny": ((3, 1, 1), 0.1, {}),
    "no multiples": ((37, 33, 13), 0.2, {}),
    "many features": ((9, 20, 5000), 0.3, {}),
    "many atoms": ((3, 250, 40), 0.005, {"l2": 0.5, "tol": 1e-3}),
    "small l1": ((8, 50, 20), 0.002, {"max_iterations": 60}),
    "positive": ((40, 50, 20), 0.1, {"positive": True, "l2": 0.1}),
    "unfinished": ((40, 64, 16), 0.02, {"max_iterations": 3}),
    "to the last bit": ((5, 10, 30), 0.1, {"tol": 0.0, "max_iterations": 200}),
}


def bytes_of(name: str, dtype: str, backend: str) -> bytes:
    """Return the bytes of codes from zeros and from parts of them, and what warnings say."""
    shape, l1, options = SHAPES[name]
    problem = planted(*shape, dtype)
    problem.X[::7] *= 1e-3  # some of them use no atom
    problem.dictionary[::5] *= 0  # and some atoms are not used
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        codes = problem.codes(l1, backend=backend, **options)
        start = (codes * np.linspace(0, 2, len(codes))[:, None]).astype(dtype)
        again = problem.codes(l1, backend=backend, start=start, **options)
    assert codes.dtype == again.dtype == dtype
    if name == "many atoms":
        assert np.count_nonzero(codes, axis=1).max() > COMPACT
    assert codes.flags.c_contiguous
    gaps = "".join(str(each.message) for each in found)
    return codes.tobytes() + again.tobytes() + gaps.encode()


@needs_native
@every_dtype
@pytest.mark.parametrize("name", SHAPES)
def test_same_bits(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = bytes_of(name, dtype, "numpy")
    if name == "few":
        monkeypatch.setattr(twin, "BLOCK", 1 << 10)  # several blocks
        fastopt.set_num_threads(2)
        assert bytes_of(name, dtype, "numpy") == wanted
    for isa in ISAS:
        native.use_isa(isa)
        for threads in (1, 2, 7):
            fastopt.set_num_threads(threads)
            assert bytes_of(name, dtype, "native") == wanted, (isa, threads)


@needs_native
@every_dtype
def test_many_rows_on_threads(dtype: str) -> None:
    problem = planted(6000, 24, 12, dtype)
    found = set()
    for threads in (1, 3):
        fastopt.set_num_threads(threads)
        found.add(problem.codes(0.2).tobytes())
    assert len(found) == 1


@every_backend
def test_rows_have_no_effect_on_each_other(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = planted(70, 40, 24)
    whole = problem.codes(0.1, backend=backend)
    order = np.random.default_rng(3).permutation(70)
    shuffled = Problem(problem.X[order], problem.dictionary).codes(0.1, backend=backend)
    np.testing.assert_array_equal(shuffled, whole[order])
    monkeypatch.setattr(sparse_coding, "WORK_OF_A_CALL", 0)  # calls of 64 rows
    np.testing.assert_array_equal(problem.codes(0.1, backend=backend), whole)


@every_backend
def test_start_at_the_result_is_kept(backend: str) -> None:
    problem = planted(30, 40, 24)
    codes = problem.codes(0.2, backend=backend)
    before = codes.copy()
    again = problem.codes(0.2, start=codes, max_iterations=1, backend=backend)
    np.testing.assert_allclose(again, codes, atol=1e-12)
    np.testing.assert_array_equal(codes, before)
    assert again is not codes


@every_backend
@pytest.mark.parametrize("positive", [False, True])
def test_any_start_leads_to_the_result(backend: str, positive: bool) -> None:
    problem = planted(30, 40, 24)
    start = np.random.default_rng(5).normal(size=(30, 40))
    found = problem.codes(0.2, start=start, positive=positive, tol=1e-12, backend=backend)
    np.testing.assert_allclose(found, problem.codes(0.2, positive=positive, tol=1e-12), atol=1e-4)


@every_backend
@every_dtype
@pytest.mark.parametrize("size", [1e10, 1e30, -3e38])
def test_a_start_that_is_worse_than_zeros_is_not_used(backend: str, dtype: str, size: float) -> None:
    # More atoms than features: far away, whole directions of the codes are below what rounding leaves of the gap.
    problem, start = planted(5, 16, 8, dtype, used=0.3), np.full((5, 16), size, dtype)
    start[0] = problem.codes(0.2, backend=backend)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = problem.codes(0.2, start=start, backend=backend)
    np.testing.assert_array_equal(found, problem.codes(0.2, backend=backend))


@every_backend
def test_views_and_orders_do_not_matter(backend: str) -> None:
    problem = planted(20, 16, 10)
    wanted = problem.codes(0.2, backend=backend)
    strided = Problem(np.repeat(problem.X, 2, axis=0)[::2], np.asfortranarray(problem.dictionary))
    np.testing.assert_array_equal(strided.codes(0.2, start=np.zeros((16, 20)).T, backend=backend), wanted)


@every_backend
def test_atoms_and_rows_of_zeros(backend: str) -> None:
    problem = planted(6, 8, 5)
    problem.X[2], problem.dictionary[3] = 0, 0
    start = np.ones((6, 8))
    for options in ({}, {"start": start}, {"start": start, "l2": 0.5}):
        codes = problem.codes(0.1, backend=backend, **options)
        assert not codes[2].any()
        assert not codes[:, 3].any()
        assert codes.any()


@every_backend
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)])
def test_nothing_to_do(backend: str, shape: tuple[int, int, int]) -> None:
    n, atoms, features = shape
    codes = fastopt.sparse_code(np.zeros((n, features), "f4"), np.zeros((atoms, features), "f4"), 0.1, backend=backend)
    assert codes.shape == (n, atoms)
    assert codes.dtype == np.float32
    assert not codes.any()


def test_copies_of_an_atom_share_its_part() -> None:
    problem = planted(10, 12, 8)
    twice = Problem(problem.X, np.concatenate([problem.dictionary, problem.dictionary]))
    codes = twice.codes(0.1, tol=1e-12)
    np.testing.assert_allclose(codes[:, :12] + codes[:, 12:], problem.codes(0.1, tol=1e-12), atol=1e-5)


def test_limit_of_iterations_names_the_rows() -> None:
    problem = planted(30, 64, 16)
    with pytest.warns(UserWarning, match=r"of 30 rows are not done after max_iterations=2: .* tol=1e-08") as found:
        codes = problem.codes(0.02, max_iterations=2)
    gaps = problem.gaps(codes, 0.02)
    text = str(found[0].message)
    assert f"of row {gaps.argmax()}," in text
    assert f"gap is {gaps.max():.3g} times" in text
    assert found[0].filename == __file__


def test_wrong_tool_for_one_problem_of_many_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    few = planted(2, 300, 10)
    few.codes(0.5)  # too small to matter
    monkeypatch.setattr(sparse_coding, "SMALL_GRAM", 1e5)
    with pytest.warns(UserWarning, match=r"2 rows are too few .* Gram matrix of 300 atoms") as found:
        few.codes(0.5)
    assert len(found) == 1
    planted(10, 300, 10).codes(0.5)  # enough rows


X, D = np.ones((4, 3)), np.eye(5, 3)
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a list": (lambda: fastopt.sparse_code([[1.0]], D, 0.1), TypeError, "X is of type list; expected a NumPy array"),
    "whole numbers": (lambda: fastopt.sparse_code(X.astype(int), D, 0.1), TypeError, "X has dtype int64.*astype"),
    "another byte order": (lambda: fastopt.sparse_code(X.astype(">f8"), D, 0.1), TypeError, "X has dtype >f8.*astype"),
    "half precision": (lambda: fastopt.sparse_code(X.astype("f2"), D, 0.1), TypeError, "float32 or float64"),
    "complex": (lambda: fastopt.sparse_code(X, D + 0j, 0.1), TypeError, "dictionary has dtype complex128"),
    "two dtypes": (lambda: fastopt.sparse_code(X, D.astype("f4"), 0.1), TypeError, "expected float64, as X"),
    "one row": (lambda: fastopt.sparse_code(X[0], D, 0.1), ValueError, r"expected \(n, features\).*X\[None\]"),
    "three axes": (lambda: fastopt.sparse_code(X[None], D, 0.1), ValueError, r"X has shape \(1, 4, 3\)"),
    "columns": (lambda: fastopt.sparse_code(X, D.T, 0.1), ValueError, "as many features.*give the atoms as rows"),
    "NaN": (lambda: fastopt.sparse_code(X * np.nan, D, 0.1), ValueError, "X has 12 elements that are not finite"),
    "inf": (lambda: fastopt.sparse_code(X, D + np.inf, 0.1), ValueError, "15 elem"),
    "large": (lambda: fastopt.sparse_code(X * 1e200, D, 0.1), ValueError, "X has a row .* scale it"),
    "large products": (
        lambda: fastopt.sparse_code(np.full((1, 3), 1e38, "f4"), np.full((1, 3), 1e18, "f4"), 0.1),
        ValueError,
        "products that are too large for float32",
    ),
    "l1 = 0": (lambda: fastopt.sparse_code(X, D, 0), ValueError, "l1=0: expected a finite number above 0"),
    "negative l1": (lambda: fastopt.sparse_code(X, D, -1.0), ValueError, "l1=-1.0"),
    "l1 = NaN": (lambda: fastopt.sparse_code(X, D, np.nan), ValueError, "l1="),
    "l1 for each": (lambda: fastopt.sparse_code(X, D, X), TypeError, "(?s)l1=.*one number"),  # type: ignore[arg-type]
    "tiny l1": (lambda: fastopt.sparse_code(*(a.astype("f4") for a in (X, D)), 1e-60), ValueError, "in float32"),
    "negative l2": (lambda: fastopt.sparse_code(X, D, 0.1, l2=-0.1), ValueError, "l2=-0.1"),
    "negative tol": (lambda: fastopt.sparse_code(X, D, 0.1, tol=-1e-8), ValueError, "tol=-1e-08"),
    "no iteration": (lambda: fastopt.sparse_code(X, D, 0.1, max_iterations=0), ValueError, "max_iterations=0"),
    "positive=2": (lambda: fastopt.sparse_code(X, D, 0.1, positive=2), TypeError, "positive=2"),  # type: ignore
    "masked": (lambda: fastopt.sparse_code(np.ma.masked_greater(X, 0), D, 0.1), TypeError, "X is a masked array"),
    "other start": (lambda: fastopt.sparse_code(X, D, 0.1, start=X), ValueError, r"start has .*expected \(4, 5\)"),
    "start of NaN": (lambda: fastopt.sparse_code(X, D, 0.1, start=np.full((4, 5), np.nan)), ValueError, "start has 20"),
    "start of another dtype": (
        lambda: fastopt.sparse_code(X, D, 0.1, start=np.zeros((4, 5), "f4")),
        TypeError,
        "start has dtype float32",
    ),
    "unknown backend": (lambda: fastopt.sparse_code(X, D, 0.1, backend="gpu"), ValueError, "backend=gpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    call, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        call()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_problem_is_solved(data: st.DataObject) -> None:
    n, atoms, features = (data.draw(st.integers(1, most)) for most in (5, 20, 12))
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    seed, scale = data.draw(st.integers(0, 2**32 - 1)), 10.0 ** data.draw(st.integers(-4, 4))
    part = data.draw(st.floats(0.02, 1.1))
    l2 = data.draw(st.sampled_from([0.0, 0.1, 3.0]))
    positive = data.draw(st.booleans())
    problem = planted(n, atoms, features, dtype, seed, used=0.3)
    problem = Problem(problem.X * np.dtype(dtype).type(scale), problem.dictionary)
    l1 = float(np.dtype(dtype).type(part * abs(problem.X @ problem.dictionary.T).max()))
    codes = problem.codes(l1, l2=l2, positive=positive)
    np.testing.assert_array_equal(problem.codes(l1, l2=l2, positive=positive, backend="numpy"), codes)
    tol = 3e-6 if dtype == "float32" else 1.1e-8
    assert problem.gaps(codes, l1, l2, positive).max() <= tol
    if part > 1:
        assert not codes.any()


@every_backend
@every_dtype
def test_gram_matrix_in_parts(backend: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = planted(1, 150, 20, dtype).dictionary
    at = host_backend(backend)
    transposed = padded_copy(atoms.T, np.float64)
    monkeypatch.setattr(sparse_coding, "LEAST_ROWS", 16)
    found = sparse_coding.gram_matrix(at, atoms, transposed)
    np.testing.assert_array_equal(found, at.multiply_rows(atoms, transposed))
    np.testing.assert_array_equal(found[:, :150], found[:, :150].T)
    np.testing.assert_allclose(found[:, :150], atoms @ atoms.T, atol=1e-6 if dtype == "float32" else 1e-14)
    assert not found[:, 150:].any()
    assert len(list(sparse_coding.parts(150, 150 * 20, sparse_coding.PARTS_OF_GRAM))) == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0.1}, "; write l1, which is sparse_encode's alpha, "),
        ({"l1": 0.1, "max_iter": 3}, "; write max_iterations$"),
        ({"l1": 0.1, "n_jobs": 2}, "; leave it out; fastopt.set_num_threads "),
        ({"l1": 0.1, "positve": True}, "; for 'positve' write 'positive'$"),
        ({"l1": 0.1, "nothing": True}, "$"),
    ],
)
def test_names_of_others(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=rf"^sparse_code\(\) got an unexpected keyword argument '\w+'.*{says}"):
        fastopt.sparse_code(np.eye(2), np.eye(2), **options)
