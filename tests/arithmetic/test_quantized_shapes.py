"""Codes and scales of arrays of any shape, and of what an optimizer's state holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bad_input import Bad, check_says
from cases import CASES, Case
from option_runs import every_backend

import fastopt
from fastopt import quantize

RNG = np.random.default_rng(4)


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


#: Functions that make arrays of these numbers.
ARRAYS: dict[str, Callable[[Any], Any]] = {
    "0-d": lambda x: x[5].reshape(()),
    "empty": lambda x: x[:0],
    "empty 3-d": lambda x: x[:0].reshape(3, 0, 5),
    **{f"{size}": lambda x, size=size: x[:size] for size in (1, 255, 256, 257, 1000)},  # type: ignore[misc]
    "2-d": lambda x: x[: 128 * 64].reshape(128, 64),
    "3-d": lambda x: x[: 3 * 5 * 70].reshape(3, 5, 70),
    "Fortran": lambda x: x[: 30 * 29].reshape(30, 29).T,
    "Fortran 3-d": lambda x: x[: 3 * 9 * 29].reshape(3, 9, 29).T,
    "strided": lambda x: x[:700:2],
    "backwards": lambda x: x[699::-1],
    "columns": lambda x: x[: 30 * 58].reshape(30, 58)[:, ::2],
    "axes": lambda x: x[: 30 * 3 * 9].reshape(30, 3, 9).transpose(1, 0, 2),
    "spread": lambda x: np.broadcast_to(x[:9], (60, 9)),
    "float64": lambda x: x[:1200].astype(np.float64).reshape(40, 30),
    "float16": lambda x: x[:1200].astype(np.float16).reshape(40, 30),
    "swapped": lambda x: x[:1200].astype(">f4").reshape(40, 30),
}


@pytest.mark.parametrize("map", ["signed", "root"])
@pytest.mark.parametrize("name", ARRAYS)
def test_any_shape_is_quantized_as_its_elements_in_a_row(name: str, map: quantize.Map) -> None:
    numbers = normal(10_000)
    x = ARRAYS[name](numbers if map == "signed" else np.abs(numbers))
    flat = x.ravel("F" if name.startswith("Fortran") else "C").astype(np.float32)
    for random in (None, RNG.integers(0, 1 << 16, x.size).astype(np.uint32)):
        codes, scales = quantize.quantize(x, map, random)
        flat_codes, flat_scales = quantize.quantize(flat, map, random)
        assert (codes.shape, codes.dtype, scales.shape) == (x.shape, np.uint8, (-(-x.size // 256),))
        assert scales.tobytes() == flat_scales.tobytes()
        assert codes.tobytes("A") == flat_codes.tobytes()
        values = quantize.dequantize(codes, scales, map)
        assert (values.shape, values.dtype) == (x.shape, np.float32)
        assert values.tobytes("A") == quantize.dequantize(flat_codes, scales, map).tobytes()
        np.testing.assert_allclose(values, x, atol=0.5)


@every_backend
@pytest.mark.by_turns("case")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", [case for case in CASES if "state_dtype" not in case.optimizer.refused], ids=str)
def test_slots_from_the_state(case: Case, order: Any, backend: str, tmp_path: Any) -> None:
    """A matrix of no whole number of blocks: what is read is ``opt.slot``; also from a file."""
    W = np.array(normal(67, 65), order=order)
    params = {"W": W, "b": np.ones(3, np.float32)}
    opt = case.build(params, state_dtype="uint8", backend=backend)
    for _ in range(2):
        opt.step({"W": normal(67, 65), "b": np.ones(3)})
    fastopt.save(tmp_path / "run.safetensors", opt=opt)
    loaded = fastopt.load(tmp_path / "run.safetensors").optimizer["state"]["W"]
    for slots in (opt.state["W"], opt.state_dict()["state"]["W"], loaded):
        for slot in [slot for slot in slots if f"{slot}_scale" in slots]:
            map = "root" if slot in case.optimizer.non_negative else "signed"
            values = quantize.dequantize(slots[slot], slots[f"{slot}_scale"], map)
            assert values.shape == W.shape
            assert (values == opt.slot("W", slot)).all()


CODES, SCALES, RANDOM = np.zeros((128, 64), np.uint8), np.zeros(32, np.float32), np.zeros(32, np.uint32)

BAD = [
    Bad("scales too few", lambda: quantize.dequantize(CODES, SCALES[:31], "signed"), ValueError, ("(32,)", "(31,)")),
    Bad("scales too many", lambda: quantize.dequantize(CODES[0], SCALES, "root"), ValueError, ("(1,)", "(64,)")),
    Bad("scales 2-d", lambda: quantize.dequantize(CODES, SCALES[None], "root"), ValueError, ("(32,)", "(1, 32)")),
    Bad("no scales", lambda: quantize.dequantize(CODES, 1.0, "root"), TypeError, ("scales is ", "type float")),
    Bad("scales float64", lambda: quantize.dequantize(CODES, SCALES.astype(float), "root"), TypeError, ("float64",)),
    Bad("codes float32", lambda: quantize.dequantize(SCALES, SCALES, "root"), TypeError, ("codes is ", "uint8")),
    Bad("codes a list", lambda: quantize.dequantize([1], SCALES, "root"), TypeError, ("codes is ", "list")),
    Bad("map", lambda: quantize.dequantize(CODES, SCALES, "linear"), ValueError, ("map='linear'", "'signed'")),
    Bad("map of x", lambda: quantize.quantize(SCALES, None), ValueError, ("map=None", "'root'")),
    Bad("integers", lambda: quantize.quantize(CODES, "root"), TypeError, ("x is ", "floats", "uint8")),
    Bad("a list", lambda: quantize.quantize([1.0], "root"), TypeError, ("x is ", "list")),
    Bad("too few random", lambda: quantize.quantize(SCALES, "root", RANDOM[:3]), ValueError, ("32", "got 3")),
    Bad("random floats", lambda: quantize.quantize(SCALES, "root", SCALES), TypeError, ("random is ", "uint32")),
    Bad("random int64", lambda: quantize.quantize(SCALES, "root", RANDOM.astype(int)), TypeError, ("random", "int64")),
    Bad("random list", lambda: quantize.quantize(SCALES, "root", [1]), TypeError, ("random is ", "list")),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_arguments(bad: Bad) -> None:
    with pytest.raises(bad.error) as raised:
        bad.do()
    check_says(raised, bad.says)
