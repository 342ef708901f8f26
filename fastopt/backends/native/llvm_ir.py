"""A rule as text in LLVM's language: the loop of csrc/loops.h around it, with the vectors written out.

LLVM's own vectoriser would leave square roots scalar where vectors are short, so that it is not asked. Each operation
rounds by itself, and none is reordered or contracted: no instruction has a fast-math flag.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...arithmetic.operations import Rule, slots
from ...arithmetic.symbols import Value, check_numbers, misuse
from ..numpy.calls import gives_bool

#: The bytes of each array that a round of the loop takes. With more of them the rest of a short array takes longer.
ROUND_BYTES = 64

ARITHMETIC = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv"}
COMPARISONS = {
    "greater": "ogt",
    "greater_equal": "oge",
    "less": "olt",
    "less_equal": "ole",
    "equal": "oeq",
    "not_equal": "une",
}
#: The functions of conditions, and those of numbers that NumPy makes them for conditions.
LOGIC = {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
LOGIC |= {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}
LOGIC |= {"multiply": "and", "minimum": "and", "add": "or", "maximum": "or"}


class Term(NamedTuple):
    """An input of a rule, a literal, or the result of an operation on earlier terms."""

    #: The name of NumPy's function; "array", "scalar" or "literal" if it is no result.
    operation: str
    #: The numbers of the operands' terms.
    operands: tuple[int, ...] = ()
    #: Of an array the name, of a scalar the number, of a literal the value.
    input: Any = None
    is_bool: bool = False
    #: Whether it is the same for all elements.
    is_uniform: bool = False


class Trace:
    """The terms of a traced rule. Equal terms are one term.

    Parameters
    ----------
    rule : callable
    scalars : type
        The named tuple of its scalars.

    Attributes
    ----------
    terms : list of Term
        Each comes after its operands; those that no result depends on are among them.
    arrays : list of str
        The names of the parameter, the gradient and the slots.
    results : list of int
        The terms of the new parameter and slots.
    """

    def __init__(self, rule: Rule, scalars: Any) -> None:
        self.terms: list[Term] = []
        self.numbers: dict[Term, int] = {}
        self.arrays = ["p", "g", *(f"s{k}" for k in range(len(slots(rule))))]
        values = [self.value(Term("array", input=name)) for name in self.arrays]
        h = [self.value(Term("scalar", input=k, is_uniform=True)) for k in range(len(scalars._fields))]
        results: Any = rule(scalars(*h), *values)
        self.results: list[int] = [value.number for value in results]

    def value(self, term: Term) -> Value:
        if term not in self.numbers:
            self.numbers[term] = len(self.terms)
            self.terms.append(term)
        return Value(self, self.numbers[term])

    def record(self, function: Any, operands: Sequence[Any]) -> Value:
        """Return the result of a NumPy function."""
        check_numbers(function, operands)
        values = [each if isinstance(each, Value) else self.literal(each) for each in operands]
        terms = [self.terms[value.number] for value in values]
        is_bool = gives_bool(function, [term.is_bool for term in terms])
        name, numbers = function.__name__, tuple(value.number for value in values)
        if not is_known(name, [term.is_bool for term in terms]):
            raise misuse(f'{name} is not among the operations of compiled rules; use others, or backend="numpy"')
        return self.value(Term(name, numbers, None, is_bool, all(term.is_uniform for term in terms)))

    def literal(self, value: float) -> Value:
        return self.value(Term("literal", input=struct.pack(">d", value), is_uniform=True))  # 0.0 is not -0.0

    def used(self) -> list[int]:
        """Return the numbers of the terms that the results depend on, in order."""
        used: set[int] = set()
        waiting = list(self.results)
        while waiting:
            number = waiting.pop()
            if number not in used:
                used.add(number)
                waiting += self.terms[number].operands
        return sorted(used)


def is_known(name: str, are_bool: Sequence[bool]) -> bool:
    """Return whether an operation can be written, given which of its operands are conditions."""
    if all(are_bool):
        return name in LOGIC or name in COMPARISONS or name in NEGATIONS or name == "where"
    return name in ARITHMETIC or name in COMPARISONS or name in FUNCTIONS or name == "where"


class Lanes:
    """Writes instructions on numbers of one type: one number, or a vector of them.

    Parameters
    ----------
    lines : list of str
        Where they are written.
    item : str
        "float" or "double".
    count : int
        How many numbers; 1: no vector.
    """

    def __init__(self, lines: list[str], item: str, count: int) -> None:
        self.lines, self.item, self.count = lines, item, count
        self.kind, self.bits = (kind if count == 1 else f"<{count} x {kind}>" for kind in (item, "i1"))
        self.suffix = ("" if count == 1 else f"v{count}") + ("f32" if item == "float" else "f64")

    def write(self, instruction: str) -> str:
        """Write an instruction; return the name of its result."""
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {instruction}")
        return name

    def constant(self, value: float) -> str:
        """Return a number, rounded to the type as NumPy rounds it."""
        exact = float(np.float32(value)) if self.item == "float" else value
        return self.repeated(f"{self.item} 0x{struct.pack('>d', exact).hex().upper()}")

    def repeated(self, constant: str) -> str:
        """Return a constant of one item's type as one of this type."""
        return constant.split()[1] if self.count == 1 else f"<{', '.join([constant] * self.count)}>"

    def spread(self, name: str, is_bool: bool = False) -> str:
        """Return the vector whose numbers are all this one."""
        item, kind = ("i1", self.bits) if is_bool else (self.item, self.kind)
        first = self.write(f"insertelement {kind} poison, {item} {name}, i64 0")
        return self.write(f"shufflevector {kind} {first}, {kind} poison, <{self.count} x i32> zeroinitializer")

    def result(self, operation: str, operands: Sequence[str], are_bool: Sequence[bool]) -> str:
        """Write the instructions of an operation; return the name of the result."""
        if operation == "where":
            condition, a, b = operands
            return self.select(condition, a, b, are_bool[1])
        if all(are_bool) and operation in LOGIC:
            return self.write(f"{LOGIC[operation]} {self.bits} {', '.join(operands)}")
        if operation in NEGATIONS:
            return self.write(f"xor {self.bits} {operands[0]}, {self.repeated('i1 true')}")
        numbers = [self.number(each) if its else each for each, its in zip(operands, are_bool, strict=True)]
        if operation in ARITHMETIC:
            return self.write(f"{ARITHMETIC[operation]} {self.kind} {', '.join(numbers)}")
        if operation in COMPARISONS:
            return self.compare(COMPARISONS[operation], *numbers)
        return FUNCTIONS[operation](self, *numbers)

    def compare(self, how: str, a: str, b: str) -> str:
        return self.write(f"fcmp {how} {self.kind} {a}, {b}")

    def select(self, condition: str, a: str, b: str, is_bool: bool = False) -> str:
        kind = self.bits if is_bool else self.kind
        return self.write(f"select {self.bits} {condition}, {kind} {a}, {kind} {b}")

    def number(self, condition: str) -> str:
        """Return 1 where a condition is true, else 0."""
        return self.select(condition, self.constant(1.0), self.constant(0.0))

    def call(self, function: str, a: str) -> str:
        return self.write(f"call {self.kind} @llvm.{function}.{self.suffix}({self.kind} {a})")

    def extreme(self, how: str, a: str, b: str) -> str:
        """Return what MAXIMUM and MINIMUM of csrc/pipeline_template.h do."""
        chosen = self.select(self.compare(how, a, b), a, b)
        return self.select(self.compare("uno", a, a), a, chosen)

    def sign(self, a: str) -> str:
        """Return what SIGN of csrc/pipeline_template.h does."""
        above, below = (self.number(self.compare(how, a, self.constant(0.0))) for how in ("ogt", "olt"))
        return self.select(self.compare("uno", a, a), a, self.write(f"fsub {self.kind} {above}, {below}"))


