"""The part of each array that a rank owns: a slice, or a whole array that can't be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array
from ..arrays.memory import in_memory_order
from ..core.bounds import OwnBounds
from ..core.hooks import Hooks, is_default
from .layout import Bucket, Form, bucket_of_each, buckets_of
from .ranks import Ranks


class Share(NamedTuple):
    """How arrays are shared out among the ranks."""

    buckets: list[Bucket]
    #: Each array as a vector, in its order in memory.
    vectors: list[Array]
    are_cut: list[bool]
    #: Where the part of each array that this rank owns begins and ends, and the part.
    slices: dict[str, tuple[int, int]]
    parts: dict[str, Array]


def vector_of(array: Array) -> Array:
    """Return an array as a vector of its elements in their order in memory: a view."""
    return in_memory_order(array).reshape(-1)


def can_cut(ndim: int, is_contiguous: bool, group: Mapping[str, Any], takes_slices: bool) -> bool:
    """Return whether an array of a group with these options can be cut; ``is_contiguous``: in the order of C."""
    limits_norms = group["max_weight_norm"] is not None and ndim > 1
    return takes_slices and is_contiguous and not limits_norms


def takes_slices(hooks: Hooks) -> bool:
    """Return whether an optimizer steps slices of arrays as it does whole ones.

    One pass over all elements does. A class that defines ``update`` says so itself, by ``takes_slices``.
    """
    if is_default(hooks, "update") or not is_default(hooks, "slot_shape"):
        return is_default(hooks, "slot_shape")
    for kind in type(hooks).__mro__:
        if "takes_slices" in vars(kind):
            return hooks.takes_slices
        if "update" in vars(kind):
            break
    return False


def part_of(array: Array, vector: Array, bounds: tuple[int, int], is_cut: bool) -> Array:
    """Return the part of an array, whose vector this is, that a rank owns.

    A slice is a vector. An array that is not cut keeps its shape; ranks that do not own it have an empty one.
    """
    begin, end = bounds
    if is_cut:
        return vector[begin:end]
    return array if end > begin or array.size == 0 else np.empty((0,) * max(array.ndim, 1), array.dtype)


def in_form_of(part: Array, vector: Array) -> Array:
    """Return a vector, the values of a part in their order in memory, as an array like the part."""
    return vector if part.ndim == 1 else vector.reshape(part.shape, order="C" if part.flags.c_contiguous else "F")


def bounds_of_part(bounds: OwnBounds | None, of_part: tuple[int, int], is_cut: bool) -> OwnBounds | None:
    """Return the bounds of the elements of a part."""
    if bounds is None:
        return None
    arrays = [None if each is None else part_of(each, vector_of(each), of_part, is_cut) for each in bounds.arrays]
    return bounds._replace(arrays=(arrays[0], arrays[1]))


def share_of(
    names: Sequence[str],
    arrays: Sequence[Array],
    are_cut: Sequence[bool],
    ranks: Ranks,
    bucket_bytes: int,
    before: Sequence[Bucket],
) -> Share:
    """Return how arrays are shared out, after those in the buckets ``before``."""
    vectors = list(map(vector_of, arrays))
    forms = [Form(array.size, array.dtype, is_cut) for array, is_cut in zip(arrays, are_cut, strict=True)]
    buckets = buckets_of(forms, ranks.size, bucket_bytes, before)
    bounds = [bucket.slice_of(i, ranks.rank) for i, bucket in bucket_of_each(buckets).items()]
    parts = map(part_of, arrays, vectors, bounds, are_cut)
    slices, own = dict(zip(names, bounds, strict=True)), dict(zip(names, parts, strict=True))
    return Share(buckets, vectors, list(are_cut), slices, own)
