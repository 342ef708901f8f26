"""Describe the native extension ``fastopt._native`` to cffi; setup.py and cffi run this file."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
SOURCES = ["cpu.c", "parallel.c", "step.c", "ndarray.c", "isa_baseline.c", "isa_avx2.c", "isa_avx512.c"]

# cffi reads C declarations, not preprocessor lines.
contract = "".join(
    line for line in (HERE / "fastopt.h").read_text().splitlines(keepends=True) if not line.startswith("#")
)

ffibuilder = FFI()
ffibuilder.cdef(contract)
ffibuilder.set_source(
    "fastopt._native",
    '#include "fastopt.h"',
    sources=[f"csrc/{name}" for name in SOURCES],
    depends=[f"csrc/{path.name}" for path in HERE.glob("*.h")],
    include_dirs=["csrc"],
)
