"""Helpers of this folder are imported by their names; the ranks that tests share end with the session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import on_ranks


@pytest.fixture(scope="session", autouse=True)
def _shared_ranks() -> Iterator[None]:
    yield
    on_ranks.stop_server()
