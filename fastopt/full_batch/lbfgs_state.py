"""The state of L-BFGS as data, and back: its pairs in the order of their age, the accepted gradient, their products.

A file does not depend on the backend, on where a pair lies in memory, or on an array's order of memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays.dtypes import FLOAT64, Array
from ..arrays.memory import described, shown
from ..backends.history import Reading
from ..backends.interrupts import uninterrupted
from ..core.encoding import encoded
from ..core.parameters import Parameters
from ..core.results import LoadResult, Misfit, missing, unexpected
from ..core.saving import Load, SavingInOneProcess
from ..core.state_dict import check_form, load_result
from ..options.bounds import Pair
from ..options.ranges import NON_NEGATIVE, STEPS, check
from .accepted_point import Point
from .box import in_a_row
from .history_method import HistoryMethod

#: The entries of "options". ``history`` is not loaded: it says how much memory there is.
OPTIONS = ("history", "gtol", "ftol")

#: The entries of "extra", and the type of each. The arrays are the numbers of the pairs, the oldest first: what the
#: directions are multiplied by to be the steps s, s_i'y_j for j >= i, y_i'y_j, and the products of s and y with the
#: accepted gradient.
EXTRA: Mapping[str, type] = {
    "loss": float,
    "grad_norm": float,
    "step_size": float,
    "evaluations": int,
    "is_single_loss": bool,
    "is_settled": bool,
    "grad_square": float,
    "grad_max": float,
    "steps": np.ndarray,
    "sy": np.ndarray,
    "yy": np.ndarray,
    "ss": np.ndarray,
    "grad_products": np.ndarray,
}


class NewOptions(NamedTuple):
    """The options that a load sets."""

    gtol: float
    ftol: float
    frozen: frozenset[str]


class NewState(NamedTuple):
    """The state that a load sets."""

    iterations: int
    extra: Mapping[str, Any]
    #: The vectors of each array that is not frozen; None: they don't fit, and the next step begins anew.
    vectors: Mapping[str, Mapping[str, Array]] | None


class SavingOfLBFGS(SavingInOneProcess):
    """See ``core/saving.py``."""

    def __init__(self, opt: HistoryMethod) -> None:
        super().__init__(opt.parts)
        self.opt = opt

    def check(self, what: str) -> None:
        """Nothing ever stands in for the parameters."""

    def state(self) -> dict[str, Any]:
        return of(self.opt)

    def plan(
        self,
        saved: Mapping[str, Any] | None,
        strict: bool,
        misfits: list[Misfit],
        with_state: bool,
        with_options: bool,
    ) -> Load:
        opt = self.opt
        options: NewOptions | None = None
        state: NewState | None = None
        if saved is None:
            result = load_result(type(opt).__name__, [], misfits, strict)
        else:
            options, state, result = plan(opt, saved, strict, misfits, with_state, with_options)

        def load(written: Collection[str]) -> None:
            carry_out(opt, options, state)
            if written and state is None:
                begin_anew(opt)

        return Load(result, load)


# --- saving -----------------------------------------------------------------------------------------------------------


def of(opt: HistoryMethod) -> dict[str, Any]:
    """Return the state; see :meth:`fastopt.LBFGS.state_dict`."""
    if opt.is_moved:  # a second interrupt came before a step had put the point back
        opt.undo_move()
    parameters = opt.parts.parameters
    # After freezing, and after an interrupt while a point was recorded, the next step begins anew.
    is_known = opt.frozen_in_table is parameters.frozen and not opt.is_torn
    is_settled = is_known and opt.settled is not None and opt.settled is opt.point
    return {
        "optimizer": type(opt).__name__,
        "step_count": opt.iterations,
        "options": {name: getattr(opt, name) for name in OPTIONS},
        "param_groups": [
            {"params": parameters.members(k), "bounds": encoded(pair)} for k, pair in enumerate(opt.own.pairs)
        ],
        "frozen": sorted(parameters.frozen),
        "state": saved_vectors(opt, is_settled) if is_known else {},
        "extra": {
            "loss": float(opt.loss),
            "grad_norm": float(opt.grad_norm),
            "step_size": float(opt.step_size),
            "evaluations": opt.evaluations,
            "is_single_loss": opt.is_single_loss,
            "is_settled": is_settled,
            "grad_square": opt.reading.grad_square if is_settled else 0.0,
            "grad_max": opt.reading.grad_max if is_settled else 0.0,
            **saved_numbers(opt, opt.pairs.count if is_known else 0),
        },
    }


def saved_vectors(opt: HistoryMethod, is_settled: bool) -> dict[str, dict[str, Array]]:
    """Return, for the name of each array that is not frozen, its parts of the vectors."""
    pairs, vectors = opt.pairs.pairs, opt.pairs.vectors
    places = pairs.slots[: pairs.count].tolist()
    found: dict[str, dict[str, Array]] = {}
    for i, (name, array) in enumerate(zip(opt.names, opt.arrays, strict=True)):
        entries = found[name] = {}
        for entry, second in (("directions", 0), ("changes", 1)) if places else ():
            flat = np.empty((len(places), array.size), array.dtype)
            for row, place in zip(flat, places, strict=True):
                row[...] = vectors.vector(i, 2 * place + second)
            entries[entry] = in_shape_of(array, flat)
        if is_settled:
            grad = vectors.vector(i, vectors.grads[pairs.accepted])
            entries["grad"] = in_shape_of(array, grad[np.newaxis])[0, ...]
    return found


def in_shape_of(array: Array, flat: Array) -> Array:
    """Return rows in an array's order of memory as arrays of its shape."""
    if array.flags.c_contiguous:
        return flat.reshape(len(flat), *array.shape)
    return np.moveaxis(flat.reshape(len(flat), *array.shape[::-1]).T, -1, 0)


