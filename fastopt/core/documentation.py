"""The docstrings and signatures of optimizers, with every option: put together when somebody asks for them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..options.common import OF_WHOLE_STEP, Common
from .representation import default_options

#: The lines of a docstring that stand for the options that every optimizer takes.
COMMON = re.compile(r"^ *(?:<common options>|(?:params, )?\*\*common : see :class:`fastopt\.Optimizer`)$", re.M)

#: The description of parameters that another class has.
AS_IN = re.compile(r"as in :class:`(\w+)`$")

PARAMETERS = re.compile(r"(?<=^Parameters\n----------\n).*?(?=^\w[\w ]*\n---|\Z)", re.M | re.S)


class Entry(NamedTuple):
    """The description of one or more parameters: their names, what they are, and what they do."""

    names: Sequence[str]
    kind: str
    lines: Sequence[str]

    def __str__(self) -> str:
        head = ", ".join(self.names)
        return "\n".join([f"{head} : {self.kind}" if self.kind else head, *self.lines])

    def of(self, names: Sequence[str]) -> Entry:
        """Return the description of these of its parameters alone."""
        return self._replace(names=[name for name in self.names if name in names])

    def for_class(self, cls: Any) -> Entry:
        """Return the description as it is for an optimizer: with its defaults, and what it refuses."""
        defaults, kind, default = default_options(cls), *self.kind.partition(", default ")[::2]
        values = [defaults[name] for name in self.names if name in defaults and "optional" not in kind]
        if values and not is_written(default, values[0]):
            kind, default = kind, repr(values[0])
        reasons = {cls.refused[name] for name in self.names if name in cls.refused}
        lines = [*self.lines, *(f"    {cls.__name__} does not take it: {reason}." for reason in sorted(reasons))]
        return Entry(self.names, f"{kind}, default {default}" if default else kind, lines)


class Documentation:
    """The docstring of an optimizer's class: Python asks it for the text when ``__doc__`` is read.

    Parameters
    ----------
    template : str
        The docstring as it is written, in which lines stand for options that are described elsewhere.
    """

    def __init__(self, template: str) -> None:
        self.template = template

    @staticmethod
    def take(cls: Any) -> None:
        """Take the place of a class's docstring, if it has such lines."""
        written = cls.__doc__
        if written is not None and COMMON.search(written):
            cls.__doc__ = Documentation(written)

    def __get__(self, opt: Any, cls: type) -> str:
        doc = inspect.cleandoc(self.template)
        entries = sorted(described_options(cls, doc), key=lambda entry: "params" not in entry.names)
        return PARAMETERS.sub(lambda _: "\n".join([*map(str, entries), "\n"]), doc, 1)


def described_options(cls: type, doc: str) -> Iterator[Entry]:
    """Yield the description of each parameter of a class with this docstring."""
    for entry in entries_of(doc):
        as_in = AS_IN.match(entry.kind)
        if as_in:
            base = next(each for each in cls.__mro__ if each.__name__ == as_in[1])
            known = described_options(base, inspect.cleandoc(vars(base)["__doc__"].template))
            yield from (its.of(entry.names).for_class(cls) for its in known if {*its.names} & {*entry.names})
        elif COMMON.match(str(entry).split("\n")[0]):
            if "params" in entry.names:
                yield from (its for its in entries_of(base_documentation(cls)) if its.names == ["params"])
            # An optimizer that shares its steps takes the options of the whole step alone.
            is_base, takes_all = entry.names == ["<common options>"], "params" in entry.names
            names = [name for name in Common.__annotations__ if takes_all or is_base or name in OF_WHOLE_STEP]
            for its in entries_of(inspect.cleandoc(Common.__doc__ or "")):
                if {*its.names} & {*names}:
                    yield its.of(names) if is_base else its.of(names).for_class(cls)
        else:
            yield entry


def base_documentation(cls: type) -> str:
    """Return the docstring of the base of all optimizers, as it is written."""
    templates = [vars(base)["__doc__"].template for base in cls.__mro__ if is_documented(base)]
    return inspect.cleandoc(templates[-1])


def is_documented(cls: type) -> bool:
    return isinstance(vars(cls).get("__doc__"), Documentation)


def entries_of(doc: str) -> list[Entry]:
    """Return the descriptions in the section of parameters of a docstring."""
    found = PARAMETERS.search(doc)
    entries: list[Entry] = []
    for line in (found[0] if found else "").rstrip().split("\n"):
        if line.startswith(" ") or not line:
            entries[-1] = entries[-1]._replace(lines=[*entries[-1].lines, line])
        else:
            names, _, kind = line.partition(" : ")
            entries.append(Entry(names.split(", "), kind, []))
    return entries


def is_written(default: str, value: Any) -> bool:
    """Return whether a default as it is written is this value."""
    try:
        return bool(ast.literal_eval(default) == value)
    except (SyntaxError, ValueError):
        return bool(default)


class Signature:
    """The signature of an optimizer's class, with the names, types and defaults of the common options."""

    def __get__(self, opt: Any, cls: Any) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)
        _, *own = signature.parameters.values()
        if not own or own[-1].kind is not inspect.Parameter.VAR_KEYWORD or own[-1].name != "common":
            return signature.replace(parameters=own)
        names, defaults = {each.name for each in own}, default_options(cls)
        common = [
            each.replace(default=defaults.get(each.name, each.default))
            for each in common_parameters(cls)
            if each.name not in names and ("optimizers" not in names or each.name in OF_WHOLE_STEP)
        ]
        return signature.replace(parameters=[*own[:-1], *common])


def common_parameters(cls: Any) -> list[inspect.Parameter]:
    """Return the parameters of the base of all optimizers that every optimizer takes."""
    of_bases: list[Mapping[str, inspect.Parameter]] = [
        inspect.signature(base.__init__).parameters for base in cls.__mro__[:-1]
    ]
    of_base = next(each for each in of_bases if {*Common.__annotations__} <= {*each})
    return [of_base[name] for name in Common.__annotations__]
