"""States with things done to them, for the fuzz of ``load``, ``restore`` and ``load_state_dict``."""

from __future__ import annotations

import math
import re
from collections import OrderedDict, UserDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import fastopt
from fastopt import schedules

#: Parts of the messages of Python, NumPy and json, which say nothing to someone who loads a state.
FOREIGN = re.compile(
    r"not supported between|unhashable|truth value|NoneType' object|object is not|object has no"
    r"|not subscriptable|not iterable|not callable|unexpected keyword|positional argument|object cannot be"
    r"|cannot convert|could not convert|can't convert|invalid literal|out of bounds|too large to convert"
    r"|int too |to unpack|maximum recursion|codec can't|indices must be|index out of range|broadcast"
    r"|has no attribute|must be real number|string conversion|Expecting |Extra data|ufunc|operand"
    r"|cannot reshape|setting an array|unsupported|Cannot cast|^KeyError|^'[^']*'$|\brequires? a |bytes-like"
    r"|overflow encountered|sequence item|expected str instance|mapping|__\w+__"
)


class Text(str):
    pass


class Whole(int):
    pass


class Odd:
    """It can't be compared, converted or shown."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    def __repr__(self) -> str:
        return "Odd()"


def cyclic() -> list[Any]:
    value: list[Any] = [1]
    value.append(value)
    return value


def deep() -> Any:
    value: Any = 0
    for _ in range(5000):
        value = [value]
    return value


#: Values that JSON has.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**400, 0.0, -0.0, 0.5, -1.5,
    1e308, 5e-324, math.nan, math.inf, -math.inf, "", "x", "\ud800", "\0", "lr", "nan", "x" * 10_000, "1", [], [[]],
    [1, 2], {}, {"a": 1}, {"float": "nan"}, {"float": 1}, {"tuple": []}, {"tuple": [1, [2]]}, {"dict": []},
    {"dict": [["a", 1]]}, {"dict": [[1, 2], ["1", 2]]}, {"dict": [["a", 1], ["a", 2]]}, {"dict": [[[], 1]]},
    {"dict": [[None, 1]]}, {"dict": 1}, {"array": "W"}, {"array": [], "order": "C"}, {"scalar": "W"}, {"scalar": []},
    {"generator": 1}, {"generator": {"dict": [["bit_generator", "MT19937"], ["state", 1]]}}, {"function": "f"},
    {"schedule": "cosine"}, {"dict": [["schedule", "cosine"], ["arguments", {"dict": []}]]},
    {"dict": [["schedule", []], ["arguments", {"dict": []}]]}, {"dict": [["loss_scale", {"dict": [["scale", "x"]]}]]},
    {"dict": [["function", []]]},
]  # fmt: skip

#: Values that only Python has.
PYTHON: list[Callable[[], Any]] = [
    cyclic, deep, Odd, object, lambda: np.arange(24.0)[::-4], lambda: Text("W"), lambda: Whole(3), lambda: 1 + 2j,
    lambda: b"bytes", lambda: {1, 2}, lambda: range(3), lambda: (), lambda: np.float32(3), lambda: np.int64(-1),
    lambda: np.bool_(True), lambda: np.longdouble(1), lambda: np.datetime64("2020"),
    lambda: np.str_("W"), lambda: np.array(3),
    lambda: np.array(0.5), lambda: np.array([]), lambda: np.array([None, {}], object), lambda: np.array(None),
    lambda: np.ones(6, ">f4"), lambda: np.array(["a"]), lambda: np.ones((2, 3), complex),
    lambda: np.ma.masked_array([1, 2], [0, 1]), lambda: np.zeros(2, [("a", int)]), lambda: UserDict(a=1),
    lambda: OrderedDict(a=1), lambda: {None: 1, 2: 3, (): 4}, lambda: schedules.cosine(0.1, 5),
    fastopt.DynamicLossScale,
    lambda: {"schedule": "cosine", "arguments": {1: 2}}, lambda: {"schedule": Odd(), "arguments": {}},
    lambda: {"schedule": "join", "arguments": {"schedules": cyclic(), "boundaries": 3}},
    lambda: {"loss_scale": {"scale": Odd()}}, lambda: {"loss_scale": UserDict()}, lambda: {"function": Odd()},
    lambda: {"schedule": [], "arguments": {}}, lambda: math.nan, lambda: 10**5000, lambda: 10**400,
]  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return each container in a tree with each of its keys."""
    found, left, seen = [], [tree], set()
    while left:
        container = left.pop()
        keys = list(container) if isinstance(container, Mapping) else range(len(container))
        for key in keys:
            found.append((container, key))
            inner = container[key]
            if type(inner) in (dict, list) and id(inner) not in seen:
                seen.add(id(inner))
                left.append(inner)
    return found


