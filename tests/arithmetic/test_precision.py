"""Conversions, 8-bit maps and random numbers: against NumPy, ml_dtypes and their stated errors."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import ISAS, needs_native

import fastopt
from fastopt import quantize
from fastopt.arithmetic import dither, halves
from fastopt.backends.native import library as native

ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    if native.missing is None:
        native.use_isa(os.environ.get("FASTOPT_ISA"))


def edge_values(kind: Any) -> Any:
    """Return float32 numbers around every number of a half precision, and around the middles between them."""
    halves = np.arange(2**16, dtype=np.uint16).view(kind)
    with np.errstate(all="ignore"):
        wide = halves.astype(np.float32)
        middles = np.concatenate([wide, (wide[:-1].astype(np.float64) + wide[1:]) / 2]).astype(np.float32)
        around = [middles, np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))]
    bits = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    return np.concatenate([*around, bits.view(np.float32)])


def same(mine: Any, other: Any) -> bool:
    is_nan = np.isnan(other.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(mine.astype(np.float32)), is_nan)
    return bool((mine.view(np.uint16)[~is_nan] == other.view(np.uint16)[~is_nan]).all())


@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_numpy_conversion_rounds_as_astype(kind: Any) -> None:
    x = edge_values(kind)
    mine = np.empty(x.size, kind)
    halves.round_into(mine, x)
    with np.errstate(all="ignore"):
        assert same(mine, x.astype(kind))


@needs_native
@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_native_conversion_rounds_as_astype(kind: Any, isa: str) -> None:
    native.use_isa(isa)
    x = edge_values(kind)
    copy = np.zeros(x.size, kind)
    param = x.copy()
    opt = fastopt.SGD(param, lr=1.0, copy_to=copy)
    copy[...] = 7
    opt.step(np.full(x.size, -0.0, np.float32))
    with np.errstate(all="ignore"):
        assert same(copy, param.astype(kind))


def test_dithered_bfloat16_is_one_of_its_two_neighbours() -> None:
    x = np.random.default_rng(1).integers(0, 2**32, 10**6, dtype=np.uint32).view(np.float32)
    random = dither.random_bits(1, 2, 3, 0, x.size)
    mine = np.empty(x.size, ml_dtypes.bfloat16)
    halves.dither_into(mine, x, random)
    down = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    up = (down.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    with np.errstate(invalid="ignore"):
        wide = mine.astype(np.float32)
    is_finite = np.isfinite(x)
    assert ((wide == down) | ((wide == up) & (x != down)))[is_finite].all()
    assert (np.isnan(wide) == np.isnan(x)).all()
    halves.dither_into(mine[:2], np.float32([np.inf, -np.inf]), np.full(2, 2**16 - 1, np.uint32))
    assert mine[:2].astype(np.float32).tolist() == [np.inf, -np.inf]


def test_random_bits() -> None:
    """They depend on nothing but what they should, and are uniform over elements and over steps."""
    whole = dither.random_bits(3, 1, 0, 0, 5000)
    assert (dither.random_bits(3, 1, 0, 1280, 100) == whole[1280:1380]).all()
    for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
        assert (dither.random_bits(*other, 0, 5000) != whole).mean() > 0.99
    for sample in (
        dither.random_bits(9, 0, 0, 0, 1 << 20),
        np.array([dither.random_bits(dither.step_key(0, step), 0, 0, 0, 1)[0] for step in range(1, 20_001)]),
    ):
        counts = np.bincount(sample >> 10, minlength=64)
        expected = sample.size / 64
        assert (abs(counts - expected) < 6 * np.sqrt(expected)).all()


def block_values(map: quantize.Map) -> Any:
    """Return blocks of many magnitudes, with zeros in them."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 256)) * 10.0 ** rng.uniform(-6, 0, size=(600, 256))
    x *= np.exp2(rng.uniform(-140, 120, size=(600, 1)))
    x[rng.random(x.shape) < 0.05] = 0
    return (x if map == "signed" else np.abs(x)).astype(np.float32).reshape(-1)


