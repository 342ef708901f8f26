"""The stages of the gate (.ci/run). Each runs alone: ``nox -s lint``; ``nox -l`` lists them.

Sessions share environments, which are made in .nox once for each set of packages. Where sessions run the same tests
under different conditions, each leaves out what its condition cannot change.

The gate runs two sessions at a time, in the order in which they stand here: what one core does (installing, building,
mypy) fills the other one. They may share what is made, under the two locks below.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nox
from filelock import FileLock

nox.needs_version = ">=2026.10"
nox.options.allow_parallel = True

ROOT = Path(__file__).resolve().parent
ENVIRONMENTS = ROOT / ".nox"
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
UV = (sys.executable, "-m", "uv")
#: Held while an environment or the wheel is made: all builds write into the folder build/.
MAKING = FileLock(ENVIRONMENTS / "making.lock")
#: Held while the library in the source tree is built or README's command tests it.
IN_PLACE = FileLock(ENVIRONMENTS / "in_place.lock")
#: uv reads no settings of pip: a folder of wheels, such as those of torch for CPUs alone, is handed on.
BUILD = {"FASTOPT_REQUIRE_NATIVE": "1", "UV_FIND_LINKS": ",".join(os.environ.get("PIP_FIND_LINKS", "").split())}
RUNNER = ("pytest>=9", "pytest-xdist", "hypothesis")
SIMULATED = "tests/backends/cuda/simulator"
PTX = "tests/backends/cuda/test_ptx.py"
STAND_IN = "tests/backends/cuda/gpu_stand_in"

#: As in pyproject.toml, which is not beside the tests of a wheel.
TEST_LIMIT = ("-o", "faulthandler_timeout=600", "-o", "faulthandler_exit_on_timeout=true")
#: A process that has nothing left to do takes half of what another one has.
IN_PARALLEL = ("-q", "-n", "auto", "--dist", "worksteal", "--import-mode=importlib", *TEST_LIMIT)
DEFAULT = "not exhaustive and not long"
FULL = "not long"
LONG_RUNS = "exhaustive and not rest_of_grid"
#: The libraries that the tests with their names need.
PEERS = ("torch", "optax", "jax", "autograd", "thinc", "spacy")

#: Tests of what neither the backend nor the way of installing changes.
INDEPENDENT = [
    *("tests/commands", "tests/schedules", "tests/lr_scheduler", "tests/options", "tests/distributed"),
    *(f"tests/test_{name}.py" for name in ("init", "house", "convert")),
    *("tests/backends/cuda", "tests/backends/native", "tests/properties/test_interrupts.py"),
    "tests/optimizers/test_optax_beyond_torch.py",
    *(f"tests/checkpoint/test_{name}.py" for name in ("replacing", "bounds", "saving_beside_steps")),
    *(f"tests/properties/test_{name}.py" for name in ("signal_handlers", "memory", "one_step_at_a_time", "one_pass")),
    *(f"tests/core/test_{name}.py" for name in ("refused_options", "own_rules_refused", "documentation", "functional")),
    *(f"tests/full_batch/test_{name}.py" for name in ("line_search", "problems", "bad_functions")),
    *("tests/arithmetic/test_make_rules.py", "tests/backends/test_cores.py", "tests/properties/test_advice.py"),
]
#: The tests that compare backends, instruction sets and threads with each other, whichever is in use.
COMPARISONS = [
    "tests/properties/test_same_bits.py",
    "tests/core/test_options_same_bits.py",
    "tests/core/test_options_memory.py",
    "tests/properties/test_sequences.py",
]
#: The tests that compare planned steps with whole ones, in the native backend.
PLANNED = [
    *(f"tests/core/test_planned_{name}.py" for name in ("trouble", "options", "gradients")),
    "tests/properties/test_planned_sequences.py",
]
#: The tests of both backends, and of what depends on the layout of Python's and NumPy's objects.
WITH_OBJECTS = [
    *("optimizers/test_values_by_hand", "core/test_planned_trouble", "core/test_structures", "core/test_row_sparse"),
    *("properties/test_changed_in_place", "properties/test_freed", "test_imports"),
]
#: Grids of what other tests do plainly, which the newest NumPy has run with both backends.
LARGE_GRIDS = [
    "tests/core/test_options_as_separate_calls.py",
    *(f"tests/optimizers/test_extreme_{name}.py" for name in ("options", "gradients")),
    "tests/properties/test_tiny_numbers.py",
    "tests/properties/test_floating_point_modes.py",
]
#: The tests that drive C with every layout, length, dtype and thread, and with what no step may take.
FOR_SANITIZERS = [
    "tests/backends/native/test_sanitizers.py",
    *(f"tests/properties/test_{name}.py" for name in ("bad_steps", "callers_threads", "changed_in_place")),
    "tests/properties/test_same_bits.py::test_native_is_numpy_for_every_isa",
    "tests/properties/test_same_bits.py::test_orders_and_strides",
    *(f"tests/core/test_{name}.py" for name in ("planned_trouble", "row_sparse")),
    *(f"tests/full_batch/test_{name}.py" for name in ("history", "history_same_bits", "sparse_coding")),
]
BROKEN_FILES = ("fuzz", "killed", "truncated", "flipped")
#: Descents of many steps and searches in many functions, each step of which other tests make alone.
LONG_FILES = [
    *("tests/optimizers/test_descent.py", "tests/checkpoint/test_resuming.py"),
    *(f"tests/full_batch/test_{name}.py" for name in ("any_function", "dense_counts", "evaluations")),
]
#: The same in files with others; and hundreds of examples by chance, and interrupts at each line.
LONG_TESTS = (
    *("loss_curves", "descent_of", "small_l1", "anything_plain", "arbitrary_states", "any_structure"),
    "between_any_two",
)


# --- environments -----------------------------------------------------------------------------------------------------


def time_of_newest_source() -> float:
    sources = [
        path
        for folder in ("fastopt", "csrc")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h"}
    ]
    return max(path.stat().st_mtime for path in [*sources, ROOT / "setup.py", ROOT / "pyproject.toml"])


def environment(
    session: nox.Session,
    name: str,
    *packages: str,
    base: str = sys.executable,
    has_fastopt: bool = True,
    **variables: str,
) -> str:
    """Return the Python of an environment, which is made again if its packages or fastopt's sources have changed."""
    folder = ENVIRONMENTS / name
    python, record = str(folder / SCRIPTS / "python"), folder / "packages.json"
    with MAKING:
        is_there = record.exists() and json.loads(record.read_text()) == list(packages)
        if is_there and (not has_fastopt or record.stat().st_mtime > time_of_newest_source()):
            return python
        shutil.rmtree(folder, ignore_errors=True)
        session.run(*UV, "venv", "-q", "--python", base, str(folder), external=True)
        # uv would take a build of fastopt with other variables or other C code from its cache.
        install = [*UV, "pip", "install", "-q", "--python", python, "--refresh-package", "fastopt", *packages]
        session.run(*install, env={**BUILD, **variables}, external=True)
        record.write_text(json.dumps(packages))
    return python


