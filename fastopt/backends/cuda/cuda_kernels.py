"""What the CUDA kernels do to an element: a rule of fastopt/rules.py and the stages around it; and how it is compiled.

The functions are plain Python on values that have the operations of NumPy arrays: called once, when a kernel is
compiled, so that an option is in the kernel or not at all.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...arithmetic import dither, halves, pipeline, quantize, rules
from ...arithmetic.dither import PARAM_STREAM
from ...arithmetic.quantize import Map
from ...arithmetic.rules import Rule
from ..table import HyperRow, Source
from . import numba_cuda
from .arrays import compute_dtype


class Options(NamedTuple):
    """Which stages a kernel has."""

    scale: bool = False
    mean: bool = False
    clip_value: bool = False
    clip_norm: bool = False
    clip_global_norm: bool = False
    l2: bool = False
    l1: bool = False
    decay: bool = False
    threshold: bool = False
    blend: bool = False
    zero_grads: bool = False
    update: bool = True
    clear: bool = True
    finish: bool = True
    guarded: bool = False
    #: The scalars that are the array's own: its rate.
    scaled: tuple[str, ...] = ()
    #: For each slot its map if it is in 8 bits; empty if none is.
    maps: tuple[Map | None, ...] = ()


class Stages(NamedTuple):
    """The numbers of the stages, arguments of the kernel."""

    scale: float
    mean: float
    clip_value: float
    l2: float
    l1: float
    decay: float
    threshold: float
    average_weight: float


class Row(NamedTuple):
    """What an array has, each as a dtype, an address or a value; its fields in this order are the row of a table."""

    param: Any
    grad: Any
    slots: tuple[Any, ...]
    average: Any = None
    accumulated: Any = None
    copy: Any = None
    #: For each slot its scales if it is in 8 bits; empty if none is.
    scales: tuple[Any, ...] = ()

    def flat(self) -> tuple[Any, ...]:
        return self.param, self.grad, *self.slots, self.average, self.accumulated, self.copy, *self.scales

    def present(self) -> tuple[Any, ...]:
        return tuple(each for each in self.flat() if each is not None)

    def like(self, values: Sequence[Any]) -> Row:
        """Return values, one for each of what is present here, by their names."""
        remaining = iter(values)
        found = [None if each is None else next(remaining) for each in self.flat()]
        end = 2 + len(self.slots)
        average, accumulated, copy, *scales = found[end:]
        return Row(found[0], found[1], tuple(found[2:end]), average, accumulated, copy, tuple(scales))

    def nothing(self) -> Row:
        return Row(None, None, (None,) * len(self.slots), scales=(None,) * len(self.scales))

    def of(self, other: Row) -> tuple[Any, ...]:
        """Return what the other has of that which is present here."""
        return tuple(theirs for mine, theirs in zip(self.flat(), other.flat(), strict=True) if mine is not None)


#: Makes the function of a kernel over elements, from a rule, options and the dtypes of an array.
Maker: TypeAlias = Callable[[Rule, Options, Row], Callable[..., Sequence[Any]]]


def scaled_grad(options: Options, stages: Any, row: Row) -> Any:
    g = row.grad
    if options.scale:
        g = g * stages.scale
    if options.mean:
        g = pipeline.mean(row.accumulated, g, stages.mean)
    return g


def clipped_grad(options: Options, factors: Any, stages: Any, g: Any) -> Any:
    if options.clip_value:
        g = pipeline.clip_value(g, stages.clip_value)
    if options.clip_norm:
        g = g * factors.clip
    if options.clip_global_norm:
        g = g * factors.global_clip
    return g


def regularized_grad(options: Options, factors: Any, stages: Any, row: Row) -> Any:
    """Return the gradient with what decays the parameter by way of it."""
    g = clipped_grad(options, factors, stages, scaled_grad(options, stages, row))
    if options.l2:
        g = pipeline.add_l2(g, row.param, stages.l2)
    return pipeline.add_l1(g, row.param, stages.l1, stages.l1 - stages.l1) if options.l1 else g


def random_bits(place: Any, stream: int) -> Any:
    key, number, indices = place.key, place.array, place.indices
    if place.offsets is None:
        return dither.random_bits_near(key, number, stream, indices)
    return dither.random_bits_within(key, number, stream, indices, place.offsets)


def stored(value: Any, dtype: str, place: Any, stream: int) -> Any:
    """Return a new parameter or slot as it is to lie in memory of this dtype."""
    return halves.dithered(value, random_bits(place, stream)) if dtype == "bfloat16" else value


def quantized(value: Any, map: Map, place: Any, stream: int) -> tuple[Any, Any]:
    """Return the codes of a new slot and the scale of its block."""
    scale = quantize.scales_of(place.largest(quantize.magnitudes(value)))
    normal = quantize.normals_of(scale, map)
    value = np.where(normal > 0, value, np.float32(0))
    return quantize.encode(value, normal, random_bits(place, stream), map), scale


def with_slots(row: Row, maps: Sequence[Map | None]) -> Row:
    """Return a row with its slots in the dtype that is computed in."""
    scaled = zip(row.slots, row.scales, maps, strict=True)
    slots = tuple(
        slot if map is None else quantize.decode(slot, quantize.units_of(scale, map), map)
        for slot, scale, map in scaled
    )
    return row._replace(slots=slots)


def written_slots(slots: Sequence[Any], options: Options, dtypes: Row, place: Any) -> dict[str, tuple[Any, ...]]:
    """Return what is written of the new slots, the first of the array's, and of their scales."""
    new, scales = list(dtypes.nothing().slots), list(dtypes.nothing().scales)
    for k, slot in enumerate(slots):
        map = options.maps[k] if options.maps else None
        if map is None:
            new[k] = stored(slot, dtypes.slots[k], place, k)
        else:
            new[k], scales[k] = quantized(slot, map, place, k)
    return {"slots": tuple(new), "scales": tuple(scales)}


