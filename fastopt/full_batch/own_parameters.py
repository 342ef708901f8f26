"""The parameters of a full-batch method: their arrays, names, groups and bounds, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import is_half
from ..arrays.memory import is_on_device, shown
from ..backends import choosing
from ..backends.backend import Backend
from ..backends.table import ArrayExtras
from ..core.bounds import NumberBounds
from ..core.parameters import Parameters
from ..options.bounds import Pair, checked_pair, split
from ..options.group_by import Grouped, is_group
from ..options.names import hints
from ..options.ranges import Group
from .box import Box

IN_THE_LOSS = "add the penalty to the loss and its gradient to the gradients"

#: Why a group can't have these options.
NO_MEANING: Mapping[str, str] = {
    "lr": "the line search finds the step size",
    "weight_decay": IN_THE_LOSS,
    "l1": IN_THE_LOSS,
    "prox_l1": IN_THE_LOSS,
    "momentum": "the direction comes from the gradients of several iterations already",
    "betas": "the direction comes from the gradients of several iterations already",
}


class OwnParameters(NamedTuple):
    """The parameters, where they are computed, and the numbers that bound each array; None: there are no bounds."""

    parameters: Parameters
    backend: Backend
    bounds: NumberBounds | None
    #: The bounds of each group.
    pairs: Sequence[Pair]

    def box(self, i: int) -> Box | None:
        """Return the bounds of array number ``i``; None if it has none."""
        if self.bounds is None:
            return None
        numbers, own = self.bounds.of(i), self.parameters.bounds[i]
        if own is None:
            return None if numbers == (-math.inf, math.inf) else Box(*numbers)
        (lower, upper), (lowers, uppers) = numbers, own.arrays
        return Box(
            lower if lowers is None else lowers if lower == -math.inf else np.maximum(lowers, lower),
            upper if uppers is None else uppers if upper == math.inf else np.minimum(uppers, upper),
        )

    def extras(self, places: Sequence[int]) -> list[ArrayExtras]:
        """Return the arrays of bounds of the arrays with these numbers, as a table has them."""
        in_order, extras = self.backend.ops.in_memory_order, []
        for i in places:
            own = self.parameters.bounds[i]
            lower, upper = (None, None) if own is None else own.arrays
            extras.append(
                ArrayExtras(
                    lower=None if lower is None else in_order(lower), upper=None if upper is None else in_order(upper)
                )
            )
        return extras

    def check_in_place(self) -> None:
        """Raise if an array was replaced in its container, or is no longer where it was."""
        parameters = self.parameters
        replaced = None if parameters.is_single else parameters.root.replaced()
        if replaced is not None:
            raise ValueError(
                f"params: {replaced!r} is another object than when it was given; leave the arrays in place, and change "
                "none in the function that is minimized (elsewhere write params[...][...] = value, then opt.reset())"
            )
        parameters.check_layouts()


def own_parameters(
    what: str, params: Any, bounds: Any, asked_backend: str | None, takes_options: bool = False
) -> OwnParameters:
    """Check parameters, in groups or not, and their bounds, for the method that errors call ``what``.

    ``takes_options``: groups may have options, which are checked elsewhere.

    Raises
    ------
    TypeError, ValueError
        If an array can't be changed in place, or is none that a full-batch method computes with; for bounds that are
        no pair, or leave no number between; for options in a group.
    RuntimeError
        For a backend that can't be had here.
    """
    grouped = params if isinstance(params, Grouped) else None
    parameters = Parameters(params if grouped is None else grouped.params)
    numbers, structures = split(bounds)
    backend: Backend | None = None
    if grouped is not None:
        groups, members = grouped.options, [grouped.params]
    elif parameters.is_grouped:
        groups, members = list(params), [checked_group(group)["params"] for group in params]
    else:
        groups, members = [{}], [params]
    if not takes_options:
        for group in groups:
            check_options(what, group)
    pairs: list[Pair] = [
        checked_pair("bounds" if k == 0 else f"param_groups[{k}]: bounds", group.get("bounds", numbers))
        for k, group in enumerate(groups)
    ]
    for k, member in enumerate(members):
        branch = parameters.branch(member)
        names, given = list(branch.names()), list(branch.arrays())
        for name, array in zip(names, given, strict=True):
            check_kind(what, name, array)
        backend = backend or choosing.backend_for(asked_backend, names, given)
        addition = parameters.addition(branch, names, given, backend, [no_check] * len(names))
        of_group = [k] * len(names) if grouped is None else [grouped.group_of[name] for name in names]
        parameters.add(addition, of_group)
    assert backend is not None
    if structures is not None:
        parameters.take_bounds(structures, pairs, backend)
    bounds_of_arrays = parameters.number_bounds(pairs)
    has_numbers = bool(np.isfinite([bounds_of_arrays.lower, bounds_of_arrays.upper]).any())
    is_bounded = has_numbers or any(its is not None for its in parameters.bounds)
    return OwnParameters(parameters, backend, bounds_of_arrays if is_bounded else None, pairs)


def checked_group(group: Any) -> Any:
    if not is_group(group):
        raise TypeError(f"param group: expected a dict with the key 'params', got {group!r:.80}")
    return group


def check_options(what: str, group: Group) -> None:
    """Raise if a group has an option that a full-batch method has no use for."""
    for name, value in group.items():
        if name in ("params", "bounds"):
            continue
        reason = NO_MEANING.get(name, f"its groups have bounds alone{hints([name], ['bounds'])}")
        raise ValueError(f"param group: {name}={shown(value):.80}: {what} has no such option: {reason}; leave it out")


def check_kind(what: str, name: str, array: Any) -> None:
    """Raise for arrays that the optimizers take and full-batch methods do not."""
    if is_on_device(array):
        raise ValueError(
            f"params: {name!r} is on the GPU; {what} runs on NumPy arrays: copy it to the host, or use a first-order "
            "optimizer's own steps"
        )
    if isinstance(array, np.ndarray) and is_half(array.dtype):
        raise TypeError(
            f"params: {name!r} has dtype {array.dtype}; {what} needs float32 or float64, since its small steps are "
            "below such a number's resolution: params.astype(np.float32)"
        )


def no_check(name: str, array: Any) -> None:
    pass
