"""Describe the native extension ``fastopt._native`` to cffi; setup.py and cffi run this file."""

from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parents[1]
SOURCES = ["cpu", "parallel", "step", "ndarray", "row_sums", "wire", "history", "subspace", "bfgs", "coordinates"]
SOURCES += ["probe"]
SOURCES += ["isa_baseline", "isa_avx2", "isa_avx512"]
SOURCES += [f"python/{name}" for name in ("walk", "options", "gradients", "rows", "tensors", "plan")]

# cffi reads C declarations, not preprocessor lines.
contract = "".join(
    line
    for name in ("fastopt.h", "history.h", "python/plan.h", "python/tensors.h")
    for line in (CSRC / name).read_text().splitlines(keepends=True)
    if not line.startswith("#")
)

ffibuilder = FFI()
ffibuilder.cdef(contract)
ffibuilder.set_source(
    "fastopt._native",
    '#include "history.h"\n#include "python/plan.h"\n#include "python/tensors.h"',
    sources=[f"csrc/{name}.c" for name in SOURCES],
    depends=[f"csrc/{path.relative_to(CSRC)}" for path in CSRC.glob("**/*.h")],
    include_dirs=["csrc"],
)
