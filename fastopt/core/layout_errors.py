"""The errors of arrays that were changed in place, so that a table no longer fits them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..arrays.dtypes import Array, compute_dtype
from ..arrays.layouts import Layouts

#: Returns what errors call an array, given the number of its column and its own, and since when it must not change.
Where = Callable[[int, int], tuple[str, str]]


def check_layouts(layouts: Layouts | None, where: Where) -> None:
    """Raise if an array was resized, or given another dtype, shape or order; None: arrays on a GPU, where none can be.

    Raises
    ------
    ValueError
        If so.
    """
    if layouts is None or layouts.are_kept():
        return
    found = layouts.first_change()
    if found is None:
        return
    (name, since), array, before = where(*found), layouts.columns[found[0]][found[1]], layouts.at(*found)
    if not before.is_at(array):
        raise ValueError(
            f"{name} had shape {before.shape} {since}, and is in other memory now, with shape {array.shape}; build a "
            "new optimizer, and resize no array in place"
        )
    if array.dtype != before.dtype:
        was, remedy = f"was an array of {before.dtype} {since}, and is one of {array.dtype} now", "dtype"
    elif array.shape != before.shape:
        was, remedy = f"had shape {before.shape} {since}, and has shape {array.shape} now", "shape"
    else:
        order = "C" if before.is_c_order else "Fortran"
        was, remedy = f"was in {order} order {since}, and has strides {array.strides} now", "strides"
    raise ValueError(f"{name} {was}; set its {remedy} back, or build a new optimizer")


def check_averages(averages: Mapping[str, Array], names: Sequence[str], params: Sequence[Array]) -> None:
    """Raise if an average that was handed out lies in memory in another way than its parameter."""
    for name, param in zip(names, params, strict=True):
        average = averages.get(name)
        if average is None:
            continue
        dtype, flags, its = compute_dtype(param.dtype), param.flags, average.flags
        has_order = its.c_contiguous == flags.c_contiguous and its.f_contiguous == flags.f_contiguous
        if average.shape != param.shape or average.dtype != dtype or not has_order:
            raise ValueError(
                f"state[{name!r}]['ema'] was like its parameter before, of shape {param.shape} and {dtype}, and has "
                f"shape {average.shape}, {average.dtype} and strides {average.strides} now; set these back, or build a "
                "new optimizer"
            )
