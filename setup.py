"""Build of the native part, and the names that thinc finds; everything else is in pyproject.toml.

``FASTOPT_REQUIRE_NATIVE=1`` makes a failed build an error (for CI), ``FASTOPT_SKIP_NATIVE=1`` leaves the native part
out. Without either, a failed build leaves its reason beside the package, where ``fastopt.info()`` reads it.

``FASTOPT_CFLAGS`` can replace ``-O3 -g0``, for a debugger or a sanitizer (``nox -s sanitizers``). What keeps the bits
comes after it. ``CFLAGS`` comes before both: a distribution's ``-O2`` would make a step slower.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

GCC_FLAGS = [
    *("-O3", "-g0", *shlex.split(os.environ.get("FASTOPT_CFLAGS", ""))),
    *("-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-pthread"),
]
#: For a compiler that computes float in a wider type: GCC on s390x, and for the x87 unit of 32-bit x86.
NARROW_FLAGS = [["-fexcess-precision=fast"], ["-msse2", "-mfpmath=sse"]]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]
REASON = "native_missing.txt"

free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def refusal(command: "list[str]") -> "str | None":
    """Return the first error of compiling csrc/compiler.h, which refuses what changes bits; None if there is none."""
    check = [*command, "-fsyntax-only", "-x", "c", "csrc/compiler.h"]
    in_english = {**os.environ, "LC_ALL": "C"}
    errors = subprocess.run(check, capture_output=True, text=True, env=in_english, check=False).stderr
    found = re.search(r'error: (?:#error )?"?(.*?)"?$', errors, re.M)
    return found[1] if found else None


def gcc_flags(compiler: "list[str]") -> "list[str]":
    """Return the flags that keep the bits with this compiler.

    Raises
    ------
    RuntimeError
        If there are none.
    """
    flags = next((more for more in [[], *NARROW_FLAGS] if refusal([*compiler, *GCC_FLAGS, *more]) is None), None)
    if flags is None:
        raise RuntimeError(refusal([*compiler, *GCC_FLAGS]))
    return [*GCC_FLAGS, *flags]


class BuildPython(build_py):
    """Copy the package into an empty folder, so that no module is shipped that was deleted since the last build."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "fastopt", ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Build ``fastopt._native`` with the flags that keep the bits."""

    def run(self) -> None:
        for extension in self.extensions:
            # A library of an earlier build must not be shipped if this build fails.
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        target = Path(self.get_ext_fullpath("fastopt._native")).parent  # now: a failed build in place forgets its place
        reason = self.try_build()
        for package in {Path(self.build_lib) / "fastopt", Path("fastopt")}:
            (package / REASON).unlink(missing_ok=True)
        if reason is not None:
            target.mkdir(parents=True, exist_ok=True)
            (target / REASON).write_text(reason + "\n")

    def try_build(self) -> "str | None":
        if os.environ.get("FASTOPT_SKIP_NATIVE") == "1":
            self.extensions = []
            return "left out by FASTOPT_SKIP_NATIVE=1 when fastopt was installed"
        try:
            super().run()
        except Exception as error:
            if os.environ.get("FASTOPT_REQUIRE_NATIVE") == "1":
                raise
            self.extensions = []
            return f"building it failed when fastopt was installed: {error}"
        return None

    def build_extension(self, extension) -> None:
        if self.compiler.compiler_type == "msvc":
            extension.extra_compile_args += MSVC_FLAGS
        else:
            extension.extra_compile_args += gcc_flags(self.compiler.compiler_so)
            extension.extra_link_args += ["-pthread", "-lm"]
        super().build_extension(extension)


def thinc_optimizers() -> "list[str]":
    """Return the entry points by which thinc finds the optimizers. (They are read: to import them takes NumPy.)"""
    source = Path("fastopt/optimizers/__init__.py").read_text(encoding="utf-8")
    names = re.search(r"^__all__ = (\[.*?\])", source, re.M | re.S)[1]
    return [f"fastopt.{name}.v1 = fastopt.thinc:{name}" for name in ast.literal_eval(names)]


setup(
    cffi_modules=["csrc/tools/ffi_build.py:ffibuilder"],
    entry_points={"thinc_optimizers": thinc_optimizers()},
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
    # Free-threaded builds have no stable ABI; bdist_wheel refuses the tag there.
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
