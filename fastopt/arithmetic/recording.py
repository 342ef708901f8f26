"""Rules that are recorded once, by calling their function on symbols, and run from the record.

A record does not change when a number does that the function reads from outside, so that every backend computes the
same. What may be recorded is what has the same bits on every backend, and on plain arrays.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .operations import Real
from .symbols import OPERATIONS, Symbol, brief, check_literal, misuse, place_of, refusing

#: The functions of numbers, those of two numbers that give a condition, and those of conditions.
OF_NUMBERS = frozenset(
    {
        *(np.add, np.subtract, np.multiply, np.divide, np.negative, np.absolute),
        *(np.sqrt, np.sign, np.maximum, np.minimum),
    }
)
COMPARISONS = frozenset({np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal})
#: NumPy's names for the same functions of conditions.
OF_CONDITIONS: dict[Any, Any] = {
    **{function: function for function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert)},
    np.logical_and: np.bitwise_and,
    np.logical_or: np.bitwise_or,
    np.logical_xor: np.bitwise_xor,
    np.logical_not: np.invert,
}


class Literal(NamedTuple):
    """A number that stands in the text of a rule."""

    value: float


class Operation(NamedTuple):
    """A function of NumPy, and its operands: literals, and the numbers of earlier values."""

    function: Callable[..., Any]
    operands: tuple[int | Literal, ...]


class Value(Symbol):
    """A symbol whose operations are recorded.

    Attributes
    ----------
    place : str or int
        The name of a scalar, the number of an operation from 0, or that of an array from -1 downwards.
    is_condition : bool
        Whether it is true or false.
    is_scalar : bool
        Whether it is the same for all elements.
    """

    def __init__(self, record: Record, place: str | int, is_condition: bool = False, is_scalar: bool = False) -> None:
        self.record, self.place, self.is_condition, self.is_scalar = record, place, is_condition, is_scalar

    def __getattr__(self, name: str) -> NoReturn:
        if name in self.record.known:
            raise misuse(f".{name}: expected it of the rule's first argument; then come the parameter, its gradient")
        super().__getattr__(name)

    def result(self, function: Any, operands: Sequence[Any]) -> Value:
        return self.record.add(function, operands)


class Names:
    """The first argument of a rule that is recorded: its attributes are the numbers that the rule may read."""

    def __init__(self, record: Record) -> None:
        vars(self)["_record"] = record  # no number's name begins so

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return vars(self)["_record"].read(name)

    def __setattr__(self, name: str, *value: Any) -> NoReturn:
        raise misuse(f"h.{name} is a number of the whole step; give a value of the rule a name of its own")

    __delattr__ = __setattr__
    __getitem__ = __setitem__ = __delitem__ = __iter__ = __len__ = __contains__ = __bool__ = refusing(
        "the numbers of a rule are attributes of its first argument, such as h.lr"
    )


class Record:
    """The operations of a rule, as they are recorded.

    Parameters
    ----------
    known : dict
        For each name that the rule may read, how many numbers it has; None: it is a number itself.
    refused : dict
        Names that the rule may not read, and why.
    """

    def __init__(self, known: Mapping[str, int | None], refused: Mapping[str, str]) -> None:
        self.known, self.refused = known, refused
        self.operations: list[tuple[Any, tuple[Any, ...]]] = []
        self.names_read: set[str] = set()

    def read(self, name: str) -> Any:
        """Return the symbol of a number of the step, or a tuple of them."""
        if name in self.refused:
            raise misuse(f"h.{name}: {self.refused[name]}")
        if name not in self.known:
            raise misuse(
                f"h.{name}: there is no such number; expected one of {', '.join(self.known)}; declare further options "
                "in fastopt.optimizer(...), and numbers of the step in its scalars="
            )
        self.names_read.add(name)
        count = self.known[name]
        if count is None:
            return Value(self, name, is_scalar=True)
        return tuple(Value(self, item_name(name, k), is_scalar=True) for k in range(count))

    def add(self, function: Any, operands: Sequence[Any]) -> Value:
        """Record a call of a NumPy function."""
        if function is np.square:
            function, operands = np.multiply, (*operands, *operands)
        if function is np.positive and isinstance(operands[0], Value) and not operands[0].is_condition:
            return operands[0]
        function = OF_CONDITIONS.get(function, function)
        if function not in OF_NUMBERS | COMPARISONS | {np.where, *OF_CONDITIONS}:
            raise misuse(f"{function.__name__}{brief(operands)} is no operation of rules; {OPERATIONS}")
        check_kinds(function, operands)
        for operand in operands:
            if not isinstance(operand, Value):
                check_literal(function, operands, operand)
        self.operations.append((function, tuple(map(operand_of, operands))))
        is_condition = function in COMPARISONS or function in OF_CONDITIONS
        if function is np.where:
            is_condition = any(isinstance(each, Value) and each.is_condition for each in operands[1:])
        is_scalar = all(not isinstance(each, Value) or each.is_scalar for each in operands)
        return Value(self, len(self.operations) - 1, is_condition, is_scalar)

    def rule(self, function: Callable[..., Any], arrays: int, results: Sequence[Any]) -> RecordedRule:
        """Return the rule that computes these results; ``arrays`` is how many it has besides its scalars."""
        used = set(results)
        for k in reversed(range(len(self.operations))):
            if k in used:
                used.update(self.operations[k][1])
        items = [item_name(name, k) for name, count in self.known.items() for k in places(count)]
        fields = [item for item in items if item in used]
        scalars: Any = namedtuple("Scalars", fields)  # type: ignore[misc]
        scalars.__module__, scalars.__qualname__ = function.__module__, f"{function.__qualname__}.Scalars"
        number_of: dict[Any, Any] = {name: k for k, name in enumerate(fields)}
        number_of |= {-1 - k: len(fields) + k for k in range(arrays)}
        operations = []
        for k, (called, operands) in enumerate(self.operations):
            if k in used:
                operations.append(Operation(called, tuple(number_of.get(each, each) for each in operands)))
                number_of[k] = len(fields) + arrays + len(operations) - 1
        return RecordedRule(function, scalars, operations, [number_of[result] for result in results])


def item_name(name: str, k: int | None) -> str:
    """Return the name of a scalar: an option, or number ``k`` of one that is a tuple."""
    return name if k is None else f"{name}_{k}"


def places(count: int | None) -> Sequence[int | None]:
    """Return the places of an option's numbers if it is a tuple of so many; else None alone."""
    return (None,) if count is None else range(count)


