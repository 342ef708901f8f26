"""Fail unless the C code has the recorded bits with every compiler and on every machine.

``python csrc/tools/check_bits.py`` builds tests/backends/native/bits.c with GCC, with clang, and for 64-bit ARM, which
QEMU emulates, and compares what the programs print with bits.txt. All buffers are between guard pages.

Two controls must fail: a build that contracts products and sums must have other bits, and a step that goes one element
too far must crash.

``--all`` adds further machines. ``--write`` makes the record, by GCC; do so when a rule is added or the bits of one
change, and say so in the commit. ``--packages`` prints Debian's names of the packages that are missing here.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from check_vectorised import CSRC, FLAGS, WARNINGS

RECORD = Path(__file__).with_name("bits.txt")
DRIVER = CSRC.parent / "tests/backends/native/bits.c"
SOURCES = [DRIVER, *sorted(CSRC.glob("*.c"))]
COMMON = [*FLAGS, *WARNINGS, "-pthread", f"-I{CSRC}"]
ARM, EMULATOR = ("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64",)
#: Threads and the places of the buffers: neither changes a bit.
ENDS, BEGINS, APART = ("4", "end"), ("3", "begin"), ("2", "apart")


@dataclass(frozen=True)
class Build:
    """A program: how it is compiled, and what runs it."""

    name: str
    compiler: tuple[str, ...]
    emulator: tuple[str, ...] = ()
    places: tuple[tuple[str, str], ...] = (APART,)
    #: Flags of all files but the driver. Those of a control change bits.
    flags: tuple[str, ...] = ()
    is_control: bool = False
    #: Emulators are slow: the one rule that is run; none: all.
    rules: tuple[str, ...] = ()


CONTRACTED = ("-O2", "-ffp-contract=fast")
HERE = (*CONTRACTED, "-mfma") if platform.machine() in ("x86_64", "AMD64") else CONTRACTED
BUILDS = [
    Build("gcc", ("gcc",), places=(ENDS, BEGINS)),
    Build("clang", ("clang",)),
    Build("gcc for aarch64", ARM, EMULATOR),
    Build("gcc, contracted", ("gcc",), flags=HERE, is_control=True),
    Build("gcc for aarch64, contracted", ARM, EMULATOR, flags=CONTRACTED, is_control=True, rules=("adam",)),
]
FURTHER = [
    Build("gcc -O1", ("gcc",), flags=("-O1",)),
    Build("gcc -march=native", ("gcc", "-march=native")),
    Build("gcc with musl", ("musl-gcc", "-static")),
    Build("gcc for i686", ("i686-linux-gnu-gcc", "-static", "-msse2", "-mfpmath=sse", "-Wno-psabi")),
    Build("clang for aarch64", ("clang", "--target=aarch64-linux-gnu", "-static"), EMULATOR),
    Build("gcc for aarch64, half precision", (*ARM, "-march=armv8.2-a+fp16+bf16"), EMULATOR),
    Build("gcc for aarch64, SVE", (*ARM, "-march=armv8.2-a+sve"), EMULATOR),
    Build("gcc for armhf", ("arm-linux-gnueabihf-gcc", "-static"), ("qemu-arm",)),
    Build("gcc for riscv64", ("riscv64-linux-gnu-gcc", "-static"), ("qemu-riscv64",)),
    Build("gcc for ppc64le", ("powerpc64le-linux-gnu-gcc", "-static"), ("qemu-ppc64le",)),
    Build("gcc for s390x", ("s390x-linux-gnu-gcc", "-static", "-fexcess-precision=fast"), ("qemu-s390x",)),
]
#: Debian's packages of the programs that are not packages of their own names.
PACKAGES = {
    "aarch64-linux-gnu-gcc": ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    "arm-linux-gnueabihf-gcc": ["gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"],
    "i686-linux-gnu-gcc": ["gcc-i686-linux-gnu", "libc6-dev-i386-cross"],
    "musl-gcc": ["musl-tools"],
    "powerpc64le-linux-gnu-gcc": ["gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross"],
    "riscv64-linux-gnu-gcc": ["gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"],
    "s390x-linux-gnu-gcc": ["gcc-s390x-linux-gnu", "libc6-dev-s390x-cross"],
}


def missing_packages(builds: list[Build]) -> list[str]:
    """Return Debian's packages of the programs that these builds need and that are not here."""
    programs = {program for build in builds for program in (*build.compiler[:1], *build.emulator)}
    missing = sorted(program for program in programs if shutil.which(program) is None)
    names = [
        name
        for program in missing
        for name in PACKAGES.get(program, ["qemu-user" if program.startswith("qemu-") else program])
    ]
    return list(dict.fromkeys(names))


