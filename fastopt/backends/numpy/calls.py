"""Functions on arrays as lists of NumPy calls: traced once, then bound to the arrays of each block.

Bound calls run in C from the first to the last (:func:`run_stages`): the interpreter costs next to nothing, and Ctrl-C,
which Python handles between its own instructions, waits for the last one.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain, repeat, starmap
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ...arithmetic.symbols import Value, check_numbers, misuse
from ...arrays.dtypes import FLOAT32, Array

#: A function with its arguments.
Call: TypeAlias = "partial[Any]"

#: A function, and for each of its parameters an iterable of arguments. It is called with each row of them.
Stage: TypeAlias = tuple[Any, ...]

BOOL = np.dtype(bool)


def run_stages(stages: Iterable[Stage]) -> None:
    """Make the calls of these stages in order."""
    deque(chain.from_iterable(starmap(map, stages)), 0)


def stage_of_calls(calls: Sequence[Call]) -> Stage:
    """Return the stage that makes these calls."""
    return partial.__call__, calls


def stage_of_assignments(targets: Sequence[Array], values: Iterable[Any]) -> Stage:
    """Return the stage that writes each of these values into its target."""
    return operator.setitem, targets, repeat(...), values


class Kind(NamedTuple):
    """Whether values are of bool, or else of the compute dtype; and whether they are one number, or else a block."""

    is_bool: bool
    is_scalar: bool


ARRAY = Kind(False, False)


class Trace:
    """The recorded calls of a traced function, with the numbers of their operands.

    The inputs are numbered from 0. Each literal and the result of each call gets the next number.
    """

    def __init__(self, inputs: int, scalars: Collection[int], ones: Collection[int]) -> None:
        self.inputs, self.ones = inputs, ones
        #: The result, the function and the operands of each call.
        self.calls: list[tuple[int, Callable[..., Any], tuple[int, ...]]] = []
        self.literals: dict[int, float] = {}
        self.kinds = [Kind(False, k in scalars) for k in range(inputs)]

    def record(self, function: Callable[..., Any], operands: Sequence[Any]) -> Value:
        check_numbers(function, operands)
        numbers = [each.number if isinstance(each, Value) else self.literal(each) for each in operands]
        kinds = [self.kinds[number] for number in numbers]
        is_bool = gives_bool(function, [kind.is_bool for kind in kinds])
        if function is np.multiply:
            for one, other in (numbers, numbers[::-1]):
                if one in self.ones and not self.kinds[other].is_bool:
                    return Value(self, other)
        return Value(self, self.add(function, numbers, Kind(is_bool, all(kind.is_scalar for kind in kinds))))

    def literal(self, value: float) -> int:
        """Return the number of a literal; NumPy rounds it to the compute dtype."""
        self.kinds.append(Kind(False, True))
        number = len(self.kinds) - 1
        self.literals[number] = value
        return number

    def copied(self, number: int) -> int:
        """Record a call that copies a value into memory of the compute dtype; return the number of its result."""
        if self.kinds[number].is_bool:  # np.positive takes none of bool
            return self.add(np.logical_or, [number, number], ARRAY)
        return self.add(np.positive, [number], ARRAY)

    def add(self, function: Callable[..., Any], operands: Sequence[int], kind: Kind) -> int:
        self.kinds.append(kind)
        number = len(self.kinds) - 1
        self.calls.append((number, function, tuple(operands)))
        return number


class Program:
    """The calls of a function, with the place of each operand and result in a list of arrays.

    The inputs come first in that list, then the literals, then the scratch arrays.

    Parameters
    ----------
    function : callable
        Elementwise; returns a sequence of values.
    inputs : int
        The number of its arguments.
    targets : sequence of (int or None)
        For each returned value, the number of the input to overwrite with it; None if it may be anywhere. No other
        input is written.
    scalars : collection of int
        The numbers of the inputs that are arrays of shape (); all others are blocks.
    ones : collection of int
        The numbers of the inputs that are 1. Products with them are left out.

    Attributes
    ----------
    literals : list of float
    scratch : list of Kind
        The kind of each scratch array.
    results : list of int
        The place of each returned value.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Value]],
        inputs: int,
        targets: Sequence[int | None],
        scalars: Collection[int] = (),
        ones: Collection[int] = (),
    ) -> None:
        trace = Trace(inputs, scalars, ones)
        values = [value.number for value in function(*[Value(trace, i) for i in range(inputs)])]
        #: The target of each value that the function computes.
        home: dict[int, int] = {}
        for k, (value, target) in enumerate(zip(values, targets, strict=True)):
            if target is None or value == target:
                continue
            # The value belongs to another array too, or is a condition or a number, which later calls read as such.
            if value < inputs or value in home or trace.kinds[value] != ARRAY:
                values[k] = trace.copied(value)
            home[values[k]] = target
        self.literals = list(trace.literals.values())
        self.scratch: list[Kind] = []
        #: For each call the function that binds it, that which takes its arrays, and their places.
        self.calls: list[tuple[Callable[..., Call], Callable[[Sequence[Any]], Sequence[Any]], Sequence[int]]] = []
        places = self._place(trace, values, home, {target for target in targets if target is not None})
        self.results = [
            places[value] if target is None else target for value, target in zip(values, targets, strict=True)
        ]
        for value, target in home.items():
            if places[value] != target:
                self._call(np.positive, [places[value], target])

    def _place(self, trace: Trace, values: list[int], home: dict[int, int], written: set[int]) -> dict[int, int]:
        """Find a place for the result of each call: if possible, that of a value that no later call reads."""
        inputs = [*range(trace.inputs), *trace.literals]
        last_call = {number: k for k, (_, _, operands) in enumerate(trace.calls) for number in operands}
        last_call |= dict.fromkeys(values, len(trace.calls))
        places = {number: place for place, number in enumerate(inputs)}
        free = [i for i in written if i not in last_call]
        for k, (result, function, operands) in enumerate(trace.calls):
            read_last = {places[number] for number in operands if last_call[number] == k}
            ending = [place for place in read_last if place >= len(inputs) or place in written]
            if function is not np.where:  # it writes before it has read everything
                free += ending
            place = self._fitting(free, len(inputs), trace.kinds[result], home.get(result))
            free = [each for each in free if each != place]
            if function is np.where:
                free += ending
            places[result] = place
            self._call(function, [*(places[number] for number in operands), place])
        return places

    def _fitting(self, free: list[int], inputs: int, kind: Kind, target: int | None) -> int:
        """Return a free place of the right kind; the target if it is free."""
        if target in free:
            return target
        for place in reversed(free):
            if place >= inputs and self.scratch[place - inputs] == kind:
                return place
            # A value with another target must not wait in an input's memory: its copy may come after other copies.
            if place < inputs and target is None and kind == ARRAY:
                return place
        self.scratch.append(kind)
        return inputs + len(self.scratch) - 1

    def _call(self, function: Callable[..., Any], places: Sequence[int]) -> None:
        if function is np.where:  # by bit operations, which is ten times as fast as a masked copy
            condition, a, b, out = places
            self._add(partial(bind_on_bits, np.bitwise_xor), [a, b, out])
            self._add(partial(bind_on_bits, np.multiply), [out, condition, out])
            self._add(partial(bind_on_bits, np.bitwise_xor), [out, b, out])
        else:
            self._add(BINDERS.get(function, partial(partial, function)), places)

    def _add(self, bind: Callable[..., Call], places: Sequence[int]) -> None:
        self.calls.append((bind, itemgetter(*places), places))

    def further_arrays(self, dtype: np.dtype[Any], block: Callable[[np.dtype[Any]], Array]) -> list[Array]:
        """Return the literals in the compute dtype, and the scratch arrays; ``block`` returns an array of a dtype."""
        with np.errstate(all="ignore"):
            literals = [np.array(literal, dtype) for literal in self.literals]
        dtypes = [(BOOL if is_bool else dtype, is_scalar) for is_bool, is_scalar in self.scratch]
        return [*literals, *(np.empty((), its) if is_scalar else block(its) for its, is_scalar in dtypes)]

    def bind(self, arrays: Sequence[Array | None]) -> list[Call]:
        """Return the calls on these arrays. An array that no call uses may be None."""
        return [bind(*take(arrays)) for bind, take, _ in self.calls]


