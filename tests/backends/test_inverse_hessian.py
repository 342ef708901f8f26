"""The matrix of BFGS and sums of products: right, and the same bits in C and in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from fastopt.backends import threads
from fastopt.backends.native import library
from fastopt.backends.numpy.backend import BACKEND as NUMPY

needs_native = pytest.mark.skipif(library.missing is not None, reason="needs the native backend")

#: Around the sizes of lanes, of panels and of a panel's blocks.
SIZES = [1, 2, 7, 8, 9, 63, 64, 65, 200, 321, 390]


@pytest.mark.parametrize("size", SIZES)
def test_numpy_matrix_is_that_of_the_formula(size: int) -> None:
    rng = np.random.default_rng(size)
    matrix = NUMPY.inverse_hessian(size)
    matrix.reset(0.5)
    expected = 0.5 * np.eye(size)
    for _ in range(3):
        s, w, y, g = rng.standard_normal((4, size))
        products = matrix.update_and_multiply(s, w, y, g)
        expected += np.outer(s, w) + np.outer(w, s)
        np.testing.assert_allclose(matrix.dense(), expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(products, (expected @ y, expected @ g), rtol=0, atol=1e-12 * size)
    assert (matrix.dense() == matrix.dense().T).all()
    matrix.reset(2.0)
    assert (matrix.dense() == 2 * np.eye(size)).all()


@needs_native
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("restored")
def test_compiled_matrix_has_the_bits_of_numpy(size: int) -> None:
    from fastopt.backends.native.backend import BACKEND as NATIVE

    rng = np.random.default_rng(size)
    matrices = [NATIVE.inverse_hessian(size), NUMPY.inverse_hessian(size)]
    for matrix in matrices:
        matrix.reset(1 / 3)
    for isa in library.isas_found():
        library.use_isa(isa)
        for count in (1, 2, 3):
            threads.set_num_threads(count)
            vectors = rng.standard_normal((4, size)) * 10.0 ** rng.integers(-8, 8, (4, 1))
            found, expected = (np.array(matrix.update_and_multiply(*vectors)) for matrix in matrices)
            assert found.tobytes() == expected.tobytes()
            assert matrices[0].dense().tobytes() == matrices[1].dense().tobytes()


@needs_native
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100, 4095, 4096, 4097, 10000])
@pytest.mark.usefixtures("restored")
def test_compiled_dot_has_the_bits_of_numpy(size: int) -> None:
    from fastopt.backends.native.backend import BACKEND as NATIVE

    left, right = np.random.default_rng(size).standard_normal((2, size))
    expected = NUMPY.dot(left, right)
    assert abs(expected - left @ right) <= 1e-13 * (1 + abs(left) @ abs(right))
    for isa in library.isas_found():
        library.use_isa(isa)
        assert NATIVE.dot(left, right) == expected


@needs_native
def test_numbers_that_are_not_finite_are_the_same_too() -> None:
    from fastopt.backends.native.backend import BACKEND as NATIVE

    vectors = np.random.default_rng(0).standard_normal((4, 100))
    vectors[0, 3], vectors[1, 70], vectors[2, 99] = np.inf, np.nan, 1e308
    results = []
    for backend in (NATIVE, NUMPY):
        matrix = backend.inverse_hessian(100)
        matrix.reset(1.0)
        results.append([*matrix.update_and_multiply(*vectors), matrix.dense()])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)
