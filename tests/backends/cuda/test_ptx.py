"""What the CUDA kernels are compiled to, which needs no GPU: the assembly (PTX), and the registers it uses."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES
from places import TESTS
from tiers import exhaustive

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda (pip install fastopt[cuda])", allow_module_level=True)
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("Numba's simulator compiles nothing", allow_module_level=True)

import fastopt
from fastopt import rules
from fastopt.arithmetic.pipeline import StageFlags, StageScalars
from fastopt.backends.cuda import compiling, elements, kernels, sum_kernels
from fastopt.backends.cuda.elements import KernelOptions
from fastopt.backends.cuda.layout import THREADS, ArrayLayout

NO_FLAG = StageFlags()
EACH_FLAG = {name: NO_FLAG._replace(**{name: True}) for name, value in NO_FLAG._asdict().items() if not value}
NONE = KernelOptions()
ALL = KernelOptions(StageFlags(*[True] * len(NO_FLAG)), guarded=True)
#: Without arrays of bounds.
NO_ARRAYS = ALL._replace(flags=ALL.flags._replace(lower_of_elements=False, upper_of_elements=False))
EACH = {**{name: KernelOptions(flags) for name, flags in EACH_FLAG.items()}, "guarded": KernelOptions(guarded=True)}


def rules_and_scalars() -> dict[str, tuple[Any, type]]:
    """Return every rule that a row of cases.py uses, with the tuple of its scalars."""
    found = {}
    for case in CASES:
        if not case.optimizer.runs_on_gpu:
            continue
        opt = case.build(np.zeros(1))
        rule = opt.rule(opt.param_groups[0])
        found[rule.__name__] = (
            rule,
            type(opt.hyper({**opt.parts.groups.values(opt.step_count)[0], **getattr(opt, "numbers", {})}, 1)),
        )
    return found


RULES = rules_and_scalars()
every_rule = pytest.mark.parametrize("name", RULES)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_capability = pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["8.0", "9.0"])


def row(name: str, dtype: str, grad_dtype: str, options: KernelOptions) -> ArrayLayout:
    """Return the dtypes of what the arrays of a rule have with these options."""
    slots = (dtype,) * len(rules.slots(RULES[name][0]))
    flags = options.flags
    asked = {
        "average": flags.blend or flags.flush_average,
        "accumulated": flags.mean,
        "lower": flags.lower_of_elements,
        "upper": flags.upper_of_elements,
    }
    return ArrayLayout(dtype, grad_dtype, slots, **{name: dtype for name, its in asked.items() if its})


def bounds_of(dtypes: ArrayLayout) -> int:
    """Return how many arrays bound the parameter, which are not written."""
    return (dtypes.lower is not None) + (dtypes.upper is not None)


@cache
def compiled(
    name: str, dtypes: ArrayLayout, options: KernelOptions, capability: tuple[int, int], make: Any = elements.step_of
) -> str:
    rule, scalars = {**RULES, "descend": (rules.descend, rules.DescendScalars)}[name]
    return compiling.ptx(kernels.element_kernel(make, rule, options, dtypes, scalars), capability)


def check(ptx: str, dtype: str, loads: int, stores: int) -> None:
    """Everything in registers and at full precision, 16 bytes at a time, nothing fused."""
    assert ".local" not in ptx
    assert "call" not in ptx
    assert "fma." not in ptx
    assert not re.search(r"\.approx|\.ftz|\.full", ptx)
    if dtype == "float32":
        assert ".f64" not in ptx
    vector = "v4.f32" if dtype == "float32" else "v2.f64"
    # At least: the compiler may unroll a loop.
    assert ptx.count(f"ld.global.{vector}") >= loads
    assert ptx.count(f"st.global.{vector}") >= stores


@pytest.mark.by_turns("name")
@every_capability
@every_dtype
@pytest.mark.parametrize("options", [NONE, ALL], ids=["plain", "all"])
@every_rule
def test_every_rule(
    name: str, options: KernelOptions, dtype: str, capability: tuple[int, int], record_property: Any
) -> None:
    dtypes = row(name, dtype, dtype, options)
    ptx = compiled(name, dtypes, options, capability)
    count = len(dtypes.present()) - (name == "adam_direction")  # its direction is not read, its parameter not written
    check(ptx, dtype, loads=count, stores=count - (not options.flags.zero_grads) - bounds_of(dtypes))
    registers = linked_registers(ptx, capability)
    record_property("registers", (target_of(dtype, options, capability), f"{name} {registers}"))
    # A multiprocessor has 65,536 registers. More than five numbers have to be held somewhere.
    blocks = 2 if len(dtypes.present()) > 5 else 4 if dtype == "float32" else 3
    assert registers is None or -(-registers // 8) * 8 * THREADS * blocks <= 65_536


def target_of(dtype: str, options: KernelOptions, capability: tuple[int, int]) -> str:
    """Return what a kernel was compiled for."""
    stages = "all options" if options.flags.zero_grads else "no option"
    return f"{dtype}, compute capability {capability[0]}.{capability[1]}, {stages}"


def linked_registers(ptx: str, capability: tuple[int, int]) -> int | None:
    """Return how many registers the linked kernel uses, checking that none is spilled; None without a linker."""
    try:
        from cuda.core import Linker, LinkerOptions, ObjectCode
    except ImportError:
        return None
    major, minor = capability
    options = LinkerOptions(arch=f"sm_{major}{minor}", verbose=True)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    linker.link("cubin")
    log = linker.get_info_log()
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    found = re.search(r"[Uu]sed (\d+) registers", log)
    assert found
    return int(found[1])


@pytest.mark.by_turns("options")
@every_capability
@pytest.mark.parametrize("options", EACH.values(), ids=EACH)
def test_each_option_is_compiled_in_or_out(options: KernelOptions, capability: tuple[int, int]) -> None:
    kinds = [row("adam", "float32", "float32", each) for each in (NONE, options)]
    plain, ptx = (
        compiled("adam", dtypes, each, capability) for dtypes, each in zip(kinds, (NONE, options), strict=True)
    )
    added = len(kinds[1].present()) - len(kinds[0].present())
    # An average that only takes the parameter is not read.
    check(
        ptx,
        "float32",
        loads=4 + added - options.flags.flush_average,
        stores=3 + added + options.flags.zero_grads - bounds_of(kinds[1]),
    )
    operations = re.compile(r"\b(?:mul\.rn|add|sub|setp\.\w+)\.f32|\bsetp\.\w+\.s64|\bst\.global")
    assert len(operations.findall(ptx)) > len(operations.findall(plain))


@pytest.mark.by_turns("grad_dtype")
@every_capability
@pytest.mark.parametrize("grad_dtype", ["float16", "bfloat16", "float64"])
def test_gradients_of_other_dtypes(grad_dtype: str, capability: tuple[int, int]) -> None:
    options = NO_ARRAYS._replace(flags=NO_ARRAYS.flags._replace(zero_grads=False, mean=False, blend=False))
    ptx = compiled("adam", row("adam", "float32", grad_dtype, options), options, capability)
    assert ".local" not in ptx
    assert "fma." not in ptx
    assert (".f64" in ptx) == (grad_dtype == "float64")
    assert ptx.count("ld.global.v4.f32") == 3
    wide = {"float64": r"ld\.global\.v2\.f64"}.get(grad_dtype, r"ld\.global\.(v4\.[ub]16|v2\.[ub]32|[ub]64)")
    assert re.search(wide, ptx)


HALF_ROWS = {
    "float16 copies": ArrayLayout("float32", "float16", ("float32",) * 2, copy="float16"),
    "bfloat16 copies": ArrayLayout("float32", "bfloat16", ("float32",) * 2, copy="bfloat16"),
    "bfloat16 slots": ArrayLayout("float32", "float32", ("bfloat16",) * 2),
    "all in few bits": ArrayLayout("bfloat16", "bfloat16", ("bfloat16",) * 2, "float32", "float32"),
}


@pytest.mark.by_turns("make")
@every_capability
@every_dtype
@pytest.mark.parametrize("make", [elements.accumulate_of, elements.clear_of])
def test_accumulating_and_clearing(make: Any, dtype: str, capability: tuple[int, int]) -> None:
    dtypes = ArrayLayout(dtype, dtype, (dtype,) * 2, accumulated=dtype)
    ptx = compiled("adam", dtypes, KernelOptions(StageFlags(scale=True), guarded=True), capability, make)
    check(ptx, dtype, loads=2 if make is elements.accumulate_of else 0, stores=1)
    assert make is elements.accumulate_of or "ld.global.v" not in ptx


@pytest.mark.by_turns("dtypes")
@every_capability
@pytest.mark.parametrize("dtypes", HALF_ROWS.values(), ids=HALF_ROWS)
def test_memory_in_few_bits(dtypes: ArrayLayout, capability: tuple[int, int]) -> None:
    """Converted and dithered in registers, 8 bytes at a time."""
    flags = StageFlags(blend=dtypes.average is not None, mean=dtypes.accumulated is not None)
    ptx = compiled("adam", dtypes, KernelOptions(flags), capability)
    check(ptx, "float32", dtypes.present().count("float32"), dtypes.present().count("float32") - 1)
    halves = len(dtypes.present()) - dtypes.present().count("float32")
    assert len(re.findall(r"(?:ld|st)\.global\.(?:v4\.[bu]16|v2\.[bu]32|[bu]64)", ptx)) >= halves
    registers = linked_registers(ptx, capability)
    assert registers is None or registers <= 88


#: A rule of each number of slots; the arithmetic of every rule is in the kernels without 8 bits.
FIRST_OF_COUNT = {len(rules.slots(rule)): name for name, (rule, _) in reversed(RULES.items())}
IN_8_BITS = [
    *(
        pytest.param(name, NO_ARRAYS, "float32", marks=() if name in FIRST_OF_COUNT.values() else exhaustive)
        for name, (rule, _) in RULES.items()
        if rules.slots(rule)
    ),
    *((name, NONE, "float32") for name in ("momentum", "adam")),
    ("adam", NO_ARRAYS, "bfloat16"),
]


@pytest.mark.by_turns("name", "options", "param")
@every_capability
@pytest.mark.parametrize(("name", "options", "param"), IN_8_BITS)
def test_slots_in_8_bits(
    name: str, options: KernelOptions, param: str, capability: tuple[int, int], record_property: Any
) -> None:
    """A maximum is found by 5 exchanges between 32 threads, without shared memory; nothing is fused or spilled."""
    count = len(rules.slots(RULES[name][0]))
    options = options._replace(codecs=("signed", "root", "signed", "root")[:count])
    average, accumulated = ("float32" if asked else None for asked in (options.flags.blend, options.flags.mean))
    scales = ("float32",) * count
    dtypes = ArrayLayout(param, param, ("uint8",) * count, average, accumulated, scales=scales)
    ptx = compiled(name, dtypes, options, capability)
    assert ".shared" not in ptx
    # Of a thread's 8 elements each array is read and written in two vectors.
    floats = dtypes.present().count("float32") - count
    is_written = name != "adam_direction"
    check(ptx, "float32", 2 * floats, 2 * (floats - (not options.flags.zero_grads) - (not is_written)))
    assert len(re.findall(r"ld\.global\.(?:v4\.u8|u32)", ptx)) >= 2 * (count - (not is_written))
    # In whole blocks of 256 elements, and in others.
    assert ptx.count("shfl.sync.bfly") == 2 * 5 * count
    registers = linked_registers(ptx, capability)
    record_property("registers", (f"slots in 8 bits, {target_of(param, options, capability)}", f"{name} {registers}"))


@pytest.mark.by_turns("left", "right")
@every_capability
@every_dtype
@pytest.mark.parametrize("options", [NONE, ALL], ids=["plain", "all"])
@pytest.mark.parametrize(
    ("left", "right"), [*((source, source) for source in ("clipped_grad", "grad", "param", 0)), (0, "grad")]
)
def test_norm_kernels(left: Any, right: Any, options: KernelOptions, dtype: str, capability: tuple[int, int]) -> None:
    """Squares are added in double precision, and never fused: for float64 that would change bits."""
    products = sum_kernels.products_kernel(left, right, options, row("adam", dtype, dtype, options))
    ptx = compiling.ptx(products, capability)
    assert "mul.rn.f64" in ptx
    assert ".local" not in ptx
    assert "fma." not in ptx


@pytest.mark.by_turns("definition")
@every_capability
@pytest.mark.parametrize(
    "definition",
    [sum_kernels.sums, kernels.decide, kernels.trust, kernels.clip_arrays, kernels.clip_all],
    ids=lambda definition: definition.function.__name__,
)
def test_kernels_of_sums(definition: compiling.Definition, capability: tuple[int, int]) -> None:
    ptx = compiling.ptx(definition, capability)
    assert ".local" not in ptx
    assert "fma." not in ptx


@pytest.mark.by_turns("kernel", "dtype")
@every_capability
@every_dtype
@pytest.mark.parametrize("kernel", ["squares", "norm_factors", "shrink", "directions", "approach", "rates"])
def test_kernels_over_axes(kernel: str, dtype: str, capability: tuple[int, int]) -> None:
    """Nothing fused or spilled, where an element lies is found in registers, and sums are in double precision."""
    dtypes = row("adam", dtype, dtype, ALL)._replace(slots=(dtype,))
    definition = {
        "squares": lambda: sum_kernels.squares_kernel("param", NONE, row("adam", dtype, dtype, NONE)),
        "norm_factors": lambda: sum_kernels.norm_factors,
        "shrink": lambda: sum_kernels.shrink_kernel(dtype),
        "directions": lambda: sum_kernels.directions_kernel(ALL, dtypes),
        "approach": lambda: sum_kernels.means_kernel(dtype),
        "rates": lambda: kernels.rates,
    }[kernel]()
    ptx = compiling.ptx(definition, capability)
    assert ".local" not in ptx
    assert "call" not in ptx
    assert "fma." not in ptx
    assert not re.search(r"\.approx|\.ftz|\.full", ptx)
    operations = {
        "squares": ["mul.rn.f64", "add.f64"],
        "norm_factors": ["add.f64", "sqrt.rn.f64", "div.rn.f64"],
        "shrink": [f"mul.rn.f{dtype[-2:]}"],
        "directions": [f"sqrt.rn.f{dtype[-2:]}", f"div.rn.f{dtype[-2:]}"],
        "approach": ["add.f64", "mul.rn.f64"],
        "rates": ["sqrt.rn.f64", "div.rn.f64"],
    }
    for operation in operations[kernel]:
        assert operation in ptx or operation.replace(".f64", ".rn.f64") in ptx
    registers = linked_registers(ptx, capability)
    assert registers is None or registers <= 80


@pytest.mark.by_turns("name", "dtype")
@every_capability
@every_dtype
@pytest.mark.parametrize(
    ("name", "scaled"),
    [("momentum", ["grad_weight"]), ("nesterov", ["grad_weight", "lookahead_grad_weight"]), ("descend", ["step_size"])],
)
def test_rates_of_arrays(name: str, scaled: list[str], dtype: str, capability: tuple[int, int]) -> None:
    options = KernelOptions(rates=tuple(scaled))
    dtypes = ArrayLayout(dtype, dtype, (dtype,) * (3 if name == "descend" else 1))
    check(compiled(name, dtypes, options, capability), dtype, loads=2, stores=1)


def own_kernel(key: str, function: Any) -> compiling.Definition:
    """Return the kernel of a function of a parameter and a gradient."""
    dtypes = ArrayLayout("float32", "float32", ())
    elements.register(key, lambda factors, scalars, h, place, p, g: (function(h, p, g), None), dtypes)
    types = [compiling.tuple_type("float32", kind) for kind in (StageScalars, rules.SGDScalars)]
    return kernels.vector_kernel(key, False, dtypes, (compiling.WORK, *types))


def test_the_operations_of_rules_to_come() -> None:
    """What no rule uses yet, in one of the test's own."""

    def rule(h: Any, p: Any, g: Any) -> Any:
        smaller = np.where(p > g, g, np.where(p < g, p, h.lr))
        return abs(p) - 0.1 * np.sign(-g) * np.minimum(smaller, h.lr)

    ptx = compiling.ptx(own_kernel("test", rule), (9, 0))
    check(ptx, "float32", 2, 1)
    assert "abs.f32" in ptx
    assert "neg.f32" in ptx or "sub" in ptx


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.arctan, "arctan is not among the operations of CUDA kernels"),
        (lambda p: p * np.float64(0.5), "expected numbers from the scalars of the rule"),
        (lambda p: max(p, -p), "asks one for its truth"),
        (lambda p: p / float(p), "asks for one number"),
    ],
)
def test_what_a_rule_may_not_do_is_an_error(change: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        compiling.ptx(own_kernel(message, lambda h, p, g: change(p)), (9, 0))


def test_kernels_have_the_same_name_in_the_cache_of_every_process() -> None:
    """The cache on disk tells kernels apart by their closures: these must not change from one process to the next."""
    code = (
        f"import sys; sys.path[:0] = {[str(TESTS), str(TESTS / 'backends/cuda')]}; import hashlib, test_ptx as t\n"
        "from numba.cuda.serialize import dumps\n"
        "dtypes, adam = t.row('adam', 'float32', 'float32', t.NONE), t.RULES['adam']\n"
        "made = t.kernels.element_kernel(t.elements.step_of, adam[0], t.NONE, dtypes, adam[1]).function\n"
        "cells = tuple(cell.cell_contents for cell in made.__closure__)\n"
        "print(cells, made.__qualname__, hashlib.sha256(dumps(cells)).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1
    assert "rules.adam" in told.pop()


def test_every_kernel_has_a_file_of_its_own_in_the_cache() -> None:
    """Of one file nothing can be read any more once a class is gone that any kernel in it got."""
    names = set()
    for options in (NONE, ALL):
        dtypes = row("adam", "float32", "float32", options)
        rule, scalars = RULES["adam"]
        update = kernels.element_kernel(elements.step_of, rule, options, dtypes, scalars)
        products = sum_kernels.products_kernel("grad", "grad", options, dtypes)
        names |= {definition.function.__qualname__ for definition in (update, products)}
    assert len(names) == 4


#: Imports everything that makes a kernel, and prints the files of fastopt that were imported.
IMPORTED = """
import sys, types, pathlib
package = types.ModuleType("fastopt")
package.__path__ = [PATH]
sys.modules["fastopt"] = package
from fastopt.backends.cuda import intrinsics, kernels, simulator, sum_kernels
for name, module in sorted(sys.modules.items()):
    if name.startswith("fastopt.") and module.__file__:
        print(pathlib.Path(module.__file__).relative_to(PATH).as_posix())
"""


def test_kernels_are_named_by_all_files_that_make_them() -> None:
    """Numba's cache on disk looks at one file alone: kernels of an older version must have other names."""
    path = str(Path(compiling.__file__).parents[2])
    code = IMPORTED.replace("PATH", repr(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name for name in done.stdout.split() if not name.endswith("__init__.py")}
    assert {"backends/cuda/tracing.py", "arithmetic/rules.py"} <= imported
    assert imported == set(compiling.KERNEL_FILES)


def test_recorded_rules_of_one_name() -> None:
    """Each has a kernel of its own, which the next run finds again by what the rule computes."""

    def made(factor: float) -> Any:
        @fastopt.optimizer(lr=0.1)
        def Own(h: Any, p: Any, g: Any) -> Any:
            return (p - h.lr * g * factor,)

        return Own

    def key(factor: float) -> str:
        options = KernelOptions()
        return kernels.element_key(
            elements.step_of, made(factor).recorded_rule, options, ArrayLayout("float32", "float32", ())
        )

    assert key(1.0) == key(1.0)
    assert key(1.0) != key(2.0)
