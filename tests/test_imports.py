"""Importing fastopt loads only what is used."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from checkpoints import ENVIRONMENT

import fastopt


def test_importing_loads_only_what_is_used() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import fastopt; "  # NumPy 1 itself loads hashlib
        "names = {'safetensors', 'ml_dtypes', 'matplotlib', 'torch', 'hashlib', 'llvmlite', "
        "'fastopt.schedules', 'mpi4py', 'fastopt.distributed', "
        "'fastopt.checkpoint', 'fastopt.lr_scheduler', 'fastopt.core.state_dict'}; "
        "print(sorted((names & set(sys.modules)) - before)); "
        "print(fastopt.schedules.constant(0.1), fastopt.init.fans((2, 3)), fastopt.load, 'save' in dir(fastopt))"
    )
    told = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert told.stdout.startswith("[]\nconstant(value=0.1) (2, 3) <function load at")
    assert told.stdout.endswith(" True\n")
    with pytest.raises(AttributeError, match="module 'fastopt' has no attribute 'nothing'"):
        fastopt.nothing  # noqa: B018
    assert all(hasattr(fastopt, name) for name in fastopt.__all__)


MODULES = [name for name in fastopt.__all__ if inspect.ismodule(getattr(fastopt, name))]


@pytest.mark.parametrize("name", ["", *MODULES])
def test_dir_lists_the_public_names_alone(name: str) -> None:
    module = getattr(fastopt, name) if name else fastopt
    for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if ".backends.cuda" not in each.name and not each.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # the demo needs an extra
                importlib.import_module(each.name)  # what is imported is an attribute of its package
    names = dir(module)
    assert names
    assert not {"Any", "np", "annotations", "TYPE_CHECKING", "core", "base"} & {*names}
    assert not [name for name in names if name.startswith("_")]
    for each in names:
        value = getattr(module, each)
        # A module is public by the path of fastopt alone.
        assert not inspect.ismodule(value) or module is fastopt, each
        home = getattr(value, "__module__", "fastopt") or "fastopt"
        assert home.split(".")[0] in ("fastopt", "numpy", "collections"), each
    if hasattr(module, "__all__"):
        assert {*names} == {*module.__all__}


def test_star_import_has_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from fastopt import *", namespace)
    assert {*namespace} - {"__builtins__"} == {*fastopt.__all__}
