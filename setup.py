"""Build of the native part; everything else is in pyproject.toml.

``FASTOPT_REQUIRE_NATIVE=1`` makes a failed build an error (for CI), ``FASTOPT_SKIP_NATIVE=1`` leaves the native part
out. Without either, a failed build leaves its reason beside the package, where ``fastopt.info()`` reads it.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

GCC_FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fopenmp-simd", "-pthread", "-g0"]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]
REASON = "native_missing.txt"

free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


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
        reason = self.try_build()
        for package in {Path(self.build_lib) / "fastopt", Path("fastopt")}:
            (package / REASON).unlink(missing_ok=True)
        if reason is not None:
            package = Path(self.get_ext_fullpath("fastopt._native")).parent
            package.mkdir(parents=True, exist_ok=True)
            (package / REASON).write_text(reason + "\n")

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
            extension.extra_compile_args += GCC_FLAGS
            extension.extra_link_args += ["-pthread", "-lm"]
        super().build_extension(extension)


setup(
    cffi_modules=["csrc/tools/ffi_build.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
    # Free-threaded builds have no stable ABI; bdist_wheel refuses the tag there.
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
