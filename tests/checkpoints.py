"""What the tests of checkpoints share."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import fastopt

needs_extra = pytest.mark.skipif(find_spec("ml_dtypes") is None, reason="needs the extra checkpoint")

KINDS = ("run.safetensors", "run.npz")

every_kind = pytest.mark.parametrize("kind", KINDS)

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(fastopt.__file__).parents[1]), *sys.path])}


def write(folder: Path, kind: str = "run.npz", **content: Any) -> Path:
    fastopt.save(folder / kind, **content)
    return folder / kind
