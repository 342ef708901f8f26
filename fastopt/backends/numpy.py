"""The NumPy backend: the rules of fastopt/rules.py, block by block, with the bits of the native backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import rules
from ..arrays import Array, address
from . import Hyper, Source

#: Elements of a block: few enough for a rule's temporaries to stay in cache, enough to make up for NumPy's calls.
BLOCK = 16384

#: As in csrc/fastopt.h: what makes a norm's bits.
CHUNK = 4096
LANES = 16

Runs: TypeAlias = list[tuple[int, int, int]]


class NumpyTable:
    """The arrays of an optimizer, cut into blocks: a run of a large array, or many small arrays packed into one."""

    def __init__(self, params: Sequence[Array], slots: Sequence[Sequence[Array]]) -> None:
        self.params = [flat(param) for param in params]
        #: By slot, then by array.
        self.slots = list(zip_longest(*([flat(slot) for slot in array_slots] for array_slots in slots)))
        self.grads: Sequence[Array | None] = [None] * len(params)
        self.rows = np.zeros(len(params), np.int32)
        self.array_clip = np.ones(len(params))

    def set_grads(self, grads: Sequence[Array | None]) -> bool:
        if not all(grad is None or grad.flags.c_contiguous for grad in grads):
            return False
        self.grads = [None if grad is None else flat(grad) for grad in grads]
        return True

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.array([0 if grad is None else address(grad) for grad in self.grads], np.uintp)

    def is_current(self) -> bool:
        return True

    def step(self, hypers: Sequence[Hyper]) -> None:
        with np.errstate(all="ignore"):
            for runs in self.blocks():
                self.step_block(runs, hypers)

    def step_block(self, runs: Runs, hypers: Sequence[Hyper]) -> None:
        first = runs[0][0]
        hyper = hypers[self.rows[first]]
        p = joined(self.params, runs)
        dtype = p.dtype.type
        g = self.grad(runs, hyper)
        if hyper.decay != 1:
            p = p * dtype(hyper.decay)
        slots = [joined(slot, runs) for slot in self.slots[: len(rules.slots(hyper.rule))]]
        scalars = type(hyper.scalars)(*map(dtype, hyper.scalars))
        p, *slots = hyper.rule(scalars, p, g, *slots)
        scatter(p, self.params, runs)
        for values, slot in zip(slots, self.slots, strict=False):
            scatter(values, slot, runs)

    def clipped_grad(self, runs: Runs, hyper: Hyper) -> Array:
        """Do to a block's gradient all that every optimizer does, but the decay."""
        dtype = self.params[runs[0][0]].dtype
        g = joined(self.grads, runs).astype(dtype, copy=False)
        if hyper.grad_scale != 1:
            g = g * dtype.type(hyper.grad_scale)
        if hyper.clip_value != np.inf:
            limit = dtype.type(hyper.clip_value)
            g = np.minimum(np.maximum(g, -limit), limit)
        clips = self.array_clip[[run[0] for run in runs]]
        if (clips != 1).any():
            g = g * np.repeat(clips.astype(dtype), [end - begin for _, begin, end in runs])
        if hyper.global_clip != 1:
            g = g * dtype.type(hyper.global_clip)
        return g

    def grad(self, runs: Runs, hyper: Hyper) -> Array:
        """Return a block's gradient as the rule gets it."""
        g = self.clipped_grad(runs, hyper)
        return g if hyper.l2 == 0 else g + g.dtype.type(hyper.l2) * joined(self.params, runs)

    def blocks(self) -> Iterator[Runs]:
        """Yield blocks as lists of (array, begin, end); the arrays of one block agree in hyperparameters and dtypes."""
        packed: Runs = []
        room, kind = 0, None
        for i, (param, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            if grad is None or param.size == 0:
                continue
            if param.size > BLOCK // 2:
                for begin in range(0, param.size, BLOCK):
                    yield [(i, begin, min(begin + BLOCK, param.size))]
                continue
            this_kind = self.rows[i], param.dtype, grad.dtype
            if packed and (param.size > room or this_kind != kind):
                yield packed
                packed = []
            if not packed:
                room, kind = BLOCK, this_kind
            packed.append((i, 0, param.size))
            room -= param.size
        if packed:
            yield packed

    def sum_products(self, hypers: Sequence[Hyper], left: Source, right: Source) -> npt.NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.array([self.sum_products_of(i, hypers, left, right) for i in range(len(self.params))])

    def sum_products_of(self, i: int, hypers: Sequence[Hyper], left: Source, right: Source) -> float:
        grad = self.grads[i]
        if grad is None or grad.size == 0:
            return 0.0
        hyper = hypers[self.rows[i]]
        partials = []
        for begin in range(0, grad.size, BLOCK):
            runs = [(i, begin, min(begin + BLOCK, grad.size))]
            partials.append(chunk_sums(self.block_of(left, runs, hyper), self.block_of(right, runs, hyper)))
        # cumsum adds in index order; sum would add in pairs.
        return float(np.cumsum(np.concatenate(partials))[-1])

    def block_of(self, source: Source, runs: Runs, hyper: Hyper) -> Array:
        if isinstance(source, int):
            return joined(self.slots[source], runs)
        if source == "param":
            return joined(self.params, runs)
        return (self.grad if source == "grad" else self.clipped_grad)(runs, hyper)


def flat(array: Array) -> Array:
    """Return a C-contiguous array as one dimension, without a copy."""
    return array.view(np.ndarray).reshape(-1)


def joined(arrays: Sequence[Any], runs: Runs) -> Array:
    """Return the elements of the runs in one array, which is the arrays' own memory if there is one run."""
    if len(runs) == 1:
        i, begin, end = runs[0]
        return arrays[i][begin:end]  # type: ignore[no-any-return]
    return np.concatenate([arrays[i] for i, _, _ in runs])


def scatter(values: Array, arrays: Sequence[Array], runs: Runs) -> None:
    start = 0
    for i, begin, end in runs:
        arrays[i][begin:end] = values[start : start + end - begin]
        start += end - begin


def chunk_sums(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return the sum of products of each chunk of a block, by LANES running sums folded in halves."""
    products = np.zeros(-(-a.size // CHUNK) * CHUNK)
    np.multiply(a, b, out=products[: a.size], dtype=np.float64)
    # Adding along an axis that is not the last goes in index order.
    lanes = products.reshape(-1, CHUNK // LANES, LANES).sum(axis=1)
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]  # type: ignore[no-any-return]
