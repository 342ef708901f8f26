"""Describe the native extension ``fastopt._native`` to cffi; setup.py and cffi run this file."""

from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parents[1]
SOURCES = ["cpu.c", "parallel.c", "step.c", "ndarray.c", "isa_baseline.c", "isa_avx2.c", "isa_avx512.c"]

# cffi reads C declarations, not preprocessor lines.
contract = "".join(
    line for line in (CSRC / "fastopt.h").read_text().splitlines(keepends=True) if not line.startswith("#")
)

ffibuilder = FFI()
ffibuilder.cdef(contract)
ffibuilder.set_source(
    "fastopt._native",
    '#include "fastopt.h"',
    sources=[f"csrc/{name}" for name in SOURCES],
    depends=[f"csrc/{path.name}" for path in CSRC.glob("*.h")],
    include_dirs=["csrc"],
)
