"""Rules that are compiled when they are first used have the bits of the C code and of NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from cases import ISAS, OPTIONS, STORAGE, Case, every_dtype, everything, needs_native, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from option_runs import run
from planned_runs import IN_8_BITS, OptionSet, Run, check_like_unplanned, needs_plans
from tiers import shortly

import fastopt
from fastopt import rules
from fastopt.arithmetic.operations import scalars_type, slots
from fastopt.backends.native import library as native
from fastopt.backends.table import HyperRow
from fastopt.rules import absolute, maximum, minimum, sign, sqrt, where

llvm = pytest.importorskip("llvmlite.binding", reason="needs llvmlite")

pytestmark = [needs_native, pytest.mark.usefixtures("restored")]

BUILT_IN = dict(native.RULES) if native.missing is None else {}
every_rule = pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.__name__)
every_isa = pytest.mark.parametrize("isa", ISAS)

#: Around the widths of vectors and rounds.
LENGTHS = [*range(18), 31, 33, 64, 1025]


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


def arrays_for(rule: Any, dtype: Any, lengths: list[int]) -> list[list[Any]]:
    """Return a parameter, a gradient and slots of each length."""
    rng = np.random.default_rng(3)
    return [[numbers(rng, length, dtype) for _ in range(2 + len(slots(rule)))] for length in lengths]


def step(rule: Any, arrays: list[list[Any]], scalars: Any, decay: float = 0.97) -> None:
    """Make a native step of these parameters and slots."""
    from fastopt.backends.native.table import NativeTable

    table = NativeTable([its[0] for its in arrays], [its[2:] for its in arrays])
    table.set_grads([its[1] for its in arrays])
    table.step([HyperRow(rule, 1.0, np.inf, 1.0, 0.0, decay, scalars)])


def scalars_of(rule: Any) -> Any:
    kind = scalars_type(rule)
    return kind(*((7 * k % 16 + 1) / 19 for k in range(len(kind._fields))))


def bytes_of(arrays: list[list[Any]]) -> list[bytes]:
    return [raw(array) for its in arrays for array in its]


@pytest.mark.by_turns("rule")
@every_rule
@every_dtype
@every_isa
def test_built_in_rules_have_the_bits_of_c(rule: Any, dtype: Any, isa: str, request: pytest.FixtureRequest) -> None:
    native.use_isa(isa)
    step(rule, in_c := arrays_for(rule, dtype, LENGTHS), scalars_of(rule))
    request.getfixturevalue("forced")
    step(rule, compiled := arrays_for(rule, dtype, LENGTHS), scalars_of(rule))
    assert bytes_of(compiled) == bytes_of(in_c)


TARGETS = {
    "baseline": ("x86_64-unknown-linux-gnu", "xmm"),
    "avx2": ("x86_64-unknown-linux-gnu", "ymm"),
    "avx512": ("x86_64-unknown-linux-gnu", "zmm"),
    "neon": ("aarch64-unknown-linux-gnu", "v"),
}
#: Their operations are those of all rules.
SOME = ("adam", "yogi", "rprop")
OTHERS = [pytest.param(rule.__name__, marks=pytest.mark.long) for rule in BUILT_IN if rule.__name__ not in SOME]
#: What the assembly of an operation on vectors looks like.
WRITTEN = {"sqrt": "sqrtp|fsqrt\tv", "divide": "divp|fdiv\tv", "add": "addp|fadd\tv"}


@pytest.mark.parametrize("rule", [*SOME, *OTHERS])
@every_dtype
@pytest.mark.parametrize("target", TARGETS)
def test_no_operations_are_fused(rule: str, dtype: Any, target: str, all_targets: None) -> None:
    """For instruction sets that this machine lacks too; and roots and quotients are those of vectors."""
    from fastopt.backends.native import compiling
    from fastopt.backends.native.llvm_ir import Loop, Trace

    triple, register = TARGETS[target]
    isa = {name: number for number, name in native.isa_names()}.get(target, native.lib.FO_BASELINE)
    function = getattr(rules, rule)
    trace, item = Trace(function, scalars_type(function)), compiling.ITEMS[native.number_of(np.dtype(dtype))]
    features = "" if target == "neon" else compiling.X86_FEATURES[isa]
    machine = llvm.Target.from_triple(triple).create_target_machine(features=features, opt=3, jit=True)
    assembly = machine.emit_assembly(llvm.parse_assembly(Loop(trace, item, compiling.WIDTHS[isa]).text()))
    assert not re.search(r"fn?madd|fn?msub|fml[as]", assembly)
    for operation, written in WRITTEN.items():
        is_used = any(term.operation == operation for term in trace.terms)
        assert bool(re.search(rf"({written})[^\n]*{register}", assembly)) == is_used


# --- any rule ---------------------------------------------------------------------------------------------------------


class Scalars(NamedTuple):
    lr: float
    beta: float
    one_minus_beta: float
    eps: float
    zero: float


def lamprey(h: Scalars, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
    """A rule that nobody has."""
    m = h.beta * m + h.one_minus_beta * g
    v = maximum(h.beta * v, g * g)
    is_slow = (m * g > h.zero) & ~(absolute(g) >= h.lr + h.beta) | (m != m)
    p = p - h.lr * where(is_slow, m, -sign(m)) / (sqrt(v) + h.eps)
    return p, m, v


class Lamprey(fastopt.Optimizer):
    row_sparse_options: ClassVar[Any] = {}

    def __init__(self, params: Any, lr: Any = 0.1, weight_decay: float = 0.0, **common: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, **common)

    def rule(self, group: Any) -> Any:
        return lamprey

    def hyper(self, group: Any, step: int) -> Any:
        return Scalars(group["lr"], 0.9, 1 - 0.9, 1e-3, 0.0)


#: A tree of operations: a name, and the trees of its operands.
Tree = tuple[Any, ...]

OF_ONE = {"negative": lambda a: -a, "absolute": absolute, "sign": sign, "sqrt": sqrt, "square": lambda a: a * a}
OF_TWO = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": maximum,
    "minimum": minimum,
}
COMPARISONS = {
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
}
LOGIC = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}
FUNCTIONS: dict[str, Callable[..., Any]] = {**OF_ONE, **OF_TWO, **COMPARISONS, **LOGIC, "not": lambda a: ~a}
FUNCTIONS["where"] = where

INPUTS = ("p", "g", "m", "v", "lr", "beta", "eps", "zero")
LITERALS = (0, 1, 2, -3, 0.0, -0.0, 0.1, 0.5, 1 / 3, 1e-40, 3e38)


def trees() -> st.SearchStrategy[Tree]:
    def larger(smaller: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        literal = st.tuples(st.just("literal"), st.sampled_from(LITERALS))
        # Of two literals Python computes a number.
        two = st.one_of(st.tuples(smaller, smaller), st.tuples(literal, smaller), st.tuples(smaller, literal))
        compared = st.tuples(st.sampled_from(list(COMPARISONS)), two).map(flat)
        conditions = st.one_of(
            compared, st.tuples(st.sampled_from(list(LOGIC)), compared, compared), st.tuples(st.just("not"), compared)
        )
        return st.one_of(
            st.tuples(st.sampled_from(list(OF_ONE)), smaller),
            st.tuples(st.sampled_from(list(OF_TWO)), two).map(flat),
            st.tuples(st.just("where"), conditions, two).map(lambda its: (*its[:2], *its[2])),
        )

    return st.recursive(st.sampled_from(INPUTS).map(lambda name: (name,)), larger, max_leaves=12)


def flat(tree: Any) -> Tree:
    name, operands = tree
    return (name, *operands)


def value_of(tree: Tree, inputs: dict[str, Any]) -> Any:
    name, *operands = tree
    if name == "literal":
        return operands[0]
    return FUNCTIONS[name](*(value_of(each, inputs) for each in operands)) if operands else inputs[name]


def rule_of(results: tuple[Tree, ...]) -> Any:
    """Return the rule whose results are these trees."""

    def rule(h: Scalars, p: Any, g: Any, m: Any, v: Any) -> tuple[Any, ...]:
        inputs = {"p": p, "g": g, "m": m, "v": v, **h._asdict()}
        return tuple(value_of(tree, inputs) for tree in results)

    return rule


@pytest.mark.parametrize("examples", shortly(12, 40))
def test_random_rules_have_the_bits_of_numpy(examples: int) -> None:
    """The rule is called on plain arrays, its scalars are of the compute dtype, and the decay is 1."""

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(results=st.tuples(trees(), trees(), trees()), isa=st.sampled_from(ISAS), is_double=st.booleans())
    def check(results: tuple[Tree, ...], isa: str, is_double: bool) -> None:
        native.use_isa(isa)
        rule, scalars = rule_of(results), Scalars(0.1, 0.9, 1 - 0.9, 1e-3, 0.0)
        dtype = np.dtype("float64" if is_double else "float32")
        arrays = arrays_for(lamprey, dtype, [1, 37])
        with np.errstate(all="ignore"):
            expected = [
                np.broadcast_to(np.asarray(value, dtype), its[0].shape).copy()
                for its in arrays
                for value in rule(Scalars(*map(dtype.type, scalars)), *its)
            ]
        step(rule, arrays, scalars, decay=1.0)
        found = [array for p, _, *others in arrays for array in (p, *others)]
        assert [raw(array) for array in found] == [raw(array) for array in expected], results

    check()


# --- around the rule --------------------------------------------------------------------------------------------------

OWN = Case(Lamprey, {"lr": 0.1})
FEW_LENGTHS = [0, 1, 127, 1025, 5000]


@pytest.mark.by_turns("options")
@pytest.mark.parametrize("options", [*OPTIONS.values(), *STORAGE.values()], ids=[*OPTIONS, *STORAGE])
@every_isa
def test_every_option(options: Any, isa: str) -> None:
    native.use_isa(isa)
    runs = [run(OWN, np.float32, options, backend, lengths=FEW_LENGTHS) for backend in ("native", "numpy")]
    assert runs[0] == runs[1]


def test_threads_change_no_bit() -> None:
    rng = np.random.default_rng(5)
    start = [rng.normal(size=70_001), rng.normal(size=20_000).astype(np.float32), rng.normal(size=3)]
    results = []
    for threads in (1, 2, 3):
        fastopt.set_num_threads(threads)
        opt = Lamprey(params := [array.copy() for array in start])
        for k in range(4):
            opt.step([None if i == k else array / (1 + k) for i, array in enumerate(start)])
        results.append(everything(params, opt))
    assert results[0] == results[1] == results[2]


def test_row_sparse_gradients() -> None:
    rng = np.random.default_rng(5)
    start, values = rng.normal(size=(50, 7)), rng.normal(size=(4, 7))
    tables = [start.copy(), start.copy()]
    for table, backend in zip(tables, ("native", "numpy"), strict=True):
        opt = Lamprey(table, backend=backend)
        for rows in ([3, 0, 3, 49], [1, 2, 3, 4], [49, 49, 49, 49]):
            opt.step(fastopt.RowSparse(np.array(rows), values))
    assert raw(tables[0]) == raw(tables[1])


def other_isa(run: Run) -> Callable[[], None]:
    """Use another instruction set from now on."""
    before = native.isa()
    native.use_isa(next(isa for isa in ISAS if isa != before))
    return lambda: native.use_isa(before)


class Turned(NamedTuple):
    """The scalars in another order."""

    eps: float
    beta: float
    one_minus_beta: float
    lr: float
    zero: float


class Turning(Lamprey):
    """Its scalars are those of another type from a step on."""

    def hyper(self, group: Any, step: int) -> Any:
        scalars = super().hyper(group, step)
        return scalars if step < 8 else Turned(**scalars._asdict())


def written_lr(run: Run) -> Callable[[], None]:
    run.group["lr"] = 0.01
    return lambda: run.group.update(lr=0.2)


PLANNED = [
    OptionSet("own, other scalars", Turning, {}, "list"),
    OptionSet("own", Lamprey, {"clip_global_norm": 0.5, "ema_decay": 0.9}, "groups"),
    OptionSet("own in 8 bits", Lamprey, {"state_dtype": "uint8"}, dtypes=(np.float32, np.float32), shapes=IN_8_BITS),
]


def test_another_instruction_set_gets_other_code() -> None:
    opt = Lamprey(param := np.ones(40))
    for isa in (*ISAS, *ISAS[::-1]):
        native.use_isa(isa)
        for _ in range(4):
            opt.step(np.cos(param))
        assert opt.parts.workspace is not None
        assert [own.isa for own in opt.parts.workspace.table.own_rules.values()] == [native.lib.fo_isa_in_use()]


@needs_plans
@pytest.mark.parametrize("options", PLANNED, ids=str)
@pytest.mark.parametrize("trouble", [other_isa, written_lr])
def test_planned_steps(options: OptionSet, trouble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble is other_isa and len(ISAS) == 1:
        pytest.skip("this machine has one instruction set alone")
    check_like_unplanned(options, trouble, monkeypatch)


# --- which backend ----------------------------------------------------------------------------------------------------


class Either(Lamprey):
    """Momentum, or the rule above: an option decides."""

    def __init__(self, params: Any, is_own: bool = False, **common: Any) -> None:
        fastopt.Optimizer.__init__(self, params, {"lr": 0.1, "weight_decay": 0.0, "is_own": is_own}, **common)

    def rule(self, group: Any) -> Any:
        return lamprey if group["is_own"] else rules.adam

    def hyper(self, group: Any, step: int) -> Any:
        if group["is_own"]:
            return super().hyper(group, step)
        return rules.AdamScalars(0.9, 1 - 0.9, 0.99, 1 - 0.99, 0.1, 1e-3, 0.0)


def test_an_option_changes_the_rule() -> None:
    results = []
    for backend in ("native", "numpy"):
        opt = Either(param := np.arange(40.0), backend=backend)
        for is_own in (False, True, False):
            opt.param_groups[0]["is_own"] = is_own
            for _ in range(4):
                opt.step(np.cos(param))
        results.append(everything([param], opt))
    assert results[0] == results[1]


class Alternating(Lamprey):
    """Another rule in every second step."""

    further_rules = (rules.momentum,)

    def rule(self, group: Any) -> Any:
        return lamprey

    def adjusted(self, row: Any, group: Any) -> Any:
        scalars = rules.MomentumScalars(0.9, 0.1, 0.2)
        return row if self.step_count % 2 else row._replace(rule=rules.momentum, scalars=scalars)


class AlternatingOwn(Alternating):
    further_rules = (lamprey,)

    def rule(self, group: Any) -> Any:
        return rules.momentum

    def slot_names(self, rule: Any, param: Any) -> tuple[str, ...]:
        return "m", "v"

    def hyper(self, group: Any, step: int) -> Any:
        return rules.MomentumScalars(0.9, 0.1, 0.2)

    def adjusted(self, row: Any, group: Any) -> Any:
        scalars = Scalars(0.1, 0.9, 1 - 0.9, 1e-3, 0.0)
        return row if self.step_count % 2 else row._replace(rule=lamprey, scalars=scalars)


@pytest.mark.parametrize("optimizer", [Alternating, AlternatingOwn])
def test_further_rules(optimizer: Any) -> None:
    results = []
    for backend in ("native", "numpy"):
        opt = optimizer(param := np.arange(40.0), backend=backend)
        for _ in range(4):
            opt.step(np.cos(param))
        results.append(everything([param], opt))
    assert results[0] == results[1]


def test_too_many_scalars() -> None:
    many = NamedTuple("Many", [(f"s{k}", float) for k in range(17)])  # type: ignore[misc]

    class TooMany(Lamprey):
        def rule(self, group: Any) -> Any:
            return lambda h, p, g: (p - h.s16 * g,)

        def hyper(self, group: Any, step: int) -> Any:
            return many(*[0.5] * 17)

    opt = TooMany(param := np.ones(3))
    with pytest.raises(ValueError, match="expected at most 16 scalars for compiled steps, got 17; use backend="):
        opt.step(np.ones(3))
    assert param.tolist() == [1, 1, 1]


def test_an_operation_that_is_not_compiled() -> None:
    class Own(Lamprey):
        def rule(self, group: Any) -> Any:
            return lambda h, p, g: (p - h.lr * np.tanh(g),)

    opt = Own(param := np.ones(3))
    with pytest.raises(TypeError, match=r"test_compiled_rules.py:\d+: tanh is .* use others, or backend=\"numpy\""):
        opt.step(np.ones(3))
    assert (param.tolist(), list(opt.state["0"])) == ([1, 1, 1], ["step"])


@pytest.fixture
def no_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastopt.backends.native import compiling

    monkeypatch.setattr(compiling, "missing", lambda: "llvmlite is not here (get it)")


@pytest.mark.parametrize(
    ("version", "is_too_old"), [("0.44.1", True), ("0.45.0rc1", False), ("1.0.0", False), ("0+untagged.1.g12", False)]
)
def test_versions_of_llvmlite(version: str, is_too_old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a build from source may have no numbers."""
    from fastopt.backends.native import compiling

    monkeypatch.setattr("llvmlite.__version__", version)
    assert (compiling.missing.__wrapped__() is not None) == is_too_old


