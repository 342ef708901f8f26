"""What is particular to the optimizers that need more of an array than its elements."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import ISAS, everything, needs_native

import fastopt
from fastopt.backends import threads
from fastopt.backends.native import library as native


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = threads.setting
    yield
    threads.setting = before
    if native.missing is None:
        native.use_isa(os.environ.get("FASTOPT_ISA"))


def run(optimizer: Any, dtype: Any, backend: str) -> list[bytes]:
    """Return the bytes after a few steps of arrays with two and more axes, in C and in Fortran order."""
    rng = np.random.default_rng(1)
    shapes = [(300, 200), (7, 1), (1, 9), (0, 3)] + ([] if optimizer is fastopt.Muon else [(40, 6, 3, 3), (5, 2, 0)])
    params = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    params += [np.array(param, order="F") for param in params]
    opt = optimizer(params, weight_decay=0.1, clip_global_norm=1.0, backend=backend)
    for step in range(3):
        grads: list[Any] = [rng.normal(size=param.shape) for param in params]
        if step == 1:
            grads[0] = None
        opt.step(grads)
    return everything(params, opt)


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [fastopt.Adafactor, fastopt.LARS, fastopt.LAMB, fastopt.Muon])
def test_same_bits_for_arrays_with_more_axes(optimizer: Any, dtype: Any) -> None:
    wanted = run(optimizer, dtype, "numpy")
    for isa in ISAS:
        native.use_isa(isa)
        for count in (1, 3):
            fastopt.set_num_threads(count)
            assert run(optimizer, dtype, "native") == wanted


def test_state_bytes() -> None:
    params = [np.zeros((1000, 300), np.float32), np.zeros((2, 4, 5, 3)), np.zeros(7, np.float32)]
    adam, adafactor = fastopt.Adam(params), fastopt.Adafactor([param.copy() for param in params])
    grads = [np.ones_like(param) for param in params]
    adam.step(grads)
    adafactor.step(grads)
    assert adam.state_bytes == 3 * 8 + 2 * sum(param.nbytes for param in params)
    assert adafactor.state_bytes == 3 * 8 + 4 * (1000 + 300) + 8 * (2 * 4 * (5 + 3)) + 4 * 7
    shapes = {slot: array.shape for slot, array in adafactor.state["1"].items() if slot != "step"}
    assert shapes == {"row_var": (2, 4, 5, 1), "col_var": (2, 4, 1, 3)}


MUON_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.02},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
    {"lr": 0.02, "adjust_lr_fn": "original", "nesterov": False, "momentum": 0.7, "weight_decay": 0.3},
    {"lr": 0.02, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
]


@pytest.mark.parametrize("scale", [1.0, 1e-8])
@pytest.mark.parametrize("options", MUON_OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_muon_is_torchs_algorithm_in_the_working_dtype(
    options: Any, dtype: Any, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    rng = np.random.default_rng(2)
    params = [rng.normal(size=shape).astype(dtype) for shape in [(8, 20), (20, 8), (5, 5), (1, 4), (4, 1)]]
    tensors = [torch.tensor(param, requires_grad=True) for param in params]
    opt, reference = fastopt.Muon(params, **options), torch.optim.Muon(tensors, **options)
    for step in range(50):
        grads: list[Any] = [(scale * rng.normal(size=param.shape)).astype(dtype) for param in params]
        if 10 <= step < 13:
            grads[step - 10] = None
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad)
        opt.step(grads)
        reference.step()
        for param, tensor in zip(params, tensors, strict=True):
            wanted = tensor.detach().numpy()
            # Each product adds rounding, which the iteration's polynomial enlarges: wider than for elementwise rules.
            close = 1e-12 if dtype == np.float64 else 2e-5
            np.testing.assert_allclose(param, wanted, rtol=close, atol=close * options["lr"])
            if dtype == np.float32:
                param[...] = wanted


def test_muon_refuses_what_is_no_matrix() -> None:
    params = {"W": np.ones((2, 3)), "b": np.ones(3)}
    with pytest.raises(ValueError, match=r"'b' has shape \(3,\); Muon is for matrices"):
        fastopt.Muon(params)
    opt = fastopt.Muon({"W": params["W"]})
    with pytest.raises(ValueError, match="'b' has shape"):
        opt.add_param_group({"params": {"b": params["b"]}})
    with pytest.raises(ValueError, match="adjust_lr_fn='moonlight': expected one of None, 'original'"):
        fastopt.Muon(params["W"], adjust_lr_fn="moonlight")


def test_trust_ratio_is_one_for_groups_without_it_and_for_zeros() -> None:
    for optimizer in (fastopt.LARS, fastopt.LAMB):
        params = [np.full(3, 2.0), np.full(3, 2.0), np.zeros(3), np.full(3, 2.0)]
        groups = [{"params": params[:1]}, {"params": params[1:2], "adapt": False}, {"params": params[2:]}]
        opt = optimizer(groups)
        opt.step([[np.ones(3)], [np.ones(3)], [np.ones(3), np.zeros(3)]])
        ratios = [float(state["trust_ratio"]) for state in opt.state.values()]
        assert ratios[0] == pytest.approx(2.0 * (1e-3 if optimizer is fastopt.LARS else 1.0), rel=1e-5)
        assert ratios[1:] == [1.0, 1.0, 1.0]


def schedule_free_by_hand(options: dict[str, Any], grads: list[float], p: float) -> tuple[float, float, list[float]]:
    """The paper's three sequences, with x kept: returns y, x, and every y on the way."""
    x = z = y = p
    weight_sum = largest = 0.0
    ys = []
    for t, slope in enumerate(grads, 1):
        lr = options["lr"] * min(1.0, t / options["warmup_steps"])
        largest = max(largest, lr)
        weight = t ** options["r"] * largest ** options["weight_lr_power"]
        weight_sum += weight
        z -= lr * (slope + options["weight_decay"] * y)
        x += weight / weight_sum * (z - x)
        y = (1 - options["momentum"]) * z + options["momentum"] * x
        ys.append(y)
    return y, x, ys


