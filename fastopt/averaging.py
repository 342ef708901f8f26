"""The mean of several snapshots of parameters. For averages within a step, see ``ema_decay`` and ``polyak``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic.averages import ema_weight, polyak_weight
from .arrays.dtypes import FLOAT64, Array, is_float
from .arrays.memory import described
from .arrays.structure import Branch, is_container

__all__ = ["ema_weight", "mean", "polyak_weight"]


def __dir__() -> list[str]:
    return __all__


def mean(list_of_params: Sequence[Any]) -> Any:
    """Return the mean of several snapshots of parameters, all of the same structure.

    Each element is ``(p1 + ... + pn) / n``, added in double precision in the order given, then rounded to the dtype of
    the first snapshot.

    Parameters
    ----------
    list_of_params : list of (array or structure of arrays)
        At least one snapshot of float arrays, with the same shapes in each.

    Returns
    -------
    array or structure of arrays
        New arrays, in lists for lists and tuples, and in dicts for dicts.

    Raises
    ------
    TypeError, ValueError
        If there is no snapshot, if one differs from the first in structure or shapes, or if a leaf is not a float
        array.

    Notes
    -----
    Source: Polyak and Juditsky (1992); Izmailov et al., Averaging Weights Leads to Wider Optima (arXiv 1803.05407).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> fastopt.averaging.mean([{"W": np.float32([1, 2])}, {"W": np.float32([3, 6])}])
    {'W': array([2., 4.], dtype=float32)}
    """
    if len(list_of_params) == 0:
        raise ValueError("averaging.mean: the list is empty; give at least one snapshot")
    is_single = not is_container(list_of_params[0])
    snapshots = [[params] if is_single else params for params in list_of_params]
    root = Branch(snapshots[0])
    names = list(root.names())
    firsts = root.leaves(snapshots[0], "snapshot 0")
    sums: list[Array] = []
    for k, snapshot in enumerate(snapshots):
        for i, array in enumerate(root.leaves(snapshot, f"snapshot {k}")):
            if not isinstance(array, np.ndarray) or not is_float(array.dtype):
                found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else described(array)
                raise TypeError(f"snapshot {k}: {names[i]!r} is {found}; expected a NumPy array of a float dtype")
            if array.shape != firsts[i].shape:
                raise ValueError(
                    f"snapshot {k}: {names[i]!r} has shape {array.shape}; in snapshot 0 it has {firsts[i].shape}"
                )
            if k == 0:
                sums.append(array.astype(FLOAT64))
            else:
                sums[i] += array
    means = [(sum_ / len(snapshots)).astype(first.dtype) for sum_, first in zip(sums, firsts, strict=True)]
    return means[0] if is_single else root.rebuilt(iter(means))
