"""Importing fastopt loads only what is used."""

from __future__ import annotations

import subprocess
import sys

import pytest
from checkpoints import ENVIRONMENT

import fastopt


def test_importing_loads_only_what_is_used() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import fastopt; "  # NumPy 1 itself loads hashlib
        "names = {'safetensors', 'ml_dtypes', 'matplotlib', 'torch', 'hashlib', 'llvmlite', "
        "'fastopt.schedules', "
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
