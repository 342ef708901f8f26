"""Fail if the main loop of a rule, or of a pass over L-BFGS's history, has grown by 5 % in instructions per element.

``python csrc/tools/check_instructions.py`` compares the assembly of this GCC with instructions.txt, the record that
``python csrc/tools/check_instructions.py --write`` makes. Make it again when a rule changes, and say so in the commit.
Counts of another version of GCC or another machine can't be compared; then it says so and passes.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

from check_vectorised import CSRC, FLAGS, WIDTHS

RECORD = Path(__file__).with_name("instructions.txt")
SIZES = {"float32": 4, "float64": 8}
REGISTERS = {16: "xmm", 32: "ymm", 64: "zmm"}
CACHE_LINE = 64
MOST_GROWTH = 1.05


def assembly(source: str) -> str:
    """Return the assembly that GCC makes of a file."""
    command = ["gcc", *FLAGS, "-S", source, "-o", "-"]
    return subprocess.run(command, cwd=CSRC, capture_output=True, text=True, check=True).stdout


def functions(text: str) -> dict[str, list[str]]:
    """Return the lines of the loop function of each rule and dtype."""
    found: dict[str, list[str]] = {}
    for match in re.finditer(r"^(\w+)_loop_(float\d\d):\n(.*?)^\t\.size", text, re.M | re.S):
        found[f"{match[1]} {match[2]}"] = match[3].splitlines()
    return found


def loops(lines: list[str]) -> list[list[str]]:
    """Return the instructions of each loop."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.L\w+:$", line)}
    found = []
    for i, line in enumerate(lines):
        jump = re.match(r"\tj\w+\t(\.L\w+)", line)
        if jump and labels.get(jump[1], i) < i:
            found.append([each for each in lines[labels[jump[1]] : i + 1] if re.match(r"\t[a-z]", each)])
    return found


def main_loop(lines: list[str], register: str) -> list[str]:
    """Return the instructions of the innermost loop with the most vector instructions of full width."""
    return max(loops(lines), key=lambda body: (sum(register in each for each in body) / len(body), len(body)))


def counts_of_history(source: str, text: str) -> dict[str, float]:
    """Return the instructions per element of a vector in the loops that multiply or add up vectors of the history.

    Their innermost loops ask for each cache line of the next vectors. Running sums that don't stay in registers show.
    """
    found = {}
    for match in re.finditer(r"^(dots|history_direct)_(float\d\d):\n(.*?)^\t\.size", text, re.M | re.S):
        per_line = [
            len(body) / asked
            for body in loops(match[3].splitlines())
            if (asked := sum("\tprefetch" in each for each in body))
        ]
        found[f"{Path(source).stem} {match[1]} {match[2]}"] = round(min(per_line) * SIZES[match[2]] / CACHE_LINE, 4)
    return found


def counts() -> dict[str, float]:
    """Return the instructions per element, by instruction set, rule and dtype."""
    found = {}
    for source, width in WIDTHS.items():
        register = REGISTERS[width] if platform.machine() in ("x86_64", "AMD64") else "v"
        text = assembly(source)
        for name, lines in functions(text).items():
            body = main_loop(lines, register)
            stores = sum(bool(re.match(rf"\tv?mov[au]p[sd]\t%{register}\d+, .*\(", each)) for each in body)
            assert stores > 0, f"{source} {name}: no vector store in its main loop"
            elements = width // SIZES[name.split()[1]]
            found[f"{Path(source).stem} {name}"] = round(len(body) / elements, 4)
        if platform.machine() in ("x86_64", "AMD64"):
            found |= counts_of_history(source, text)
    return found


def main(argv: list[str]) -> int:
    """Compare or write; return 1 if a loop has grown or is not in the record."""
    version = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    heading = f"gcc {version} {platform.machine()}"
    now = counts()
    if argv == ["--write"]:
        RECORD.write_text("\n".join([heading, *(f"{name} {count}" for name, count in now.items())]) + "\n")
        return 0
    recorded_heading, *rows = RECORD.read_text().splitlines()
    if recorded_heading != heading:
        print(f"not compared: {RECORD.name} was made by {recorded_heading}, this is {heading}")
        return 0
    recorded = {name: float(count) for name, count in (row.rsplit(" ", 1) for row in rows)}
    faults = [f"{name}: not in {RECORD.name}; run this with --write" for name in now if name not in recorded]
    faults += [
        f"{name}: {recorded[name]} -> {count} instructions per element"
        for name, count in now.items()
        if name in recorded and count > MOST_GROWTH * recorded[name]
    ]
    print("\n".join(faults) or f"{len(now)} loops, none has grown")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