def test_schedule_free_has_the_papers_sequences() -> None:
    options = {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1, "warmup_steps": 3, "r": 1.0, "weight_lr_power": 2.0}
    theta = np.array([1.5])
    opt = fastopt.ScheduleFreeSGD(theta, **options)
    grads = [0.5, -1.0, 2.0, 0.25, -0.75]
    y, x, ys = schedule_free_by_hand(options, grads, 1.5)
    for slope, wanted in zip(grads, ys, strict=True):
        opt.step(np.array([slope]))
        assert theta[0] == pytest.approx(wanted, rel=1e-13)
    opt.eval()
    assert theta[0] == pytest.approx(x, rel=1e-13)
    opt.train()
    assert theta[0] == pytest.approx(y, rel=1e-13)


@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
def test_schedule_free_modes(optimizer: Any) -> None:
    rng = np.random.default_rng(3)
    params = [rng.normal(size=(4, 3)), np.asfortranarray(rng.normal(size=(2, 3)))]
    opt = optimizer(params, lr=0.1)
    before = [param.copy() for param in params]
    opt.eval()
    opt.eval()
    assert all((param == start).all() for param, start in zip(params, before, strict=True)), (
        "x is y before the first step"
    )
    with pytest.raises(RuntimeError, match=r"in eval mode; call train\(\)"):
        opt.step([np.ones((4, 3)), np.ones((2, 3))])
    assert opt.step_count == 0
    opt.train()
    opt.train()
    for _ in range(5):
        opt.step([rng.normal(size=(4, 3)), rng.normal(size=(2, 3))])
    y = [param.copy() for param in params]
    opt.train()
    assert all((param == kept).all() for param, kept in zip(params, y, strict=True))
    opt.eval()
    assert not opt.is_training
    x = [param.copy() for param in params]
    assert not any((param == kept).any() for param, kept in zip(params, y, strict=True))
    opt.eval()
    assert all((param == kept).all() for param, kept in zip(params, x, strict=True))
    opt.train()
    for param, kept in zip(params, y, strict=True):
        np.testing.assert_allclose(param, kept, rtol=1e-14, atol=1e-15)