@pytest.mark.parametrize("map", ["signed", "root"])
def test_errors_of_the_maps(map: quantize.Map) -> None:
    """What is read back is as near as fastopt.quantize says, zeros are exact, and what is not 0 is not 0."""
    x = block_values(map)
    bound = quantize.step_signed if map == "signed" else quantize.step_root
    largest = 0.0
    for seed in range(4):
        codes, scales = quantize.quantize(x, map, dither.random_bits(seed, 0, 0, 0, x.size))
        back = quantize.dequantize(codes, scales, map).astype(np.float64)
        wide = np.repeat(scales.astype(np.float64), quantize.BLOCK)
        error = np.abs(back - x)
        limit = bound(x.astype(np.float64), wide) + 4 * np.finfo(np.float32).eps * wide + 2.0**-149
        assert (error <= limit).all()
        largest = max(largest, float((error / limit).max()))
        assert (back[x == 0] == 0).all()
        if map == "root":
            is_normal = x > np.finfo(np.float32).tiny
            assert (codes[x > 0] > 0).all()
            assert (back[is_normal] > 0).all()
    assert largest > 0.9, "the bound says nothing if nothing comes near it"


@pytest.mark.parametrize("map", ["signed", "root"])
def test_rounding_keeps_the_mean(map: quantize.Map) -> None:
    rng = np.random.default_rng(3)
    x = np.abs(rng.normal(size=1280)).astype(np.float32) + np.float32(1e-3)
    repeats = 4000
    total = np.zeros(x.size)
    for step in range(repeats):
        random = dither.random_bits(dither.step_key(0, step), 0, 0, 0, x.size)
        total += quantize.dequantize(*quantize.quantize(x, map, random), map)
    wide = np.repeat(quantize.quantize(x, map)[1], quantize.BLOCK)
    # A Bernoulli's standard deviation is at most half its step; the largest of a block is never rounded up.
    step_size = (quantize.step_signed if map == "signed" else quantize.step_root)(x, wide)
    assert (np.abs(total / repeats - x) < 6 * 0.5 * step_size / np.sqrt(repeats) + 2.0**-14 * wide).all()


@pytest.mark.parametrize("map", ["signed", "root"])
def test_what_is_not_finite_reads_back_so(map: quantize.Map) -> None:
    x = np.ones(700, np.float32)
    x[5], x[300] = np.nan, np.inf
    back = quantize.dequantize(*quantize.quantize(x, map), map)
    assert not np.isfinite(back[:512]).any()
    np.testing.assert_allclose(back[512:], 1, rtol=1e-4)


@pytest.mark.parametrize("map", ["signed", "root"])
@pytest.mark.parametrize("stride", [16, pytest.param(1, marks=pytest.mark.long)])
def test_every_random_number_rounds_to_a_neighbour_and_all_together_keep_the_mean(
    map: quantize.Map, stride: int
) -> None:
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.random(120), 2.0 ** -rng.uniform(0, 12, 120), [1 - 2.0**-24, 0.5, 0.25, 2.0**-14]])
    x = np.concatenate([[1], np.minimum(x, 1 - 2.0**-24)]).astype(np.float32)
    randoms = range(0, 1 << 16, stride)
    total, lowest, highest = np.zeros(x.size), np.full(x.size, np.inf), np.full(x.size, -np.inf)
    for random in randoms:
        back = quantize.dequantize(*quantize.quantize(x, map, np.full(x.size, random, np.uint32)), map)
        total += back
        lowest, highest = np.minimum(lowest, back), np.maximum(highest, back)
    step = quantize.step_signed(x, 1.0) if map == "signed" else quantize.step_root(x, 1.0)
    assert (highest - lowest <= step * 1.0001).all()
    assert np.abs(total / len(randoms) - x).max() < 1e-6 * stride
    assert total[0] / len(randoms) == pytest.approx(1, abs=1e-6 * stride)


def test_every_code_is_read_back_as_itself() -> None:
    middle = np.full(256, quantize.MIDDLE)
    for map, codes in (("signed", np.arange(121)), ("signed", 129 + np.arange(120)), ("root", np.arange(256))):
        codes = codes.astype(np.uint8)
        decode, encode = (
            (quantize.decode_signed, quantize.encode_signed)
            if map == "signed"
            else (quantize.decode_root, quantize.encode_root)
        )
        assert (encode(decode(codes), np.float32(1), middle[: codes.size]) == codes).all()