def program_of(build: Build, folder: Path) -> Path:
    return folder / build.name.replace(" ", "_")


def compile_source(build: Build, source: Path, folder: Path) -> None:
    flags = build.flags if source != DRIVER else ()
    into = f"{program_of(build, folder)}.{source.stem}.o"
    subprocess.run([*build.compiler, *COMMON, *flags, "-c", str(source), "-o", into], check=True)


def link(build: Build, folder: Path) -> None:
    program = program_of(build, folder)
    objects = [f"{program}.{source.stem}.o" for source in SOURCES]
    subprocess.run([*build.compiler, "-pthread", *objects, "-lm", "-o", str(program)], check=True)


def output(build: Build, folder: Path, *arguments: str) -> list[str]:
    """Return the lines that the program of a build prints."""
    command = [*build.emulator, str(program_of(build, folder)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()


def check(build: Build, isa: str, place: tuple[str, str], folder: Path) -> str | None:
    """Run a program and print how it compares; return what is wrong."""
    run = f"{build.name}, {isa}, {place[0]} threads, buffers {place[1]}"
    recorded = dict(line.rsplit(" ", 1) for line in RECORD.read_text().splitlines())
    try:
        found = dict(line.rsplit(" ", 1) for line in output(build, folder, isa, *place, *build.rules))
    except subprocess.SubprocessError as error:
        return f"{run}: {error}"
    expected = found if build.rules else {**recorded, **found}
    differing = [name for name in expected if found.get(name) != recorded.get(name)]
    print(f"{run}: {len(found) - len(differing)} of {len(found)} lines are those of {RECORD.name}", flush=True)
    if build.is_control:
        return None if {"keeps bits:", "adam"} <= set(differing) else f"{run}: contraction is not seen"
    if differing:
        return f"{run}: other bits of {', '.join(differing)}; if they shall change, make the record with --write"
    return None


def make(builds: list[Build], folder: Path, pool: ThreadPoolExecutor) -> None:
    """Make the program of each build."""
    pairs = [(build, source) for build in builds for source in SOURCES]
    list(pool.map(lambda pair: compile_source(*pair, folder), pairs))
    list(pool.map(lambda build: link(build, folder), builds))


def check_all(builds: list[Build], folder: Path, pool: ThreadPoolExecutor) -> list[str]:
    """Run every program with every instruction set and place; return what is wrong."""
    runs = [(build, isa, place) for build in builds for isa in output(build, folder) for place in build.places]
    runs.sort(key=lambda run: not run[0].emulator)  # the slow ones first
    faults = [fault for fault in pool.map(lambda run: check(*run, folder), runs) if fault is not None]
    try:
        print(*output(builds[0], folder, "baseline", "1", "overrun"))
    except subprocess.CalledProcessError as error:
        faults.append(error.output)
    return faults


def main(arguments: list[str]) -> int:
    """Compare or write; return 1 if bits differ, or if a control does not fail."""
    is_writing = "--write" in arguments
    builds = BUILDS[:1] if is_writing else [*BUILDS, *FURTHER] if "--all" in arguments else BUILDS
    packages = missing_packages(builds)
    if "--packages" in arguments:
        print(*packages)
        return 0
    if packages:
        print(f"compilers are missing; do: apt-get install --no-install-recommends {' '.join(packages)}")
        return 1
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        make(builds, folder, pool)
        if is_writing:
            RECORD.write_text("\n".join(output(builds[0], folder, "baseline", "1", "apart")) + "\n")
            return 0
        faults = check_all(builds, folder, pool)
    print("\n".join(faults) or f"the bits of {RECORD.name} everywhere")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
