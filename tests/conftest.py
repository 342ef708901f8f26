"""What all tests share; where there is no pyproject.toml (the built wheel's tests) it is all the configuration."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# The helpers that stand directly here (cases.py and others) are imported by their names.
sys.path.insert(0, str(Path(__file__).resolve().parent))

# pytest-xdist has a process for each core. Threads of OpenBLAS would only take the cores from each other: several times
# the work for the demo. Read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Threads of torch and of scikit-learn that wait for work would keep the cores from the other process: 40 times the work
# for small matrices. Read when they are imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tiers

from fastopt.backends import threads
from fastopt.backends.native import library


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in tiers.MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Thin a grid as soon as its items are made."""
    made = yield
    if not isinstance(made, list):
        return made
    tiers.mark_grid(made)
    return tiers.chosen(made, collector.config.option.markexpr)


@pytest.fixture
def restored() -> Iterator[None]:
    """Set the number of threads and the instruction set back after a test that changes them."""
    before = threads.setting
    yield
    threads.setting = before
    if library.missing is None:
        library.use_isa(os.environ.get("FASTOPT_ISA"))


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
