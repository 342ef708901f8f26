"""Newton's method, with the Hessian and with its products: steps that are known, saddles, singular matrices, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt.full_batch.newton import Newton, cholesky, cholesky_solve, eigenvalue_direction, shifted_direction
from fastopt.full_batch.trust_region import TrustRegion

HESS_HVP = ["hess", "hvp"]


class Smooth(NamedTuple):
    """A function of one array, and its Hessian."""

    fun: Callable[[Any], Any]
    hess: Callable[[Any], Any]

    def options(self, form: str) -> dict[str, Any]:
        if form == "hess":
            return {"method": "newton", "hess": self.hess}
        return {"method": "newton", "hvp": lambda x, v: self.hess(x) @ v}


def quadratic(matrix: Any) -> Smooth:
    """Return x'A x / 2 - sum of x."""
    return Smooth(lambda x: (float(x @ matrix @ x) / 2 - x.sum(), matrix @ x - 1), lambda x: matrix)


def saddle(x: Any) -> Any:
    """x^4 - x^2 + y^2: at 0 a saddle, minima at x = +-sqrt(1/2)."""
    return float(x[0] ** 4 - x[0] ** 2 + x[1] ** 2), np.array([4 * x[0] ** 3 - 2 * x[0], 2 * x[1]])


SADDLE = Smooth(saddle, lambda x: np.diag([12 * x[0] ** 2 - 2, 2.0]))


def positive(size: int) -> Any:
    root = np.random.default_rng(size).standard_normal((size, size))
    return root @ root.T / size + 0.5 * np.eye(size)


@pytest.mark.parametrize("size", [1, 2, 64, 150])
def test_a_quadratic_is_minimized_in_one_step(size: int) -> None:
    matrix, x = positive(size), np.zeros(size)
    result = fastopt.minimize(fun=quadratic(matrix).fun, params=x, method="newton", hess=lambda x: matrix, gtol=1e-9)
    assert (result.status, result.iterations, result.evaluations) == ("gtol", 1, 2)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, np.ones(size)), rtol=1e-9)


def test_products_minimize_a_quadratic_within_the_radius() -> None:
    """The first step ends at the radius, which is 1 at first, along the gradient."""
    matrix, x, steps = np.diag([1e-3, 1e-3]), np.zeros(2), []
    smooth = quadratic(matrix)
    fastopt.minimize(smooth.fun, x, callback=lambda state: steps.append(x.copy()), **smooth.options("hvp"))
    np.testing.assert_allclose(np.linalg.norm(steps[0]), 1)
    np.testing.assert_allclose(np.linalg.norm(steps[1] - steps[0]), 2)
    np.testing.assert_allclose(x, 1000, rtol=1e-2)


@pytest.mark.parametrize("form", HESS_HVP)
@pytest.mark.parametrize("start", [(1e-6, 0.3), (-0.1, 1.0), (0.3, 0.0)])
def test_saddles_are_left(form: str, start: tuple[float, float]) -> None:
    """The Hessian is indefinite at all these starts."""
    x = np.array(start)
    result = fastopt.minimize(SADDLE.fun, x, gtol=1e-8, ftol=0, **SADDLE.options(form))
    assert result.status == "gtol"
    assert result.iterations < 25
    np.testing.assert_allclose(x, [np.copysign(np.sqrt(0.5), start[0]), 0], atol=1e-5)


@pytest.mark.parametrize("form", HESS_HVP)
def test_singular_hessians(form: str) -> None:
    """(x + y)^4 and (x + y - 2)^2: along x = -y nothing changes."""
    ones = np.ones((2, 2))
    fourth = Smooth(lambda x: (float(x.sum() ** 4), np.full(2, 4 * x.sum() ** 3)), lambda x: 12 * x.sum() ** 2 * ones)
    second = Smooth(lambda x: (float((x.sum() - 2) ** 2), np.full(2, 2 * x.sum() - 4)), lambda x: 2 * ones)
    for smooth, total in ((fourth, 0), (second, 2)):
        x = np.array([3.0, 1.0])
        result = fastopt.minimize(smooth.fun, x, **smooth.options(form))
        assert result.success
        assert abs(x.sum() - total) < 0.02


@pytest.mark.parametrize("form", HESS_HVP)
def test_a_hessian_of_zeros_gives_the_gradient(form: str) -> None:
    x = np.array([3.0, -4.0])
    smooth = Smooth(lambda x: (float(abs(x).sum()), np.sign(x)), lambda x: np.zeros((2, 2)))
    result = fastopt.minimize(smooth.fun, x, max_iterations=1, **smooth.options(form))
    assert result.loss < 7


