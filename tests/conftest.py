"""What all tests share; where there is no pyproject.toml (the built wheel's tests) it is all the configuration."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

# The helpers that stand directly here (cases.py and others) are imported by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent))


import tiers


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in tiers.MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.hookimpl(tryfirst=True)  # before the items are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tiers.mark_grids(items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the registers of the CUDA kernels that were compiled, by what they were compiled for."""
    properties = [pair for report in terminalreporter.getreports("passed") for pair in report.user_properties]
    listed: dict[str, list[str]] = defaultdict(list)
    for target, used in (value for name, value in properties if name == "registers"):
        listed[target].append(used)
    if listed:
        terminalreporter.section("registers of CUDA kernels")
        for target, kernels in sorted(listed.items()):
            terminalreporter.write_line(f"{target}: {', '.join(sorted(kernels))}")