def development(session: nox.Session) -> str:
    packages = ("-e", ".[test,peers,spacy,docs]", "jax", "jaxlib", "optax", "autograd")
    with IN_PLACE:
        return environment(session, "development", *packages)


def checkers(session: nox.Session) -> str:
    tools, imported = ["ruff", "mypy", "import-linter", "clang-format"], ["numpy", "cffi", "setuptools", "pytest"]
    return environment(session, "checkers", *tools, *imported, "typing_extensions", has_fastopt=False)


def cuda_environment(session: nox.Session) -> str:
    return environment(session, "cuda", f"{wheel_path(session)}[cuda,checkpoint]", *RUNNER)


def wheel_path(session: nox.Session) -> str:
    """Return the path of the built wheel."""
    folder = ENVIRONMENTS / "wheel"
    with MAKING:
        found = [path for path in folder.glob("*.whl") if path.stat().st_mtime > time_of_newest_source()]
        if not found:
            shutil.rmtree(folder, ignore_errors=True)
            session.run(*UV, "build", "-q", "--wheel", "-o", str(folder), env=BUILD, external=True)
            found = list(folder.glob("*.whl"))
    return str(found[0])


def other_pythons() -> dict[str, str]:
    """Return the path of each Python that is installed here, in PATH or by pyenv, but for the version that runs."""
    (promised,) = re.findall(r'^requires-python = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    path = os.pathsep.join([*map(str, pyenv.glob("versions/*/bin")), os.environ["PATH"]])
    command = [*UV, "python", "list", "--only-installed", "--output-format", "json", promised]
    listed = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, check=True).stdout
    found = {}
    for python in json.loads(listed):
        version = "{major}.{minor}".format(**python["version_parts"])
        # The wheel is of the stable ABI, which builds without the global lock have not.
        if python["implementation"] == "cpython" and python["variant"] == "default":
            found.setdefault(version, python["path"])
    found.pop("{}.{}".format(*sys.version_info), None)
    return dict(sorted(found.items()))