def saved_numbers(opt: HistoryMethod, count: int) -> dict[str, Array]:
    if count == 0:
        return {name: np.zeros(shape) for name, shape in shapes_of_numbers(0).items()}
    pairs = opt.pairs.pairs
    sy = pairs.sy[:count, :count]
    has_bounds = opt.pairs.has_bounds
    return {
        "steps": pairs.steps[:count].copy(),
        "sy": sy.copy() if has_bounds else np.triu(sy),
        "yy": pairs.yy[:count, :count].copy(),
        "ss": pairs.ss[:count, :count].copy() if has_bounds else np.zeros((count, count)),
        "grad_products": pairs.grad_products[0, :, :count].copy(),
    }


def shapes_of_numbers(count: int) -> dict[str, tuple[int, ...]]:
    square = (count, count)
    return {"steps": (count,), "sy": square, "yy": square, "ss": square, "grad_products": (2, count)}


# --- loading ----------------------------------------------------------------------------------------------------------


def load(
    opt: HistoryMethod, saved: Mapping[str, Any], strict: bool, with_state: bool, with_options: bool
) -> LoadResult:
    """Load a saved state, or a part of it; see :meth:`fastopt.LBFGS.load_state_dict`."""
    if not (with_state or with_options):
        raise ValueError("load_state_dict: state=False, options=False leave nothing to load; give one of the two")
    options, state, result = plan(opt, saved, strict, [], with_state, with_options)
    uninterrupted(partial(carry_out, opt, options, state))
    return result


def plan(
    opt: HistoryMethod,
    saved: Mapping[str, Any],
    strict: bool,
    misfits: list[Misfit],
    with_state: bool,
    with_options: bool,
) -> tuple[NewOptions | None, NewState | None, LoadResult]:
    """Check a saved state; ``misfits`` are those found before, elsewhere.

    Raises
    ------
    TypeError, ValueError
        As :meth:`fastopt.LBFGS.load_state_dict`.
    """
    check_form(saved, type(opt).__name__)
    parameters, wrong = opt.parts.parameters, wrong_options(saved["options"])
    options: NewOptions | None = None
    state: NewState | None = None
    if with_options:
        misfits += [unexpected(f"frozen: {name}") for name in saved["frozen"] if name not in parameters.names]
        frozen = frozenset(parameters.names).intersection(saved["frozen"])
        options = NewOptions(saved["options"].get("gtol"), saved["options"].get("ftol"), frozen)
    if with_state:
        then = parameters.frozen if options is None else options.frozen
        state = new_state(opt, saved, then, wrong, misfits)
    result = load_result(type(opt).__name__, wrong, misfits, strict)
    result.options = changed_options(opt, options, state)
    return options, state, result


def wrong_options(options: Mapping[str, Any]) -> list[str]:
    if set(options) != set(OPTIONS):
        return [f"options: expected {list(OPTIONS)}, got {shown(list(options))}"]
    wrong = []
    for name in ("gtol", "ftol"):
        try:
            check(f"options: {name}", options[name], NON_NEGATIVE)
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
    return wrong


