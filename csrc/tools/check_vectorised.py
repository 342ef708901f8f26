"""Fail unless the compiler vectorised the loop of every rule, and of every stage, for every instruction set and dtype.

Run it with GCC in the PATH: ``python csrc/tools/check_vectorised.py``. It reads GCC's own report.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

CSRC = Path(__file__).parents[1]
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-fPIC"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
WIDTHS = {"isa_baseline.c": 16}
if platform.machine() in ("x86_64", "AMD64"):
    WIDTHS |= {"isa_avx2.c": 32, "isa_avx512.c": 64}
DTYPES = 2


def report(source: str) -> str:
    """Return GCC's report of the loops that it vectorised."""
    command = ["gcc", *FLAGS, *WARNINGS, "-fopt-info-vec-optimized", "-c", source, "-o", "/dev/null"]
    done = subprocess.run(command, cwd=CSRC, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stderr


def simd_loops() -> dict[str, str]:
    """Return the loops that must be vectorised: the place (file:line), and the text there."""
    loops = {}
    for number, line in enumerate((CSRC / "rules.h").read_text().splitlines(), 1):
        if match := re.match(r"LOOP\d\((\w+)\)", line):
            loops[f"rules.h:{number}"] = match[1]
    headers = ("pipeline_template.h", "storage.h", "axis_sums_template.h", "bfgs_template.h", "coordinates_template.h")
    for header in (*headers, "history_bounds_template.h", "history_template.h"):
        lines = (CSRC / header).read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip().startswith("FO_SIMD"):
                # GCC names the line of the loop's first statement.
                loops[f"{header}:{number + 2}"] = lines[number + 1].strip()
    return loops


def main() -> int:
    """Print a line for each loop and instruction set; return 1 if one is not vectorised at full width."""
    failed = False
    loops = simd_loops()
    for source, width in WIDTHS.items():
        found = Counter(
            match[1]
            for match in re.finditer(r"^(\w+\.h:\d+):.* loop vectorized using (\d+) byte", report(source), re.M)
            if int(match[2]) >= width
        )
        for place, name in loops.items():
            is_rule = place.startswith("rules.h")
            is_fine = found[place] >= (DTYPES if is_rule else 1)
            failed |= not is_fine
            print(f"{source:<16} {place:<16} {name:<60} {'vectorised' if is_fine else 'NOT VECTORISED'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