@pytest.mark.parametrize("form", HESS_HVP)
def test_a_wrong_hessian_never_raises_the_loss(form: str) -> None:
    x, losses = np.array([-1.2, 1.0]), []
    rng = np.random.default_rng(0)

    def wrong(x: Any) -> Any:
        matrix = rng.standard_normal((2, 2)) * 10.0 ** rng.integers(-3, 4)
        return matrix + matrix.T

    def rosenbrock(x: Any) -> Any:
        valley, side = x[1] - x[0] ** 2, 1 - x[0]
        return 100 * valley**2 + side**2, np.array([-400 * valley * x[0] - 2 * side, 200 * valley])

    smooth = Smooth(rosenbrock, wrong)
    result = fastopt.minimize(
        smooth.fun, x, callback=lambda state: losses.append(state.loss), max_iterations=60, **smooth.options(form)
    )
    assert result.iterations > 10
    assert losses == sorted(losses, reverse=True)
    assert result.loss == rosenbrock(x)[0] == losses[-1]


def logarithms(x: Any) -> Any:
    """The sum of x - log x, which is not finite below 0."""
    with np.errstate(all="ignore"):
        return float((x - np.log(x)).sum()), 1 - 1 / x


@pytest.mark.parametrize("form", HESS_HVP)
@pytest.mark.parametrize("start", [1e-3, 1.9, 50.0])
def test_points_where_the_function_is_not_finite(form: str, start: float) -> None:
    x = np.array([start, 2.5])
    smooth = Smooth(logarithms, lambda x: np.diag(1 / x**2))
    result = fastopt.minimize(smooth.fun, x, **smooth.options(form))
    assert result.success
    np.testing.assert_allclose(x, 1, atol=1e-2)


@pytest.mark.parametrize("form", HESS_HVP)
def test_structures_orders_and_dtypes(form: str) -> None:
    """Elements in C order, in the order of names, whatever the order in memory; float32 stays float32."""
    rng = np.random.default_rng(0)
    matrix, target = positive(9), rng.standard_normal(9)
    params = {"w": np.asfortranarray(np.zeros((2, 3))), "rest": [np.array(0.0, np.float32), np.zeros(2, np.float32)]}

    def flat(each: Any) -> Any:
        return np.concatenate([each["w"].ravel(), each["rest"][0].ravel(), each["rest"][1]])

    def parts(vector: Any) -> Any:
        return {"w": vector[:6].reshape(2, 3), "rest": (np.float64(vector[6]), vector[7:])}

    def fun(params: Any) -> Any:
        x = flat(params) - target
        return x @ matrix @ x / 2, parts(matrix @ x)

    def hvp(given: Any, v: Any) -> Any:
        assert given is params
        assert v["w"].shape == (2, 3)
        assert v["rest"][0].dtype == v["rest"][1].dtype == np.float32
        assert v["rest"][0].shape == ()
        return parts(matrix @ flat(v))

    given: dict[str, Any] = {"hess": lambda params: matrix} if form == "hess" else {"hvp": hvp}
    result = fastopt.minimize(fun, params, "newton", **given)
    assert result.success
    assert form == "hvp" or result.iterations <= 2
    np.testing.assert_allclose(flat(params), target, atol=2e-4)


def test_only_the_lower_triangle_is_read() -> None:
    matrix, x = positive(5), np.zeros(5)
    wrong = np.tril(matrix) + np.triu(np.full((5, 5), np.nan), 1)
    result = fastopt.minimize(quadratic(matrix).fun, x, "newton", hess=lambda x: wrong, gtol=1e-9)
    assert (result.status, result.iterations) == ("gtol", 1)


