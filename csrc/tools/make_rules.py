"""Make csrc/rules.h from rules.py, which is the one statement of each rule.

``python csrc/tools/make_rules.py`` writes it; with ``--check`` it fails if the file is stale. It reads Python's syntax
tree and nothing else: rules.py is neither imported nor run. A rule may hold assignments of arithmetic, comparisons
inside ``where``, and the functions in FUNCTIONS. Anything else is refused with its file and line.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

CSRC = Path(__file__).parents[1]
RULES = CSRC.parent / "fastopt" / "arithmetic" / "rules.py"
HEADER = CSRC / "rules.h"
COLUMNS = 120

HEADING = """\
/* Made from fastopt/arithmetic/rules.py by csrc/tools/make_rules.py: change that file, then run the tool.

   A rule is a struct of scalars, a function of one element, and LOOPn(name), which defines the loop over a block for a
   rule of n slots. step.c includes this file without REAL, for FO_RULES alone.

   This template expects:
     REAL         float or double
     SQRT(x)      the square root in that type
     ABSOLUTE(x)  the magnitude in that type
     NAME(x)      x with a suffix for this type
     SCALARS(x)   the name of the struct of rule x's scalars
   and MAXIMUM, MINIMUM, SIGN and WHERE of pipeline_template.h. These evaluate an argument more than once. */
"""

#: Python's name, C's macro, how many arguments.
FUNCTIONS = {
    "sqrt": ("SQRT", 1),
    "absolute": ("ABSOLUTE", 1),
    "sign": ("SIGN", 1),
    "maximum": ("MAXIMUM", 2),
    "minimum": ("MINIMUM", 2),
    "where": ("WHERE", 3),
}
#: C's operator, how tightly it binds.
OPERATORS = {ast.Add: ("+", 1), ast.Sub: ("-", 1), ast.Mult: ("*", 2), ast.Div: ("/", 2)}
COMPARISONS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}

#: Words of C that are names in Python.
KEYWORDS = """
    auto case char const default do double enum extern float goto inline int long register restrict short signed sizeof
    static struct switch typedef union unsigned void volatile
"""


class Refusal(Exception):
    """The tool can't translate something in rules.py; the message begins with file and line."""


@dataclass(frozen=True)
class Source:
    """A file of rules, and the comments in it: by line, and whether each has the line to itself."""

    path: Path
    comments: dict[int, tuple[str, bool]]

    def refuse(self, node: ast.AST, message: str) -> NoReturn:
        raise Refusal(f"{self.path}:{getattr(node, 'lineno', 1)}: {message}")

    def comment_above(self, line: int) -> list[str]:
        """Return the lines of the comment that ends right above this line."""
        found: list[str] = []
        while self.comments.get(line - 1, ("", False))[1]:
            line -= 1
            found.insert(0, self.comments[line][0])
        return found

    def comment_after(self, node: ast.stmt) -> str:
        """Return the comment at the end of a statement, as C, or nothing."""
        text, is_alone = self.comments.get(node.end_lineno or node.lineno, ("", True))
        return "" if is_alone else f"/* {text} */"


@dataclass(frozen=True)
class Scalars:
    """A named tuple of scalars: its fields, and the declarations of the struct."""

    names: tuple[str, ...]
    declarations: list[str]


def read(path: Path) -> tuple[ast.Module, Source]:
    """Return a file's syntax tree and its comments."""
    text = path.read_text(encoding="utf-8")
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        raise Refusal(f"{path}:{error.lineno}: {error.msg}") from None
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = (token.string.lstrip("#: "), not token.line[: token.start[1]].strip())
    source = Source(path, comments)
    for line, (comment, _) in comments.items():
        if "*/" in comment:
            raise Refusal(f"{path}:{line}: the comment has */ in it, which would end a comment of C")
    return module, source


def limit(pattern: str, header: str) -> int:
    """Return the largest number that a pattern finds in a header of csrc/."""
    return max(int(number) for number in re.findall(pattern, (CSRC / header).read_text()))


def c_comment(lines: list[str], indent: str) -> list[str]:
    """Return lines of text as one comment of C."""
    if not lines:
        return []
    first, *more = [line.strip() for line in lines]
    text = [f"{indent}/* {first}", *(f"{indent}   {line}".rstrip() for line in more)]
    return [*text[:-1], f"{text[-1]} */"]


def with_comments(lines: list[tuple[str, str]]) -> list[str]:
    """Return lines with the comments at their ends, which are aligned where they follow each other."""
    found: list[str] = []
    for has_comment, run in itertools.groupby(lines, key=lambda line: bool(line[1])):
        together = list(run)
        width = max(len(line) for line, _ in together)
        found += [f"{line:<{width}} {comment}" if has_comment else line for line, comment in together]
    return found