@contextlib.contextmanager
def only_the_tests(session: nox.Session) -> Iterator[None]:
    """Go to a folder that has the tests and nothing of the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tests", Path(folder) / "tests")
        with session.chdir(folder):
            yield


def run_tests(session: nox.Session, python: str, *arguments: str, marks: str = DEFAULT, **variables: str) -> None:
    options = [*IN_PARALLEL, "-m", marks]
    session.run(python, "-m", "pytest", *options, *arguments, *session.posargs, env=variables, external=True)


def files_with(pattern: str) -> list[str]:
    """Return the test files with such text, but those of CUDA and of ranks, which have sessions of their own.

    To import all others takes seconds in each process.
    """
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(pattern, path.read_text("utf-8"))]
    return sorted(str(path) for path in found if not {"cuda", "distributed"}.intersection(path.parts))


def without(paths: list[str], *names: str) -> list[str]:
    """Return pytest's arguments that leave out files and names."""
    expression = " and ".join(f"not {name}" for name in names)
    return [*(f"--ignore={path}" for path in paths), *(["-k", expression] if names else [])]


# --- tests ------------------------------------------------------------------------------------------------------------


def test_command() -> list[str]:
    """Return README's test command, in its parts: the last one runs the tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^<!-- test command -->\n```\w+\n(.*?)\n```$", readme, re.M | re.S)
    return command.split(" && ")


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """README's test command."""
    if sys.platform == "win32":  # where an environment has no folder bin
        run_tests(session, development(session))
    else:
        # Modules are compiled when they are imported; most of those of scikit-learn never are. (0 means: --no-compile.)
        variables = {"FASTOPT_REQUIRE_NATIVE": "1", "PIP_NO_COMPILE": "0"}
        *install, test = test_command()
        with IN_PLACE:
            with MAKING:
                for part in install:
                    session.run("bash", "-euc", part, env=variables, external=True)
            session.run("bash", "-euc", test, env=variables, external=True)


# --- checks -----------------------------------------------------------------------------------------------------------


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """ruff, the floors of the house, and the layout of the C code."""
    python = checkers(session)
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(str(Path(python).with_name("lint-imports")), external=True)
    patterns = ("csrc/**/*.[ch]", "bench/*.c", "tests/backends/native/*.[ch]")
    sources = sorted(str(path) for pattern in patterns for path in ROOT.glob(pattern))
    session.run(str(Path(python).with_name("clang-format")), "--dry-run", "--Werror", *sources, external=True)


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """mypy, strict."""
    session.run(checkers(session), "-m", "mypy", external=True)


@nox.session(python=False)
def native(session: nox.Session) -> None:
    """rules.h is the one made from rules.py; GCC vectorises every loop without a warning; no loop has grown."""
    python = checkers(session)
    session.run(python, "csrc/tools/make_rules.py", "--check", external=True)
    session.run(python, "csrc/tools/check_vectorised.py", external=True)
    session.run(python, "csrc/tools/check_instructions.py", external=True)


