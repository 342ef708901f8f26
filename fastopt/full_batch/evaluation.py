"""Checks of the loss and the gradients that a function returned, before anything is changed by them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import FLOAT32
from ..arrays.memory import described
from ..arrays.structure import is_container
from ..options.ranges import is_no_real_number, plain

EXPECTED = "expected a pair (loss, grads), the gradients in the structure of the parameters"

#: Losses of these dtypes are rounded as float32 or worse.
SINGLE_BYTES = FLOAT32.itemsize


class Evaluation(NamedTuple):
    """A loss in double precision, whether it came in single precision, and the gradients as they were returned."""

    loss: float
    is_single: bool
    grads: Any


def checked_evaluation(caller: str, returned: Any) -> Evaluation:
    """Return what a function returned, which errors call ``caller``.

    Raises
    ------
    TypeError
        If it is no pair, or the loss is not one real number.
    ValueError
        If it has another length.
    """
    if not isinstance(returned, (tuple, list)):
        hint = " (is there a return?)" if returned is None else ""
        is_loss = isinstance(returned, float) or getattr(returned, "shape", None) == ()
        found = "the loss alone" if is_loss else f"a value {described(returned)}"
        remedy = "; compute the gradients in the same call and return them too: return loss, grads" if is_loss else ""
        raise TypeError(f"{caller} returned {found}{hint}: {EXPECTED}{remedy}")
    if len(returned) != 2:
        raise ValueError(
            f"{caller} returned {len(returned)} values: {EXPECTED}; keep further results outside, in a variable or a "
            "list"
        )
    loss, grads = returned
    if isinstance(loss, (float, np.float32)):  # np.float64 is a float
        return Evaluation(float(loss), is_single(loss), grads)
    return Evaluation(checked_loss(caller, loss, grads), is_single(loss), grads)


def checked_loss(caller: str, loss: Any, grads: Any) -> float:
    """Return a loss of any type as Python's float."""
    if is_container(loss) or getattr(loss, "shape", ()) != ():
        shape = f"an array of shape {tuple(loss.shape)}" if hasattr(loss, "shape") else f"a value {described(loss)}"
        remedy = "sum it or take its mean"
        if not is_container(grads) and getattr(grads, "shape", ()) == ():
            remedy = "return the loss first, then the gradients"
        elif getattr(loss, "size", 0) == 1:
            remedy = "take its element: loss.item()"
        raise TypeError(f"{caller} returned {shape} as the loss: expected one number; {remedy}")
    if is_no_real_number(loss):
        raise TypeError(f"{caller} returned a loss of {loss.dtype}: expected a real number; take its real part")
    number = plain(loss)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{caller} returned a loss {described(loss)}: expected one real number")
    try:
        return float(number)
    except OverflowError as error:
        raise ValueError(f"{caller} returned a loss above 1e308: expected a number that a float holds") from error


def is_single(loss: Any) -> bool:
    """Return whether a loss was rounded to single precision or less."""
    dtype = getattr(loss, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind in "fV" and dtype.itemsize <= SINGLE_BYTES
