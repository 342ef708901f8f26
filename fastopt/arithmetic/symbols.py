"""Symbols: a rule is traced by calling it on them. What needs the value of one is an error, with file and line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from ..arrays.memory import shown
from .operations import Rule, slots

#: The names of files begin with one of these if their frames are no rule's.
LIBRARIES = tuple(str(folder) + os.sep for folder in (Path(__file__).parents[1], Path(np.__file__).parent))

TRUTH = (
    "a rule works on all elements at once, and here it asks one for its truth; instead of if, and, or, not and chained "
    "comparisons use where(condition, a, b), instead of max and min use maximum and minimum"
)
NUMBER = (
    "a rule works on all elements at once, and here it asks for one number; instead of float, int, round and the "
    "functions of math use the operations of fastopt.rules: sqrt, absolute, sign, maximum, minimum, where"
)
ELEMENTS = (
    "a rule works on all elements at once, and here it asks for single ones, by a loop, in, len or an index; use "
    "where(condition, a, b) to choose among values"
)
WRITING = "a rule changes no array in place; write p = ..., and use where(condition, a, b) to change some elements"
OPERATIONS = (
    "the operations of rules are + - * /, x**2, x**0.5, abs, the comparisons, & | ^ ~ of comparisons, and of "
    "fastopt.rules sqrt, absolute, sign, maximum, minimum, where"
)

#: The greatest literals: every int up to it is a float, and every float is finite in each compute dtype.
GREATEST_INT = 2**53
GREATEST_FLOAT = float(np.finfo(np.float32).max)


def misuse(text: str) -> TypeError:
    """Return the error of a rule, which begins with the rule's own file and line."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(LIBRARIES):
        frame = frame.f_back
    place = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}: "
    return TypeError(f"{place}{text}")


def place_of(function: Any) -> str:
    """Return the file and line of a function, as errors begin with them; "" if it has none."""
    code = getattr(function, "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}: "


def misuse_in(function: Any, text: str) -> TypeError:
    """Return the error of a function, which begins with its file and line, or the caller's where it has none."""
    place = place_of(function)
    return TypeError(f"{place}{text}") if place else misuse(text)


def refusing(text: str) -> Callable[..., NoReturn]:
    """Return a method that raises this error."""

    def refuse(self: Symbol, *arguments: Any, **options: Any) -> NoReturn:
        raise misuse(text)

    return refuse


class Symbol(np.lib.mixins.NDArrayOperatorsMixin):
    """Stands for an array, or a number, while a rule is traced. Subclasses say what an operation does."""

    __bool__ = refusing(TRUTH)
    __float__ = __int__ = __index__ = __complex__ = refusing(NUMBER)
    __round__ = __trunc__ = __floor__ = __ceil__ = refusing(NUMBER)
    __iter__ = __len__ = __contains__ = __getitem__ = __array__ = refusing(ELEMENTS)
    __setitem__ = __delitem__ = refusing(WRITING)

    def result(self, function: Any, operands: Sequence[Any]) -> Any:
        """Return the symbol of the result of a NumPy function."""
        raise NotImplementedError

    def __copy__(self) -> Symbol:
        return self

    def __deepcopy__(self, memo: Any) -> Symbol:
        return self  # a copy would have another trace

    def __repr__(self) -> str:
        return "<symbol>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise misuse(f".{name}: a rule has no such attributes of arrays; {OPERATIONS}")

    def __array_ufunc__(self, function: Any, method: str, *operands: Any, **options: Any) -> Any:
        if "out" in options:
            raise misuse(f"a rule changes no array in place; use p = {function.__name__}(...) without out=")
        if method != "__call__" or options:
            raise misuse(f"expected plain calls of NumPy's functions, got {function.__name__}.{method}, {options}")
        if function.signature is not None or function.nout != 1:
            raise misuse(f"expected elementwise functions with one result, got {function.__name__}; {OPERATIONS}")
        if function is np.power and not isinstance(operands[1], Symbol):
            return self.power(*operands)
        return self.result(function, operands)

    def __array_function__(self, function: Any, types: Any, operands: Any, options: Any) -> Any:
        if function is not np.where or options:
            raise misuse(f"expected elementwise functions, got {function.__name__}; {OPERATIONS}")
        return self.result(function, operands)

    def power(self, base: Symbol, exponent: Any) -> Any:
        """Return the result of a power with a literal, as NumPy computes ``array**literal``."""
        if type(exponent) in (int, float) and exponent == 2:
            return self.result(np.multiply, (base, base))
        if type(exponent) in (int, float) and exponent == 0.5:
            return self.result(np.sqrt, (base,))
        raise misuse(
            f"x**{exponent!r:.80}: expected x**2 or x**0.5; write other powers as products, quotients and roots, such "
            "as x * x * x and 1 / x"
        )


#: The operators that have a form in place: p -= x gives a new symbol.
OPERATORS = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "xor", "or")
for name in OPERATORS:
    setattr(Symbol, f"__i{name}__", getattr(Symbol, f"__{name}__"))