class SWATSByHand:
    """Algorithm 1 of Keskar and Socher (2017), line by line, for one vector."""

    def __init__(self, w: Any, alpha: float, beta1: float, beta2: float, eps: float) -> None:
        self.w, self.alpha, self.beta1, self.beta2, self.eps = w.copy(), alpha, beta1, beta2, eps
        self.m, self.a, self.v = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
        self.k, self.average, self.is_sgd, self.rate, self.switched_at = 0, 0.0, False, 0.0, 0

    def step(self, g: Any) -> None:
        self.k += 1
        if self.is_sgd:
            self.v = self.beta1 * self.v + g
            self.w = self.w - (1 - self.beta1) * self.rate * self.v
            return
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.a = self.beta2 * self.a + (1 - self.beta2) * g * g
        correction = np.sqrt(1 - self.beta2**self.k) / (1 - self.beta1**self.k)
        p = -self.alpha * correction * self.m / (np.sqrt(self.a) + self.eps)
        self.w = self.w + p
        if p @ g != 0:
            gamma = (p @ p) / -(p @ g)
            self.average = self.beta2 * self.average + (1 - self.beta2) * gamma
            settled = self.average / (1 - self.beta2**self.k)
            if self.k > 1 and abs(settled - gamma) < self.eps:
                self.is_sgd, self.rate, self.switched_at = True, settled, self.k


def test_swats_is_algorithm_1() -> None:
    curvature = [np.array([1.0, 3.0]), np.array([0.2, 0.5, 0.9])]
    params = [np.array([1.0, -2.0]), np.array([3.0, 1.0, -1.0])]
    options = {"lr": 0.05, "betas": (0.9, 0.95), "eps": 3e-4}
    opt = fastopt.SWATS(params, **options)
    by_hand = [SWATSByHand(param, 0.05, 0.9, 0.95, 3e-4) for param in params]
    for _ in range(300):
        grads = [c * param for c, param in zip(curvature, params, strict=True)]
        opt.step(grads)
        for hand, grad, param, state in zip(by_hand, grads, params, opt.state.values(), strict=True):
            hand.step(grad)
            np.testing.assert_allclose(param, hand.w, rtol=1e-10, atol=1e-14)
            assert int(state["switch_step"]) == hand.switched_at
            assert float(state["sgd_lr"]) == pytest.approx(hand.rate, rel=1e-12)
    assert 0 < by_hand[0].switched_at < by_hand[1].switched_at < 300, "each array switches by itself"

    # One group is one vector, whatever its arrays.
    joined = np.array([1.0, -2.0, 3.0, 1.0, -1.0])
    together = fastopt.SWATS([joined[:2].copy(), joined[2:].copy()], per_group=True, **options)
    hand = SWATSByHand(joined, 0.05, 0.9, 0.95, 3e-4)
    for _ in range(300):
        halves = together.param_groups[0]["params"]
        grads = [c * param for c, param in zip(curvature, halves, strict=True)]
        together.step(grads)
        hand.step(np.concatenate(grads))
        np.testing.assert_allclose(np.concatenate(halves), hand.w, rtol=1e-10, atol=1e-14)
        assert {int(state["switch_step"]) for state in together.state.values()} == {hand.switched_at}
    assert 2 < hand.switched_at < 300


def rosenbrock(x: Any) -> tuple[float, Any]:
    a, b = x.ravel()
    gradient = np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, gradient.reshape(x.shape)


def booth(x: Any) -> tuple[float, Any]:
    a, b = x.ravel()
    u, v = a + 2 * b - 7, 2 * a + b - 5
    return u * u + v * v, np.array([2 * u + 4 * v, 4 * u + 2 * v]).reshape(x.shape)


def ravine(x: Any) -> tuple[float, Any]:
    """A quadratic of condition 10,000."""
    curvature = np.logspace(0, -4, x.size).reshape(x.shape)
    return 0.5 * float((curvature * x * x).sum()), curvature * x


@pytest.mark.parametrize(
    ("function", "start", "lr", "value"),
    [
        (rosenbrock, [[-1.2, 1.0]], 0.01, 1e-11),
        (booth, [[-5.0, 5.0]], 0.03, 1e-12),
        (ravine, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 0.01, 1e-15),
    ],
)
def test_descent_of_muon(function: Any, start: Any, lr: float, value: float) -> None:
    """Muon's steps have one size, whatever the gradient's: the rate must fall."""
    param = np.array(start)
    opt = fastopt.Muon(param, lr=fastopt.schedules.cosine(lr, 3000), weight_decay=0.0)
    for _ in range(3000):
        opt.step(function(param)[1])
    assert function(param)[0] <= value


