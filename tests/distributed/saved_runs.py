"""Runs of sharded and plain optimizers whose states are compared. No order of addition rounds the sums of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt.core.optimizer import Optimizer
from fastopt.distributed import Sharded


class Run(NamedTuple):
    """An optimizer class with options, and the dtype of its parameters."""

    optimizer: type[Optimizer]
    options: Mapping[str, Any] = {}
    dtype: str = "float32"

    def __repr__(self) -> str:
        return "-".join([self.optimizer.__name__, *map(str, self.options), self.dtype])

    def params(self) -> Any:
        """Return parameters of several chunks and of few elements, one in Fortran order: the same on every rank."""
        rng = np.random.default_rng(1)
        shapes: dict[str, tuple[int, ...]] = {"W": (150, 70), "b": (70,), "none": (0, 3)}
        if self.optimizer is fastopt.Muon:
            shapes = {"W": (150, 70), "V": (7, 3)}
        layers = [{name: rng.normal(size=shape).astype(self.dtype) for name, shape in shapes.items()} for _ in range(2)]
        return {"layers": layers, "F": np.asfortranarray(rng.normal(size=(90, 100)).astype(self.dtype))}

    def plain(self, params: Any, **more: Any) -> Any:
        return self.optimizer(params, **self.options, **more)

    def sharded(self, params: Any, comm: Any, **more: Any) -> Any:
        return Sharded(self.optimizer, params, comm, **self.options, **more)


#: The kinds of entries of a state: slots, numbers, averages, scales, masters, rows and columns, whole arrays.
RUNS = [
    Run(fastopt.AdamW, {"clip_global_norm": 1.0, "ema_decay": 0.9}),
    Run(fastopt.AdamW, {"state_dtype": "uint8"}),
    Run(fastopt.Adam, {"amsgrad": True, "nonfinite": "skip"}, "float16"),
    Run(fastopt.Adam, {"accumulate_steps": 3}),
    Run(fastopt.LAMB),
    Run(fastopt.Prodigy),
    Run(fastopt.Muon),
    Run(fastopt.Adafactor),
    Run(fastopt.SWATS, {}, "float64"),
    Run(fastopt.ScheduleFreeAdamW, {}, "float16"),
]


def gradients(params: Any, rank: int, step: int) -> Any:
    """Return a rank's gradients in a step: multiples of 1/256 below 4."""
    rng = np.random.default_rng((rank, step))
    return over(lambda array: (rng.integers(-1000, 1000, array.shape) / 256).astype(np.float32), params)


def summed(params: Any, ranks: int, step: int) -> Any:
    """Return the sum of all ranks' gradients."""
    each = [gradients(params, rank, step) for rank in range(ranks)]
    return over(lambda *arrays: sum(arrays[1:], arrays[0]), *each)


def over(function: Any, *structures: Any) -> Any:
    first = structures[0]
    if isinstance(first, Mapping):
        return {name: over(function, *(each[name] for each in structures)) for name in first}
    if isinstance(first, list):
        return [over(function, *each) for each in zip(*structures, strict=True)]
    return function(*structures)


def leaves(structure: Any) -> list[Any]:
    found: list[Any] = []
    over(found.append, structure)
    return found


def write(target: Any, source: Any) -> None:
    for array, value in zip(leaves(target), leaves(source), strict=True):
        array[...] = value


def steps(opt: Any, params: Any, ranks: int, numbers: range) -> None:
    """Make these steps of a run of this many ranks, with the sums of their gradients, on any number of ranks."""
    for number in numbers:
        rank = opt.ranks.rank if isinstance(opt, Sharded) else 0
        if isinstance(opt, Sharded) and opt.ranks.size == ranks:
            opt.step(gradients(params, rank, number))
        else:
            total = summed(params, ranks, number)
            opt.step(total if rank == 0 else over(np.zeros_like, total))


def difference(a: Any, b: Any, path: str = "") -> str:
    """Return where two nested values differ, in type, form or bits; "" if they do not."""
    if type(a) is not type(b):
        return f"{path}: {type(a)}, {type(b)}"
    if isinstance(a, Mapping):
        if list(a) != list(b):
            return f"{path}: {list(a)}, {list(b)}"
        return next(filter(None, (difference(a[key], b[key], f"{path}.{key}") for key in a)), "")
    if isinstance(a, (list, tuple)):
        pairs = enumerate(zip(a, b, strict=True)) if len(a) == len(b) else []
        texts = (difference(x, y, f"{path}.{k}") for k, (x, y) in pairs)
        return next(filter(None, texts), "") if len(a) == len(b) else f"{path}: {len(a)}, {len(b)}"
    if isinstance(a, np.ndarray):
        forms = [(each.dtype, each.shape, each.flags.c_contiguous, each.flags.f_contiguous) for each in (a, b)]
        return "" if forms[0] == forms[1] and a.tobytes("A") == b.tobytes("A") else f"{path}: {forms}, or bits"
    return "" if a == b or a != a else f"{path}: {a!r}, {b!r}"


def error_of(call: Any) -> str:
    """Return the type and text of what a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