class Recorder(Protocol):
    """Records the operations of a rule while it is traced."""

    def record(self, function: Any, operands: Sequence[Any]) -> Symbol:
        """Return the result of a NumPy function."""


class Value(Symbol):
    """A symbol that stands for a number of a trace; operations on it are recorded."""

    def __init__(self, trace: Recorder, number: int) -> None:
        self.trace, self.number = trace, number

    def result(self, function: Any, operands: Sequence[Any]) -> Symbol:
        return self.trace.record(function, operands)


#: The types of numbers that are exact in every dtype.
EXACT = int, np.unsignedinteger, np.float32


class Untyped(Symbol):
    """A symbol that knows no dtype."""

    def result(self, function: Any, operands: Sequence[Any]) -> Untyped:
        check_numbers(function, operands, EXACT)
        return Untyped()


def check_numbers(function: Any, operands: Sequence[Any], exact: tuple[type, ...] = ()) -> None:
    """Raise if an operand is neither a symbol, nor a literal, nor of an exact type."""
    for operand in operands:
        if not isinstance(operand, (Symbol, *exact)):
            check_literal(function, operands, operand)


def check_literal(function: Any, operands: Sequence[Any], literal: Any) -> None:
    """Raise unless an operand is a number of Python that each compute dtype can round."""
    if isinstance(literal, (np.ndarray, np.generic)):
        problem = "an array or a NumPy scalar from outside has a dtype of its own; write float(x) before the rule"
    elif isinstance(literal, bool):
        problem = "a truth value is not a number; use where(condition, a, b)"
    elif type(literal) not in (int, float):
        problem = f"got one of type {type(literal).__name__}"
    elif isinstance(literal, int) and abs(literal) > GREATEST_INT:
        problem = "an int beyond 2**53 is not exact; write a float"
    elif not abs(literal) <= GREATEST_FLOAT:
        problem = f"{literal!r} is not finite in float32"
    else:
        return
    raise misuse(
        f"{function.__name__}{brief(operands)}: expected numbers from the scalars of the rule, such as h.lr, or "
        f"Python's numbers; {problem}"
    )


def brief(values: Sequence[Any]) -> str:
    """Return values as errors show them."""
    return f"({', '.join('...' if isinstance(value, Symbol) else shown(value) for value in values)})"


@lru_cache
def check_rule(rule: Rule, scalars: Any) -> None:
    """Raise if a rule, with scalars of this type, needs the value of a symbol, or does not return its new values.

    Raises
    ------
    TypeError
        If so; it begins with the file and line.
    """
    h, names = scalars(*[Untyped() for _ in scalars._fields]), slots(rule)
    results: Any = rule(h, Untyped(), Untyped(), *[Untyped() for _ in names])
    is_sequence = isinstance(results, (tuple, list))
    if not is_sequence or len(results) != 1 + len(names) or not all(isinstance(each, Symbol) for each in results):
        found = brief(results) if is_sequence else f"one of type {type(results).__name__}"
        expected = ", ".join(["the parameter", *names])
        raise TypeError(f"{place_of(rule)}the rule returns {found}; expected a tuple of the new values of {expected}")
