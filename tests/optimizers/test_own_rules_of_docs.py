"""The optimizers of docs/guide/own_rules.rst have the numbers of the packages that the page names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import ISAS, every_dtype, everything, needs_native
from own_rules_page import NAMES, PAGE, shown

import fastopt
from fastopt.backends.native import library as native

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")

START = [1.0, -2.0, 0.5]


def grad_at(p: Any, t: int) -> list[float]:
    """Return the gradient of a quadratic, with a disturbance that differs from step to step."""
    return [(k + 1) * x + (-1) ** t * 0.3 / (k + t % 3 + 1) for k, x in enumerate(p)]


def growing(p: Any, t: int) -> list[float]:
    """Return gradients whose second moment grows, so that the largest is the last."""
    return [t * t * (k + 1.0) for k in range(3)]


#: The options, and the parameter after ten steps with :func:`grad_at`, by these packages in float64: START as a torch
#: tensor whose ``grad`` is set before each ``step()``, with the options here; as a parameter of a Chainer link.
PACKAGES: dict[str, tuple[dict[str, Any], list[float]]] = {
    # qhoptim 1.1.0
    "QHAdam": (
        {"lr": 0.1, "betas": (0.9, 0.99), "nus": (0.7, 0.8)},
        [0.11883656131106858, -1.0346298752435719, -0.12582917069829422],
    ),
    # pytorch_optimizer 4.1.0, with foreach=False
    "LaProp": (
        {"lr": 0.1, "betas": (0.9, 0.99)},
        [0.1495046510996572, -1.0765309270474221, -0.1216802727460472],
    ),
    # pytorch_optimizer 4.1.0, with the paper's clip_lambda=lambda t: (t - 1) ** 0.25
    "ADOPT": (
        {"lr": 0.1, "betas": (0.9, 0.99)},
        [0.6422840900282459, -1.6713432147453384, 0.18883621123903158],
    ),
    # madgrad 1.3
    "MADGRAD": ({"lr": 0.1}, [0.3481427948890707, -0.9185250526585949, -0.13030351481296962]),
    # adabound 0.0.5
    "AdaBound": (
        {"lr": 0.1, "gamma": 0.1},
        [0.13918057023579805, -1.0231279116437981, -0.2026691688125767],
    ),
    # chainer 7.8.1
    "SMORMS3": ({"lr": 0.1}, [0.1485588892130107, -0.9825292864432023, -0.03239778053707677]),
}
#: With :func:`growing`, by pytorch_optimizer 4.1.0, which has no maximum, and partial=0.125.
PADAM = {"lr": 0.1, "betas": (0.9, 0.99)}, [-1.994551591784755, -7.036215399282842, -6.326101488842624]


def after(name: str, options: dict[str, Any], grads: Any = grad_at, steps: int = 10, **more: Any) -> Any:
    p = np.array(START)
    opt = shown()[name](p, **options, **more)
    for t in range(1, steps + 1):
        opt.step(np.array(grads(p.tolist(), t)))
    return p


@pytest.mark.parametrize("name", PACKAGES)
def test_the_numbers_of_the_package(name: str) -> None:
    options, expected = PACKAGES[name]
    np.testing.assert_allclose(after(name, options), expected, rtol=1e-12)


def test_padam_where_the_second_moment_grows() -> None:
    options, expected = PADAM
    np.testing.assert_allclose(after("Padam", options, growing), expected, rtol=1e-12)


def test_padam_in_plain_python() -> None:
    p, m, v, v_max = START, [0.0] * 3, [0.0] * 3, [0.0] * 3
    for t in range(1, 11):
        g = [x / t for x in grad_at(p, t)]
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
        v = [0.99 * a + (1 - 0.99) * b * b for a, b in zip(v, g, strict=True)]
        v_max = [max(pair) for pair in zip(v_max, v, strict=True)]
        size = 0.1 * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t)
        p = [x - size * a / (b**0.5 + 1e-8) ** 0.25 for x, a, b in zip(p, m, v_max, strict=True)]
    falling = after("Padam", PADAM[0], lambda p, t: [x / t for x in grad_at(p, t)])
    np.testing.assert_allclose(falling, p, rtol=1e-12)


def test_the_cube_root() -> None:
    x = np.concatenate([[0.0], 10.0 ** np.arange(-38, 39)])
    np.testing.assert_allclose(shown()["cube_root"](x[1:]), np.cbrt(x[1:]), rtol=1e-11)
    with np.errstate(all="ignore"):
        roots = shown()["cube_root"](x.astype(np.float32))
    assert roots.dtype == np.float32
    assert roots[0] == 0
    np.testing.assert_allclose(roots, np.cbrt(x), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_documents_each(name: str) -> None:
    """Its rule has three to six lines."""
    rule = re.search(rf"    def {name}\(h, .*?\n((?:        .*\n)+)", PAGE.read_text("utf-8"))
    assert rule is not None
    assert 3 <= len(rule[1].splitlines()) <= 6


@needs_native
@pytest.mark.by_turns("name")
@every_dtype
@pytest.mark.parametrize("name", NAMES)
def test_bits_and_resuming(name: str, dtype: Any) -> None:
    """The same on NumPy, on each instruction set, and where a run goes on from its state."""

    def run(backend: str, is_resumed: bool = False) -> list[bytes]:
        rng = np.random.default_rng(0)
        params = [rng.normal(size=size).astype(dtype) for size in (1100, (3, 5))]
        opt = shown()[name](params, lr=0.01, weight_decay=0.1, backend=backend)
        for step in range(6):
            if step == 3 and is_resumed:
                saved, opt = opt.state_dict(), shown()[name](params, backend=backend)
                opt.load_state_dict(saved)
            opt.step([rng.normal(size=param.shape).astype(dtype) for param in params])
        return everything(params, opt)

    expected = run("numpy")
    for isa in ISAS:
        native.use_isa(isa)
        assert run("native") == expected
    native.use_isa(None)
    assert run("native", is_resumed=True) == expected
    assert run("numpy", is_resumed=True) == expected


def test_a_slot_that_begins_as_the_parameter() -> None:
    """What is written before the first step counts."""
    p = np.array(START)
    opt = shown()["MADGRAD"](p)
    p[:] = 5.0
    opt.step(np.ones(3))
    assert opt.state["0"]["start"].tolist() == [5.0, 5.0, 5.0]
    assert isinstance(opt, fastopt.Optimizer)