def new_state(
    opt: HistoryMethod, saved: Mapping[str, Any], frozen: frozenset[str], wrong: list[str], misfits: list[Misfit]
) -> NewState:
    """Return the state to load, for the arrays that will be frozen."""
    extra = saved["extra"]
    try:
        check("step_count", saved["step_count"], STEPS)
    except ValueError as error:
        wrong.append(str(error))
    wrong_numbers = wrong_extra(extra)
    wrong += wrong_numbers
    if wrong_numbers:
        return NewState(saved["step_count"], {}, None)
    misfits += misfits_of_bounds(opt, saved["param_groups"])
    if saved["state"] or extra["is_settled"] or len(extra["steps"]):
        misfits += misfits_of_vectors(opt.parts.parameters, saved["state"], extra, frozen)
    return NewState(saved["step_count"], extra, None if misfits else saved["state"])


def wrong_extra(extra: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the numbers of a saved state."""
    if set(extra) != set(EXTRA):
        return [f"extra: expected {list(EXTRA)}, got {shown(list(extra))}"]
    wrong = [
        f"extra: {name!r} is {described(extra[name])}; expected one of type {kind.__name__}"
        for name, kind in EXTRA.items()
        if type(extra[name]) is not kind
    ]
    if wrong:
        return wrong
    count = len(extra["steps"]) if extra["steps"].ndim == 1 else -1
    for name, shape in shapes_of_numbers(count).items():
        array = extra[name]
        if array.shape != shape or array.dtype != FLOAT64:
            expected = "one dimension" if count < 0 else f"shape {shape}"
            wrong.append(
                f"extra: {name!r} is of shape {array.shape}, {array.dtype}; expected {expected}, float64, for the pairs"
            )
    if extra["evaluations"] < 0:
        wrong.append(f"extra: 'evaluations' is {extra['evaluations']}; expected a count")
    if extra["is_settled"] and not math.isfinite(extra["loss"]):
        wrong.append(f"extra: 'loss' is {extra['loss']}; expected a finite number")
    for name in ("grad_norm", "grad_square", "grad_max") if extra["is_settled"] else ():
        if not extra[name] >= 0:
            wrong.append(f"extra: {name!r} is {extra[name]}; expected a number of at least 0")
    if wrong:
        return wrong
    if not np.isfinite(extra["steps"]).all():
        wrong.append("extra: 'steps' is not finite")
    if not np.isfinite(extra["ss"]).all():
        wrong.append("extra: 'ss' is not finite")
    for name in ("sy", "yy"):
        if not (np.isfinite(extra[name]).all() and (np.diagonal(extra[name]) > 0).all()):
            wrong.append(f"extra: {name!r} is not that of pairs: all of it is finite, and its diagonal above 0")
    return wrong


def misfits_of_bounds(opt: HistoryMethod, groups: Sequence[Mapping[str, Any]]) -> list[Misfit]:
    """Return a misfit for each array whose saved bounds are other numbers: the pairs are of the free elements."""
    own = {name: pair for k, pair in enumerate(opt.own.pairs) for name in opt.parts.parameters.members(k)}
    found = []
    for group in groups:
        for name in group["params"]:
            if name not in own:
                found.append(unexpected(f"param_groups: {name}"))
            elif not is_same_pair(group.get("bounds"), own[name]):
                text = f"bounds: those of {name!r} are {shown(group.get('bounds'))}; here they are {own[name]}"
                found.append(Misfit(f"bounds: {name}", True, True, text))
    saved = {name for group in groups for name in group["params"]}
    return found + [missing(f"param_groups: {name}") for name in own if name not in saved]


def is_same_pair(saved: Any, own: Pair) -> bool:
    return bool((tuple(saved) if isinstance(saved, list) else saved) == encoded(own))


def misfits_of_vectors(
    parameters: Parameters, state: Mapping[str, Mapping[str, Any]], extra: Mapping[str, Any], frozen: frozenset[str]
) -> list[Misfit]:
    """Return how the vectors of the arrays do not fit."""
    count, found = len(extra["steps"]), []
    for name, array in zip(parameters.names, parameters.arrays, strict=True):
        if name in frozen:
            continue
        if name not in state:
            found.append(missing(f"state: {name}"))
            continue
        shapes = {"directions": (count, *array.shape), "changes": (count, *array.shape)} if count else {}
        if extra["is_settled"]:
            shapes["grad"] = array.shape
        if set(state[name]) != set(shapes):
            text = f"state[{name!r}] has {shown(list(state[name]))}; expected {list(shapes)}"
            found.append(Misfit(name, True, True, text))
            continue
        for entry, shape in shapes.items():
            value = state[name][entry]
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != array.dtype:
                got = f"of shape {value.shape}, {value.dtype}" if isinstance(value, np.ndarray) else described(value)
                text = f"state[{name!r}][{entry!r}] is {got}; expected shape {shape}, {array.dtype}"
                found.append(Misfit(f"{name}.{entry}", True, True, text))
    free = {name for name in parameters.names if name not in frozen}
    return found + [unexpected(f"state: {name}") for name in state if name not in free]


def changed_options(
    opt: HistoryMethod, options: NewOptions | None, state: NewState | None
) -> dict[str, tuple[Any, Any]]:
    """Return each option that a load changes: its name, its old and its new value."""
    found: dict[str, tuple[Any, Any]] = {}
    parameters = opt.parts.parameters
    if options is not None:
        for name in ("gtol", "ftol"):
            before, after = getattr(opt, name), getattr(options, name)
            if before != after:
                found[name] = before, after
        if options.frozen != parameters.frozen:
            found["frozen"] = parameters.in_order(parameters.frozen), parameters.in_order(options.frozen)
    if state is not None and state.iterations != opt.iterations:
        found["step_count"] = opt.iterations, state.iterations
    return found


def carry_out(opt: HistoryMethod, options: NewOptions | None, state: NewState | None) -> None:
    """Load what was planned."""
    parameters = opt.parts.parameters
    frozen = parameters.frozen if options is None else options.frozen
    if state is not None and state.vectors:
        make_room(opt, frozen)
    if options is not None:
        opt.gtol, opt.ftol = options.gtol, options.ftol
        if frozen != parameters.frozen:
            parameters.frozen = frozen
    if state is not None:
        load_state(opt, state)


def make_room(opt: HistoryMethod, frozen: frozenset[str]) -> None:
    """Have a history for the arrays that are not frozen. If there is not enough memory, nothing is changed."""
    parameters = opt.parts.parameters
    before, frozen_before = dict(vars(opt)), parameters.frozen
    try:
        if frozen != parameters.frozen:
            parameters.frozen = frozen
        if opt.frozen_in_table is not parameters.frozen:
            opt.make_table()
    except BaseException:
        vars(opt).update(before)
        parameters.frozen = frozen_before
        raise


def load_state(opt: HistoryMethod, state: NewState) -> None:
    opt.settled = opt.moved_from = opt.half_kept = None
    if opt.frozen_in_table is not None:
        opt.forget()
    extra, vectors = state.extra, state.vectors
    if vectors is None:
        opt.point = Point(math.nan, math.nan, 0.0, state.iterations)
    else:
        opt.point = Point(extra["loss"], extra["grad_norm"], extra["step_size"], state.iterations)
    opt.evaluations, opt.is_single_loss = extra["evaluations"], extra["is_single_loss"]
    opt.message = ""
    if vectors:
        load_vectors(opt, vectors, extra)
        if extra["is_settled"]:
            opt.reading = Reading(0.0, 0.0, 0.0, 0.0, extra["grad_max"], extra["grad_square"], 0)
            opt.settled = opt.point


def load_vectors(opt: HistoryMethod, saved: Mapping[str, Mapping[str, Array]], extra: Mapping[str, Any]) -> None:
    """Write the newest pairs, as many as there is room for, and the accepted gradient."""
    pairs, vectors = opt.pairs.pairs, opt.pairs.vectors
    count = len(extra["steps"])
    first = max(0, count - pairs.size)
    kept = count - first
    pairs.state[:] = 0
    pairs.active[:] = -1, 0, 0, 0
    pairs.slots[:] = range(pairs.size)
    for i, (name, array) in enumerate(zip(opt.names, opt.arrays, strict=True)):
        entries = saved[name]
        for place in range(kept):
            for entry, second in (("directions", 0), ("changes", 1)):
                vectors.set_vector(i, 2 * place + second, in_order_of(array, entries[entry][first + place]))
        if extra["is_settled"]:
            vectors.set_vector(i, vectors.grads[pairs.accepted], in_order_of(array, entries["grad"]))
    pairs.steps[:kept] = extra["steps"][first:]
    pairs.sy[:kept, :kept] = extra["sy"][first:, first:]
    pairs.yy[:kept, :kept] = extra["yy"][first:, first:]
    pairs.ss[:kept, :kept] = extra["ss"][first:, first:]
    pairs.grad_products[0, :, :kept] = extra["grad_products"][:, first:]
    pairs.state[0] = kept


def in_order_of(array: Array, values: Array) -> Array:
    """Return values of an array's shape as one dimension, in the array's order of memory."""
    return in_a_row(np.asarray(values, order="C" if array.flags.c_contiguous else "F"))


def begin_anew(opt: HistoryMethod) -> None:
    """Forget the point: other parameters were written."""
    opt.settled = opt.moved_from = opt.half_kept = None
    if opt.frozen_in_table is not None:
        opt.forget()
    if opt.point is not None:
        opt.point = Point(math.nan, math.nan, 0.0, opt.point.iterations)
