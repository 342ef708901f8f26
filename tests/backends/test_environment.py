"""The environment variables, ``python -m fastopt``, and a native part that is not there: each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ISAS, needs_native

import fastopt
from fastopt.backends import cores, threads
from fastopt.backends.choosing import host_backend
from fastopt.backends.cuda import found as cuda_found
from fastopt.backends.native import library as native

OURS = ("FASTOPT_BACKEND", "FASTOPT_ISA", "FASTOPT_NUM_THREADS", "FASTOPT_PLAN", "OMP_NUM_THREADS", "PYTHON_CPU_COUNT")
#: Where the package that is tested here is imported from: the checkout, or where the wheel was installed.
HOME = Path(fastopt.__file__).parents[1]

WITHOUT_NATIVE = "import sys; sys.modules['fastopt._native'] = None\n"


def python(*arguments: str, first: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these variables alone of ours, and with the module path ``first`` before all others."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    path = os.pathsep.join(str(folder) for folder in (first, HOME) if folder is not None)
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    """Return a module path with which the native part can't be imported."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_NATIVE)
    return tmp_path


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def info(**environment: Any) -> Any:
    return told(python("-c", "import json, fastopt; print(json.dumps(fastopt.info()))", **environment))


def test_info_here() -> None:
    found = fastopt.info()
    native_parts = {"native_missing", "isas_found", "isa", "rules_missing"}
    assert set(found) == {"backend", "threads", "cuda", "versions"} | native_parts
    assert found["backend"] in ("native", "numpy")
    assert found["versions"] == {
        "fastopt": fastopt.__version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
    }
    assert found["threads"] == min(fastopt.get_num_threads(), host_backend(found["backend"]).most_threads())
    assert found["isas_found"] == ISAS
    assert (found["isa"] in ISAS) == (native.missing is None)


def test_the_native_kernels_run_here() -> None:
    """README's commands must not fall back unnoticed: only who left the native part out has none."""
    asked = os.environ.get("FASTOPT_BACKEND")
    if native.missing is not None and "FASTOPT_SKIP_NATIVE" in native.missing:
        pytest.skip(f"native part: {native.missing}")
    assert native.missing is None
    assert fastopt.Adam(np.zeros(1)).backend == (asked or "native")
    done = python("-m", "fastopt")
    assert done.stdout.startswith("backend           native (compiled kernels)\n")


@needs_native
def test_backend_is_chosen() -> None:
    assert info()["backend"] == info(FASTOPT_BACKEND="")["backend"] == "native"
    assert info(FASTOPT_BACKEND="native")["backend"] == "native"
    assert info(FASTOPT_BACKEND="numpy")["backend"] == "numpy"
    done = python("-m", "fastopt", FASTOPT_BACKEND="numpy")
    assert done.stdout.startswith("backend           numpy (asked for by FASTOPT_BACKEND)\n")
    code = "import numpy, fastopt; print(fastopt.SGD(numpy.zeros(1), backend='native').backend)"
    assert python("-c", code, FASTOPT_BACKEND="numpy").stdout == "native\n"


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_isa_is_chosen(isa: str) -> None:
    assert info(FASTOPT_ISA=isa)["isa"] == isa
    assert info(FASTOPT_ISA="")["isa"] == ISAS[-1]


@needs_native
def test_threads_are_chosen() -> None:
    assert info(FASTOPT_NUM_THREADS="3")["threads"] == 3
    assert info(OMP_NUM_THREADS="1")["threads"] == 1
    assert info(OMP_NUM_THREADS="7,2")["threads"] == 7
    assert info(OMP_NUM_THREADS="2", FASTOPT_NUM_THREADS="5")["threads"] == 5
    assert info(OMP_NUM_THREADS="")["threads"] == info()["threads"] == cores.usable()


def threads_of(first: str, **environment: str) -> str:
    """Return the default number of threads after the statement ``first``."""
    code = f"{first}; import os, fastopt; print(fastopt.get_num_threads())"
    done = python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


needs_cores = pytest.mark.skipif(cores.usable() < 2, reason="needs two cores")


@needs_cores
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_affinity_limits_threads() -> None:
    assert threads_of("import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])") == "1"


@needs_cores
@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python has it from 3.13 on")
def test_python_cpu_count_limits_threads() -> None:
    assert threads_of("pass", PYTHON_CPU_COUNT="1") == "1"


def test_import_asks_for_no_number_of_threads() -> None:
    """The first step does. Until then a worker that was forked may have a number of its own."""
    assert threads_of("import os, fastopt; os.environ['OMP_NUM_THREADS'] = '7'") == "7"


