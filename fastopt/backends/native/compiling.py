"""Rules of the user's own, compiled when they are first used: LLVM, by llvmlite, and what it has compiled.

llvmlite is imported when a rule is compiled.
"""

from __future__ import annotations

import platform
import re
from functools import cache, lru_cache
from typing import Any, NamedTuple

from ...arithmetic.operations import Rule, slots
from ...arithmetic.symbols import check_rule
from .library import ffi, lib
from .llvm_ir import Loop, Trace

#: The oldest llvmlite that can be used.
OLDEST = (0, 45)
COMPILER = "llvmlite, which compiles rules,"
REMEDY = "(pip install 'fastopt[rules]')"

#: The features of x86 processors that each instruction set uses. FMA is none of them.
X86_FEATURES = {
    lib.FO_BASELINE: "+sse2",
    lib.FO_AVX2: "+avx2",
    lib.FO_AVX512: "+avx512f,+avx512bw,+avx512dq,+avx512vl",
}
#: The bytes of a vector.
WIDTHS = {lib.FO_BASELINE: 16, lib.FO_AVX2: 32, lib.FO_AVX512: 64}

#: The compute dtypes in LLVM.
ITEMS = {lib.FO_FLOAT32: "float", lib.FO_FLOAT64: "double"}

#: They own the memory of compiled code, which lives as long as the process.
engines: list[Any] = []


class OwnRule(NamedTuple):
    """A compiled rule: the type of its scalars, the number of the instruction set, and the C struct of its loops."""

    scalars: Any
    isa: int
    struct: Any

    @property
    def address(self) -> int:
        return int(ffi.cast("uintptr_t", self.struct))


@cache
def missing() -> str | None:
    """Return why no rule can be compiled, with the remedy; None if they can be."""
    try:
        import llvmlite.binding
    except (ImportError, OSError) as error:
        is_absent = isinstance(error, ModuleNotFoundError)
        return f"{COMPILER} {'is not installed' if is_absent else f'can not be imported: {error}'} {REMEDY}"
    version = llvmlite.__version__
    numbers = re.match(r"(\d+)\.(\d+)", version)  # none in that of a build from source without its history
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST:
        return f"{COMPILER} has version {version}, expected {'.'.join(map(str, OLDEST))} or a later one {REMEDY}"
    return None


@lru_cache
def compiled(rule: Rule, scalars: Any, dtypes: frozenset[int], isa: int) -> OwnRule:
    """Return a rule, compiled.

    Parameters
    ----------
    rule : callable
        One that is not among those of csrc/rules.h.
    scalars : type
        The named tuple of its scalars.
    dtypes : set of int
        The compute dtypes of the arrays.
    isa : int
        The number of the instruction set.

    Raises
    ------
    TypeError, ValueError
        If the rule is no arithmetic on arrays, or has more scalars than a row of hyperparameters.
    """
    check_rule(rule, scalars)
    if len(scalars._fields) > lib.FO_MAX_SCALARS:
        raise ValueError(
            f"hyper: expected at most {lib.FO_MAX_SCALARS} scalars for compiled steps, got {len(scalars._fields)}; use "
            'backend="numpy"'
        )
    trace = Trace(rule, scalars)
    struct = ffi.new("fo_own_rule *", {"slot_count": len(slots(rule))})
    for dtype in dtypes:
        struct.loops[dtype] = address_of(Loop(trace, ITEMS[dtype], WIDTHS[isa]).text(), isa)
    return OwnRule(scalars, isa, struct)


@cache
def address_of(text: str, isa: int) -> int:
    """Return the address of the compiled function ``loop`` of a module."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), target_machine(isa))
    engine.finalize_object()
    engines.append(engine)
    return int(engine.get_function_address("loop"))


def target_machine(isa: int) -> Any:
    """Return what LLVM compiles for: this machine with an instruction set."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = X86_FEATURES[isa] if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686") else ""
    return target.create_target_machine(features=features, opt=3, jit=True)
