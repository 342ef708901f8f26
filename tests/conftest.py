"""Markers, registered here so that the tests also run where there is no pyproject.toml; what tests have measured."""

from collections import defaultdict
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "huge: needs more than 10 GB of memory; runs where the machine has it")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and fastopt[cuda]; skipped elsewhere")


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
