"""Gradients of small arrays, which the meeting before a step carries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks
from sharded_runs import differences, summed

import fastopt
from fastopt.distributed import RankError, Sharded

SHAPES = [(40, 30), (30,), (), (0,), (5, 7)]
LARGE = (130, 140)


def grads(shapes: list[Any], dtype: str, rank: int, number: int) -> list[Any]:
    """Return a rank's gradients in a step, numbers that float16 has; some ranks or all have none of an array."""
    rng = np.random.default_rng((rank, number))
    given = [rng.normal(size=shape).astype(np.float16).astype(dtype) for shape in shapes]
    missing = [(i + number) % 4 == 0 and (i % 2 == 0 or rank == 1) for i in range(len(shapes))]
    return [None if is_missing else grad for grad, is_missing in zip(given, missing, strict=True)]


def steps(comm: Any, dtype: str, options: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    """Return how steps differ from those of one process: of small arrays, and of others that are added to them."""
    shapes: list[Any] = list(SHAPES)
    params, like = ([np.full(shape, 0.5, dtype) for shape in shapes] for _ in range(2))
    opt, plain = Sharded(fastopt.AdamW, params, comm, **options, **arguments), fastopt.AdamW(like, **options)
    found = [] if opt.gradients.payload else ["not carried"]
    for number in range(10):
        if number == 7:
            more = [np.full(shape, 0.5, dtype) for shape in (LARGE, LARGE)]
            opt.add_param_group({"params": more[:1]})
            plain.add_param_group({"params": more[1:]})
            shapes.append(LARGE)
            found += ["still carried"] * bool(opt.gradients.payload)
        of_ranks = [grads(shapes, dtype, rank, number) for rank in range(comm.size)]
        own, sums = of_ranks[comm.rank], summed(of_ranks)
        if number == 3:
            for name, grad in zip(reversed(opt.whole.names), reversed(own), strict=True):
                opt.add(name, grad)
            info = opt.step()
        else:
            info = opt.step(own)
        found += ["info"] * (info != plain.step(sums))
        found += [f"step {number}: {text}" for text in differences(opt, plain)]
        if number == 4:
            wrong = [np.ones(3, dtype), *own[1:]]
            with pytest.raises(ValueError if comm.rank == 0 else RankError, match="grads: '0' has shape"):
                opt.step(wrong if comm.rank == 0 else own)
            found += [f"after an error: {text}" for text in differences(opt, plain)]
    return found


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "float32": ("float32", {}, {}),
    "float64, clipped": ("float64", {"clip_global_norm": 1.0, "nonfinite": "skip"}, {}),
    "float16": ("float16", {}, {}),
    "half precision on the wire": ("float32", {"zero_grads": True}, {"wire_dtype": "float16"}),
    "without the compiled part": ("float32", {"backend": "numpy"}, {}),
    "accumulated": ("float32", {"accumulate_steps": 2}, {}),
}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", CASES)
def test_steps_have_the_bits_of_one_process(case: str, size: int) -> None:
    assert on_ranks(size, steps, *CASES[case]) == [[]] * size