def operand_of(operand: Any) -> Any:
    # A great int would make NumPy 1.26 compute in float64.
    return operand.place if isinstance(operand, Value) else Literal(float(operand))


def is_condition(operand: Any) -> bool:
    return isinstance(operand, Value) and operand.is_condition


def check_kinds(function: Any, operands: Sequence[Any]) -> None:
    """Raise if a condition is an operand where a number is expected, or the other way round."""
    if function is np.where:
        if len(operands) != 3 or not is_condition(operands[0]):
            raise misuse("where: expected a comparison and two values, such as where(g > 0, p, g)")
        _, a, b = operands
        if is_condition(a) != is_condition(b):
            raise misuse("where: expected two numbers to choose among, or two comparisons")
        if not (isinstance(a, Value) or isinstance(b, Value)):
            raise misuse(
                f"where(..., {a!r}, {b!r}): of two literals NumPy makes float64; give one of them as an option, as in "
                f"where(..., h.high, {b!r}), or use sign, maximum or minimum"
            )
    elif function in OF_CONDITIONS:
        if not all(map(is_condition, operands)):
            raise misuse("& | ^ ~ combine comparisons, each in parentheses of its own: (g > 0) & (p < 1)")
    elif any(map(is_condition, operands)):
        raise misuse(f"{function.__name__}{brief(operands)}: a comparison is not a number; use where(condition, a, b)")