@pytest.mark.parametrize("optimizer", [fastopt.Adafactor, fastopt.Muon, fastopt.LAMB, fastopt.SWATS])
def test_resuming_from_a_saved_state(optimizer: Any) -> None:
    """Into a new optimizer, which has no slots yet; the matrices have slots of other shapes than their own."""
    rng = np.random.default_rng(4)
    params = [rng.normal(size=(5, 3)), np.asfortranarray(rng.normal(size=(4, 6)))]
    opt = optimizer(params, lr=0.01)
    grads = [[rng.normal(size=param.shape) for param in params] for _ in range(6)]
    for k in range(3):
        opt.step([grads[k][0], grads[k][1] if k else None])
    others = [param.copy(order="K") for param in params]
    resumed = optimizer(others)
    resumed.load_state_dict(opt.state_dict())
    for k in range(3, 6):
        assert opt.step(grads[k]) == resumed.step([grad.copy() for grad in grads[k]])
    assert everything(params, opt) == everything(others, resumed)


def test_schedule_free_saved_in_eval_mode_goes_on_in_it() -> None:
    theta = np.array([1.0, 2.0])
    opt = fastopt.ScheduleFreeAdamW(theta, lr=0.1)
    for _ in range(4):
        opt.step(2 * theta)
    y = theta.copy()
    opt.eval()
    other = fastopt.ScheduleFreeAdamW(theta.copy())
    other.load_state_dict(opt.state_dict())
    assert not other.is_training
    other.train()
    np.testing.assert_allclose(other.param_groups[0]["params"][0], y, rtol=1e-14)


@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_masters_and_copies_follow_the_modes_of_schedule_free(optimizer: Any, backend: str) -> None:
    """What is shown is float32's x or y, rounded: as a copy of float32 parameters, and of the master."""
    rng = np.random.default_rng(5)
    half = rng.normal(size=300).astype(np.float16)
    wide, copy = half.astype(np.float32), np.empty(300, np.float16)
    opts = [optimizer(half, backend=backend), optimizer(wide, copy_to=copy, backend=backend)]
    for _ in range(2):
        for _ in range(3):
            grad = rng.normal(size=300)
            for opt in opts:
                opt.step(grad)
        y = wide.copy()
        for opt in opts:
            opt.eval()
        assert (wide != y).any()
        for shown in (half, copy):
            np.testing.assert_array_equal(shown, wide.astype(np.float16))
        np.testing.assert_array_equal(opts[0].state["0"]["master"], wide)
        for opt in opts:
            opt.train()
        for shown in (half, copy):
            np.testing.assert_array_equal(shown, wide.astype(np.float16))
        np.testing.assert_allclose(wide, y, rtol=1e-5)


def test_modes_of_schedule_free_where_parameters_were_written_over() -> None:
    """The master is made anew of what was written, also for the modes."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    theta = np.ones(5, ml_dtypes.bfloat16)
    opt = fastopt.ScheduleFreeSGD(theta, lr=0.5)
    opt.step(np.ones(5))
    theta[...] = 3
    opt.reload_params()
    opt.eval()
    z = opt.state["0"]["z"]
    np.testing.assert_array_equal(theta, (3 + (1 - 1 / 0.9) * (z - 3)).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    ("optimizer", "exact"),
    [
        (fastopt.LAMB, {"u"}),
        (fastopt.SWATS, {"u"}),
        (fastopt.ScheduleFreeAdamW, {"z"}),
        (fastopt.Adan, {"m", "last"}),
        (fastopt.DeltaBarDelta, {"gain"}),
        (fastopt.LARS, set()),
        (fastopt.Muon, set()),
    ],
)
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
def test_slots_that_must_be_exact_are(optimizer: Any, exact: set[str], state_dtype: str) -> None:
    """They stay float32; the others are stored in fewer bits, and once a step."""
    param = np.ones((90, 50), np.float32)
    opt = optimizer(param, state_dtype=state_dtype)
    opt.step(np.ones((90, 50)))
    slots = {slot: array for slot, array in opt.state["0"].items() if array.shape == param.shape}
    assert {slot for slot, array in slots.items() if array.dtype == np.float32} == exact
    assert {array.dtype.name for slot, array in slots.items() if slot not in exact} == {state_dtype}
    if state_dtype == "uint8" and "u" in exact:
        assert (opt.state["0"]["m_scale"] == np.float32(1 - 0.9)).all(), "the pass along u leaves the other slots alone"
