"""Translates a kernel's PTX to C, statement by statement: what the kernels use, and anything else is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: What is done to operands, by the operation without its type.
OF_FLOATS = {
    "mov": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "mul.rn": "{0} * {1}",
    "div.rn": "{0} / {1}",
    "sqrt.rn": "sqrt({0})",
    "abs": "fabs({0})",
    "neg": "-{0}",
    "min": "fmin({0}, {1})",
    "max": "fmax({0}, {1})",
    "selp": "{2} ? {0} : {1}",
}
OF_WHOLE_NUMBERS = {
    "mov": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul.lo": "{0} * {1}",
    "mul.hi": "(__int128){0} * {1} >> 8 * sizeof({0})",
    "mad.lo": "{0} * {1} + {2}",
    "div": "{0} / {1}",
    "rem": "{0} % {1}",
    "neg": "-{0}",
    "min": "{0} < {1} ? {0} : {1}",
    "max": "{0} > {1} ? {0} : {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    # There is one address space.
    "cvta.to.global": "{0}",
    # Bits that are shifted by more than there are go out of the register.
    "shl": "{1} < 8 * sizeof({0}) ? {0} << {1} : 0",
    "shr": "{0} >> ({1} < 8 * sizeof({0}) ? {1} : 8 * sizeof({0}) - 1) >> ({1} >= 8 * sizeof({0}))",
    "selp": "{2} ? {0} : {1}",
}
OF_PREDICATES = {"mov": "{0}", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "!{0}"}

#: Of floats, those that end in u are also true of what has no order.
COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} < {1} || {0} > {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "equ": "!({0} < {1} || {0} > {1})",
    "neu": "{0} != {1}",
    "ltu": "!({0} >= {1})",
    "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})",
    "geu": "!({0} < {1})",
    "num": "!isunordered({0}, {1})",
    "nan": "isunordered({0}, {1})",
}
#: By the kinds of numbers, f, s and u: C rounds to nearest, as rn says; without it the number is exact.
CONVERSIONS = {
    "f.f": "{0}",
    "rn.f.f": "{0}",
    "rn.f.s": "{0}",
    "rn.f.u": "{0}",
    "rzi.s.f": "whole_{to}({0})",
    "s.s": "{0}",
    "s.u": "{0}",
    "u.s": "{0}",
    "u.u": "{0}",
}
SPECIAL_REGISTERS = {"%tid.x": "here.x", "%tid.y": "here.y", "%ctaid.x": "here.block", "%ntid.x": "here.width"}

#: The types of operands that are not of the instruction's.
THIRD_IS_PREDICATE = {2: "pred"}
SECOND_IS_COUNT = {1: "u32"}
OPERAND_TYPES = {"selp": THIRD_IS_PREDICATE, "shl": SECOND_IS_COUNT, "shr": SECOND_IS_COUNT}

STATEMENT = re.compile(r"(?:@(?P<negated>!?)%(?P<guard>\w+)\s+)?(?P<operation>[a-z][\w.]*)\s*(?P<operands>.*)", re.S)
OPERAND = re.compile(r"\{[^}]*\}|\[[^]]*\]|[^\s,|]+")


class Instruction(NamedTuple):
    """A statement's operation as words (ld, global, v4, f32), its operands, and the whole as it is told in errors."""

    words: list[str]
    operands: list[str]
    place: str

    @property
    def operation(self) -> str:
        return ".".join(self.words)

    @property
    def type(self) -> str:
        return self.words[-1]