@pytest.mark.parametrize("cls", [Newton, TrustRegion], ids=HESS_HVP)
def test_frozen_arrays_stay(cls: Any) -> None:
    """The Hessian is over all elements still, and its products have zeros for frozen arrays."""
    matrix = positive(5)
    params = {"a": np.zeros(2), "b": np.ones(3)}

    def flat(each: Any) -> Any:
        return np.concatenate([each["a"], each["b"]])

    def fun() -> Any:
        x = flat(params)
        return x @ matrix @ x / 2 - x.sum(), {"a": (matrix @ x - 1)[:2], "b": None}

    def hvp(params: Any, v: Any) -> Any:
        assert (v["b"] == 0).all()
        return {"a": (matrix @ flat(v))[:2]}

    opt = cls(params, gtol=1e-9, **({"hess": lambda params: matrix} if cls is Newton else {"hvp": hvp}))
    opt.freeze("b")
    while opt.step(fun).status is None:
        pass
    assert (params["b"] == 1).all()
    expected = np.linalg.solve(matrix[:2, :2], 1 - matrix[:2, 2:].sum(axis=1))
    np.testing.assert_allclose(params["a"], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_hessian_of_the_class_matrix() -> None:
    matrix, x = positive(5), np.zeros(5)
    result = fastopt.minimize(quadratic(matrix).fun, x, "newton", hess=lambda x: np.matrix(matrix), gtol=1e-9)
    assert (result.status, result.iterations) == ("gtol", 1)


@pytest.mark.parametrize("form", HESS_HVP)
@pytest.mark.parametrize("start", [1.0, 1e200])
def test_a_function_without_a_minimum_ends_without_an_error(form: str, start: float) -> None:
    x = np.full(2, start)
    hessian = np.zeros((2, 2))
    options: dict[str, Any] = {"hess": lambda x: hessian} if form == "hess" else {"hvp": lambda x, v: hessian @ v}
    result = fastopt.minimize(lambda x: (x.sum(), np.ones(2)), x, "newton", max_iterations=700, **options)
    assert not result.success
    assert result.loss == x.sum() <= 2 * start


@pytest.mark.parametrize(("form", "says"), [("hess", "absolute values of the eigenvalues"), ("hvp", "trust region")])
def test_a_gradient_of_the_wrong_sign(form: str, says: str) -> None:
    x = np.array([3.0, -4.0])
    smooth = Smooth(lambda x: (float(x @ x), -2 * x), lambda x: 2 * np.eye(2))
    result = fastopt.minimize(smooth.fun, x, **smooth.options(form))
    assert result.status == "line_search"
    assert says in result.message
    assert "gradient wrong" in result.message
    assert x.tolist() == [3, -4]


@pytest.mark.parametrize("form", HESS_HVP)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-40, 1e100, 1e170, 1e300])
def test_squares_that_overflow_or_vanish(form: str, dtype: Any, scale: float) -> None:
    """The products of float32 parameters are float64 here: only the vectors are float32."""
    x = np.array([3.0, -4.0], dtype)
    smooth = Smooth(lambda x: (scale * float(x @ x), scale * 2 * x.astype(float)), lambda x: 2 * scale * np.eye(2))
    result = fastopt.minimize(smooth.fun, x, gtol=0, ftol=0, max_iterations=10, **smooth.options(form))
    assert result.loss < 1e-6 * scale


class Layer(NamedTuple):
    """Parameters in a named tuple."""

    w: Any
    b: Any


@pytest.mark.parametrize(
    "build",
    [
        lambda a, b: Layer(a, b),
        lambda a, b: (a, b),
        lambda a, b: [a, {"deep": (b,)}],
        lambda a, b: {"a": Layer(a, None), "b": [b]},
        lambda a, b: [{"params": a}, {"params": (b,)}],
    ],
    ids=["named-tuple", "tuple", "list", "dict", "groups"],
)
def test_vectors_have_the_containers_of_the_parameters(build: Callable[..., Any]) -> None:
    arrays = np.ones((2, 1)), np.full(3, 2.0)
    params, seen = build(*arrays), []

    def shape_of(each: Any) -> str:
        return repr(each).replace("array", "")

    def hvp(given: Any, v: Any) -> Any:
        assert given is params
        seen.append(shape_of(v))
        return v

    def fun(params: Any) -> Any:
        return sum((array**2).sum() for array in arrays) / 2, build(*(array.copy() for array in arrays))

    assert fastopt.minimize(fun, params, "newton", hvp=hvp, max_iterations=1).iterations == 1
    assert seen == [shape_of(build(-np.ones((2, 1)) / 2, np.full(3, -1.0)))]