# ---- 8-bit slots in training


@functools.cache
def regression_losses(state_dtype: str | None, optimizer: Any = fastopt.Adam, lr: Any = 0.02, **options: Any) -> Any:
    """Return the losses on a linear regression of 32 x 256 weights with noise."""
    rng = np.random.default_rng(4)
    true = rng.normal(size=(32, 256)).astype(np.float32)
    weights = np.zeros((32, 256), np.float32)
    opt = optimizer(weights, lr=lr, state_dtype=state_dtype, **options)
    assert (opt.pass_options.state_dtype is None) == (state_dtype is None)
    losses = []
    for _ in range(400):
        x = rng.normal(size=(64, 32)).astype(np.float32)
        error = x @ (weights - true) + 0.5 * rng.normal(size=(64, 256)).astype(np.float32)
        losses.append(float(np.mean(error**2)))
        opt.step(2 / error.shape[0] * x.T @ error)
    return np.array(losses)


@functools.cache
def digits_losses(state_dtype: str | None) -> Any:
    """Return the losses of Adam on a network for scikit-learn's digits, 64-128-10."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    x, labels = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    rng = np.random.default_rng(5)
    params = {
        "W1": (rng.normal(size=(64, 128)) * np.sqrt(2 / 64)).astype(np.float32),
        "b1": np.zeros(128, np.float32),
        "W2": (rng.normal(size=(128, 10)) * np.sqrt(2 / 128)).astype(np.float32),
        "b2": np.zeros(10, np.float32),
    }
    opt = fastopt.Adam(params, lr=1e-3, state_dtype=state_dtype)
    losses = []
    for _ in range(400):
        rows = rng.integers(len(x), size=128)
        hidden = np.maximum(x[rows] @ params["W1"] + params["b1"], 0)
        logits = hidden @ params["W2"] + params["b2"]
        logits -= logits.max(axis=1, keepdims=True)
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(float(-np.mean(np.log(softmax[np.arange(128), labels[rows]]))))
        delta = softmax
        delta[np.arange(128), labels[rows]] -= 1
        delta /= 128
        back = (delta @ params["W2"].T) * (hidden > 0)
        opt.step({"W1": x[rows].T @ back, "b1": back.sum(0), "W2": hidden.T @ delta, "b2": delta.sum(0)})
    if state_dtype == "uint8":
        assert {name: opt.state[name]["m"].dtype.name for name in params} == {
            "W1": "uint8",
            "b1": "float32",
            "W2": "float32",
            "b2": "float32",
        }
    return np.array(losses)


@pytest.mark.by_turns("losses")
@pytest.mark.parametrize("state_dtype", ["uint8", "bfloat16"])
@pytest.mark.parametrize(
    "losses",
    [
        regression_losses,
        digits_losses,
        *(
            functools.partial(regression_losses, optimizer=optimizer, lr=lr, weight_decay=0.0)
            for optimizer, lr in [
                (fastopt.LARS, 3.0),
                (fastopt.LAMB, 0.02),
                (fastopt.SWATS, 0.02),
                (fastopt.Muon, fastopt.schedules.cosine(0.4, 400)),
                (fastopt.Adan, 0.02),
                (fastopt.DeltaBarDelta, 0.005),
                (fastopt.ScheduleFreeAdamW, 0.05),
            ]
        ),
    ],
    ids=lambda losses: losses.keywords["optimizer"].__name__ if isinstance(losses, functools.partial) else None,
)
def test_loss_curves_stay_within_a_hundredth(losses: Any, state_dtype: str) -> None:
    """Of float32's, over the whole run and in its last quarter."""
    wide, narrow = losses(None), losses(state_dtype)
    assert wide[-100:].mean() < wide[:100].mean() / 2
    for part in (slice(None), slice(-100, None)):
        assert abs(narrow[part].mean() / wide[part].mean() - 1) < 0.01


def test_bytes_a_parameter() -> None:
    opt = fastopt.Adam(np.ones(10**6, np.float32), state_dtype="uint8")
    opt.step(np.ones(10**6, np.float32))
    size = sum(array.nbytes for name, array in opt.state["0"].items() if name != "step")
    assert size / 10**6 == pytest.approx(2.03125, abs=1e-3)