class Translation:
    """A kernel in C, made from its PTX."""

    def __init__(self, ptx: str) -> None:
        self.shared = re.findall(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", ptx)
        (head, body), *others = re.findall(r"\.entry (.*?)\n\{(.*?)\n\}", ptx, re.S)
        if others:
            raise NotImplementedError("PTX: more than one kernel")
        self.name = head.split("(")[0].strip()
        threads = re.search(r"\.maxntid (\d+)", head)
        self.most_threads = int(threads[1]) if threads else 0
        #: How many bits the registers of this prefix (rd) have.
        self.sizes: dict[str, str] = {}
        self.registers: list[str] = []
        self.lines: list[str] = []
        for text in re.findall(r"\$\w+:|[^;:\s][^;:]*;", re.sub(r"//.*", "", body)):
            self.translate(text.rstrip(";"))

    def code(self) -> str:
        arrays = "".join(f"static _Alignas({align}) u8 {name}[{size}];\n" for align, name, size in self.shared)
        spans = "".join(f"{{(u64){name}, {size}}}, " for _, name, size in self.shared)
        lines = [
            f'#include "device.h"\n{arrays}static const Span shared[] = {{{spans}{{0, 0}}}};',
            f"static void run(void *const *arguments)\n{{\n    Register {', '.join(self.registers)};",
            *self.lines,
            f"}}\nconst Kernel kernel = {{{json.dumps(self.name)}, run, {self.most_threads}, shared}};\n",
        ]
        return "\n".join(lines)

    def translate(self, text: str) -> None:
        if text.endswith(":"):
            self.lines.append(f"{label(text[:-1])}:;")
        elif text.startswith("."):
            self.declare(text)
        else:
            found = STATEMENT.fullmatch(text)
            if found is None:
                raise NotImplementedError(f"PTX: {text!r} is not understood")
            place = json.dumps(f"{' '.join(text.split())} #{len(self.lines)}")
            line = self.instruction(
                Instruction(found["operation"].split("."), OPERAND.findall(found["operands"]), place)
            )
            guard = f"if ({found['negated']}{register(found['guard'])}.pred) " if found["guard"] else ""
            self.lines.append(f"    {guard}{{ {line} }}")

    def declare(self, text: str) -> None:
        found = re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>", text)
        if found:
            type, prefix, count = found.groups()
            self.sizes[prefix] = re.sub(r"\D", "", type)
            self.registers += [f"{register(prefix)}{k} = {{0}}" for k in range(int(count))]
        elif not text.startswith((".pragma", ".loc", ".shared")):
            raise NotImplementedError(f"PTX: {text} is not among what the stand-in knows")

    def read(self, operand: str, type: str) -> str:
        """Return an operand's value as an expression of this type."""
        if operand in SPECIAL_REGISTERS:
            return SPECIAL_REGISTERS[operand]
        if operand.startswith("%"):
            return f"{register(operand)}.{type}"
        if operand.startswith("0f"):
            return f"((Register){{.u32 = 0x{operand[2:]}}}).f32"
        if operand.startswith("0d"):
            return f"((Register){{.u64 = 0x{operand[2:]}}}).f64"
        if re.fullmatch(r"-?\d+", operand):
            return f"(({type})0x{int(operand) % 2**64:x}ull)"
        if not re.fullmatch(r"\w+", operand):
            raise NotImplementedError(f"PTX: the operand {operand} is not among what the stand-in knows")
        return f"((u64){operand})"

    def write(self, operand: str, type: str, value: str) -> str:
        """Return a statement; whole numbers are extended to the register's size, by their sign if they have one."""
        if type[0] not in "sub":
            return f"{register(operand)}.{type} = {value};"
        kind = "s" if type[0] == "s" else "u"
        size = self.sizes[operand.strip("%0123456789")]
        return f"{register(operand)}.{kind}{size} = ({type})({value});"

    def address(self, operand: str) -> str:
        base, _, offset = operand.strip("[]").partition("+")
        return f"{self.read(base, 'u64')} + {offset or 0}"

    def instruction(self, given: Instruction) -> str:
        special: dict[str, Callable[[Instruction], str]] = {
            "ret": lambda _: "return;",
            "bra": lambda given: f"goto {label(given.operands[0])};",
            "ld": self.load,
            "st": self.store,
            "bar": self.barrier,
            "shfl": self.shuffle,
            "setp": self.compare,
            "cvt": self.convert,
            "mov": self.move,
            "nanosleep": lambda _: "",
        }
        name = given.words[0]
        return special[name](given) if name in special else self.arithmetic(given)

    def arithmetic(self, given: Instruction) -> str:
        tables = {"f": OF_FLOATS, "p": OF_PREDICATES}
        operation, type, result = ".".join(given.words[:-1]), given.type, given.type
        if given.words[1:-1] == ["wide"]:
            operation, result = f"{given.words[0]}.lo", wider(type)
        formula = known(tables.get(type[0], OF_WHOLE_NUMBERS), operation, given)
        types = OPERAND_TYPES.get(given.words[0], {2: result})
        values = [self.read(each, types.get(k, type)) for k, each in enumerate(given.operands[1:])]
        if result != type:
            values = [f"(({result}){value})" for value in values]
        return self.write(given.operands[0], result, formula.format(*values))

    def move(self, given: Instruction) -> str:
        """A move to several registers gives each its part of the bits, the lowest first."""
        names = elements(given.operands[0])
        if len(names) == 1:
            return self.arithmetic(given)
        size, value = int(given.type[1:]) // len(names), self.read(given.operands[1], given.type)
        return " ".join(self.write(name, f"b{size}", f"{value} >> {k * size}") for k, name in enumerate(names))

    def compare(self, given: Instruction) -> str:
        formula = known(COMPARISONS, ".".join(given.words[1:-1]), given)
        return self.write(
            given.operands[0], "pred", formula.format(*(self.read(each, given.type) for each in given.operands[1:]))
        )

    def convert(self, given: Instruction) -> str:
        *modifiers, to, of = given.words[1:]
        between = ".".join([*modifiers, to[0], of[0]])
        formula = known(CONVERSIONS, between, given)
        return self.write(given.operands[0], to, formula.format(self.read(given.operands[1], of), to=to))

    def load(self, given: Instruction) -> str:
        target, source = given.operands
        if given.words[1] == "param":
            number = re.fullmatch(r"\[\w+_param_(\d+)\]", source)
            if number is None or len(given.words) != 3:
                raise NotImplementedError(f"PTX: {given.place} is not understood")
            return self.write(target, given.type, f"*(const {given.type} *)arguments[{number[1]}]")
        names = elements(target)
        return self.memory(given, source, len(names)) + " ".join(
            self.write(name, given.type, f"at[{k}]") for k, name in enumerate(names)
        )

    def store(self, given: Instruction) -> str:
        names = elements(given.operands[1])
        return self.memory(given, given.operands[0], len(names)) + " ".join(
            f"at[{k}] = {self.read(name, given.type)};" for k, name in enumerate(names)
        )

    def memory(self, given: Instruction, operand: str, count: int) -> str:
        """Return what makes ``at`` point to so many numbers."""
        space, type = given.words[1], given.type
        vector = [f"v{count}"] if count > 1 else []
        if space not in ("global", "shared") or given.words[2:-1] != vector:
            raise NotImplementedError(f"PTX: {given.operation} is not among the operations of the stand-in")
        where = f"{self.address(operand)}, {count} * sizeof({type}), {given.place}"
        return f"{type} *at = device_{space}({where}); "

    def barrier(self, given: Instruction) -> str:
        kinds = {"bar.sync": "block", "bar.warp.sync": "warp"}
        kind = known(kinds, given.operation, given)
        return f"device_{kind}_barrier({self.read(given.operands[0], 'u32')}, {given.place});"

    def shuffle(self, given: Instruction) -> str:
        known({"shfl.sync.bfly.b32": ""}, given.operation, given)
        *targets, value, distance, clamp, mask = given.operands
        numbers = ", ".join(self.read(each, "u32") for each in (value, distance, clamp, mask))
        # The predicate says whether there is such a thread, which there is in a whole warp.
        predicates = "".join(f" {self.write(each, 'pred', 'true')}" for each in targets[1:])
        return self.write(targets[0], "u32", f"device_exchanged({numbers}, {given.place})") + predicates


def known(table: dict[str, str], key: str, given: Instruction) -> str:
    if key not in table:
        raise NotImplementedError(f"PTX: {given.operation} is not among the operations of the stand-in")
    return table[key]


def register(name: str) -> str:
    """Return the variable of a register, whose name (%f32) may be a type's."""
    return "r_" + name.lstrip("%")


def label(name: str) -> str:
    return name.replace("$", "at_")


def elements(operand: str) -> Sequence[str]:
    """Return the registers of a vector, or the one there is."""
    return re.findall(r"[^\s,{}]+", operand)


def wider(type: str) -> str:
    return f"{type[0]}{2 * int(type[1:])}"