def test_results_of_jax() -> None:
    jax = pytest.importorskip("jax", reason="computes derivatives by JAX")

    def loss(params: Any) -> Any:
        return ((params["a"] ** 2).sum() - params["b"]) ** 2 + ((params["a"] - 1) ** 2).sum()

    def hess(params: Any) -> Any:
        parts = jax.hessian(loss)(params)
        sizes = {"a": 3, "b": 1}
        return jax.numpy.block([[parts[i][k].reshape(sizes[i], sizes[k]) for k in params] for i in params])

    def hvp(params: Any, v: Any) -> Any:
        return jax.jvp(jax.grad(loss), (params,), (v,))[1]

    fun = jax.value_and_grad(loss)
    for given in ({"hess": hess}, {"hvp": hvp}):
        params = {"a": np.full(3, 2.0, np.float32), "b": np.array(0.0, np.float32)}
        result = fastopt.minimize(lambda params: jax.block_until_ready(fun(params)), params, "newton", **given)
        assert result.success
        np.testing.assert_allclose(params["a"], 1, atol=1e-2)
        np.testing.assert_allclose(params["b"], 3, atol=1e-2)


@pytest.mark.parametrize("form", HESS_HVP)
def test_evaluations_may_end_anywhere(form: str) -> None:
    """The loss is that of the parameters, for every limit."""
    for most in range(1, 25):
        x = np.array([0.1, 1.0])
        result = fastopt.minimize(SADDLE.fun, x, max_evaluations=most, **SADDLE.options(form))
        assert result.evaluations <= most
        assert result.loss == SADDLE.fun(x)[0]


# --- linear algebra ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 200])
def test_solving_by_the_factor(size: int) -> None:
    matrix, b = positive(size), np.arange(1.0, size + 1)
    factor = cholesky(matrix)
    assert factor is not None
    np.testing.assert_allclose(matrix @ cholesky_solve(factor, b), b, rtol=1e-9)
    assert cholesky(-matrix) is None


@pytest.mark.parametrize("direction", [shifted_direction, eigenvalue_direction])
@pytest.mark.parametrize("scale", [1e-300, 1e-8, 1.0, 1e8, 1e300])
@pytest.mark.parametrize("values", [(1, 2, 3), (-1, 2, 3), (-1, -2, -3), (0, 0, 1), (1e-18, 1, 1), (0, -1, 0)])
def test_directions_descend(direction: Any, scale: float, values: tuple[float, ...]) -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    matrix, g = scale * (vectors * values) @ vectors.T, np.array([1.0, -2.0, 0.5])
    found = direction(matrix, g)
    assert np.isfinite(found).all()
    assert found @ g < 0
    if min(values) > 0.1:
        np.testing.assert_allclose(matrix @ found, -g, rtol=1e-9)
    elif direction is eigenvalue_direction and 0 not in values and min(map(abs, values)) > 0.1:
        np.testing.assert_allclose(scale * (vectors * np.abs(values)) @ vectors.T @ found, -g, rtol=1e-9)


# --- errors -----------------------------------------------------------------------------------------------------------


class Bad(NamedTuple):
    """What hess or hvp returns, and what the error is and says."""

    form: str
    what: str
    returned: Callable[[dict[str, Any]], Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.form}-{self.what}".replace(" ", "-")


def start() -> dict[str, Any]:
    return {"W": np.array([[3.0, -2.0]]), "b": np.float32([1.0, 2.0])}


def squares(params: dict[str, Any]) -> Any:
    loss = sum((array.astype(float) ** 4).sum() for array in params.values())
    return float(loss), {name: 4 * array**3 for name, array in params.items()}


def second(params: dict[str, Any]) -> Any:
    return {name: 12 * array**2 for name, array in params.items()}


