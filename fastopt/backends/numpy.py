"""The NumPy backend: the rules of fastopt/rules.py, block by block, with the bits of the native backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import dither, halves, quantize, rules
from ..arrays import Array, address, are_like, computed_in
from ..dither import PARAM_STREAM, random_bits
from . import CLEAR, FINISH, UPDATE, Beside, Hyper, Source

#: Elements of a block: few enough for a rule's temporaries to stay in cache, enough to make up for NumPy's calls.
BLOCK = 16384

#: As in csrc/fastopt.h: what makes a norm's bits.
CHUNK = 4096
LANES = 16

Runs: TypeAlias = list[tuple[int, int, int]]


class NumpyTable:
    """The arrays of an optimizer, cut into blocks: a run of a large array, or many small arrays packed into one."""

    def __init__(
        self, params: Sequence[Array], slots: Sequence[Sequence[Array]], beside: Sequence[Beside] | None = None
    ) -> None:
        self.params = [flat(param) for param in params]
        #: By slot, then by array.
        self.slots = list(zip_longest(*([flat(slot) for slot in array_slots] for array_slots in slots)))
        beside = beside or [Beside()] * len(params)
        self.averages = [flat_or_none(each.average) for each in beside]
        self.accumulated = [flat_or_none(each.accumulated) for each in beside]
        self.copies = [flat_or_none(each.copy) for each in beside]
        self.scales = [each.scales for each in beside]
        self.is_stored = [
            any(array.dtype != computed_in(param.dtype) for array in (param, *array_slots))
            for param, array_slots in zip(params, slots, strict=True)
        ]
        self.shapes = [param.shape for param in params]
        self.grads: Sequence[Array | None] = [None] * len(params)
        self.rows = np.zeros(len(params), np.int32)
        self.numbers = np.arange(len(params), dtype=np.int64)
        self.array_clip = np.ones(len(params))
        self.nonfinite = np.zeros(len(params), np.int64)

    def set_grads(self, grads: Sequence[Array | None]) -> None:
        self.grads = [None if grad is None else flat(grad) for grad in grads]
        self.grad_dtypes = [None if grad is None else grad.dtype for grad in grads]

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        if not are_like(grads, self.grad_dtypes, self.shapes, are_written):
            return False
        self.grads = [flat(grad) for grad in grads]
        return True

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return np.array([0 if grad is None else address(grad) for grad in self.grads], np.uintp)

    def is_current(self) -> bool:
        return True

    def step(self, hypers: Sequence[Hyper]) -> None:
        with np.errstate(all="ignore"):
            for runs in self.blocks():
                hyper = hypers[self.rows[runs[0][0]]]
                if hyper.stages & UPDATE:
                    p = self.update_block(runs, hyper)
                else:
                    p = self.loaded(self.params, runs)
                if hyper.stages & CLEAR:
                    self.clear_block(runs, hyper)
                if hyper.stages & FINISH:
                    self.finish_block(runs, hyper, p)

    def update_block(self, runs: Runs, hyper: Hyper) -> Array:
        """Make a block's new parameters and slots; return the parameters in the dtype that is computed in."""
        first = runs[0][0]
        p = self.loaded(self.params, runs)
        dtype = p.dtype.type
        g = self.grad(runs, hyper, p)
        if hyper.decay != 1:
            p = p * dtype(hyper.decay)
        used = self.slots[: len(rules.slots(hyper.rule))]
        slots = [self.loaded(slot, runs, scaled) for slot, scaled in zip_longest(used, self.scales[first][: len(used)])]
        scalars = type(hyper.scalars)(*map(dtype, hyper.scalars))
        p, *slots = hyper.rule(scalars, p, g, *slots)
        if hyper.threshold != 0:
            limit = dtype(hyper.threshold)
            p = p - np.minimum(np.maximum(p, -limit), limit)
        self.store(p, self.params, runs, hyper, PARAM_STREAM)
        for k, values in enumerate(slots):
            self.store(values, self.slots[k], runs, hyper, k)
        return p

    def clear_block(self, runs: Runs, hyper: Hyper) -> None:
        if hyper.mean != 0:
            clear(self.accumulated, runs)
        if hyper.zero_grads:
            clear(self.grads, runs)

    def finish_block(self, runs: Runs, hyper: Hyper, p: Array) -> None:
        first = runs[0][0]
        if self.averages[first] is not None:
            average = p
            if hyper.average_weight != 1:
                before = joined(self.averages, runs)
                average = before + p.dtype.type(hyper.average_weight) * (p - before)
            scatter(average, self.averages, runs)
        for (i, begin, end), values in zip(runs, parts(p, runs), strict=True):
            copy = self.copies[i]
            if copy is not None:
                halves.round_into(copy[begin:end], values)

    def loaded(self, arrays: Sequence[Any], runs: Runs, scaled: tuple[quantize.Map, Array] | None = None) -> Array:
        """Return the elements of the runs in the dtype that is computed in."""
        stored = joined(arrays, runs)
        if not self.is_stored[runs[0][0]] or stored.dtype == np.float32:
            return stored
        if scaled is None:
            return halves.to_float32(stored)
        map, scales = scaled
        return quantize.dequantize(stored, scales[scale_blocks(runs)], map)

    def store(self, values: Array, arrays: Sequence[Array], runs: Runs, hyper: Hyper, stream: int) -> None:
        """Write new elements in the dtype of the memory."""
        first, begin, end = runs[0]
        if not self.is_stored[first] or arrays[first].dtype == np.float32:
            scatter(values, arrays, runs)
            return
        random = random_bits(hyper.dither, int(self.numbers[first]), stream, begin, end - begin)
        scaled = self.scales[first][stream] if stream < len(self.scales[first]) else None
        if scaled is None:
            halves.dither_into(arrays[first][begin:end], values, random)
            return
        map, scales = scaled
        arrays[first][begin:end], scales[scale_blocks(runs)] = quantize.quantize(values, map, random)

    def scaled_grad(self, runs: Runs, hyper: Hyper) -> Array:
        """Return a block's gradient in the dtype that is computed in, scaled, with what was accumulated before."""
        dtype = computed_in(self.params[runs[0][0]].dtype)
        g = joined(self.grads, runs).astype(dtype, copy=False)
        if hyper.grad_scale != 1:
            g = g * dtype.type(hyper.grad_scale)
        if hyper.mean != 0:
            g = (joined(self.accumulated, runs) + g) * dtype.type(hyper.mean)
        return g

    def clipped_grad(self, g: Array, runs: Runs, hyper: Hyper) -> Array:
        dtype = g.dtype
        if hyper.clip_value != np.inf:
            limit = dtype.type(hyper.clip_value)
            # Not minimum and maximum, which for a limit of 0 choose another sign of zero than the kernels.
            g = np.where(g > limit, limit, g)
            g = np.where(g < -limit, -limit, g)
        clips = self.array_clip[[run[0] for run in runs]]
        if (clips != 1).any():
            g = g * np.repeat(clips.astype(dtype), [end - begin for _, begin, end in runs])
        if hyper.global_clip != 1:
            g = g * dtype.type(hyper.global_clip)
        return g

    def accumulate(self, hypers: Sequence[Hyper]) -> None:
        with np.errstate(all="ignore"):
            for runs in self.blocks():
                hyper = hypers[self.rows[runs[0][0]]]
                g = self.scaled_grad(runs, hyper)
                scatter(joined(self.accumulated, runs) + g, self.accumulated, runs)
                if hyper.zero_grads:
                    clear(self.grads, runs)

    def grad(self, runs: Runs, hyper: Hyper, p: Array) -> Array:
        """Return a block's gradient with what decays the parameter by way of it."""
        g = self.clipped_grad(self.scaled_grad(runs, hyper), runs, hyper)
        dtype = g.dtype.type
        if hyper.l2 != 0:
            g = g + dtype(hyper.l2) * p
        if hyper.l1 != 0:
            g = g + dtype(hyper.l1) * ((p > 0).astype(dtype) - (p < 0))
        return g

    def blocks(self) -> Iterator[Runs]:
        """Yield blocks as lists of (array, begin, end); the arrays of one block agree in hyperparameters and dtypes."""
        packed: Runs = []
        room, kind = 0, None
        for i, (param, grad) in enumerate(zip(self.params, self.grads, strict=True)):
            if grad is None or param.size == 0:
                continue
            if param.size > BLOCK // 2 or self.is_stored[i]:
                for begin in range(0, param.size, BLOCK):
                    yield [(i, begin, min(begin + BLOCK, param.size))]
                continue
            this_kind = self.rows[i], param.dtype, grad.dtype, self.averages[i] is None
            if packed and (param.size > room or this_kind != kind):
                yield packed
                packed = []
            if not packed:
                room, kind = BLOCK, this_kind
            packed.append((i, 0, param.size))
            room -= param.size
        if packed:
            yield packed

    def sum_products(
        self, hypers: Sequence[Hyper], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        if count_nonfinite:
            self.nonfinite[:] = 0
        with np.errstate(all="ignore"):
            return np.array(
                [self.sum_products_of(i, hypers, left, right, count_nonfinite) for i in range(len(self.params))]
            )

    def sum_products_of(
        self, i: int, hypers: Sequence[Hyper], left: Source, right: Source, count_nonfinite: bool
    ) -> float:
        grad = self.grads[i]
        if grad is None or grad.size == 0:
            return 0.0
        hyper = hypers[self.rows[i]]
        partials = []
        for begin in range(0, grad.size, BLOCK):
            runs = [(i, begin, min(begin + BLOCK, grad.size))]
            if count_nonfinite:
                scaled = self.scaled_grad(runs, hyper)
                self.nonfinite[i] += scaled.size - np.count_nonzero(np.isfinite(scaled))
            partials.append(chunk_sums(self.block_of(left, runs, hyper), self.block_of(right, runs, hyper)))
        # cumsum adds in index order; sum would add in pairs.
        return float(np.cumsum(np.concatenate(partials))[-1])

    def block_of(self, source: Source, runs: Runs, hyper: Hyper) -> Array:
        if isinstance(source, int):
            return joined(self.slots[source], runs)
        if source == "param":
            return self.loaded(self.params, runs)
        if source == "grad":
            return self.grad(runs, hyper, self.loaded(self.params, runs))
        return self.clipped_grad(self.scaled_grad(runs, hyper), runs, hyper)


def flat(array: Array) -> Array:
    """Return a C-contiguous array as one dimension, without a copy."""
    return array.view(np.ndarray).reshape(-1)


def flat_or_none(array: Array | None) -> Array | None:
    return None if array is None else flat(array)


def joined(arrays: Sequence[Any], runs: Runs) -> Array:
    """Return the elements of the runs in one array, which is the arrays' own memory if there is one run."""
    if len(runs) == 1:
        i, begin, end = runs[0]
        return arrays[i][begin:end]  # type: ignore[no-any-return]
    return np.concatenate([arrays[i] for i, _, _ in runs])


def parts(values: Array, runs: Runs) -> Iterator[Array]:
    """Yield what a block has of each run."""
    start = 0
    for _, begin, end in runs:
        yield values[start : start + end - begin]
        start += end - begin


def scatter(values: Array, arrays: Sequence[Any], runs: Runs) -> None:
    for (i, begin, end), part in zip(runs, parts(values, runs), strict=True):
        arrays[i][begin:end] = part


def clear(arrays: Sequence[Any], runs: Runs) -> None:
    for i, begin, end in runs:
        arrays[i][begin:end] = 0


def scale_blocks(runs: Runs) -> slice:
    """Return the place of the scales of one run in 8 bits."""
    _, begin, end = runs[0]
    return slice(begin // dither.BLOCK, -(-end // dither.BLOCK))


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