def docstring(source: Source, node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Return the lines of a docstring."""
    text = ast.get_docstring(node) or ""
    if "*/" in text:
        source.refuse(node, "its docstring has */ in it, which would end a comment of C")
    return text.splitlines()


def check_name(source: Source, node: ast.AST, name: str) -> None:
    """Refuse a name that means something else in C."""
    if name in KEYWORDS.split() or name in FUNCTIONS or name.isupper():
        source.refuse(node, f"expected a name that C has no use for, got {name}")


def wrapped(start: str, words: list[str], end: str, margin: int) -> list[str]:
    """Return words separated by commas, between ``start`` and ``end``, in lines of at most COLUMNS."""
    lines = [start + words[0]]
    for word in words[1:]:
        if len(f"{lines[-1]}, {word}{end}") > COLUMNS:
            lines[-1] += ","
            lines.append(" " * margin + word)
        else:
            lines[-1] += f", {word}"
    return [*lines[:-1], lines[-1] + end]


def scalars_of(source: Source, node: ast.ClassDef) -> Scalars:
    """Read a named tuple of scalars."""
    names: list[str] = []
    lines: list[tuple[str, str]] = []
    for field in statements(node):
        match field:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="float"), value=None):
                check_name(source, field, name)
                names.append(name)
                lines += [(line, "") for line in c_comment(source.comment_above(field.lineno), "    ")]
                lines.append((f"    REAL {name};", source.comment_after(field)))
            case _:
                source.refuse(field, f"{node.name}: expected fields of the form name: float")
    most = limit(r"FO_MAX_SCALARS = (\d+)", "fastopt.h")
    if not 1 <= len(names) <= most:
        source.refuse(node, f"{node.name}: expected 1 to {most} scalars, got {len(names)}")
    if len(lines) > len(names) or any(comment for _, comment in lines):
        return Scalars(tuple(names), with_comments(lines))
    return Scalars(tuple(names), wrapped("    REAL ", names, ";", margin=8))


def statements(node: ast.ClassDef | ast.FunctionDef) -> list[ast.stmt]:
    """Return the statements of a class or function after its docstring."""
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


class Rule:
    """Translates one rule to C."""

    def __init__(self, source: Source, node: ast.FunctionDef, structs: dict[str, Scalars]) -> None:
        self.source, self.node = source, node
        self.name = node.name
        check_name(source, node, self.name)
        parameters = node.args.posonlyargs + node.args.args
        extra = [node.args.vararg, node.args.kwarg, *node.args.kwonlyargs, *node.args.defaults]
        names = [parameter.arg for parameter in parameters]
        if names[:3] != ["h", "p", "g"] or any(extra) or node.decorator_list:
            source.refuse(node, f"{self.name}: expected the parameters h, p, g and then slots, got {', '.join(names)}")
        annotation = parameters[0].annotation
        if not isinstance(annotation, ast.Name) or annotation.id not in structs:
            source.refuse(node, f"{self.name}: expected h to be a named tuple of scalars that stands above the rule")
        self.scalars = structs[annotation.id]
        self.slots = names[3:]
        most = limit(r"#define LOOP(\d)\(", "loops.h")
        if len(self.slots) > most:
            source.refuse(node, f"{self.name}: expected at most {most} slots, got {len(self.slots)}; extend loops.h")
        for parameter in parameters[3:]:
            check_name(source, parameter, parameter.arg)
        #: The names that may be read, as C reads them.
        self.known = {"g": "g", **{name: f"*{name}" for name in ["p", *self.slots]}}

    def refuse(self, node: ast.AST, message: str) -> NoReturn:
        self.source.refuse(node, f"{self.name}: {message}")

    def expression(self, node: ast.expr, at_least: int = 0) -> str:
        """Return an expression in C, in parentheses if it binds less tightly than asked for."""
        match node:
            case ast.Name(id=name):
                if name not in self.known:
                    self.refuse(node, f"expected p, g, a slot or a name that was assigned above, got {name}")
                return self.known[name]
            case ast.Attribute(value=ast.Name(id="h"), attr=name):
                if name not in self.scalars.names:
                    self.refuse(node, f"expected a scalar ({', '.join(self.scalars.names)}), got h.{name}")
                return f"h.{name}"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                sign, binds = OPERATORS[type(op)]
                text = f"{self.expression(left, binds)} {sign} {self.expression(right, binds + 1)}"
                return f"({text})" if binds < at_least else text
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return self.call(node, name, arguments)
            case ast.Constant(value=value):
                self.refuse(node, f"expected no literal, got {value!r}; make it a scalar")
            case ast.Compare():
                self.refuse(node, "expected a comparison of two numbers, as the first argument of where only")
            case _:
                self.refuse(node, f"expected + - * /, {', '.join(FUNCTIONS)} or h.scalar, got {ast.unparse(node)}")

    def call(self, node: ast.expr, name: str, arguments: list[ast.expr]) -> str:
        """Return a call of one of FUNCTIONS in C."""
        macro, count = FUNCTIONS[name]
        if len(arguments) != count:
            self.refuse(node, f"{name}: expected {count} arguments, got {len(arguments)}")
        words = [self.condition(arguments[0])] if name == "where" else []
        words += [self.expression(argument) for argument in arguments[len(words) :]]
        return f"{macro}({', '.join(words)})"

    def condition(self, node: ast.expr) -> str:
        """Return the first argument of ``where`` in C."""
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                return f"{self.expression(left)} {COMPARISONS[type(op)]} {self.expression(right)}"
        self.refuse(node, f"expected a comparison of two numbers, got {ast.unparse(node)}")

    def assignment(self, node: ast.Assign) -> str:
        """Return an assignment to the parameter, a slot or a new name in C."""
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            self.refuse(node, f"expected an assignment to one name, got {ast.unparse(node)}")
        target = node.targets[0].id
        value = self.expression(node.value)
        if target in ("p", *self.slots):
            return f"*{target} = {value};"
        if target in ("g", "h") or target in self.known:
            self.refuse(node, f"expected a new name, p or a slot on the left, got {target} again")
        check_name(self.source, node, target)
        self.known[target] = target
        return f"const REAL {target} = {value};"

    def body(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of the rule's function in C, with the comments at their ends."""
        *assignments, last = statements(self.node) or [self.node]
        used = {node.id for statement in assignments for node in ast.walk(statement) if isinstance(node, ast.Name)}
        yield from ((f"    (void){name};", "") for name in ("p", "g") if name not in used)
        for statement in assignments:
            if not isinstance(statement, ast.Assign):
                self.refuse(statement, f"expected assignments and one return, got {ast.unparse(statement)}")
            yield from ((line, "") for line in c_comment(self.source.comment_above(statement.lineno), "    "))
            line, comment = f"    {self.assignment(statement)}", self.source.comment_after(statement)
            columns = len(f"{line} {comment}".rstrip())
            if columns > COLUMNS:
                self.refuse(statement, f"expected at most {COLUMNS} columns in C, got {columns}; name a part of it")
            yield line, comment
        wanted = ", ".join(["p", *self.slots])
        match last:
            case ast.Return(value=ast.Tuple(elts=values)) if ", ".join(map(ast.unparse, values)) == wanted:
                pass
            case _:
                self.refuse(last, f"expected at its end: return {wanted if self.slots else '(p,)'}")
        if unused := {"h", *self.slots} - used:
            self.refuse(self.node, f"expected it to use {', '.join(sorted(unused))}")

    def lines(self) -> Iterator[str]:
        """Yield the rule in C: struct, function, loop."""
        source, node = self.source, self.node
        yield "typedef struct {"
        yield from self.scalars.declarations
        yield f"}} SCALARS({self.name});"
        yield ""
        yield from c_comment([*source.comment_above(node.lineno), *docstring(source, node)], "")
        head = f"static inline void NAME({self.name})("
        words = ["REAL *p", "REAL g", *(f"REAL *{slot}" for slot in self.slots), f"SCALARS({self.name}) h"]
        yield from wrapped(head, words, ")", margin=len(head))
        yield "{"
        yield from with_comments(list(self.body()))
        yield "}"
        yield f"LOOP{len(self.slots)}({self.name})"


def header(path: Path) -> str:
    """Return the text of rules.h for a file of rules."""
    module, source = read(path)
    structs: dict[str, Scalars] = {}
    rules: list[str] = []
    lines: list[str] = []
    for node in module.body:
        match node:
            case ast.ClassDef(bases=[ast.Name(id="NamedTuple")]):
                structs[node.name] = scalars_of(source, node)
                about = [*source.comment_above(node.lineno), *docstring(source, node)]
                lines += [*c_comment(about, ""), ""] if about else []
            case ast.FunctionDef(name=name) if name in rules:
                source.refuse(node, f"{name}: expected each rule once")
            case ast.FunctionDef(name=name):
                lines += [*Rule(source, node, structs).lines(), ""]
                rules.append(name)
            case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign() | ast.Expr():
                pass
            case _:
                source.refuse(node, "expected named tuples of scalars, rules, imports and assignments")
    if not rules:
        raise Refusal(f"{path}:1: expected rules, got none")
    words = [f"RULE({name})" for name in rules]
    first = "#define FO_RULES(RULE)"
    width = max(len(first), *(len(word) + 4 for word in words)) + 1
    listed = [f"{first:<{width}}\\", *(f"    {word:<{width - 4}}\\" for word in words[:-1]), f"    {words[-1]}"]
    parts = [HEADING, "/* RULE(name): every rule that can be asked for. */", *listed, "", "#ifdef REAL", "", *lines]
    return "\n".join([*parts, "#endif", ""])


def main(argv: list[str]) -> int:
    """Write rules.h, or compare it; return 1 if it is stale or rules.py can't be translated."""
    parser = argparse.ArgumentParser(description="Make csrc/rules.h from rules.py.")
    parser.add_argument("rules", nargs="?", type=Path, default=RULES, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HEADER, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is stale")
    options = parser.parse_args(argv)
    try:
        text = header(options.rules)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    if not options.check:
        options.out.write_text(text, encoding="utf-8", newline="\n")
    elif not options.out.exists() or options.out.read_text(encoding="utf-8") != text:
        print(f"{options.out} is stale: run python csrc/tools/make_rules.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