def step_of(rule: Rule, options: Options, dtypes: Row) -> Callable[..., Sequence[Any]]:
    """Return the whole step of an element: the stages before the rule, the rule, and those behind it."""
    nothing = dtypes.nothing()

    def update(factors: Any, stages: Any, h: Any, row: Row) -> tuple[Any, ...]:
        g, p = regularized_grad(options, factors, stages, row), row.param
        if options.decay:
            p = p * stages.decay
        h = h._replace(**dict.fromkeys(options.scaled, factors.rate))
        p, *slots = rule(h, p, g, *row.slots[: len(rules.slots(rule))])
        if options.threshold:
            p = pipeline.soft_threshold(p, stages.threshold)
        return p, *slots

    def step(factors: Any, stages: Any, h: Any, place: Any, *values: Any) -> Sequence[Any]:
        row = dtypes.like(values)
        p, written = row.param, nothing
        if options.update:
            p, *slots = update(factors, stages, h, with_slots(row, options.maps) if options.maps else row)
            new = written_slots(slots, options, dtypes, place)
            written = written._replace(param=stored(p, dtypes.param, place, PARAM_STREAM), **new)
        if options.clear:
            grad, accumulated = (0 if asked else None for asked in (options.zero_grads, options.mean))
            written = written._replace(grad=grad, accumulated=accumulated)
        if options.finish:
            average = pipeline.blend_average(row.average, p, stages.average_weight) if options.blend else p
            written = written._replace(average=average, copy=p)
        return dtypes.of(written)

    return step


def accumulate_of(rule: Rule, options: Options, dtypes: Row) -> Callable[..., Sequence[Any]]:
    """Return what adds a gradient to those before it."""
    nothing = dtypes.nothing()

    def accumulate(factors: Any, stages: Any, h: Any, place: Any, *values: Any) -> Sequence[Any]:
        row = dtypes.like(values)
        total = row.accumulated + scaled_grad(options, stages, row)
        return dtypes.of(nothing._replace(grad=0 if options.zero_grads else None, accumulated=total))

    return accumulate


def clear_of(rule: Rule, options: Options, dtypes: Row) -> Callable[..., Sequence[Any]]:
    """Return what clears a gradient."""
    nothing = dtypes.nothing()

    def clear(factors: Any, stages: Any, h: Any, place: Any, *values: Any) -> Sequence[Any]:
        return dtypes.of(nothing._replace(grad=0))

    return clear


def value_of(source: Source, options: Options, factors: Any, stages: Any, row: Row) -> Any:
    if isinstance(source, int):
        return row.slots[source]
    if source == "param":
        return row.param
    if source == "grad":
        return regularized_grad(options, factors, stages, row)
    return clipped_grad(options, factors, stages, scaled_grad(options, stages, row))


def prepare_of(left: Source, right: Source, options: Options, dtypes: Row) -> Callable[..., Sequence[Any]]:
    """Return what makes the two numbers whose product is added, and of gradients the one that is to be finite."""

    def prepare(factors: Any, stages: Any, h: Any, place: Any, *values: Any) -> Sequence[Any]:
        row = dtypes.like(values)
        first, second = (value_of(source, options, factors, stages, row) for source in (left, right))
        return (first, second, scaled_grad(options, stages, row)) if left == "clipped_grad" else (first, second)

    return prepare


