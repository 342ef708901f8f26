"""Rules that are compiled when they are first used: the built-in ones beside their C loops, and three of nobody's."""

from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from bench.case import Case, Stepper, Work
from bench.contenders import LR, Contender
from bench.limit import limit
from bench.shapes import ArraySet
from fastopt import rules

IN_CACHE = {"one of 16K": ArraySet([(1 << 14,)])}
OWN_SETS = {**IN_CACHE, "one of 4M": ArraySet([(1 << 22,)])}
ISAS = ("baseline", "avx2", "avx512")


@dataclass(frozen=True)
class RuleWork(Work):
    """A step of a rule: one of fastopt.rules, or of bench.own_rules."""

    rule: str = ""


def is_rule(value: Any) -> bool:
    return isinstance(value, FunctionType) and value.__module__ == rules.adam.__module__


BUILT_IN = {
    name: RuleWork(1 + len(rules.slots(rule)), rule=name) for name, rule in vars(rules).items() if is_rule(rule)
}
OWN = {"ClippedLion": RuleWork(2, rule="ClippedLion"), "Lamprey": RuleWork(3, rule="Lamprey")}
OWN["BoundedAdam"] = RuleWork(3, rule="BoundedAdam")


class Pass(Stepper):
    """A pass with an instruction set, on one thread; each turn begins with the same numbers, and none gets tiny."""

    def __init__(self, table: Any, isa: str) -> None:
        from fastopt.backends.native import library

        call = partial(library.lib.fo_step, table.arrays, table.grads, table.count, table.hyper_rows, 1, library.NULL)
        super().__init__(lambda grads: call(), [None])
        params, slots, _ = table.owners
        self.arrays = [*params, *(slot for its in slots for slot in its)]
        self.table, self.use_isa = table, partial(library.use_isa, isa)

    def seconds(self, steps: int) -> float:
        self.use_isa()
        for array in self.arrays:
            array[...] = 0.5
        return super().seconds(steps)


def copy_of(rule: FunctionType) -> FunctionType:
    """A function like a built-in rule, which is therefore one of the user's own."""
    copy = FunctionType(rule.__code__, rule.__globals__, rule.__name__)
    copy.__annotations__ = rule.__annotations__
    return copy


def rule_step(case: Case, isa: str, is_compiled: bool) -> Stepper:
    """The pass of a built-in rule alone, without what an optimizer does around it."""
    from fastopt.arithmetic.operations import scalars_type
    from fastopt.backends.native import library
    from fastopt.backends.native.table import NativeTable
    from fastopt.backends.table import HyperRow

    if isa not in library.isas_found():
        raise NotImplementedError("not among the instruction sets of this machine")
    library.use_isa(isa)
    rule: Any = getattr(rules, case.work.rule)
    kind = scalars_type(rule)
    scalars = kind(*np.linspace(0.1, 0.9, len(kind._fields)).tolist())
    params, slots = case.arrays(), [[np.empty_like(p) for _ in rules.slots(rule)] for p in case.arrays()]
    table = NativeTable(params, slots)
    table.set_grads(case.arrays(seed=7))
    table.set_hyper_rows([HyperRow(copy_of(rule) if is_compiled else rule, 1.0, np.inf, 1.0, 0.0, 1.0, scalars)])
    return Pass(table, isa)


def own_step(case: Case, backend: str) -> Stepper:
    """An optimizer that nobody has."""
    import fastopt
    from bench import own_rules

    fastopt.set_num_threads(case.threads)
    opt = getattr(own_rules, case.work.rule)(case.arrays(), lr=LR, backend=backend)
    return Stepper(opt.step, case.gradient_sets())


COMPILED: dict[str, Contender] = {}
#: The contenders whose ratio is shown.
PAIRS = []
for isa in ISAS:
    for name, is_compiled in (("C", False), ("compiled", True)):
        COMPILED[f"{name}, {isa}"] = partial(rule_step, isa=isa, is_compiled=is_compiled)
    PAIRS.append((f"compiled, {isa}", f"C, {isa}"))

OWN_RULES: dict[str, Contender] = {
    "limit": limit,
    "fastopt": partial(own_step, backend="native"),
    "fastopt NumPy": partial(own_step, backend="numpy"),
}