def mutate(tree: Any, rng: np.random.Generator, nasty: Callable[[], Any]) -> None:
    """Do one thing to a tree of dicts and lists: replace, delete, double, swap, rename, nest, or change a number."""
    found = places(tree)
    if not found:
        return
    container, key = found[rng.integers(len(found))]
    other, its = found[rng.integers(len(found))]
    value = container[key]
    kind = rng.integers(9)
    if kind <= 2:
        container[key] = nasty()
    elif kind == 3:
        del container[key]
    elif kind == 4 and isinstance(container, list):
        container.insert(key, value)
    elif kind == 4:
        container[f"{key}~"] = value
    elif kind == 5:
        container[key], other[its] = other[its], None
    elif kind == 6 and isinstance(container, dict):
        new = nasty()
        name = its if isinstance(its, str) else new if isinstance(new, (str, int, float, tuple)) else "renamed"
        container[name] = container.pop(key)
    elif kind == 7:
        container[key] = [value] if rng.integers(2) else {"x": value}
    elif isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64):
        container[key] = value * (1, -1, 2, 0.5, 1e9, math.nan, math.inf)[rng.integers(7)] if value == value else 0
    else:
        container[key] = nasty()


@np.errstate(all="ignore")
def mutate_arrays(arrays: dict[str, Any], rng: np.random.Generator) -> None:
    """Do one thing to a dict of arrays."""
    keys = list(arrays)
    if not keys:
        return
    key, other = (keys[rng.integers(len(keys))] for _ in range(2))
    array = arrays[key]
    kind = rng.integers(7)
    if kind == 0:
        arrays[key] = array.astype([np.float32, np.float64, np.int64, np.int8, np.bool_, np.uint64][rng.integers(6)])
    elif kind == 1:
        arrays[key] = array.reshape(-1)[: rng.integers(array.size + 1)].copy()
    elif kind == 2:
        arrays[key] = np.asarray(array[None], order="C")
    elif kind == 3 and array.size:
        wrong = (math.nan, math.inf, -1, 0, 1e300, 2.0**62) if array.dtype.kind == "f" else (-1, 0, 1, 2**62, -(2**63))
        arrays[key] = np.full_like(array, np.array(wrong[rng.integers(len(wrong))]).astype(array.dtype))
    elif kind == 4:
        del arrays[key]
    elif kind == 5:
        arrays[f"{key}~2"] = arrays.pop(key)
    else:
        arrays[key], arrays[other] = arrays[other], arrays[key]


def scaled(params: Any) -> fastopt.Optimizer:
    scale = fastopt.DynamicLossScale(init_scale=8.0)
    return fastopt.SGD(params, lr=0.1, momentum=0.9, grad_scale=scale, nonfinite="skip", clip_global_norm=1.0)


def grouped(params: Any) -> fastopt.Optimizer:
    lr = schedules.join([schedules.cosine(0.1, 5), schedules.constant(0.01)], [3])
    groups = [
        {"params": {"W": params["W"]}, "lr": lr},
        {"params": {"b": params["b"]}, "betas": (schedules.constant(0.5), 0.9)},
    ]
    opt = fastopt.Adam(groups, amsgrad=True, ema_decay=0.9, accumulate_steps=2)
    opt.freeze("*.b")
    return opt


#: Optimizers of two arrays, "W" and "b".
OPTIMIZERS: dict[str, Callable[[Any], fastopt.Optimizer]] = {
    "scaled": scaled,
    "grouped": grouped,
    "8 bits": partial(fastopt.AdamW, state_dtype="uint8", seed=3, lr=schedules.warmup_cosine(0.1, warmup=2, total=9)),
    "LAMB": partial(fastopt.LAMB, max_weight_norm=3.0, clip_norm=2.0),
    "Adafactor": fastopt.Adafactor,
    "SWATS": fastopt.SWATS,
    "free": fastopt.ScheduleFreeAdamW,
    "Rprop": fastopt.Rprop,
}


def new_params(name: str) -> dict[str, Any]:
    dtype = np.float16 if name == "LAMB" else np.float32
    size = 5000 if name == "8 bits" else 3
    return {"W": np.linspace(1, 2, 2 * size).astype(dtype).reshape(2, size), "b": np.zeros(2, dtype)}


def new_grads(params: Mapping[str, Any], opt: fastopt.Optimizer) -> Any:
    grads = {name: np.ones_like(array) for name, array in params.items()}
    return [{"W": grads["W"]}, {"b": grads["b"]}] if len(opt.param_groups) > 1 else grads


def trained(name: str) -> tuple[dict[str, Any], fastopt.Optimizer]:
    """Return parameters and their optimizer after three steps."""
    params = new_params(name)
    opt = OPTIMIZERS[name](params)
    for _ in range(3):
        opt.step(new_grads(params, opt))
    return params, opt
