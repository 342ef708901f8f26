"""What the CUDA kernels are compiled to, which needs no GPU: the assembly (PTX), and the registers it uses."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import CASES

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda (pip install fastopt[cuda])", allow_module_level=True)
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("Numba's simulator compiles nothing", allow_module_level=True)

from fastopt import rules
from fastopt.backends import cuda, numba_cuda
from fastopt.backends.cuda import Options

NONE = Options(*[False] * len(Options._fields))
ALL = Options(*[True] * len(Options._fields))
EACH = [NONE._replace(**{name: True}) for name in Options._fields]


def rules_and_scalars() -> dict[str, tuple[Any, type]]:
    """Return every rule that a row of cases.py uses, with the tuple of its scalars."""
    found = {}
    for case in CASES:
        if not case.optimizer.runs_on_gpu:
            continue
        opt = case.build(np.zeros(1))
        rule = opt.rule(opt.param_groups[0])
        found[rule.__name__] = rule, type(opt.hyper(opt._values(0), 1))
    return found


RULES = rules_and_scalars()
every_rule = pytest.mark.parametrize("name", RULES)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_capability = pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["8.0", "9.0"])


def compiled(name: str, dtype: str, grad_dtype: str, options: Options, capability: tuple[int, int]) -> str:
    rule, scalars = RULES[name]
    kernel = numba_cuda.update_kernel(cuda.update_key(rule, dtype, grad_dtype, options))
    return numba_cuda.ptx(kernel, numba_cuda.update_signature(dtype, cuda.Stages, scalars), dtype, capability)


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


@every_capability
@every_dtype
@pytest.mark.parametrize("options", [NONE, ALL], ids=["plain", "all"])
@every_rule
def test_every_rule(name: str, options: Options, dtype: str, capability: tuple[int, int], record_property: Any) -> None:
    ptx = compiled(name, dtype, dtype, options, capability)
    slots = len(rules.slots(RULES[name][0]))
    check(ptx, dtype, loads=1 + slots, stores=1 + slots)
    registers = linked_registers(ptx, capability)
    record_property("registers", registers)
    print(f"{name} {dtype} {capability}: {registers} registers")
    # A fourth slot has to be held somewhere.
    assert registers is None or registers <= {"float32": 64, "float64": 80}[dtype] + 8 * max(0, slots - 3)


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


@every_capability
@pytest.mark.parametrize("options", EACH, ids=lambda options: "-".join(k for k, v in options._asdict().items() if v))
def test_each_option_is_compiled_in_or_out(options: Options, capability: tuple[int, int]) -> None:
    plain, ptx = (compiled("adam", "float32", "float32", each, capability) for each in (NONE, options))
    check(ptx, "float32", loads=4, stores=3)
    operations = re.compile(r"\b(?:mul\.rn|add|setp\.\w+)\.f32")
    assert len(operations.findall(ptx)) > len(operations.findall(plain))


@every_capability
@pytest.mark.parametrize("grad_dtype", ["float16", "bfloat16", "float64"])
def test_gradients_of_other_dtypes(grad_dtype: str, capability: tuple[int, int]) -> None:
    ptx = compiled("adam", "float32", grad_dtype, ALL, capability)
    assert ".local" not in ptx
    assert "fma." not in ptx
    assert (".f64" in ptx) == (grad_dtype == "float64")
    assert ptx.count("ld.global.v4.f32") == 3
    wide = {"float64": r"ld\.global\.v2\.f64"}.get(grad_dtype, r"ld\.global\.(v4\.[ub]16|v2\.[ub]32|[ub]64)")
    assert re.search(wide, ptx)


@every_capability
@every_dtype
@pytest.mark.parametrize("options", [NONE, ALL], ids=["plain", "all"])
def test_norm_kernels(options: Options, dtype: str, capability: tuple[int, int]) -> None:
    """Squares are added in double precision, and never fused: for float64 that would change bits."""
    kernel = numba_cuda.squares_kernel(cuda.squares_key(2, dtype, dtype, options))
    ptx = numba_cuda.ptx(kernel, numba_cuda.squares_signature(dtype, cuda.Stages), dtype, capability)
    assert "mul.rn.f64" in ptx
    for text in (ptx, *(numba_cuda.ptx(k, s, "float64", capability) for k, s in numba_cuda.plain_signatures().items())):
        assert ".local" not in text
        assert "fma." not in text


def test_the_operations_of_rules_to_come() -> None:
    """What no rule uses yet, in one of the test's own."""

    def rule(h: Any, p: Any, g: Any) -> Any:
        smaller = np.where(p > g, g, np.where(p < g, p, h.lr))
        return (abs(p) - np.sign(-g) * np.minimum(smaller, h.lr),)

    traced = numba_cuda.Traced(lambda factors, stages, h, p, g: rule(h, p, g), ("float32", "float32"), (0,))
    numba_cuda.TRACED["test"] = traced
    signature = numba_cuda.update_signature("float32", cuda.Stages, rules.SGDScalars)
    ptx = numba_cuda.ptx(numba_cuda.update_kernel("test"), signature, "float32", (9, 0))
    check(ptx, "float32", 2, 1)
    assert "abs.f32" in ptx
    assert "neg.f32" in ptx or "sub" in ptx


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.arctan, "arctan is not among the operations of CUDA kernels"),
        (lambda p: p * 0.5, "numbers must come from the scalars of the rule"),
    ],
)
def test_what_a_rule_may_not_do_is_an_error(change: Any, message: str) -> None:
    traced = numba_cuda.Traced(lambda factors, stages, h, p, g: (change(p),), ("float32", "float32"), (0,))
    numba_cuda.TRACED[message] = traced
    signature = numba_cuda.update_signature("float32", cuda.Stages, rules.SGDScalars)
    with pytest.raises(Exception, match=message):
        numba_cuda.ptx(numba_cuda.update_kernel(message), signature, "float32", (9, 0))


def test_kernels_have_the_same_name_in_the_cache_of_every_process() -> None:
    """The cache on disk tells kernels apart by their closures: these must not change from one process to the next."""
    code = (
        "import sys; sys.path[:0] = ['tests']; import hashlib, test_cuda_ptx as t\n"
        "from numba.cuda.serialize import dumps\n"
        "key = t.cuda.update_key(t.rules.adam, 'float32', 'float32', t.NONE)\n"
        "cells = tuple(cell.cell_contents for cell in t.numba_cuda.update_kernel(key).__closure__)\n"
        "print(key, hashlib.sha256(dumps(cells)).hexdigest())"
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
