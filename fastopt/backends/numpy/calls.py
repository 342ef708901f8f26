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
from typing import Any, TypeAlias

import numpy as np

from ...arithmetic.symbols import Symbol, check_numbers, misuse
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


class Value(Symbol):
    """A symbol that stands for an array while a function is traced; operations on it are recorded."""

    def __init__(self, trace: Trace, number: int) -> None:
        self.trace, self.number = trace, number

    def result(self, function: Any, operands: Sequence[Any]) -> Value:
        return self.trace.record(function, operands)


class Trace:
    """The recorded calls of a traced function, with the numbers of their operands.

    The inputs are numbered from 0; the result of each call gets the next number.
    """

    def __init__(self, inputs: int, ones: Collection[int]) -> None:
        self.inputs, self.ones = inputs, ones
        self.calls: list[tuple[Callable[..., Any], tuple[int, ...]]] = []
        #: Whether each value is of bool; the others are of the compute dtype.
        self.are_bool = [False] * inputs

    def record(self, function: Callable[..., Any], operands: Sequence[Any]) -> Value:
        check_numbers(function, operands)
        is_bool = gives_bool(function, [self.are_bool[operand.number] for operand in operands])
        if function is np.multiply:
            for one, other in (operands, operands[::-1]):
                if one.number in self.ones and not self.are_bool[other.number]:
                    return Value(self, other.number)
        return Value(self, self.add(function, [operand.number for operand in operands], is_bool))

    def copied(self, number: int) -> int:
        """Record a call that copies a value into memory of the compute dtype; return the number of its result."""
        if self.are_bool[number]:  # np.positive takes none of bool
            return self.add(np.logical_or, [number, number], False)
        return self.add(np.positive, [number], False)

    def add(self, function: Callable[..., Any], operands: Sequence[int], is_bool: bool) -> int:
        self.calls.append((function, tuple(operands)))
        self.are_bool.append(is_bool)
        return len(self.are_bool) - 1


class Program:
    """The calls of a function, with the place of each operand and result in a list of arrays.

    The inputs come first in that list, then the scratch arrays.

    Parameters
    ----------
    function : callable
        Elementwise; returns a sequence of values.
    inputs : int
        The number of its arguments.
    targets : sequence of (int or None)
        For each returned value, the number of the input to overwrite with it; None if it may be anywhere. No other
        input is written.
    ones : collection of int
        The numbers of the inputs that are 1. Products with them are left out.

    Attributes
    ----------
    scratch : list of bool
        For each scratch array, whether its dtype is bool; otherwise it is the inputs' dtype.
    results : list of int
        The place of each returned value.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Value]],
        inputs: int,
        targets: Sequence[int | None],
        ones: Collection[int] = (),
    ) -> None:
        trace = Trace(inputs, ones)
        values = [value.number for value in function(*[Value(trace, i) for i in range(inputs)])]
        #: The target of each value that the function computes.
        home: dict[int, int] = {}
        for k, (value, target) in enumerate(zip(values, targets, strict=True)):
            if target is None or value == target:
                continue
            # The value belongs to another array too, or is a condition, which later calls read as bool.
            if value < inputs or value in home or trace.are_bool[value]:
                values[k] = trace.copied(value)
            home[values[k]] = target
        self.scratch: list[bool] = []
        #: For each call the function that binds it, that which takes its arrays, and their places.
        self.calls: list[tuple[Callable[..., Call], Callable[[Sequence[Any]], Sequence[Any]], Sequence[int]]] = []
        places = self._place(trace, values, home, {target for target in targets if target is not None})
        self.results = [
            places[value] if target is None else target for value, target in zip(values, targets, strict=True)
        ]
        for value, target in home.items():
            if places[value] != target:
                self._call(np.positive, [places[value], target])

    def _place(self, trace: Trace, values: list[int], home: dict[int, int], written: set[int]) -> list[int]:
        """Find a place for the result of each call: if possible, that of a value that no later call reads."""
        inputs = trace.inputs
        last_call = {number: k for k, (_, operands) in enumerate(trace.calls) for number in operands}
        last_call |= dict.fromkeys(values, len(trace.calls))
        places = list(range(inputs))
        free = [i for i in written if i not in last_call]
        for k, (function, operands) in enumerate(trace.calls):
            read_last = {places[number] for number in operands if last_call[number] == k}
            ending = [place for place in read_last if place >= inputs or place in written]
            if function is not np.where:  # it writes before it has read everything
                free += ending
            place = self._fitting(free, inputs, trace.are_bool[inputs + k], home.get(inputs + k))
            free = [each for each in free if each != place]
            if function is np.where:
                free += ending
            places.append(place)
            self._call(function, [*(places[number] for number in operands), place])
        return places

    def _fitting(self, free: list[int], inputs: int, is_bool: bool, target: int | None) -> int:
        """Return a free place of the right dtype; the target if it is free."""
        if target in free:
            return target
        for place in reversed(free):
            if place >= inputs and self.scratch[place - inputs] == is_bool:
                return place
            # A value with another target must not wait in an input's memory: its copy may come after other copies.
            if place < inputs and target is None and not is_bool:
                return place
        self.scratch.append(is_bool)
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