IN_A_WORKER = """
import os
import fastopt

def test_threads():
    assert "PYTEST_XDIST_WORKER" in os.environ
    assert fastopt.get_num_threads() == 1
"""


def test_threads_of_a_worker_of_xdist(tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    (tmp_path / "test_it.py").write_text(IN_A_WORKER)
    command = ["-m", "pytest", "-n1", "-pno:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path / "test_it.py")]
    done = python(*command, OMP_NUM_THREADS="1")
    assert " 1 passed" in done.stdout, done.stdout + done.stderr


def test_threads_of_workers_of_joblib() -> None:
    """joblib gives each of two workers half of the cores, by ``OMP_NUM_THREADS`` of a new interpreter."""
    joblib = pytest.importorskip("joblib", reason="needs joblib")
    code = "import fastopt, joblib; fastopt.set_num_threads(99); "
    code += "print({*joblib.Parallel(2)(joblib.delayed(fastopt.get_num_threads)() for _ in range(4))})"
    done = python("-c", code)
    assert done.stdout == f"{{{max(joblib.cpu_count() // 2, 1)}}}\n", done.stderr


PLANNED = """
import hashlib, numpy, fastopt
params = {"W": numpy.ones((3, 2)), "b": numpy.ones(2)}
opt = fastopt.Adam(params, lr=lambda step: 0.1 / (1 + step), clip_global_norm=0.5)
for step in range(9):
    opt.step({"W": numpy.full((3, 2), 1.0 + step), "b": numpy.ones(2)})
print(opt.planned_steps, hashlib.sha256(params["W"].tobytes() + opt.state["b"]["v"].tobytes()).hexdigest())
"""


@needs_native
@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="needs Python's lock")
def test_plans_are_chosen() -> None:
    """The steps are the same either way."""
    planned, whole = python("-c", PLANNED, FASTOPT_PLAN="1"), python("-c", PLANNED, FASTOPT_PLAN="0")
    assert planned.stdout.split()[0] == "7", planned.stderr
    assert whole.stdout.split()[0] == "0", whole.stderr
    assert planned.stdout.split()[1] == whole.stdout.split()[1]
    assert python("-c", PLANNED, FASTOPT_PLAN="").stdout == planned.stdout
    assert python("-c", PLANNED, FASTOPT_PLAN="1", FASTOPT_BACKEND="numpy").stdout == whole.stdout


STEP = "import numpy, fastopt; fastopt.Adam(numpy.zeros(1)).step(numpy.ones(1))"
THREADS = "expected a whole number of threads, 1 or more"
needs_no_cuda = pytest.mark.skipif(cuda_found.missing() is None, reason="CUDA is here")
WRONG = [
    ("FASTOPT_BACKEND", "torch", "ValueError", "expected one of native, numpy, cuda"),
    ("FASTOPT_BACKEND", "NATIVE", "ValueError", "expected one of native, numpy, cuda"),
    pytest.param("FASTOPT_BACKEND", "cuda", "RuntimeError", "; leave it unset", marks=needs_no_cuda),
    pytest.param("FASTOPT_ISA", "sse9", "ValueError", "expected one of " + ", ".join(ISAS), marks=needs_native),
    *(
        pytest.param("FASTOPT_PLAN", value, "ValueError", "expected 0 or 1", marks=needs_native)
        for value in ("2", "no", "True")
    ),
    *(("FASTOPT_NUM_THREADS", value, "ValueError", THREADS) for value in ("0", "-1", "two", "1.5")),
]


@pytest.mark.parametrize(("variable", "value", "error", "message"), WRONG)
def test_wrong_values(variable: str, value: str, error: str, message: str) -> None:
    """An error that lists the choices; from ``python -m fastopt`` without a stack trace."""
    done = python("-m", "fastopt", **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastopt: {variable}={value}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    if variable == "FASTOPT_BACKEND" or native.missing is None:
        done = python("-c", STEP, **{variable: value})
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"{error}: {variable}={value}: ")


def test_without_the_native_part(absent: Path) -> None:
    reason = "the native part is missing: fastopt._native can't be imported ("
    done = python("-m", "fastopt", first=absent)
    assert (done.returncode, done.stderr) == (0, "")
    # An install that left it out has a reason of its own.
    assert done.stdout.startswith(f"backend           numpy ({reason if native.missing is None else 'the native'}")
    found = info(first=absent)
    assert found["backend"] == "numpy"
    assert found["native_missing"]
    assert (found["isas_found"], found["isa"]) == ([], None)
    assert found["threads"] == min(threads.default(), host_backend("numpy").most_threads())
    assert python("-c", STEP, first=absent).returncode == 0
    assert python("-m", "fastopt", first=absent, FASTOPT_BACKEND="numpy", FASTOPT_ISA="avx2").returncode == 0


@needs_native
def test_without_llvmlite(tmp_path: Path) -> None:
    """Rules of one's own run on NumPy then, and it says how to have them compiled."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['llvmlite'] = None\n")
    reason = "llvmlite, which compiles rules, is not installed (pip install 'fastopt[rules]')"
    assert info(first=tmp_path)["rules_missing"] == reason
    done = python("-m", "fastopt", first=tmp_path)
    assert f"own rules         run on NumPy: {reason}\n" in done.stdout


def test_asking_for_the_native_part_where_it_is_missing(absent: Path) -> None:
    reason = native.missing or "fastopt._native can't be imported ("
    done = python("-m", "fastopt", first=absent, FASTOPT_BACKEND="native")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastopt: FASTOPT_BACKEND=native: {reason}")
    assert done.stderr.endswith("; leave it unset to use what is there\n")
    done = python("-c", STEP.replace("zeros(1)", "zeros(1), backend='native'"), first=absent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"RuntimeError: backend=native: {reason}")


#: A native part whose kernels for one instruction set have other bits.
INEXACT = """
import importlib.util, sys, types
spec = importlib.util.spec_from_file_location("fastopt._native", {path!r})
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
class Library:
    def fo_isa_keeps_bits(self, isa):
        return isa != native.lib.fo_isa_in_use()
    def __getattr__(self, name):
        return getattr(native.lib, name)
sys.modules["fastopt._native"] = types.SimpleNamespace(ffi=native.ffi, lib=Library())
"""


@needs_native
def test_a_native_part_with_other_bits_is_refused(tmp_path: Path) -> None:
    """The fallback runs and says why; asking for the native part is an error."""
    path = sys.modules["fastopt._native"].__file__
    (tmp_path / "sitecustomize.py").write_text(INEXACT.format(path=path))
    reason = "the kernels of baseline have other bits than the rules: "
    found = info(first=tmp_path)
    assert (found["backend"], found["isas_found"], found["isa"]) == ("numpy", [], None)
    assert found["native_missing"].startswith(reason)
    assert found["native_missing"].endswith("install fastopt again without such flags in CFLAGS and FASTOPT_CFLAGS")
    done = python("-m", "fastopt", first=tmp_path, FASTOPT_BACKEND="native")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastopt: FASTOPT_BACKEND=native: {reason}")
    assert python("-c", STEP, first=tmp_path).returncode == 0


@needs_native
def test_a_python_without_the_global_lock_gets_no_native_part(tmp_path: Path) -> None:
    site = tmp_path / "sitecustomize.py"
    site.write_text("import sys; sys._is_gil_enabled = lambda: False\n")
    done = python("-c", f"{STEP}; import sys; print('fastopt._native' in sys.modules)", first=tmp_path)
    assert done.stdout == "False\n", done.stderr
    assert "PYTHON_GIL=1 sets the lock" in info(first=tmp_path)["native_missing"]
    done = python("-c", STEP, first=tmp_path, FASTOPT_BACKEND="native")
    assert "RuntimeError: FASTOPT_BACKEND=native: refused without the global lock (GIL) of Python" in done.stderr
    site.write_text("import sys; sys._is_gil_enabled = lambda: True\n")
    assert info(first=tmp_path)["native_missing"] is None


def test_commands() -> None:
    done = python("-m", "fastopt", "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("info", "demo"))
    assert python("-m", "fastopt", "info").stdout == python("-m", "fastopt").stdout
    done = python("-m", "fastopt", "train")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fastopt: there is no command 'train'\n")


def test_importing_and_stepping_takes_numpy_and_cffi_alone() -> None:
    optional = "numba ml_dtypes safetensors matplotlib sklearn tqdm torch jax scipy threadpoolctl typing_extensions"
    code = f"{STEP}; import sys; print([name for name in {optional.split()} if name in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


@pytest.mark.parametrize("bad", [0, -1, 2.0, "two", None, True, [2]])
def test_bad_thread_counts(bad: Any) -> None:
    before = fastopt.get_num_threads()
    with pytest.raises(ValueError, match="set_num_threads: .*: " + THREADS):
        fastopt.set_num_threads(bad)
    assert fastopt.get_num_threads() == before


def test_thread_counts() -> None:
    before = threads.setting
    try:
        for count in (1, 7, np.int64(3)):
            fastopt.set_num_threads(count)
            assert fastopt.get_num_threads() == count
    finally:
        threads.setting = before