#: The functions that are no single instruction on numbers, or one that is called.
FUNCTIONS: dict[str, Callable[..., str]] = {
    "negative": lambda lanes, a: lanes.write(f"fneg {lanes.kind} {a}"),
    "positive": lambda lanes, a: a,
    "absolute": lambda lanes, a: lanes.call("fabs", a),
    "sqrt": lambda lanes, a: lanes.call("sqrt", a),
    "square": lambda lanes, a: lanes.write(f"fmul {lanes.kind} {a}, {a}"),
    "sign": Lanes.sign,
    "maximum": lambda lanes, a, b: lanes.extreme("ogt", a, b),
    "minimum": lambda lanes, a, b: lanes.extreme("olt", a, b),
}
NEGATIONS = ("invert", "logical_not")


class Loop:
    """A rule's loop for one compute dtype and one width of vectors.

    Parameters
    ----------
    trace : Trace
        The rule's.
    item : str
        "float" or "double".
    width : int
        The bytes of a vector.
    """

    def __init__(self, trace: Trace, item: str, width: int) -> None:
        self.trace, self.item = trace, item
        self.size = 4 if item == "float" else 8
        self.lines: list[str] = []
        self.one, self.many = (Lanes(self.lines, item, count) for count in (1, width // self.size))
        self.used = trace.used()
        #: The names of the decay and of the terms that are the same for all elements, by the number of lanes.
        self.uniform: dict[int, dict[int, str]] = {1: {}, self.many.count: {}}
        self.decay = {1: "%decay"}

    def text(self) -> str:
        """Return a module with the function ``loop``, whose arguments are those of rule_loop."""
        given, taken = (", ".join(f"ptr {mark}%{name}" for name in self.trace.arrays) for mark in ("", "noalias "))
        others = f"i64 %length, {self.item} %decay, ptr %scalars"
        self.write_slots(f"tail call void @body({given}, {others})")
        self.lines += [f"define internal void @body({taken}, {others}) noinline nounwind {{", "entry:"]
        self.write_uniform()
        self.write_rounds()
        self.lines += ["  ret void", "}"]
        for lanes in (self.one, self.many):
            for function in ("sqrt", "fabs"):
                self.lines.append(f"declare {lanes.kind} @llvm.{function}.{lanes.suffix}({lanes.kind})")
        return "\n".join([*self.lines, ""])

    def write_slots(self, call: str) -> None:
        """Write the function that looks up the slots: arguments alone can be said to overlap no other one."""
        arguments = f"ptr %p, ptr %g, ptr %slots, i64 %begin, i64 %length, {self.item} %decay, ptr %scalars"
        self.lines.append(f"define void @loop({arguments}) nounwind {{")
        for k, name in enumerate(self.trace.arrays[2:]):
            at = self.one.write(f"getelementptr ptr, ptr %slots, i64 {k}")
            memory = self.one.write(f"load ptr, ptr {at}")
            self.lines.append(f"  %{name} = getelementptr {self.item}, ptr {memory}, i64 %begin")
        self.lines += [f"  {call}", "  ret void", "}"]

    def write_uniform(self) -> None:
        """Write the terms that are the same for all elements, and the vectors of them."""
        one, many = self.one, self.many
        names, vectors = self.uniform[1], self.uniform[many.count]
        for number in self.used:
            term = self.trace.terms[number]
            if term.operation == "literal":
                (value,) = struct.unpack(">d", term.input)
                names[number], vectors[number] = one.constant(value), many.constant(value)
            elif term.is_uniform:
                names[number] = self.scalar(term.input) if term.operation == "scalar" else self.result(one, term, names)
                vectors[number] = many.spread(names[number], term.is_bool)
        self.decay[many.count] = many.spread("%decay")

    def scalar(self, k: int) -> str:
        at = self.one.write(f"getelementptr double, ptr %scalars, i64 {k}")
        value = self.one.write(f"load double, ptr {at}")
        return self.one.write(f"fptrunc double {value} to float") if self.item == "float" else value

    def result(self, lanes: Lanes, term: Term, names: Mapping[int, str]) -> str:
        are_bool = [self.trace.terms[number].is_bool for number in term.operands]
        return lanes.result(term.operation, [names[number] for number in term.operands], are_bool)

    def write_rounds(self) -> None:
        """Write the rounds of several vectors, and those of one element for the rest."""
        count = self.many.count
        per_round = max(ROUND_BYTES // self.size, count)
        self.lines += [
            f"  %whole = and i64 %length, -{per_round}",
            "  %is.long = icmp sgt i64 %whole, 0",
            "  br i1 %is.long, label %rounds, label %between",
        ]
        self.write_loop("rounds", "0, %entry", self.many, range(0, per_round, count), "%whole", "between")
        self.lines += ["between:", "  %is.rest = icmp slt i64 %whole, %length"]
        self.lines += ["  br i1 %is.rest, label %rest, label %done"]
        self.write_loop("rest", "%whole, %between", self.one, range(1), "%length", "done")
        self.lines += ["done:"]

    def write_loop(self, label: str, begin: str, lanes: Lanes, offsets: range, end: str, then: str) -> None:
        """Write a loop whose rounds take the elements at these places, a range of whole vectors."""
        i = f"%{label}.i"
        self.lines += [f"{label}:", f"  {i} = phi i64 [ {begin} ], [ {i}.next, %{label} ]"]
        for offset in offsets:
            self.write_elements(lanes, lanes.write(f"add i64 {i}, {offset}"))
        self.lines += [
            f"  {i}.next = add i64 {i}, {offsets.stop}",
            f"  {i}.is.less = icmp slt i64 {i}.next, {end}",
            f"  br i1 {i}.is.less, label %{label}, label %{then}",
        ]

    def write_elements(self, lanes: Lanes, index: str) -> None:
        """Write the rule for the elements from this place on."""
        trace, names = self.trace, dict(self.uniform[lanes.count])
        places = {
            name: lanes.write(f"getelementptr {self.item}, ptr %{name}, i64 {index}") for name in self.trace.arrays
        }
        for number in self.used:
            term = trace.terms[number]
            if term.operation == "array":
                value = lanes.write(f"load {lanes.kind}, ptr {places[term.input]}, align {self.size}")
                if term.input == "p":
                    value = lanes.write(f"fmul {lanes.kind} {value}, {self.decay[lanes.count]}")
                names[number] = value
            elif not term.is_uniform:
                names[number] = self.result(lanes, term, names)
        for name, number in zip(["p", *trace.arrays[2:]], trace.results, strict=True):
            value = lanes.number(names[number]) if trace.terms[number].is_bool else names[number]
            self.lines.append(f"  store {lanes.kind} {value}, ptr {places[name]}, align {self.size}")
