"""Markers, registered here so that the tests also run where there is no pyproject.toml: against an installed wheel."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "huge: needs more than 10 GB of memory; runs where the machine has it")