def gives_bool(function: Any, are_bool: Sequence[bool]) -> bool:
    """Return whether the result of a function is of bool, given which of its operands are.

    Raises
    ------
    TypeError
        If NumPy has no such function of them. ``where`` works on bits: its condition must be of bool, and its values
        alike.
    """
    if function is np.where:
        if len(are_bool) != 3 or not are_bool[0] or are_bool[1] != are_bool[2]:
            raise misuse("where: expected a comparison and two values, such as where(g > h.zero, p, g)")
        return are_bool[1]
    try:
        dtypes = function.resolve_dtypes((*(BOOL if is_bool else FLOAT32 for is_bool in are_bool), None))
    except TypeError as error:
        raise misuse(str(error)) from None
    return bool(dtypes[-1] == BOOL)


def bind_on_bits(function: Callable[..., Any], *arrays: Array) -> Call:
    """Bind a call to the bits of arrays; those of bool stay as they are."""
    return partial(function, *(array if array.dtype == bool else array.view(f"u{array.itemsize}") for array in arrays))


def bind_by_keyword(function: Callable[..., Any], *arrays: Array) -> Call:
    """Bind a call of a function whose ``out`` NumPy 2.4 does not accept by position."""
    *operands, out = arrays
    return partial(function, *operands, out=out)


BINDERS: dict[Any, Callable[..., Call]] = {
    function: partial(bind_by_keyword, function) for function in (np.maximum, np.minimum)
}