MISSING = r"native: the rule lamprey is not one of fastopt's, and llvmlite is not here \(get it\); leave it unset"


def test_without_llvmlite_such_rules_run_on_numpy(no_llvmlite: None) -> None:
    opt = Lamprey(param := np.ones(3))
    assert opt.backend == "numpy"
    opt.step(np.ones(3))
    Lamprey(other := np.ones(3), backend="numpy").step(np.ones(3))
    assert param.tolist() == other.tolist()
    with pytest.raises(RuntimeError, match=f"backend={MISSING}"):
        Lamprey(np.ones(3), backend="native")


def test_without_llvmlite_the_native_backend_is_asked_for(no_llvmlite: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPT_BACKEND", "native")
    with pytest.raises(RuntimeError, match=f"FASTOPT_BACKEND={MISSING}"):
        Lamprey(np.ones(3))
    assert Lamprey(np.ones(3), backend="numpy").backend == "numpy"


def test_without_llvmlite_the_backend_follows_the_rule(no_llvmlite: None) -> None:
    """Also when a group is added; nothing changes where the native backend was asked for."""
    opt, reference = Either(param := np.arange(9.0)), Either(expected := np.arange(9.0), backend="numpy")
    backends = []
    for is_own in (False, True, False):
        for each in (opt, reference):
            each.param_groups[0]["is_own"] = is_own
            each.step(np.ones(9))
        backends.append(opt.backend)
    assert backends == ["native", "numpy", "native"]
    assert everything([param], opt) == everything([expected], reference)
    opt.add_param_group({"params": [np.ones(2)], "is_own": True})
    assert opt.backend == "numpy"
    opt = Either([param], backend="native")
    opt.param_groups[0]["is_own"] = True
    before = everything([param], opt)
    with pytest.raises(RuntimeError, match=MISSING):
        opt.step([np.ones(9)])
    with pytest.raises(RuntimeError, match=MISSING):
        opt.add_param_group({"params": [np.ones(2)], "is_own": True})
    assert everything([param], opt) == before
    opt.param_groups[0]["is_own"] = False
    opt.step([np.ones(9)])
    assert (opt.backend, opt.step_count) == ("native", 1)