class RecordedRule:
    """A recorded rule: a function of its scalars, the parameter, the gradient, and each slot.

    Called on plain arrays, it makes the calls that its function made.

    Attributes
    ----------
    scalars : type
        The named tuple of the numbers that it reads.
    operations : list of Operation
        Their operands are numbered from 0: the scalars, then the arguments after them, then the results.
    results : list of int
        The numbers of the new parameter and slots.
    """

    def __init__(
        self, function: Callable[..., Any], scalars: Any, operations: Sequence[Operation], results: Sequence[int]
    ) -> None:
        self.__name__, self.__qualname__ = function.__name__, function.__qualname__
        self.__module__, self.__doc__ = function.__module__, function.__doc__
        self.scalars, self.operations, self.results = scalars, operations, results
        first, *others = inspect.signature(function, follow_wrapped=False).parameters.values()
        arguments = [each.replace(annotation=inspect.Parameter.empty) for each in others]
        self.__signature__ = inspect.Signature([first.replace(annotation=scalars), *arguments])

    def __call__(self, h: Any, p: Real, g: Real, *slots: Real) -> tuple[Real, ...]:
        values = [*(getattr(h, name) for name in self.scalars._fields), p, g, *slots]
        for function, operands in self.operations:
            values.append(function(*[each.value if isinstance(each, Literal) else values[each] for each in operands]))
        return tuple(values[number] for number in self.results)

    def __repr__(self) -> str:
        return f"<rule {self.__qualname__}>"

    @property
    def text(self) -> str:
        """All that the rule computes, in words."""
        lines = [f"{function.__name__}{operands}" for function, operands in self.operations]
        return "\n".join([repr((*self.scalars._fields, *self.__signature__.parameters)), *lines, repr(self.results)])


def record(
    function: Callable[..., Any], known: Mapping[str, int | None], refused: Mapping[str, str]
) -> tuple[RecordedRule, set[str]]:
    """Return a rule as it is recorded, and the names that it reads.

    Parameters
    ----------
    function : function
        Of its numbers, the parameter, the gradient and each slot, which are all positional.
    known, refused : dict
        As in :class:`Record`.

    Raises
    ------
    TypeError
        If it is not arithmetic on all elements that has the same bits everywhere; it begins with the file and line.
    """
    _, param, _, *slots = inspect.signature(function, follow_wrapped=False).parameters
    names = [param, *slots]
    noted = Record(known, refused)
    arrays = [Value(noted, -1 - k) for k in range(2 + len(slots))]
    try:
        results: Any = function(Names(noted), *arrays)
    except TypeError as error:
        check_has_place(error, function.__code__.co_filename)
        raise
    place, first_names = place_of_return(function)
    is_sequence = isinstance(results, (tuple, list))
    if not is_sequence or len(results) != len(names) or not all(isinstance(each, Value) for each in results):
        found = brief(results) if is_sequence else f"one of type {type(results).__name__}"
        expected = f"{', '.join(names)}{',' * (len(names) == 1)}"
        raise TypeError(f"{place}the rule returns {found}; expected the new values as a tuple: return {expected}")
    if not first_names.isdisjoint(slots):
        raise TypeError(f"{place}the rule returns a slot first; expected return {', '.join(names)}")
    for name, value in zip(names, results, strict=True):
        if value.is_condition:
            raise TypeError(f"{place}the rule returns a comparison for {name}; use where(condition, a, b)")
        if value.is_scalar:
            raise TypeError(f"{place}the rule returns one number for {name}; expected one for each element")
    if results[0] is arrays[0]:
        raise TypeError(f"{place}the rule returns {param} as it was, so that no step would change it")
    return noted.rule(function, len(arrays), [each.place for each in results]), noted.names_read


def check_has_place(error: TypeError, filename: str) -> None:
    """Raise an error of a rule again with the file and line if it has none; ``filename`` is the rule's own."""
    places = [f"{frame.filename}:{frame.lineno}: " for frame in traceback.extract_tb(error.__traceback__)]
    if not str(error).startswith(tuple(places)):
        place = [each for each in places if each.startswith(f"{filename}:")][-1]
        raise TypeError(f"{place}{error}; {OPERATIONS}") from error


def place_of_return(function: Callable[..., Any]) -> tuple[str, set[str]]:
    """Return the file and line of a rule's last return, and the names that the returned tuples begin with.

    Without a source: the file and line of the function, and no names.
    """
    code = function.__code__
    try:
        lines, first = inspect.getsourcelines(function)
        (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, ValueError, SyntaxError):
        return place_of(function), set()
    returns = list(returns_in(definition))
    tuples = [node.value for node in returns if isinstance(node.value, ast.Tuple)]
    names = {each.elts[0].id for each in tuples if each.elts and isinstance(each.elts[0], ast.Name)}
    line = first + returns[-1].lineno - 1 if returns else code.co_firstlineno
    return f"{code.co_filename}:{line}: ", names


def returns_in(node: ast.AST) -> Iterator[ast.Return]:
    """Yield the return statements of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from returns_in(child)