def check_bits(session: nox.Session, *arguments: str) -> None:
    """Compare the bits of the C code with the record; install the compilers that are missing, if that is allowed."""
    tool = [sys.executable, "csrc/tools/check_bits.py", *arguments]
    packages = str(session.run(*tool, "--packages", silent=True, external=True)).split()
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
            session.run("apt-get", "update", "-qq", external=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        session.run(*install, env={"DEBIAN_FRONTEND": "noninteractive"}, silent=True, external=True)
    session.run(*tool, external=True)


@nox.session(python=False)
def bits(session: nox.Session) -> None:
    """GCC, clang and GCC for 64-bit ARM, in emulation, have the recorded bits and stay inside all buffers."""
    check_bits(session)


# --- tests of installations -------------------------------------------------------------------------------------------


@nox.session(python=False, allow_parallel=False)
def distributed(session: nox.Session) -> None:
    """The ranks of MPI, with the built wheel: up to four processes, which fail in each way that is known."""
    python = environment(session, "distributed", f"{wheel_path(session)}[test,mpi]", "mpich")
    with only_the_tests(session):
        for folder in ("bench", "docs", "examples"):
            shutil.copytree(ROOT / folder, folder, ignore=shutil.ignore_patterns("_build", "gallery"))
        run_tests(session, python, "tests/distributed", "-n", "2")


def run_fallback(session: nox.Session, python: str) -> None:
    # Tests that name their backends have run with them.
    names = ("native", "numpy", "every_isa", "every_backend", "same_bits", "threads_change_no_bit", "special_values")
    names += (*BROKEN_FILES, *LONG_TESTS)
    leave_out = [*INDEPENDENT, *COMPARISONS, *PLANNED, *LARGE_GRIDS, *LONG_FILES, "tests/backends/test_environment.py"]
    run_tests(session, python, *without(leave_out, *names), FASTOPT_BACKEND="numpy")


@nox.session(python=False)
def wheel(session: nox.Session) -> None:
    """The built wheel, where there is no source tree; a warning of any module is an error.

    The sessions oldest_numpy and pythons run further tests with this wheel.
    """
    python = environment(session, "wheel-tests", f"{wheel_path(session)}[test]", "pytest-xdist")
    with only_the_tests(session):
        names = ("commands/test_demo.py", "checkpoint/test_round_trip.py")
        names += ("core/test_state_dict.py", "core/test_structures.py", "test_imports.py", "test_packaging.py")
        run_tests(session, python, "-W", "error", *(f"tests/{name}" for name in names), *without([], *LONG_TESTS))
        session.run(python, "-m", "fastopt", external=True)


@nox.session(python=False)
def oldest_numpy(session: nox.Session) -> None:
    """The oldest NumPy that is promised, with the built wheel: the fallback, and where C reads NumPy's objects.

    The other sessions compare the fallback on the newest NumPy with the native part.
    """
    (oldest,) = re.findall(r'^dependencies = .*"numpy>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    python = environment(
        session, "oldest-numpy", f"numpy=={oldest}", f"{wheel_path(session)}[checkpoint,rules]", *RUNNER
    )
    with only_the_tests(session):
        run_fallback(session, python)
        run_tests(session, python, *(f"tests/{name}.py" for name in WITH_OBJECTS), FASTOPT_BACKEND="native")


@nox.session(python=False)
def pythons(session: nox.Session) -> None:
    """The built wheel on the oldest and the newest other Python here, with the newest NumPy that it can have."""
    found = other_pythons()
    session.log(f"other Pythons: {', '.join(found) or 'none'}")
    for version in sorted({*[*found][:1], *[*found][-1:]}):
        wheel = f"{wheel_path(session)}[checkpoint,rules]"
        python = environment(session, f"python-{version}", wheel, *RUNNER, base=found[version])
        with only_the_tests(session):
            session.run(python, "-m", "fastopt", external=True)
            run_tests(session, python, *(f"tests/{name}.py" for name in WITH_OBJECTS), FASTOPT_BACKEND="native")


@nox.session(python=False)
def no_compiler(session: nox.Session) -> None:
    """An install without a compiler: the fallback runs, and it says why."""
    python = environment(
        session, "no-compiler", ".[checkpoint]", *RUNNER, FASTOPT_REQUIRE_NATIVE="0", FASTOPT_SKIP_NATIVE="1"
    )
    # The session oldest_numpy runs all tests on the NumPy backend.
    rooms = ("backends/test_environment.py", "core/test_state_dict.py", "optimizers/test_values_by_hand.py")
    with only_the_tests(session):
        session.run(python, "-m", "fastopt", external=True)
        run_tests(session, python, *(f"tests/{room}" for room in rooms))


def run_with_sanitizers(session: nox.Session, *arguments: str, marks: str = DEFAULT) -> None:
    sanitize = "-fsanitize=address,undefined"
    flags = {"FASTOPT_CFLAGS": f"-O1 -g {sanitize} -fno-sanitize-recover=undefined", "LDFLAGS": sanitize}
    python = environment(session, "sanitizers", ".[checkpoint,rules]", *RUNNER, **flags)
    runtime = session.run("gcc", "-print-file-name=libasan.so", silent=True, external=True)
    # Python's own allocator would hide where an object ends. Python itself leaks at its end.
    variables = {"LD_PRELOAD": str(runtime).strip(), "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0"}
    with only_the_tests(session):
        run_tests(session, python, *arguments, marks=marks, **variables)


@nox.session(python=False)
def sanitizers(session: nox.Session) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer, which GCC has, in the tests that drive C hardest."""
    run_with_sanitizers(session, *FOR_SANITIZERS)


@nox.session(python=False)
def cuda(session: nox.Session) -> None:
    """CUDA without a GPU: in Numba's simulator, as PTX, and on a stand-in for a GPU."""
    python = cuda_environment(session)
    with only_the_tests(session):
        # The stand-in below runs options of float32. All combinations run on both in the session long.
        options_of_float32 = "test_options_have_the_bits_of_the_numpy_backend and float32"
        run_tests(session, python, SIMULATED, "-k", f"not ({options_of_float32})", NUMBA_ENABLE_CUDASIM="1")
        run_tests(session, python, PTX)
        # Kernels of float64 are in the tests of every optimizer; to compile them with options too would take a minute.
        run_on_stand_in(session, python, "-m", DEFAULT, "-k", "not (test_options and float64)")


def run_on_stand_in(session: nox.Session, python: str, *arguments: str) -> None:
    options = [*IN_PARALLEL, *arguments]
    files = ["tests/backends/cuda/test_on_gpu.py", f"{STAND_IN}/faults.py"]
    session.run(python, STAND_IN, "-m", "pytest", *options, *files, external=True)


# --- further tests in the source tree ---------------------------------------------------------------------------------


def run_with_older_instruction_sets(
    session: nox.Session, *files: str, count: int | None = None, marks: str = DEFAULT
) -> None:
    python = development(session)
    found = f"{python} -c 'from fastopt.backends.native import library; print(*library.isas_found())'"
    listed = session.run("bash", "-c", found, silent=True, external=True)
    names = without([], "for_every_isa", "in_numpy", "threads_change_no_bit", *PEERS)
    for isa in str(listed).split()[:-1][:count]:
        run_tests(session, python, "tests/properties/test_same_bits.py", *files, *names, marks=marks, FASTOPT_ISA=isa)


@nox.session(python=False)
def instruction_sets(session: nox.Session) -> None:
    """The oldest instruction set: many tests of the other sessions compare all, in one process."""
    files = [
        f"tests/optimizers/test_{name}.py" for name in ("values_by_hand", "values_of_formulas", "extreme_gradients")
    ]
    run_with_older_instruction_sets(session, *files, count=1)


@nox.session(python=False)
def exhaustive(session: nox.Session) -> None:
    """The long runs that README's command leaves out; not the rest of grids, of whose every value it has a test.

    The session peers has those of the peers.
    """
    needing_peers = files_with(rf'(?m)^(\w+ = )?pytest\.importorskip\("({"|".join(PEERS)})')
    files = sorted(set(files_with("exhaustive|shortly")) - set(needing_peers))
    run_tests(session, development(session), *files, *without([], *PEERS), marks=LONG_RUNS)


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """The site, made without a warning: each script of examples/ runs, in the short setting."""
    variables = {"FASTOPT_EXAMPLES": "short", "OPENBLAS_NUM_THREADS": "1"}
    options = ["-W", "--keep-going", "-q", "-j", "2"]
    session.run(development(session), "-m", "sphinx", *options, "docs", "docs/_build", env=variables, external=True)


@nox.session(python=False)
def peers(session: nox.Session) -> None:
    """The numbers of torch, optax and thinc, the loops of torch and spaCy, and the pages about them and their like."""
    files, names = files_with("|".join(PEERS)), " or ".join(PEERS)
    run_tests(session, development(session), *files, "-k", names, marks=f"{FULL} and not rest_of_grid")


@nox.session(python=False, default=False)
def long(session: nox.Session) -> None:
    """What takes minutes or much memory: by hand, not in .ci/run."""
    run_tests(session, development(session), marks="exhaustive or long")
    run_with_older_instruction_sets(session, "tests/optimizers", marks=FULL)
    run_fallback(session, development(session))
    check_bits(session, "--all")
    run_with_sanitizers(session, "tests/properties", "tests/core", FOR_SANITIZERS[0], marks=FULL)
    python = cuda_environment(session)
    with only_the_tests(session):
        run_tests(session, python, SIMULATED, marks="exhaustive or long", NUMBA_ENABLE_CUDASIM="1")
        run_tests(session, python, PTX, marks="exhaustive")
        run_on_stand_in(session, python, "-m", "exhaustive")
        run_on_stand_in(session, python, "-m", DEFAULT, "-k", "test_options and float64")
