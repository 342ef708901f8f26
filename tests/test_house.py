"""The laws of the code's layout that import-linter's contracts in pyproject.toml can't state. Nothing but ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from checkpoints import ENVIRONMENT
from places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")

PUBLIC = (
    "averaging",
    "checkpoint",
    "clip",
    "convert",
    "distributed",
    "init",
    "lr_scheduler",
    "quantize",
    "rules",
    "schedules",
    "thinc",
    "torch",
    "training",
)
#: Those that need another library.
NEED_OTHERS = ("thinc", "torch")
#: What stands directly in fastopt/ besides the public modules: the command and the rooms.
OTHERS = (
    "__init__",
    "__main__",
    "about",
    "arithmetic",
    "arrays",
    "backends",
    "commands",
    "core",
    "full_batch",
    "optimizers",
    "options",
)

#: Private names by convention alone: named tuples have them, and os.
NOT_PRIVATE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace", "_exit"}
#: Private names of other libraries, which have no public ones for it.
FOREIGN = {
    "_amp_update_scale_",  # torch's own rule for the scale, to compare with
    "_cubin_cache",  # Numba's library of a kernel, for which the stand-in makes C instead of a cubin
    "_codelibrary",  # Numba's handle of a compiled kernel
    "_ensure_cc",
    "_fig",  # the figure of one of Matplotlib's animations
    "_foreach_lerp_",  # torch's fastest way, to compare with
    "_lto",
    *("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"),  # torch's hooks, whose own calls take longer
    *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),  # than a small step
    *("_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks"),
    *("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks"),
    *("_profiler_enabled", "_disable_dynamo", "_C", "_dynamo"),
    *("_indices", "_values"),  # of a sparse tensor; the public names need its rows added
    "_version",  # torch's count of a tensor's changes, which it documents
    "_increment_version",  # the public function looks for the type of its argument first
    "_neg_view",  # torch's own way to a tensor whose memory has the opposite signs
}
BACKENDS = {"cuda", "native", "numpy"}

MOST_LINES = 500
MOST_LINES_OF_A_TEST = 700
#: They are stated in one file, which grows by some 20 lines with each.
MOST_LINES_OF_RULES = 700
MOST_LINES_OF_OPTIMIZER = 300


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NOT_PRIVATE | FOREIGN


def defined_in(tree: ast.Module) -> set[str]:
    """Return the names that a file defines, as variables, attributes, functions or classes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def private_names_of_others(tree: ast.Module) -> Iterator[str]:
    defined = defined_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in defined:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"line {node.lineno}: import {name.name}" for name in node.names if is_private(name.name))


def comparisons_with_a_backend(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(part, ast.Constant) and part.value in BACKENDS
            for side in (node.left, *node.comparators)
            for part in ast.walk(side)
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def all_found(find: Callable[[ast.Module], Iterator[str]], paths: list[Path]) -> list[str]:
    return [f"{name_of(path)}, {what}" for path in paths for what in find(tree_of(path))]


def imports() -> dict[str, set[str]]:
    """Return which modules of fastopt each one imports, for typing and inside functions too."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in python_files("fastopt")
    }
    found: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                names = {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                parents = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
                start = parents[: len(parents) - node.level + 1] if node.level else []
                base = ".".join([*start, *filter(None, [node.module])])
                names = {f"{base}.{name.name}" for name in node.names}
                names = {name if name in modules else base for name in names}
            else:
                continue
            found[module] |= names & modules.keys() - {module}
    return found


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Return the sets of modules each of which imports all the others, directly or not."""

    def reached_from(module: str) -> set[str]:
        reached: set[str] = set()
        new = [module]
        while new:
            more = graph[new.pop()] - reached
            reached |= more
            new.extend(more)
        return reached

    reached = {module: reached_from(module) for module in graph}
    return {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }


def test_private_names_are_used_where_they_are_defined() -> None:
    assert all_found(private_names_of_others, python_files("fastopt", "tests", "bench", "docs", "examples")) == []


def test_only_the_backends_compare_backends_by_name() -> None:
    outside = [path for path in python_files("fastopt") if "backends" not in path.relative_to(ROOT).parts]
    assert all_found(comparisons_with_a_backend, outside) == []


def test_each_module_directly_in_fastopt_is_listed() -> None:
    found = [path for path in (ROOT / "fastopt").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert sorted(path.stem for path in found) == sorted([*PUBLIC, *OTHERS])


@pytest.mark.parametrize(
    "statement",
    [
        *(f"import fastopt.{name}" for name in PUBLIC if name not in NEED_OTHERS),
        "from fastopt.rules import sqrt",
        "from fastopt.averaging import ema_weight, mean, polyak_weight",
        "from fastopt.checkpoint import FORMAT_VERSION",
    ],
)
def test_public_paths_can_be_imported(statement: str) -> None:
    # In a process of its own: here another test may have imported what the path needs.
    subprocess.run([sys.executable, "-c", statement], env=ENVIRONMENT, check=True)


def test_no_file_is_too_long() -> None:
    sources = [
        path
        for folder in ("fastopt", "csrc", "bench")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h"} and path.name != "_native.c"  # made by cffi
    ]
    limits = dict.fromkeys(sources, MOST_LINES) | dict.fromkeys(python_files("tests"), MOST_LINES_OF_A_TEST)
    limits[ROOT / "fastopt" / "arithmetic" / "rules.py"] = MOST_LINES_OF_RULES
    too_long = {
        name_of(path) for path, most in limits.items() if len(path.read_text(encoding="utf-8").splitlines()) > most
    }
    assert too_long == set()


def test_optimizer_is_a_face() -> None:
    tree = tree_of(ROOT / "fastopt/core/optimizer.py")
    (optimizer,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Optimizer")
    lines = set(range(optimizer.lineno, (optimizer.end_lineno or 0) + 1))
    for node in ast.walk(optimizer):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    assert len(lines) <= MOST_LINES_OF_OPTIMIZER


def test_imports_close_no_circle() -> None:
    assert circles(imports()) == set()
