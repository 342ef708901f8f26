"""What the tests of checkpoints share."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import fastopt
from fastopt.checkpoint import npz, safetensors
from fastopt.checkpoint.metadata import FORMAT_VERSION, digest

needs_extra = pytest.mark.skipif(find_spec("ml_dtypes") is None, reason="needs the extra checkpoint")

KINDS = ("run.safetensors", "run.npz")

every_kind = pytest.mark.parametrize("kind", KINDS)

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(fastopt.__file__).parents[1]), *sys.path])}


def write(folder: Path, kind: str = "run.npz", **content: Any) -> Path:
    fastopt.save(folder / kind, **content)
    return folder / kind


def signed(content: Any, arrays: dict[str, Any], path: Path, kind: str = "run.npz") -> Path:
    """Write a file whose digest is right, whatever its content."""
    text = content if isinstance(content, str) else json.dumps(content)
    metadata = {"format": "fastopt", "format_version": str(FORMAT_VERSION), "content": text}
    metadata["digest"] = digest(metadata, arrays)
    with open(path, "wb") as file:
        (npz.write_npz if kind == "run.npz" else safetensors.write_safetensors)(file, arrays, metadata)
    return path
