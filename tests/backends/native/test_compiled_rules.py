"""Rules that are compiled when they are first used have the bits of the C code and of NumPy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from cases import ISAS, every_dtype, needs_native, raw

llvm = pytest.importorskip("llvmlite.binding", reason="needs llvmlite")

from fastopt.arithmetic.operations import scalars_type, slots  # noqa: E402
from fastopt.backends.native import library as native  # noqa: E402
from fastopt.backends.table import HyperRow  # noqa: E402

pytestmark = [needs_native, pytest.mark.usefixtures("restored")]

BUILT_IN = dict(native.RULES) if native.missing is None else {}
every_rule = pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.__name__)
every_isa = pytest.mark.parametrize("isa", ISAS)

#: Around the widths of vectors, of rounds, and of blocks.
LENGTHS = [*range(35), 63, 64, 65, 1023, 1025]


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the built-in rules compiled as if they were the user's own."""
    for rule in BUILT_IN:
        monkeypatch.delitem(native.RULES, rule)


@pytest.fixture(scope="module")
def all_targets() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def numbers(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    """Return numbers with NaN, infinities, zeros of both signs and subnormal ones among them."""
    values = rng.normal(size=size).astype(dtype)
    tiny, info = np.finfo(dtype).smallest_subnormal, np.finfo(dtype)
    specials = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -3 * tiny, info.smallest_normal, info.max], dtype)
    places = rng.random(size) < 0.2
    values[places] = rng.choice(specials, places.sum())
    return values


def bytes_of_step(rule: Any, dtype: Any, scalars: tuple[float, ...]) -> list[bytes]:
    """Return the bytes of the parameters and slots after a native step of arrays of all lengths."""
    from fastopt.backends.native.table import NativeTable

    rng = np.random.default_rng(3)
    arrays = [[numbers(rng, length, dtype) for _ in range(2 + len(slots(rule)))] for length in LENGTHS]
    table = NativeTable([its[0] for its in arrays], [its[2:] for its in arrays])
    table.set_grads([its[1] for its in arrays])
    table.step([HyperRow(rule, 1.0, np.inf, 1.0, 0.0, 0.97, scalars)])
    return [raw(array) for its in arrays for array in its]


def scalars_of(rule: Any) -> Any:
    kind = scalars_type(rule)
    return kind(*((7 * k % 16 + 1) / 19 for k in range(len(kind._fields))))


@pytest.mark.by_turns("rule")
@every_rule
@every_dtype
@every_isa
def test_built_in_rules_have_the_bits_of_c(rule: Any, dtype: Any, isa: str, request: pytest.FixtureRequest) -> None:
    native.use_isa(isa)
    in_c = bytes_of_step(rule, dtype, scalars_of(rule))
    request.getfixturevalue("forced")
    assert bytes_of_step(rule, dtype, scalars_of(rule)) == in_c


TARGETS = {
    "baseline": ("x86_64-unknown-linux-gnu", "xmm"),
    "avx2": ("x86_64-unknown-linux-gnu", "ymm"),
    "avx512": ("x86_64-unknown-linux-gnu", "zmm"),
    "neon": ("aarch64-unknown-linux-gnu", "v"),
}


@pytest.mark.by_turns("rule")
@every_rule
@every_dtype
@pytest.mark.parametrize("target", TARGETS)
def test_no_operations_are_fused(rule: Any, dtype: Any, target: str, all_targets: None) -> None:
    """For instruction sets that this machine lacks too; and roots and quotients are those of vectors."""
    from fastopt.backends.native import compiling
    from fastopt.backends.native.llvm_ir import Loop, Trace

    triple, register = TARGETS[target]
    isa = {name: number for number, name in native.isa_names()}.get(target, native.lib.FO_BASELINE)
    item = compiling.ITEMS[native.number_of(np.dtype(dtype))]
    loop = Loop(Trace(rule, scalars_type(rule)), item, compiling.WIDTHS[isa]).text()
    features = "" if target == "neon" else compiling.X86_FEATURES[isa]
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features, opt=3, jit=True)
    assembly = machine.emit_assembly(llvm.parse_assembly(loop))
    assert not re.search(r"fn?madd|fn?msub|fml[as]", assembly)
    for operation, written in {"sqrt": "sqrtp|fsqrt\tv", "divide": "divp|fdiv\tv", "add": "addp|fadd\tv"}.items():
        is_used = any(term.operation == operation for term in Trace(rule, scalars_type(rule)).terms)
        assert bool(re.search(rf"({written})[^\n]*{register}", assembly)) == is_used
