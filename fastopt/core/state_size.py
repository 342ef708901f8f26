"""The size of a state that nobody has made yet, from the hooks of an optimizer and the shapes of the arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arithmetic import dither
from ..arrays.dtypes import FLOAT32, Array
from .optimizer import Optimizer
from .slots import CODE, COUNT

#: Bytes of a step count, and of a number of a whole array.
OF_COUNT = COUNT.itemsize
OF_NUMBER = np.dtype(np.float64).itemsize


def sample_of(kind: type[Optimizer], params: Sequence[Array], options: Mapping[str, Any]) -> Optimizer:
    """Return an optimizer of arrays with one element each that has the options and hooks of one of these arrays.

    Raises
    ------
    TypeError, ValueError
        As the constructor raises.
    """
    return kind([np.zeros((1,) * param.ndim, param.dtype) for param in params], **options)


def state_bytes(sample: Optimizer, likes: Sequence[Array]) -> list[int]:
    """Return for each array how many bytes its state takes after the first step, as ``opt.state_bytes`` counts them.

    ``likes`` are arrays with the dtypes of the sample's and shapes of their own; their values are not read, so that
    views of one element will do.
    """
    parts = sample.parts
    options, groups = parts.options, parts.groups.checked
    computed, copies = parts.slots.computed(parts.parameters, parts.backend)
    standing = [like_in(its.dtype, like) for its, like in zip(computed, likes, strict=True)]
    hooks = [sample.of_group(group.values) for group in groups]
    sizes = [0] * len(likes)
    whole_sizes = [like.size for like in likes]
    kinds = parts.slots.kinds(standing, whole_sizes, parts.parameters.group_of, groups, parts.backend, hooks)
    for kind, places in kinds.items():
        its, item = hooks[kind.group], np.dtype(kind.compute_dtype).itemsize
        around = int(options.averages) + int(options.accumulate_steps > 1)
        counts = OF_COUNT * (2 if options.accumulate_steps > 1 else 1) + OF_NUMBER * len(its.numbers)
        for i in places:
            size = likes[i].size
            shapes = [(stored_in, its.slot_shape(slot, standing[i])) for slot, stored_in in kind.slots]
            slots = sum(slot_bytes(stored_in, math.prod(shape), item) for stored_in, shape in shapes)
            master = 0 if copies[i] is None else size * FLOAT32.itemsize
            sizes[i] = slots + master + around * size * item + counts
    return sizes


def like_in(dtype: Any, like: Array) -> Array:
    """Return a view of one element with this dtype and the shape of an array."""
    return np.broadcast_to(np.zeros((), dtype), like.shape)


def slot_bytes(stored_in: str | None, size: int, item: int) -> int:
    """Return how many bytes a slot of this size takes, computed with this many bytes an element."""
    if stored_in == "uint8":
        return size * CODE.itemsize + -(-size // dither.SCALE_BLOCK) * FLOAT32.itemsize
    return 2 * size if stored_in == "bfloat16" else size * item
