"""The arithmetic of kernels on an element: a rule of fastopt/rules.py and the stages around it.

These are plain functions of values that have the operations of NumPy arrays. They are called once, when a kernel is
compiled, so that an option is in the kernel or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...arithmetic import dither, halves, operations, pipeline, quantize
from ...arithmetic.dither import PARAM_STREAM
from ...arithmetic.operations import Rule
from ...arithmetic.pipeline import Factors, StageFlags, StageScalars
from ...arithmetic.quantize import Map
from ...arithmetic.recording import RecordedRule
from ..table import Source
from .layout import ELEMENT_FUNCTIONS, ArrayLayout, ElementFunction, Place

Element: TypeAlias = Callable[..., Sequence[Any]]


class KernelOptions(NamedTuple):
    """The choices that are compiled into a kernel."""

    flags: StageFlags = StageFlags()
    guarded: bool = False
    #: The rule's scalars that are each array's own: its rate.
    rates: tuple[str, ...] = ()
    #: For each slot its codec if it is in 8 bits; empty if none is.
    codecs: tuple[Map | None, ...] = ()


#: Makes the function of a kernel over elements.
Maker: TypeAlias = Callable[[Rule, KernelOptions, ArrayLayout], Element]


# Memory in few bits.


def random_bits(place: Place, stream: int) -> Any:
    key, number, indices = place.key, place.array, place.indices
    if place.offsets is None:
        return dither.random_bits_near(key, number, stream, indices)
    return dither.random_bits_within(key, number, stream, indices, place.offsets)


def stored(value: Any, dtype: str, place: Place, stream: int) -> Any:
    """Return a new parameter or slot as it lies in memory of this dtype."""
    return halves.dithered(value, random_bits(place, stream)) if dtype == "bfloat16" else value


def quantized(value: Any, codec: Map, place: Any, stream: int) -> tuple[Any, Any]:
    """Return the codes of a new slot and the scale of its block."""
    scale = quantize.scales_of(place.largest(quantize.magnitudes(value)))
    normal = quantize.normals_of(scale, codec)
    value = np.where(normal > 0, value, np.float32(0))
    return quantize.encode(value, normal, random_bits(place, stream), codec), scale


def decoded_slots(row: ArrayLayout, codecs: Sequence[Map | None]) -> tuple[Any, ...]:
    """Return the slots in the compute dtype."""
    if not codecs:
        return row.slots
    return tuple(
        slot if codec is None else quantize.decode(slot, quantize.units_of(scale, codec), codec)
        for slot, scale, codec in zip(row.slots, row.scales, codecs, strict=True)
    )


def written_slots(slots: Sequence[Any], options: KernelOptions, layout: ArrayLayout, place: Place) -> ArrayLayout:
    """Return the new values of the first slots, and of their scales, as they lie in memory."""
    empty = layout.empty()
    new, scales = list(empty.slots), list(empty.scales)
    for k, slot in enumerate(slots):
        codec = options.codecs[k] if options.codecs else None
        if codec is None:
            new[k] = stored(slot, layout.slots[k], place, k)
        else:
            new[k], scales[k] = quantized(slot, codec, place, k)
    return empty._replace(slots=tuple(new), scales=tuple(scales))


# The functions of kernels.


def step_of(rule: Rule, options: KernelOptions, layout: ArrayLayout) -> Element:
    """Return the whole step of an element: the stages before the rule, the rule, and the stages after it."""
    flags = options.flags

    def step(factors: Factors, scalars: StageScalars, h: Any, place: Place, *values: Any) -> Sequence[Any]:
        row = layout.filled(values)
        p, written = row.param, layout.empty()
        if flags.update:
            slots = decoded_slots(row, options.codecs)[: len(operations.slots(rule))]
            g = regularized_grad(flags, factors, scalars, row)
            if isinstance(rule, RecordedRule):
                h = rule.scalars(*h)
            h = h._replace(**dict.fromkeys(options.rates, factors.rate))
            p, *new_slots = pipeline.updated(rule, flags, scalars, h, p, g, slots)
            written = written_slots(new_slots, options, layout, place)
        if flags.finish:
            p = pipeline.bounded(flags, scalars, p, row.lower, row.upper)
        if flags.update or (flags.finish and flags.bounds):
            written = written._replace(param=stored(p, layout.param, place, PARAM_STREAM))
        if flags.clear:
            written = written._replace(grad=cleared(flags.zero_grads), accumulated=cleared(flags.mean))
        if flags.finish:
            average = pipeline.finished_average(flags, scalars, row.average, p)
            written = written._replace(average=average, copy=p)
        return layout.select(written)

    return step


def accumulate_of(rule: Rule, options: KernelOptions, layout: ArrayLayout) -> Element:
    """Return the function that adds a gradient to those before it."""

    def accumulate(factors: Factors, scalars: StageScalars, h: Any, place: Place, *values: Any) -> Sequence[Any]:
        row = layout.filled(values)
        total = row.accumulated + scaled_grad(options.flags, scalars, row)
        written = layout.empty()._replace(grad=cleared(options.flags.zero_grads), accumulated=total)
        return layout.select(written)

    return accumulate


def clear_of(rule: Rule, options: KernelOptions, layout: ArrayLayout) -> Element:
    """Return the function that clears a gradient."""

    def clear(factors: Factors, scalars: StageScalars, h: Any, place: Place, *values: Any) -> Sequence[Any]:
        return layout.select(layout.empty()._replace(grad=0))

    return clear


def product_of(left: Source, right: Source, options: KernelOptions, layout: ArrayLayout) -> Element:
    """Return the function that makes the two factors of a product, and of gradients the number that must be finite."""
    flags = options.flags

    def source(name: Source, factors: Factors, scalars: StageScalars, row: ArrayLayout) -> Any:
        if isinstance(name, int):
            return row.slots[name]
        if isinstance(name, tuple):
            kind, k = name
            return row.slots[k] - row.param if kind == "distance" else np.sign(row.slots[k])
        if name == "param":
            return row.param
        if name == "grad":
            return regularized_grad(flags, factors, scalars, row)
        return pipeline.clipped_grad(flags, scalars, factors, scaled_grad(flags, scalars, row))

    def product(factors: Factors, scalars: StageScalars, h: Any, place: Place, *values: Any) -> Sequence[Any]:
        row = layout.filled(values)
        pair = [source(name, factors, scalars, row) for name in (left, right)]
        return [*pair, scaled_grad(flags, scalars, row)] if left == "clipped_grad" else pair

    return product


def direction_of(options: KernelOptions, layout: ArrayLayout) -> Element:
    """Return the function that makes Adafactor's direction from the means of an element's row, column and matrix."""

    def direct(factors: Factors, scalars: StageScalars, h: Any, place: Place, *values: Any) -> Sequence[Any]:
        g = regularized_grad(options.flags, factors, scalars, layout.filled(values))
        of_row, of_column, of_matrix, floor = h
        v = np.divide(np.multiply(of_row, of_column), of_matrix)
        return layout.select(layout.empty()._replace(slots=(g / np.sqrt(np.maximum(v, floor)),)))

    return direct


def scaled_grad(flags: StageFlags, scalars: StageScalars, row: ArrayLayout) -> Any:
    return pipeline.scaled_grad(flags, scalars, row.grad, row.accumulated)


def regularized_grad(flags: StageFlags, factors: Factors, scalars: StageScalars, row: ArrayLayout) -> Any:
    return pipeline.regularized_grad(flags, scalars, factors, scaled_grad(flags, scalars, row), row.param)


def cleared(is_asked: bool) -> int | None:
    return 0 if is_asked else None


def register(key: str, function: Element, layout: ArrayLayout) -> str:
    """Let kernels call a function by this key, which is returned."""
    ELEMENT_FUNCTIONS.setdefault(key, ElementFunction(function, layout))
    return key