def replaced(**parts: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda params: second(params) | parts


def with_nan(params: dict[str, Any]) -> Any:
    matrix = 2 * np.eye(4)
    matrix[2, 1] = np.nan
    return matrix


def moving(params: dict[str, Any]) -> Any:
    params["b"] += 1
    return 2 * np.eye(4)


def moving_products(params: dict[str, Any]) -> Any:
    params["b"] += 1
    return second(params)


def failing(params: dict[str, Any]) -> Any:
    params["W"] += 1
    raise ZeroDivisionError("a mistake")


class Sparse:
    """A matrix as SciPy's sparse ones."""

    def toarray(self) -> Any:
        return np.eye(4)


BADS = [
    Bad("hess", "None", lambda params: None, TypeError, ("hess", "NoneType", "(4, 4)")),
    Bad("hess", "a dict", second, TypeError, ("hess", "dict", "(4, 4)", "C order", "names")),
    Bad("hess", "a list", lambda params: np.eye(4).tolist(), TypeError, ("hess", "list", "(4, 4)")),
    Bad("hess", "masked", lambda params: np.ma.masked_array(np.eye(4)), TypeError, ("hess", "MaskedArray")),
    Bad("hess", "sparse", lambda params: Sparse(), TypeError, ("hess", "Sparse", ".toarray()")),
    Bad("hess", "integers", lambda params: np.eye(4, dtype=int), TypeError, ("hess", "int64", "float")),
    Bad("hess", "complex", lambda params: np.eye(4) * 1j, TypeError, ("hess", "complex128", "float")),
    Bad("hess", "one array", lambda params: np.eye(2), ValueError, ("(2, 2)", "(4, 4)", "'W' (2), 'b' (2)")),
    Bad("hess", "a diagonal", lambda params: np.ones(4), ValueError, ("shape (4,)", "(4, 4)")),
    Bad("hess", "four axes", lambda params: np.ones((1, 4, 1, 4)), ValueError, (".reshape(4, 4)",)),
    Bad("hess", "not finite", with_nan, ValueError, ("1 elements", "[2, 1]", "'b' and 'W'", "lbfgs")),
    Bad("hess", "moves", moving, ValueError, ("params", "hess", "Newton")),
    Bad("hess", "raises", failing, ZeroDivisionError, ("a mistake",)),
    Bad("hvp", "None", lambda params: None, TypeError, ("hvp", "NoneType")),
    Bad("hvp", "an array", lambda params: np.ones(4), TypeError, ("hvp", "dict", "ndarray")),
    Bad("hvp", "a missing key", lambda params: {"W": params["W"]}, TypeError, ("hvp: 'b'", "None")),
    Bad("hvp", "an unknown key", replaced(c=1), ValueError, ("hvp", "'c'")),
    Bad("hvp", "a list for one", replaced(b=[1.0, 2.0]), TypeError, ("hvp: 'b'", "list")),
    Bad("hvp", "masked", replaced(b=np.ma.masked_array([1.0, 2.0])), TypeError, ("hvp: 'b'", "MaskedArray")),
    Bad("hvp", "integers", replaced(b=np.ones(2, int)), TypeError, ("hvp: 'b'", "int64")),
    Bad("hvp", "another shape", replaced(W=np.ones(2)), ValueError, ("hvp: 'W'", "(2,)", "(1, 2)")),
    Bad("hvp", "not finite", replaced(b=np.array([1, np.inf])), ValueError, ("hvp: 'b'", "1 elements", "lbfgs")),
    Bad("hvp", "moves", moving_products, ValueError, ("params", "hvp", "TrustRegion")),
    Bad("hvp", "raises", failing, ZeroDivisionError, ("a mistake",)),
]


@pytest.mark.parametrize("right", [0, 2])
@pytest.mark.parametrize("bad", BADS, ids=str)
def test_what_hess_and_hvp_must_not_return(bad: Bad, right: int) -> None:
    """The parameters are the last accepted ones, also in a later iteration."""
    params, calls = start(), [0]
    accepted = [start()]

    def keep(state: Any) -> None:
        accepted.append({name: array.copy() for name, array in params.items()})

    def hess(params: Any) -> Any:
        calls[0] += 1
        if calls[0] > right:
            return bad.returned(params)
        return np.diag(np.concatenate([its.ravel() for its in second(params).values()]))

    def hvp(params: Any, v: Any) -> Any:
        calls[0] += 1
        if calls[0] > right:
            return bad.returned(params)
        return {name: its * v[name] for name, its in second(params).items()}

    given: dict[str, Any] = {"hess": hess} if bad.form == "hess" else {"hvp": hvp}
    with pytest.raises(bad.error) as raised:
        fastopt.minimize(squares, params, "newton", callback=keep, **given)
    assert not [part for part in bad.says if part not in str(raised.value)], str(raised.value)
    assert calls[0] == right + 1 or bad.what == "moves"
    for name, array in params.items():
        assert array.tobytes() == accepted[-1][name].tobytes()


@pytest.mark.parametrize("bounds", [(0.0, None), (None, np.ones(3))], ids=["number", "array"])
def test_bounds_are_refused(bounds: Any) -> None:
    x = np.full(3, -1.0)
    methods: list[dict[str, Any]] = [{"method": "bfgs"}, {"hess": np.diag}, {"hvp": np.dot}]
    for options in methods:
        with pytest.raises(ValueError, match=r"bounds: \w+ has none, since its (matrix|steps).*lbfgs"):
            fastopt.minimize(lambda x: (0.0, x), x, bounds=bounds, **({"method": "newton"} | options))
    assert (x == -1).all()