# Kernels.


@cache
def sources(of: Any) -> str:
    """Return a mark of the sources that a kernel is made from: Numba's cache on disk looks at a kernel's file only."""
    file, code = Path(inspect.getfile(of)), of.__code__
    own = file.read_bytes() if file.exists() else repr((code.co_code, code.co_consts, code.co_names)).encode()
    modules = dither, halves, pipeline, quantize, numba_cuda
    common = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return hashlib.sha256(own + common + Path(__file__).read_bytes()).hexdigest()[:16]


def traced(key: str, function: Callable[..., Sequence[Any]], options: Options, dtypes: Row) -> str:
    """Return the key, under which numba_cuda knows the function from now on."""
    scales = len(dtypes.present()) - len(dtypes._replace(scales=()).present())
    entry = numba_cuda.Traced(function, compute_dtype(dtypes.param), dtypes.present(), options.guarded, scales)
    numba_cuda.TRACED.setdefault(key, entry)
    return key


def update_key(make: Maker, rule: Rule, options: Options, dtypes: Row) -> str:
    key = f"{make.__name__} {rule.__module__}.{rule.__qualname__} {dtypes} {options} {sources(rule)}"
    return traced(key, make(rule, options, dtypes), options, dtypes)


def products_key(left: Source, right: Source, options: Options, dtypes: Row) -> str:
    key = f"{left} times {right} {dtypes} {options} {sources(prepare_of)}"
    return traced(key, prepare_of(left, right, options, dtypes), options, dtypes)


def uncompiled_kernel(make: Maker, rule: Rule, options: Options, dtypes: Row) -> tuple[Callable[..., None], Any]:
    """Return the kernel that does to every element what ``make`` returns, and its launch bounds."""
    key = update_key(make, rule, options, dtypes)
    if make is step_of and options.update and any(options.maps[: len(rules.slots(rule))]):
        return numba_cuda.block_kernel(key), None
    return numba_cuda.update_kernel(key), numba_cuda.launch_bounds(compute_dtype(dtypes.param), len(dtypes.present()))


@cache
def update_kernel(device: int, make: Maker, rule: Rule, options: Options, dtypes: Row, scalars: type) -> Any:
    """Return the same, compiled."""
    dtype = compute_dtype(dtypes.param)
    kernel, bounds = uncompiled_kernel(make, rule, options, dtypes)
    return numba_cuda.compiled(kernel, numba_cuda.update_signature(dtype, Stages, scalars), bounds)


@cache
def products_kernel(device: int, left: Source, right: Source, options: Options, dtypes: Row) -> Any:
    dtype = compute_dtype(dtypes.param)
    kernel = numba_cuda.products_kernel(products_key(left, right, options, dtypes))
    return numba_cuda.compiled(kernel, numba_cuda.products_signature(dtype, Stages), numba_cuda.launch_bounds(dtype))


@cache
def plain_kernel(device: int, kernel: Callable[..., None]) -> Any:
    return numba_cuda.compiled(kernel, numba_cuda.plain_signatures()[kernel], None)


#: The options that make a gradient what a norm is taken of.
GRAD_OPTIONS = ("scale", "mean", "clip_value", "clip_norm", "clip_global_norm", "l2", "l1")

#: The fields of HyperRow that have defaults and that a kernel knows.
KNOWN = {"mean", "l1", "threshold", "average_weight", "dither", "stages", "zero_grads"}


def check_known(hyper: Any) -> None:
    """Raise for a number that asks for what no kernel does.

    Raises
    ------
    ValueError
        Says which.
    """
    defaults = hyper._field_defaults
    asked = [name for name in defaults if name not in KNOWN and getattr(hyper, name) != defaults[name]]
    if asked:
        raise ValueError(f"{', '.join(asked)}: not done on a GPU yet; leave it out, or give NumPy arrays")


def stages_of(hyper: HyperRow, dtype: str) -> Stages:
    real = numba_cuda.NUMPY_DTYPES[dtype]
    numbers = (
        hyper.grad_scale,
        hyper.mean,
        hyper.clip_value,
        hyper.l2,
        hyper.l1,
        hyper.decay,
        hyper.threshold,
        hyper.average_weight,
    )
    with np.errstate(all="ignore"):
        return Stages(*map(real, numbers))
