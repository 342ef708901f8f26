"""Prodigy: the numbers of the authors' package, of optax and of the formula; one d for all arrays, which is resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import every_dtype, everything, needs_native, shown

import fastopt
from fastopt import schedules

SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3)]
STEPS = 50

every_backend = pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])


def start(dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(7)
    return [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]


def gradients(params: list[Any], rng: Any) -> list[Any]:
    """Return those of a quadratic with its minimum away from the start, and noise."""
    return [np.asarray(param - 2.0 + 0.3 * rng.normal(size=param.shape), param.dtype) for param in params]


#: Options, and those of the authors' package that mean the same.
AUTHORS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"lr": 0.5, "weight_decay": 0.1, "d0": 1e-3}, {}),
    ({"weight_decay": 0.1, "decoupled": False}, {"decouple": False}),
    ({"betas": (0.8, 0.99), "beta3": 0.9, "d_coef": 0.5, "eps": 1e-3, "use_bias_correction": True}, {}),
    ({"lr": 0.3, "safeguard_warmup": True, "use_bias_correction": True, "d_coef": 20.0}, {}),
]


def of_authors(options: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in options.items() if name != "decoupled"}, **more}


@pytest.mark.parametrize(("options", "more"), AUTHORS, ids=shown)
def test_numbers_of_live_prodigyopt_with_torch(options: dict[str, Any], more: dict[str, Any]) -> None:
    """In float64, each step within 1e-12; ``pip install prodigyopt`` gets it. Some gradients are None."""
    torch = pytest.importorskip("torch", reason="needs torch")
    prodigyopt = pytest.importorskip("prodigyopt", reason="needs prodigyopt")
    rng = np.random.default_rng(1)
    params = start()
    tensors = [torch.tensor(param.copy(), requires_grad=True) for param in params]
    opt, reference = fastopt.Prodigy(params, **options), prodigyopt.Prodigy(tensors, **of_authors(options, more))
    for step in range(STEPS):
        grads: list[Any] = gradients(params, rng)
        if step in (3, 30) and not options.get("use_bias_correction"):
            grads[1] = None
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad.copy())
        opt.step(grads)
        reference.step()
        assert opt.d == pytest.approx(reference.param_groups[0]["d"], rel=1e-12)
        for param, tensor in zip(params, tensors, strict=True):
            np.testing.assert_allclose(param, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert opt.d > 100 * opt.param_groups[0]["d0"]


class Golden(NamedTuple):
    """Options, and the parameter and d after steps 1, 10 and 40."""

    options: dict[str, Any]
    after: dict[int, tuple[list[float], float]]


#: From prodigyopt 1.1.2 with torch 2.13.0, in float64, by
#:     p = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
#:     opt = prodigyopt.Prodigy([p], **options)
#:     for step in range(1, 41):
#:         p.grad = p.detach() - torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
#:         opt.step()
#:         print(step, p.tolist(), opt.param_groups[0]["d"])
GOLDEN = [
    Golden(
        {},
        {
            1: ([2.99999683772284, -0.9999968377226731, 0.49999683772433984], 1e-06),
            10: ([2.988950644122826, -0.9889514961022896, 0.4889429380918419], 0.0038736961614375142),
            40: ([1.34896224658181, 1.3154248801371695, 0.0448286036675542], 0.6623187660197892),
        },
    ),
    Golden(
        {"lr": 0.5, "weight_decay": 0.1, "d0": 1e-3},
        {
            1: ([2.9982688614199158, -0.9983688613365824, 0.49839386216991516], 0.001),
            10: ([2.098296004336204, -0.14011830244935636, -0.41836776392832054], 0.3563778392730021),
            40: ([0.8622522935583061, 2.1941621202868014, -0.06582403568798156], 1.0692053896102545),
        },
    ),
    Golden(
        {"betas": (0.8, 0.99), "beta3": 0.9, "d_coef": 0.5, "eps": 1e-3, "use_bias_correction": True},
        {
            1: ([2.999999004975124, -0.9999990033222591, 0.49999901960784315], 1e-06),
            10: ([2.9999844402212488, -0.9999844211103232, 0.4999846100421086], 4.572497804929025e-06),
            40: ([2.250180606496738, -0.2510625953015554, -0.18952308999923925], 0.1984684986678655),
        },
    ),
    Golden(
        {"lr": 0.3, "safeguard_warmup": True, "use_bias_correction": True, "d_coef": 20.0},
        {
            1: ([2.9999997000000476, -0.9999997000000316, 0.49999970000018973], 1e-06),
            10: ([2.999996907378624, -0.9999969073784895, 0.49999690737983343], 1.397564070606543e-06),
            40: ([2.999015406739319, -0.9990154127127758, 0.49901535295726207], 0.0006856127472307603),
        },
    ),
]


@every_backend
@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: shown(golden.options))
def test_golden_numbers_of_the_authors_package(golden: Golden, backend: str) -> None:
    param = np.array([3.0, -1.0, 0.5])
    opt = fastopt.Prodigy(param, backend=backend, **golden.options)
    for step in range(1, 41):
        opt.step(param - [1.0, 2.0, 0.0])
        if step in golden.after:
            wanted, d = golden.after[step]
            np.testing.assert_allclose(param, wanted, rtol=1e-12)
            assert opt.d == pytest.approx(d, rel=1e-11)


@pytest.mark.parametrize(
    ("options", "of_optax"),
    [
        ({}, {}),
        (
            {"lr": 0.5, "betas": (0.8, 0.99), "beta3": 0.95, "eps": 1e-3, "d0": 1e-4, "d_coef": 2.0},
            {"learning_rate": 0.5, "betas": (0.8, 0.99), "beta3": 0.95, "eps": 1e-3, "estim_lr0": 1e-4}
            | {"estim_lr_coef": 2.0},
        ),
        ({"weight_decay": 0.1, "safeguard_warmup": True}, {"weight_decay": 0.1, "safeguard_warmup": True}),
    ],
    ids=shown,
)
def test_numbers_of_live_optax(options: dict[str, Any], of_optax: dict[str, Any]) -> None:
    """It always corrects the bias. In float64, each step within 1e-12."""
    optax = pytest.importorskip("optax", reason="needs optax")
    jax = pytest.importorskip("jax", reason="needs jax")
    rng = np.random.default_rng(2)
    params = start()
    opt = fastopt.Prodigy(params, use_bias_correction=True, **options)
    jax.config.update("jax_enable_x64", True)
    try:
        transformation = optax.contrib.prodigy(**of_optax)
        others = list(map(jax.numpy.array, params))
        state, update = transformation.init(others), jax.jit(transformation.update)
        for _ in range(STEPS):
            grads = gradients(params, rng)
            opt.step(grads)
            updates, state = update(list(map(jax.numpy.array, grads)), state, others)
            others = optax.apply_updates(others, updates)
            assert opt.d == pytest.approx(float(state.estim_lr), rel=1e-12)
            for param, other in zip(params, others, strict=True):
                np.testing.assert_allclose(param, np.asarray(other), rtol=1e-12, atol=1e-12)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert opt.d > 2 * opt.param_groups[0]["d0"]


def by_formula(params: list[list[float]], grads: list[Any], rates: list[list[float]], h: dict[str, Any]) -> list[float]:
    """Change parameters, a list for each array, as the docstring says; return d after each step."""
    (beta1, beta2), beta3, d, r = h["betas"], math.sqrt(h["betas"][1]), h["d0"], 0.0
    first, told = [list(p) for p in params], []
    m, v, s, ts = ([[0.0] * len(p) for p in params] for _ in range(4))
    for gs, lrs in zip(grads, rates, strict=True):
        slope = size = 0.0
        rate = {}
        for i, g in enumerate(gs):
            if g is None:
                continue
            ts[i][0] += 1
            t = ts[i][0]
            rate[i] = d * lrs[i] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
            for j in range(len(g)):
                slope += d / h["d0"] * rate[i] * g[j] * (first[i][j] - params[i][j])
                m[i][j] = beta1 * m[i][j] + (1 - beta1) * d * g[j]
                v[i][j] = beta2 * v[i][j] + (1 - beta2) * (d * g[j]) ** 2
                s[i][j] = beta3 * s[i][j] + d / h["d0"] * rate[i] * g[j]
                size += abs(s[i][j])
        if size:
            r = beta3 * r + slope
            d = min(max(d, h["d_coef"] * r / size), h["growth_rate"] * d)
            for i, its in rate.items():
                for j in range(len(params[i])):
                    decayed = (1 - its * h["weight_decay"]) * params[i][j]
                    params[i][j] = decayed - its * m[i][j] / (math.sqrt(v[i][j]) + d * h["eps"])
        told.append(d)
    return told


@every_backend
def test_the_formula(backend: str) -> None:
    """Two groups with other rates, one of them 0 at first; None gradients; a step without any; d grows slowly."""
    h: dict[str, Any] = {"betas": (0.9, 0.99), "d0": 1e-3, "d_coef": 1.5, "growth_rate": 1.3, "eps": 1e-3}
    h["weight_decay"] = 0.1
    rng = np.random.default_rng(4)
    params = [rng.normal(size=3), rng.normal(size=5), rng.normal(size=2)]
    grads: list[list[Any]] = []
    for t in range(40):
        its: list[Any] = [1.0 + 0.2 * rng.normal(size=param.size) for param in params]
        if t == 0:
            its = [np.zeros_like(param) for param in params]
        if t % 7 == 2:
            its[t % 3] = None
        if t == 11:
            its = [None, None, None]
        grads.append(its)
    expected = [param.tolist() for param in params]
    warmup = schedules.linear(0.0, 1.0, 5)
    rates = [[warmup(t), warmup(t), 0.5] for t in range(40)]
    wanted = by_formula(expected, grads, rates, h)
    groups = [{"params": params[:2], "lr": warmup}, {"params": params[2:], "lr": 0.5}]
    opt = fastopt.Prodigy(groups, use_bias_correction=True, backend=backend, **h)
    for its, d in zip(grads, wanted, strict=True):
        opt.step([its[:2], its[2:]])
        assert opt.d == pytest.approx(d, rel=1e-12)
    for param, values in zip(params, expected, strict=True):
        np.testing.assert_allclose(param, values, rtol=1e-12)
    assert 1e-2 < opt.d < 1e-3 * 1.3**40


@every_backend
@every_dtype
def test_without_any_gradient_nothing_changes(dtype: Any, backend: str) -> None:
    """Neither by decay; d stays, and the average is that of the parameters."""
    params = start(dtype)
    before = [param.tobytes() for param in params]
    opt = fastopt.Prodigy(
        params, weight_decay=0.5, eps=0.0, prox_l1=0.1, ema_decay=0.5, zero_grads=True, backend=backend
    )
    for _ in range(3):
        info = opt.step([np.zeros_like(param) for param in params])
    assert [param.tobytes() for param in params] == before == [average.tobytes() for average in opt.ema]
    assert (opt.d, info.applied, info.step) == (1e-6, True, 3)
    opt.step([np.ones_like(param) for param in params])
    assert [param.tobytes() for param in params] != before


def steps(opt: fastopt.Prodigy, params: list[Any], count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        opt.step(gradients(params, rng))


@every_backend
def test_d_is_resumed(backend: str, tmp_path: Path) -> None:
    """From a state and from a file, with the bits of a run that went on; also after d became something else."""
    params = start(np.float32)
    opt = fastopt.Prodigy(params, backend=backend)
    steps(opt, params, 15, 0)
    assert opt.d > 1e-4
    saved, kept = opt.state_dict(), [param.copy() for param in params]
    d = opt.d
    assert [float(state["d"]) for state in saved["state"].values()] == [d] * 3
    fastopt.save(tmp_path / "run.npz", opt, params=params)
    steps(opt, params, 10, 1)
    wanted = everything(params, opt)
    for again in (kept, params):
        other = opt if again is params else fastopt.Prodigy(again, backend=backend)
        if again is params:
            fastopt.load(tmp_path / "run.npz").restore(other)
        else:
            other.load_state_dict(saved)
        assert other.d == d
        steps(other, again, 10, 1)
        assert everything(again, other) == wanted


def test_arrays_that_came_later_share_d() -> None:
    """Whether they were added, or have no state in what was loaded; the largest d counts."""
    params = {"a": np.ones(3), "b": np.ones(4)}
    opt = fastopt.Prodigy(params)
    for _ in range(10):
        opt.step({"a": np.ones(3), "b": None})
    d = opt.d
    assert 1e-5 < d == opt.state["b"]["d"]
    opt.add_param_group({"params": {"c": np.ones(2)}})
    assert opt.d == d
    opt.step({"a": None, "b": None, "c": np.ones(2)})
    assert {float(state["d"]) for state in opt.state.values()} == {opt.d}
    saved = opt.state_dict()
    del saved["state"]["b"], saved["state"]["c"], saved["param_groups"][1]
    other = fastopt.Prodigy({name: np.ones(size) for name, size in (("b", 4), ("a", 3))})
    other.load_state_dict(saved, strict=False)
    assert other.d == opt.d
    other.step({"a": None, "b": np.ones(4)})
    assert other.state["a"]["r"] == other.state["b"]["r"] == math.sqrt(0.999) * opt.state["a"]["r"]


def test_what_is_not_finite() -> None:
    """A step that is skipped leaves d; one that is not makes no other d of it; such a state loads."""
    params = start()
    opt = fastopt.Prodigy(params, nonfinite="skip")
    steps(opt, params, 12, 0)
    before = everything(params, opt)
    assert not opt.step([np.full_like(param, np.nan) for param in params]).applied
    assert everything(params, opt) == before
    through = fastopt.Prodigy(params)
    through.load_state_dict(opt.state_dict())
    through.step([np.full_like(param, np.nan) for param in params])
    assert through.d == opt.d
    assert math.isnan(through.state["0"]["r"])
    through.load_state_dict(through.state_dict())


def test_one_d_needs_common_options() -> None:
    params = start()
    grads = [[np.ones_like(param) for param in its] for its in (params[:1], params[1:])]
    with_two = fastopt.Prodigy([{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "weight_decay": 0.1}])
    with_two.step(grads)
    before = everything(params, with_two)
    for name, value in {"betas": (0.8, 0.9), "beta3": 0.5, "d0": 1e-3, "d_coef": 2.0, "growth_rate": 2.0}.items():
        old = with_two.param_groups[1][name]
        with_two.param_groups[1][name] = value
        with pytest.raises(
            ValueError, match=rf"^{name}: expected the same in all groups, since they share one d, got \["
        ):
            with_two.step(grads)
        with_two.param_groups[1][name] = old
    assert everything(params, with_two) == before
    with_two.param_groups[1]["betas"] = [0.9, 0.999]  # the same in a list
    with_two.step(grads)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"d0": 0.0}, r"d0=0\.0: expected a finite number of at least 1e-30"),
        ({"growth_rate": 0.5}, r"growth_rate=0\.5: expected a number of at least 1"),
        ({"beta3": 1.0}, r"beta3=1\.0: expected a number from 0 to below 1, or None"),
        ({"d_coef": -1.0}, r"d_coef=-1\.0: expected a finite number of at least 0"),
        ({"safeguard_warmup": 1}, r"safeguard_warmup=1: expected True or False"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{told}"):
        fastopt.Prodigy(np.ones(3), **options)


def test_d_is_read_only_and_rows_are_refused() -> None:
    table = np.ones((4, 2))
    opt = fastopt.Prodigy(table)
    with pytest.raises(AttributeError):
        opt.d = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="row-sparse, which Prodigy does not take"):
        opt.step(fastopt.RowSparse(np.array([1]), np.ones((1, 2))))


def test_reloaded_parameters_are_the_new_start() -> None:
    """Until an array's first step writing is enough."""
    param, late = np.ones(3), np.ones(2)
    opt = fastopt.Prodigy([param, late])
    param[...] = 2.0
    for _ in range(8):
        opt.step([np.ones(3), None])
    late[...] = 4.0
    opt.step([np.ones(3), np.ones(2)])
    assert opt.state["0"]["p0"].tolist() == [2, 2, 2]
    assert opt.state["1"]["p0"].tolist() == [4, 4]
    d = opt.d
    assert d > 1e-5
    param[...] = [5.0, 6.0, 7.0]
    opt.reload_params()
    assert opt.state["0"]["p0"].tolist() == [5, 6, 7]
    assert opt.d == d
